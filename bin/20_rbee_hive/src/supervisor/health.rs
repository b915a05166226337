//! Asking a worker how it is, over and over, until it says that it is ready.

use std::time::Duration;

use reqwest::Client;
use worker_contract::{HealthReport, WorkerId, WorkerState};

/// The pause before the first question.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between two questions.
const LAST_PAUSE: Duration = Duration::from_millis(100);
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest answer, in bytes. Another program may hold the port and say anything.
const MAX_ANSWER: usize = 64 * 1024;

/// The client that all questions share.
pub(super) fn client() -> reqwest::Result<Client> {
    Client::builder().no_proxy().timeout(PATIENCE).connect_timeout(PATIENCE).build()
}

/// The questions to one worker.
#[derive(Debug)]
pub(super) struct HealthPoll {
    client: Client,
    url: String,
    worker: WorkerId,
    pause: Duration,
}

impl HealthPoll {
    pub(super) fn new(client: Client, address: &str, worker: WorkerId) -> Self {
        Self { client, url: format!("{address}/health"), worker, pause: FIRST_PAUSE }
    }

    /// Waits a little and asks once. `None` if nobody answers, or somebody who is not this worker.
    pub(super) async fn next(&mut self) -> Option<WorkerState> {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 3 / 2).min(LAST_PAUSE);
        self.ask().await
    }

    /// Asks once.
    pub(super) async fn ask(&self) -> Option<WorkerState> {
        let mut response = self.client.get(&self.url).send().await.ok()?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.ok()? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ANSWER {
                return None;
            }
        }
        let report: HealthReport = serde_json::from_slice(&body).ok()?;
        (report.worker_id == self.worker).then_some(report.state)
    }
}
