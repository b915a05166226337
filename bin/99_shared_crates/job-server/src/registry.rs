//! All jobs that this process knows: submitted, listed, followed, cancelled, forgotten.

mod run;
mod table;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::Stream;
use rbee_operations::{JobList, JobSummary, Operation};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use worker_contract::JobId;

use self::table::Table;
use crate::context::LiveJob;
use crate::event_log::EventLog;
use crate::follow::{Cursor, Replayed, replay};
use crate::job::{Job, JobFacts, now};
use crate::kept;
use crate::store::{Store, StoredJob};
use crate::{Executor, Limits, StoreError};

/// How long a disk may keep a caller waiting for a record, or a shutdown for the last ones.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// All jobs of a daemon. A clone is another handle to the same jobs.
#[derive(Clone)]
pub struct JobRegistry {
    inner: Arc<Inner>,
}

/// A job was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// As many jobs of this kind run as may run at once.
    #[error("{limit} jobs of this kind run already, as many as may run at once")]
    TooManyRunning {
        /// How many may run at once.
        limit: usize,
    },
    /// The disk does not keep up with the records of jobs.
    #[error("the job store does not keep up")]
    StoreBusy,
    /// The daemon is stopping.
    #[error("the daemon is stopping and takes no more jobs")]
    ShuttingDown,
}

/// There is no job with this id, or it has been forgotten.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no job {0}")]
pub struct UnknownJob(
    /// The id that was asked for.
    pub JobId,
);

struct Inner {
    limits: Limits,
    table: Mutex<Table>,
    store: Option<Store>,
    tasks: TaskTracker,
    /// Where jobs run: where the registry was made, whoever submits them. `None` where that was no runtime.
    runtime: Option<Handle>,
    changed: watch::Sender<()>,
    /// Ends all jobs, each with its grace.
    ending: CancellationToken,
    /// Ends those that are not waited for. A child of `ending`.
    stopping: CancellationToken,
    /// Ends the grace.
    abandon: CancellationToken,
}

impl JobRegistry {
    /// A registry whose jobs are forgotten when the process ends.
    #[must_use]
    pub fn in_memory(limits: Limits) -> Self {
        Self::new(limits, None, Vec::new())
    }

    /// A registry whose jobs are kept in the SQLite file `db`, which is created where it is missing.
    ///
    /// Jobs that had not ended when the file was last written are failed with the code `interrupted`.
    /// One process at a time opens the file. Blocks for as long as the disk takes. Where the disk has no room, jobs are
    /// kept in memory until it has, as [`records_trouble`](Self::records_trouble) tells.
    ///
    /// # Errors
    /// The file cannot be opened or read, or is of a later version of this program.
    pub fn open(limits: Limits, db: &Path) -> Result<Self, StoreError> {
        let (store, jobs) = Store::open(db, &limits)?;
        Ok(Self::new(limits, Some(store), jobs))
    }

    fn new(limits: Limits, store: Option<Store>, stored: Vec<StoredJob>) -> Self {
        let mut table = Table::default();
        for job in stored {
            let live = restored(&limits, job);
            let id = live.facts.id.clone();
            table.insert(live);
            // What the store holds is within the limits already, so nothing is forgotten here.
            table.retire(&id, &limits);
        }
        let ending = CancellationToken::new();
        let inner = Inner {
            limits,
            table: Mutex::new(table),
            store,
            tasks: TaskTracker::new(),
            runtime: Handle::try_current().ok(),
            changed: watch::Sender::new(()),
            stopping: ending.child_token(),
            ending,
            abandon: CancellationToken::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Begins a job for `caller` (a token's fingerprint, or `local`). It runs on the tokio runtime in which the
    /// registry was made; if that was in none, this must be called in one.
    ///
    /// # Errors
    /// Too many jobs run, the disk lags far behind, or the daemon is stopping.
    pub fn submit(
        &self,
        operation: &Operation,
        caller: &str,
        executor: &Arc<dyn Executor>,
    ) -> Result<JobId, SubmitError> {
        let live = self.admit(self.queued(operation, caller, &**executor))?;
        let id = live.facts.id.clone();
        let (inner, executor) = (Arc::clone(&self.inner), Arc::clone(executor));
        let job = run::run(inner, live, operation.clone(), executor);
        match &self.inner.runtime {
            Some(runtime) => self.inner.tasks.spawn_on(job, runtime),
            None => self.inner.tasks.spawn(job),
        };
        Ok(id)
    }

    fn queued(&self, operation: &Operation, caller: &str, executor: &dyn Executor) -> LiveJob {
        let Inner { limits, ending, stopping, .. } = &*self.inner;
        let drains = executor.drains(operation);
        let detail = serde_json::to_value(operation.redacted()).unwrap_or_default();
        LiveJob {
            facts: JobFacts {
                id: JobId::random(),
                operation: operation.name().to_owned(),
                detail: kept::detail(detail),
                caller: caller.to_owned(),
                created_at: now(),
            },
            job: watch::Sender::new(Job::queued(empty_log(limits))),
            cancel: if drains { ending.child_token() } else { stopping.child_token() },
            drains,
            only_looks: executor.only_looks(operation),
            after_interruption: executor.after_interruption(operation),
        }
    }

    fn admit(&self, live: LiveJob) -> Result<Arc<LiveJob>, SubmitError> {
        let (live, limits) = (Arc::new(live), &self.inner.limits);
        let mut table = self.inner.table();
        if table.is_closed() {
            return Err(SubmitError::ShuttingDown);
        }
        // Each kind has its places: answers that many wait for keep no operator out.
        let of_its_kind =
            if live.drains { table.draining() } else { table.running() - table.draining() };
        if of_its_kind >= limits.running {
            return Err(SubmitError::TooManyRunning { limit: limits.running });
        }
        if let Some(store) = self.inner.store_of(&live) {
            store.try_created(&live.facts).map_err(|_full| SubmitError::StoreBusy)?;
        }
        table.insert(Arc::clone(&live));
        drop(table);
        self.inner.changed.send_replace(());
        Ok(live)
    }

    /// All jobs, the latest first, but those that [only look](Executor::only_looks).
    #[must_use]
    pub fn list(&self) -> Vec<JobSummary> {
        let jobs = self.inner.table().latest_first();
        summaries(jobs.iter().filter(|live| !live.only_looks))
    }

    /// All jobs, the latest first.
    #[must_use]
    pub fn list_with_looks(&self) -> Vec<JobSummary> {
        let jobs = self.inner.table().latest_first();
        summaries(jobs.iter())
    }

    /// The jobs whose callers are to be seen, the latest first: all that have not ended, and the latest `most` of the
    /// others. Those that only look are among them where they are asked for, and count among themselves.
    #[must_use]
    pub fn latest(&self, most: usize, with_looks: bool, is_seen: impl Fn(&str) -> bool) -> JobList {
        let jobs = self.inner.table().latest_first();
        let mut list = JobList { jobs: Vec::new(), left_out: 0 };
        // Looks push no other job out.
        let (mut looks, mut others) = (0, 0);
        let is_listed =
            |live: &&Arc<LiveJob>| (with_looks || !live.only_looks) && is_seen(&live.facts.caller);
        for live in jobs.iter().filter(is_listed) {
            let job = live.job.borrow();
            let ended = if live.only_looks { &mut looks } else { &mut others };
            *ended += usize::from(job.has_ended());
            if job.has_ended() && *ended > most {
                list.left_out += 1;
            } else {
                list.jobs.push(job.summary(&live.facts));
            }
        }
        list
    }

    /// Why jobs cannot be recorded at present: they go on, and are kept in memory.
    #[must_use]
    pub fn records_trouble(&self) -> Option<String> {
        self.inner.store.as_ref()?.trouble()
    }

    /// Tries again to record what could not be recorded. Does not wait for it.
    pub fn retry_records(&self) {
        if let Some(store) = &self.inner.store {
            store.retry();
        }
    }

    /// How many jobs have not ended.
    #[must_use]
    pub fn running(&self) -> usize {
        self.inner.table().running()
    }

    /// Tells, from now on, when a job begins, ends or is forgotten. Several changes may be told as
    /// one.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.inner.changed.subscribe()
    }

    /// One job.
    #[must_use]
    pub fn get(&self, id: &JobId) -> Option<JobSummary> {
        let live = self.inner.table().get(id)?;
        let summary = live.job.borrow().summary(&live.facts);
        Some(summary)
    }

    /// Asks a job to end. One that has ended stays as it is; follow it to see when the others have.
    ///
    /// # Errors
    /// There is no such job.
    pub fn cancel(&self, id: &JobId) -> Result<JobSummary, UnknownJob> {
        let live = self.live(id)?;
        live.job.send_if_modified(|job| {
            job.request_cancel();
            false
        });
        live.cancel.cancel();
        let summary = live.job.borrow().summary(&live.facts);
        Ok(summary)
    }

    /// The events of a job with ids above `after`, those to come too; ends after [`Replayed::Done`].
    ///
    /// # Errors
    /// There is no such job.
    pub fn follow(
        &self,
        id: &JobId,
        after: Option<u64>,
    ) -> Result<impl Stream<Item = Replayed> + Send + use<>, UnknownJob> {
        Ok(replay(self.cursor(id, after.unwrap_or(0))?))
    }

    /// Takes no more jobs. Those that were taken go on.
    pub fn close(&self) {
        self.inner.table().close();
    }

    /// Takes no more jobs, cancels those that [do not drain](Executor::drains), and waits until the others have ended
    /// by themselves, for `patience` at most. To be followed by [`shutdown`](Self::shutdown).
    pub async fn drain(&self, patience: Duration) {
        self.close();
        self.inner.stopping.cancel();
        let mut changes = self.changes();
        let drained = async {
            // The sender lives as long as this registry.
            while self.draining() > 0 && changes.changed().await.is_ok() {}
        };
        if tokio::time::timeout(patience, drained).await.is_err() {
            let jobs = self.draining();
            tracing::warn!(jobs, "jobs were still under way at the end of the drain time");
        }
    }

    fn draining(&self) -> usize {
        self.inner.table().draining()
    }

    /// Ends all jobs and takes no more: each is cancelled and has `grace` to clean up, at most. They
    /// end as failed with the code `interrupted`. When this returns their records are on disk, and the file
    /// is closed.
    pub async fn shutdown(&self, grace: Duration) {
        // First: no job is taken that would begin after the others' end.
        self.close();
        self.inner.ending.cancel();
        self.inner.tasks.close();
        if tokio::time::timeout(grace, self.inner.tasks.wait()).await.is_err() {
            self.inner.abandon.cancel();
            if tokio::time::timeout(STORE_PATIENCE, self.inner.tasks.wait()).await.is_err() {
                tracing::error!(
                    jobs = self.running(),
                    "jobs block their threads and are left behind"
                );
            }
        }
        if let Some(store) = &self.inner.store
            && tokio::time::timeout(STORE_PATIENCE, store.close()).await.is_err()
        {
            tracing::warn!("the disk is slow: the last records of jobs may be lost");
        }
    }

    /// Waits, bounded, until what was submitted and ended so far is on disk.
    pub(crate) async fn recorded(&self) {
        if let Some(store) = &self.inner.store
            && tokio::time::timeout(STORE_PATIENCE, store.flush()).await.is_err()
        {
            tracing::warn!("the disk is slow: a job goes on before its record is written");
        }
    }

    /// A job's events as they are kept.
    pub(crate) fn cursor(&self, id: &JobId, after: u64) -> Result<Cursor, UnknownJob> {
        Ok(Cursor::new(self.live(id)?.job.subscribe(), after))
    }

    /// Whether a job goes on after a reader was sent away: one that only looks ends where that was the last.
    pub(crate) fn goes_on_unread(&self, id: &JobId) -> bool {
        let Ok(live) = self.live(id) else { return false };
        let ends = live.only_looks && live.job.receiver_count() == 0;
        if ends {
            // One that is forgotten by now has ended, too.
            let _ = self.cancel(id);
        }
        !ends && !live.job.borrow().has_ended()
    }

    /// Whether a job is an answer, which is waited for when the daemon stops.
    pub(crate) fn drains(&self, id: &JobId) -> bool {
        self.live(id).is_ok_and(|live| live.drains)
    }

    /// The id of a job's latest event; 0 before the first.
    pub(crate) fn last_event_id(&self, id: &JobId) -> Result<u64, UnknownJob> {
        let live = self.live(id)?;
        let last = live.job.borrow().log().last_id();
        Ok(last)
    }

    fn live(&self, id: &JobId) -> Result<Arc<LiveJob>, UnknownJob> {
        self.inner.table().get(id).ok_or_else(|| UnknownJob(id.clone()))
    }
}

impl Inner {
    /// Where a job is recorded.
    fn store_of(&self, live: &LiveJob) -> Option<&Store> {
        self.store.as_ref().filter(|_| !live.only_looks)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing panics under this lock halfway through a change.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for JobRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobRegistry").field("limits", &self.inner.limits).finish_non_exhaustive()
    }
}

fn summaries<'a>(jobs: impl Iterator<Item = &'a Arc<LiveJob>>) -> Vec<JobSummary> {
    jobs.map(|live| live.job.borrow().summary(&live.facts)).collect()
}

fn empty_log(limits: &Limits) -> EventLog {
    EventLog::new(limits.events_per_job, limits.bytes_per_job)
}

fn restored(limits: &Limits, stored: StoredJob) -> Arc<LiveJob> {
    let mut log = empty_log(limits);
    for event in stored.events {
        log.restore(event);
    }
    let job = Job::ended(stored.state, stored.ended_at, stored.error, log);
    let cancel = CancellationToken::new();
    let job = watch::Sender::new(job);
    Arc::new(LiveJob {
        facts: stored.facts,
        job,
        cancel,
        drains: false,
        only_looks: false,
        after_interruption: None,
    })
}
