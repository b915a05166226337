//! The hive in the queen's own process: operations are direct calls into its library.
//!
//! Where it cannot be started, as on a full disk, it is [tried again](LocalHive::keep_trying) until it can, or somebody
//! stops it; why it cannot is told meanwhile to whoever looks for it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use job_server::{Executor, JobContext, JobError, JobRegistry, Outcome};
use rbee_config::{Config, Paths};
use rbee_hive::{Hive, HiveSettings};
use rbee_operations::Operation;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use worker_contract::{HiveAlias, HiveHeartbeat};

use super::HiveClient;
use crate::registry::{Registry, Sender, ShownSecret};
use crate::remote_hive::with_causes;

/// How often a hive is started again that could not be started.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// The hive in this process. A clone is the same hive.
#[derive(Debug, Clone)]
pub struct LocalHive {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    paths: Paths,
    config: Config,
    queen_url: String,
    registry: Registry,
    tasks: TaskTracker,
    state: Mutex<State>,
    /// Starts it again where that failed, until `no_more_tries`.
    tries: TaskTracker,
    no_more_tries: CancellationToken,
    resumes: OnceLock<Resumes>,
}

/// What goes on with the downloads of the hive's earlier life. The executor has the hive in it.
struct Resumes {
    jobs: JobRegistry,
    executor: Weak<dyn Executor>,
}

impl std::fmt::Debug for Resumes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resumes").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Why the last start failed; `None` where none did, or it is not to be tried again.
    trouble: Option<String>,
}

#[derive(Debug)]
enum Phase {
    Stopped,
    /// Being started or stopped.
    Changing,
    Running(Running),
}

#[derive(Debug)]
struct Running {
    hive: Hive,
    /// Takes its reports until the last one.
    reports: JoinHandle<()>,
}

impl LocalHive {
    /// A hive that is not started yet. Its workers report to `queen_url`.
    #[must_use]
    pub fn new(paths: Paths, config: Config, queen_url: String, registry: Registry) -> Self {
        let shared = Shared {
            paths,
            config,
            queen_url,
            registry,
            tasks: TaskTracker::new(),
            state: Mutex::new(State { phase: Phase::Stopped, trouble: None }),
            tries: TaskTracker::new(),
            no_more_tries: CancellationToken::new(),
            resumes: OnceLock::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Whenever it starts, what it was downloading when it last ended goes on as jobs like any other.
    pub fn resume_by(&self, jobs: &JobRegistry, executor: &Arc<dyn Executor>) {
        let resumes = Resumes { jobs: jobs.clone(), executor: Arc::downgrade(executor) };
        if self.shared.resumes.set(resumes).is_err() {
            tracing::debug!("who goes on with downloads is known already");
        }
    }

    /// Whether operations can be carried out.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.state().phase, Phase::Running(_))
    }

    /// Why it could not be started, while that is tried again.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let state = self.state();
        let is_running = matches!(state.phase, Phase::Running(_));
        state.trouble.clone().filter(|_| !is_running)
    }

    /// Starts it. False if it was running. Where it fails it is tried again, by who [keeps trying](Self::keep_trying).
    pub async fn start(&self) -> Result<bool, JobError> {
        let change = {
            let mut state = self.state();
            match state.phase {
                Phase::Running(_) => return Ok(false),
                Phase::Changing => return Err(busy()),
                Phase::Stopped => self.changing(&mut state),
            }
        };
        self.started(change).await
    }

    /// Starts it again whenever a start has failed, until it [gives up](Self::give_up).
    pub fn keep_trying(&self) {
        self.try_every(TRY_AGAIN);
    }

    fn try_every(&self, pause: Duration) {
        let (hive, end) = (self.clone(), self.shared.no_more_tries.clone());
        self.shared.tries.spawn(async move {
            while end.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
                end.run_until_cancelled(hive.try_again()).await;
            }
        });
    }

    async fn try_again(&self) {
        let change = {
            let mut state = self.state();
            if state.trouble.is_none() || !matches!(state.phase, Phase::Stopped) {
                return;
            }
            self.changing(&mut state)
        };
        // A failure is noted and told there.
        if self.started(change).await.is_ok() {
            tracing::info!("the hive of this machine could be started at last");
        }
    }

    /// Nobody starts it any more but who is asked to. Done when no try is under way.
    pub async fn give_up(&self) {
        self.shared.no_more_tries.cancel();
        self.shared.tries.close();
        self.shared.tries.wait().await;
    }

    /// It is not to run: a start that failed is not tried again.
    pub fn leave(&self) {
        self.state().trouble = None;
    }

    fn changing<'a>(&'a self, state: &mut State) -> Change<'a> {
        state.phase = Phase::Changing;
        Change { hive: self, outcome: Phase::Stopped }
    }

    async fn started(&self, mut change: Change<'_>) -> Result<bool, JobError> {
        let (sender, reports) = mpsc::channel(1);
        let Shared { paths, config, queen_url, .. } = &*self.shared;
        let settings = HiveSettings::local(paths.clone(), config, queen_url.clone(), sender);
        let hive = Hive::start(settings).await.map_err(|error| self.failed(with_causes(&error)))?;
        self.report(hive.snapshot());
        let reports = self.shared.tasks.spawn(take_reports(self.clone(), reports));
        change.outcome = Phase::Running(Running { hive: hive.clone(), reports });
        self.state().trouble = None;
        drop(change);
        if let Some(Resumes { jobs, executor }) = self.shared.resumes.get()
            && let Some(executor) = executor.upgrade()
        {
            hive.resume_downloads(jobs, &executor);
        }
        Ok(true)
    }

    /// Stops it and all its workers; its next life goes on with its downloads. False if it was not running.
    pub async fn stop(&self) -> Result<bool, JobError> {
        let (running, _change) = {
            let mut state = self.state();
            match std::mem::replace(&mut state.phase, Phase::Changing) {
                Phase::Running(running) => {
                    (running, Change { hive: self, outcome: Phase::Stopped })
                }
                Phase::Changing => return Err(busy()),
                Phase::Stopped => {
                    state.phase = Phase::Stopped;
                    return Ok(false);
                }
            }
        };
        let Running { hive, reports } = running;
        hive.leave_downloads();
        hive.shutdown().await;
        drop(hive);
        if reports.await.is_err() {
            tracing::warn!("the reports of the hive in this process ended early");
        }
        Ok(true)
    }

    /// The hive, while it runs.
    #[must_use]
    pub fn running(&self) -> Option<Hive> {
        match &self.state().phase {
            Phase::Running(running) => Some(running.hive.clone()),
            Phase::Stopped | Phase::Changing => None,
        }
    }

    /// Keeps why a start failed. The log tells a reason once, however often it is tried.
    fn failed(&self, reason: String) -> JobError {
        let mut state = self.state();
        if state.trouble.as_ref() != Some(&reason) {
            tracing::error!(
                reason,
                "the hive of this machine could not be started; it is tried again until it can"
            );
        }
        state.trouble = Some(reason.clone());
        drop(state);
        JobError::new("hive_start_failed", reason).hint(
            "the queen tries again every few seconds; rbee-keeper hive stop localhost ends that",
        )
    }

    fn report(&self, report: HiveHeartbeat) {
        let sender = Sender::of(ShownSecret::Own);
        if let Err(error) = self.shared.registry.hive_beat_by(report, sender, Instant::now()) {
            tracing::warn!(%error, "a report of the hive in this process was refused");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HiveClient for LocalHive {
    fn execute(
        &self,
        operation: Operation,
        job: JobContext,
    ) -> BoxFuture<'static, Result<Outcome, JobError>> {
        let hive = self.running().ok_or_else(busy);
        Box::pin(async move { hive?.execute(operation, job).await })
    }
}

/// Puts the outcome of a change in place, also when the change is given up halfway.
struct Change<'a> {
    hive: &'a LocalHive,
    outcome: Phase,
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.hive.state().phase = std::mem::replace(&mut self.outcome, Phase::Stopped);
    }
}

/// Takes the hive's reports until it has been stopped.
async fn take_reports(hive: LocalHive, mut reports: mpsc::Receiver<HiveHeartbeat>) {
    while let Some(report) = reports.recv().await {
        hive.report(report);
    }
    hive.shared.registry.hive_stopped(&HiveAlias::localhost());
}

fn busy() -> JobError {
    JobError::new("hive_busy", "the hive of this machine is being started or stopped")
        .hint("try again in a moment")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_hive_that_cannot_be_started_is_started_once_it_can_and_says_why_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let (hive, in_the_way) = troubled(&folder);
        let error = hive.start().await.unwrap_err();
        assert_eq!(error.code, "hive_start_failed");
        assert_eq!(hive.trouble().as_deref(), Some(error.message.as_str()));
        assert!(error.message.contains("hive.db"), "{error:?}");
        hive.try_again().await;
        assert!(hive.trouble().is_some() && !hive.is_running(), "it is tried in vain");
        hive.try_every(Duration::from_millis(5));
        fs::remove_dir(in_the_way).unwrap();
        let runs = async {
            while !hive.is_running() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), runs).await;
        waited.unwrap_or_else(|_| panic!("it does not run: {:?}", hive.trouble()));
        assert_eq!(hive.trouble(), None);
        hive.give_up().await;
        assert!(hive.stop().await.unwrap());
        hive.try_again().await;
        assert!(!hive.is_running(), "one that was stopped stays so");
    }

    #[tokio::test]
    async fn a_hive_that_somebody_stopped_is_not_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let (hive, in_the_way) = troubled(&folder);
        hive.start().await.unwrap_err();
        hive.leave();
        fs::remove_dir(in_the_way).unwrap();
        hive.try_again().await;
        assert_eq!((hive.is_running(), hive.trouble()), (false, None));
        assert!(hive.start().await.unwrap());
        hive.stop().await.unwrap();
    }

    /// A hive whose catalog cannot be opened, as there is a folder in its place.
    fn troubled(folder: &tempfile::TempDir) -> (LocalHive, std::path::PathBuf) {
        let paths = Paths::under(folder.path());
        let in_the_way = paths.data.join("hive.db");
        fs::create_dir_all(&in_the_way).unwrap();
        let registry = Registry::new(Duration::from_secs(2), Vec::new(), Instant::now());
        let queen_url = "http://127.0.0.1:9".to_owned();
        (LocalHive::new(paths, Config::default(), queen_url, registry), in_the_way)
    }
}
