//! The hive of this machine as a process of its own, for a queen that has none inside.

use std::ffi::OsString;
use std::time::Duration;

use daemon_lifecycle::{ProcessIdentity, RunFiles, StopOutcome, find_binary, start_detached};
use job_server::{JobContext, JobError};
use rbee_config::Paths;
use tokio::time::{sleep, timeout};

use crate::hive_client::HIVE_PROGRAM;

/// How long a hive may take until it answers.
const START: Duration = Duration::from_secs(30);
/// How long between two looks whether it answers.
const LOOK: Duration = Duration::from_millis(20);
/// How long it may take to end beyond the grace that it gives its workers.
const END: Duration = Duration::from_secs(15);

/// Starts and stops the program `rbee-hive`.
#[derive(Debug, Clone)]
pub(crate) struct HiveProcess {
    pub(crate) paths: Paths,
    /// The URL that the hive and its workers report to.
    pub(crate) queen_url: String,
    pub(crate) stop_grace: Duration,
    pub(crate) http: reqwest::Client,
}

/// A hive that answers.
#[derive(Debug)]
pub(super) struct Answering {
    /// Its base URL.
    pub(super) url: String,
    /// Whether it was started for this.
    pub(super) is_fresh: bool,
}

impl HiveProcess {
    /// Starts it where it does not run, and waits until it answers.
    pub(super) async fn start(&self, job: &JobContext) -> Result<Answering, JobError> {
        let files = self.files();
        let launched = match files.holder() {
            Some(_) => None,
            None => Some(self.launch(job)?),
        };
        let answers = async {
            loop {
                if let Some(running) = files.read_running() {
                    let url = format!("http://{}", running.addr);
                    if self.answers(&url).await {
                        return Some(url);
                    }
                }
                // Another one that was started at the same moment can have come first.
                let has_ended = launched.is_some_and(|process| !process.is_running());
                if has_ended && files.holder().is_none() {
                    return None;
                }
                sleep(LOOK).await;
            }
        };
        match timeout(START, answers).await {
            Ok(Some(url)) => Ok(Answering { url, is_fresh: launched.is_some() }),
            Ok(None) => Err(self.failed_start("the hive ended while it was starting")),
            Err(_) => {
                let message = format!("the hive does not answer after {} s", START.as_secs());
                Err(self.failed_start(message))
            }
        }
    }

    /// Ends it, by signals if it is still there. False if it was not running.
    pub(super) async fn stop(&self) -> Result<bool, JobError> {
        let Some(process) = self.files().holder() else { return Ok(false) };
        let outcome = daemon_lifecycle::stop(process, self.stop_grace + END)
            .await
            .map_err(|error| JobError::new("hive_does_not_end", error.to_string()))?;
        Ok(outcome != StopOutcome::NotRunning)
    }

    fn launch(&self, job: &JobContext) -> Result<ProcessIdentity, JobError> {
        let failed = |error: daemon_lifecycle::LifecycleError| {
            JobError::new("hive_start_failed", error.to_string())
        };
        let binary = find_binary(HIVE_PROGRAM).map_err(failed)?;
        // RBEE_HOME and all other settings of the environment are inherited.
        let args = ["--queen", self.queen_url.as_str()].map(OsString::from);
        let pid = start_detached(&binary, &args, &[], &self.files().log_file()).map_err(failed)?;
        job.say(format!("The hive is process {pid}"));
        ProcessIdentity::of(pid).ok_or_else(|| self.failed_start("the hive ended at once"))
    }

    fn files(&self) -> RunFiles {
        RunFiles::new(&self.paths.run, HIVE_PROGRAM)
    }

    fn failed_start(&self, message: impl Into<String>) -> JobError {
        let log = self.files().log_file();
        JobError::new("hive_start_failed", message)
            .hint(format!("its log may say why: {}", log.display()))
    }

    async fn answers(&self, url: &str) -> bool {
        let call = self.http.get(format!("{url}/health")).timeout(Duration::from_secs(2));
        call.send().await.is_ok_and(|answer| answer.status().is_success())
    }
}
