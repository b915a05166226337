//! The hive of the queen's own machine: a part of this process with the feature `local-hive`, else
//! a process beside it.

use std::sync::Arc;
use std::time::Duration;

use job_server::JobError;
use rbee_config::{Config, Paths};
use tokio::sync::Mutex;

#[cfg(feature = "local-hive")]
use {
    rbee_hive::{Hive, HiveSettings},
    tokio::sync::mpsc,
    worker_contract::HiveHeartbeat,
};

#[cfg(not(feature = "local-hive"))]
use daemon_lifecycle::{RunFiles, Running, find_binary, start_detached, stop};

/// How long a hive process may take until it listens.
#[cfg(not(feature = "local-hive"))]
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Starts and stops the hive of this machine. Clones are the same.
#[derive(Debug, Clone)]
pub struct LocalMachine(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    paths: Paths,
    config: Config,
    queen_url: String,
    /// Held while the hive is being started or stopped.
    change: Mutex<()>,
    #[cfg(feature = "local-hive")]
    beats: mpsc::Sender<HiveHeartbeat>,
    #[cfg(feature = "local-hive")]
    hive: std::sync::Mutex<Option<Hive>>,
}

#[cfg(feature = "local-hive")]
impl LocalMachine {
    /// The hive of this machine reports through `beats`, its workers to `queen_url`.
    #[must_use]
    pub fn new(
        paths: Paths,
        config: Config,
        queen_url: String,
        beats: mpsc::Sender<HiveHeartbeat>,
    ) -> Self {
        let (change, hive) = (Mutex::default(), std::sync::Mutex::default());
        Self(Arc::new(Parts { paths, config, queen_url, change, beats, hive }))
    }

    /// The hive, if it runs.
    #[must_use]
    pub fn hive(&self) -> Option<Hive> {
        self.0.hive.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Starts the hive; gives whether it did not run before.
    pub async fn start(&self) -> Result<bool, JobError> {
        let _change = self.0.change.lock().await;
        if self.hive().is_some() {
            return Ok(false);
        }
        let Parts { paths, config, queen_url, beats, .. } = &*self.0;
        let settings =
            HiveSettings::local(paths.clone(), config, queen_url.clone(), beats.clone());
        let hive = Hive::start(settings)
            .await
            .map_err(|error| JobError::new("hive_start_failed", chain(&error)))?;
        *self.0.hive.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(hive);
        Ok(true)
    }

    /// Stops the hive and its workers; gives whether it ran.
    pub async fn stop(&self) -> Result<bool, JobError> {
        let _change = self.0.change.lock().await;
        let hive = self.0.hive.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let Some(hive) = hive else { return Ok(false) };
        hive.shutdown().await;
        Ok(true)
    }

    /// How long stopping may take.
    #[must_use]
    pub fn stop_patience(&self) -> Duration {
        Duration::from_secs(self.0.config.hive.stop_grace_s + 5)
    }
}

#[cfg(not(feature = "local-hive"))]
impl LocalMachine {
    /// The hive of this machine is a process that reports to `queen_url`.
    #[must_use]
    pub fn new(paths: Paths, config: Config, queen_url: String) -> Self {
        Self(Arc::new(Parts { paths, config, queen_url, change: Mutex::default() }))
    }

    /// Starts the hive and waits until it listens; gives whether it did not run before.
    pub async fn start(&self) -> Result<bool, JobError> {
        let _change = self.0.change.lock().await;
        if self.running().is_some() {
            return Ok(false);
        }
        let failed = |error: &dyn std::error::Error| {
            JobError::new("hive_start_failed", format!("the hive cannot be started: {}", chain(error)))
        };
        let binary = find_binary("rbee-hive").map_err(|error| failed(&error))?;
        let log = self.0.paths.logs.join("rbee-hive.log");
        let args = ["--queen".into(), self.0.queen_url.clone().into()];
        let pid = start_detached(&binary, &args, &[], &log).map_err(|error| failed(&error))?;
        let deadline = tokio::time::Instant::now() + START_PATIENCE;
        while self.running().is_none() {
            let has_ended = daemon_lifecycle::process_start_time(pid).is_none();
            if has_ended || tokio::time::Instant::now() >= deadline {
                let what = if has_ended { "ended at once" } else { "does not listen" };
                let message = format!("the hive {what}: {}", last_line(&log));
                return Err(JobError::new("hive_start_failed", message)
                    .hint(format!("its log is {}", log.display())));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(true)
    }

    /// Stops the hive and its workers; gives whether it ran.
    pub async fn stop(&self) -> Result<bool, JobError> {
        let _change = self.0.change.lock().await;
        let Some(running) = self.running() else { return Ok(false) };
        stop(running, self.stop_patience())
            .await
            .map_err(|error| JobError::new("hive_stop_failed", chain(&error)))?;
        Ok(true)
    }

    /// How long stopping may take.
    #[must_use]
    pub fn stop_patience(&self) -> Duration {
        Duration::from_secs(self.0.config.hive.stop_grace_s + 5)
    }

    fn running(&self) -> Option<Running> {
        RunFiles::new(&self.0.paths.run, "rbee-hive").read_running()
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

/// The last line of a log, which says why its process ended.
#[cfg(not(feature = "local-hive"))]
fn last_line(log: &std::path::Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned()
}
