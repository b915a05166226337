//! Asking a worker how it is: often until it is ready, then now and again whether it still lives.

use std::time::{Duration, Instant};

use reqwest::Client;
use worker_contract::{HealthReport, WorkerId, WorkerState};

use super::machine::Interest;

/// The pause before the first question.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between two questions.
const LAST_PAUSE: Duration = Duration::from_millis(100);
/// How long one answer may take before the worker is ready.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest pause between two questions for a sign of life, and the longest wait for one.
const LONGEST_BEAT: Duration = Duration::from_secs(5);
/// How many pauses and waits there are, each as long as the other, in the time of silence that ends a
/// worker. The worker answers at once whatever it computes: its engine has threads of its own.
const BEATS: u32 = 5;
/// The longest answer, in bytes. Another program may hold the port and say anything.
const MAX_ANSWER: usize = 64 * 1024;

/// The client that all questions share.
pub(super) fn client() -> reqwest::Result<Client> {
    Client::builder().no_proxy().build()
}

/// The questions to one worker.
#[derive(Debug)]
pub(super) struct HealthPoll {
    client: Client,
    url: String,
    worker: WorkerId,
    pause: Duration,
    /// Between two signs of life.
    beat: Duration,
    /// When the last question was answered, or given up.
    asked_at: Instant,
}

impl HealthPoll {
    /// Questions to the worker at an address, which may be silent for as long as `silence` once it is
    /// ready.
    pub(super) fn new(client: Client, address: &str, worker: WorkerId, silence: Duration) -> Self {
        Self {
            client,
            url: format!("{address}/health"),
            worker,
            pause: FIRST_PAUSE,
            beat: (silence / BEATS).min(LONGEST_BEAT),
            asked_at: Instant::now(),
        }
    }

    /// Waits until it is time, and asks once. `None` if nobody answers in time, or somebody who is not
    /// this worker. May be dropped and called again: what is left of the pause is waited for.
    pub(super) async fn next(&mut self, interest: Interest) -> Option<WorkerState> {
        let (pause, patience) = match interest {
            Interest::UntilReady => (self.pause, PATIENCE),
            Interest::SignOfLife => (self.beat, self.beat),
        };
        tokio::time::sleep_until((self.asked_at + pause).into()).await;
        let answer = tokio::time::timeout(patience, self.ask()).await;
        self.asked_at = Instant::now();
        self.pause = (self.pause * 3 / 2).min(LAST_PAUSE);
        answer.ok().flatten()
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
