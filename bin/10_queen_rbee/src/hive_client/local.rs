//! The hive in the queen's own process: operations are direct calls into its library.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;

use futures::future::BoxFuture;
use job_server::{Executor, JobContext, JobError, JobRegistry, Outcome};
use rbee_config::{Config, Paths};
use rbee_hive::{Hive, HiveSettings};
use rbee_operations::Operation;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use worker_contract::{HiveAlias, HiveHeartbeat};

use super::HiveClient;
use crate::registry::{Registry, Sender, ShownSecret};
use crate::remote_hive::with_causes;

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
enum State {
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
        let state = Mutex::new(State::Stopped);
        let (tasks, resumes) = (TaskTracker::new(), OnceLock::new());
        let shared = Shared { paths, config, queen_url, registry, tasks, state, resumes };
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
        matches!(*self.state(), State::Running(_))
    }

    /// Starts it. False if it was running.
    pub async fn start(&self) -> Result<bool, JobError> {
        let mut change = {
            let mut state = self.state();
            match &*state {
                State::Running(_) => return Ok(false),
                State::Changing => return Err(busy()),
                State::Stopped => *state = State::Changing,
            }
            Change { hive: self, outcome: State::Stopped }
        };
        let (sender, reports) = mpsc::channel(1);
        let Shared { paths, config, queen_url, .. } = &*self.shared;
        let settings = HiveSettings::local(paths.clone(), config, queen_url.clone(), sender);
        let hive = Hive::start(settings)
            .await
            .map_err(|error| JobError::new("hive_start_failed", with_causes(&error)))?;
        self.report(hive.snapshot());
        let reports = self.shared.tasks.spawn(take_reports(self.clone(), reports));
        change.outcome = State::Running(Running { hive: hive.clone(), reports });
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
            match std::mem::replace(&mut *state, State::Changing) {
                State::Running(running) => {
                    (running, Change { hive: self, outcome: State::Stopped })
                }
                State::Changing => return Err(busy()),
                State::Stopped => {
                    *state = State::Stopped;
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
        match &*self.state() {
            State::Running(running) => Some(running.hive.clone()),
            State::Stopped | State::Changing => None,
        }
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
        let hive = match &*self.state() {
            State::Running(running) => Ok(running.hive.clone()),
            State::Stopped | State::Changing => Err(busy()),
        };
        Box::pin(async move { hive?.execute(operation, job).await })
    }
}

/// Puts the outcome of a change in place, also when the change is given up halfway.
struct Change<'a> {
    hive: &'a LocalHive,
    outcome: State,
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        *self.hive.state() = std::mem::replace(&mut self.outcome, State::Stopped);
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
