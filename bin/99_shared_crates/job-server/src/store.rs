//! Jobs on disk, in SQLite: what was asked, by whom, and how it ended.
//!
//! Reading happens once, at the start. Writing happens on a thread of its own behind a bounded queue,
//! several records in one transaction. Where there is no room, records wait in memory, bounded, until there is; a disk
//! that fails costs records, never a job: the daemon goes on, also from its start, and says so in its log. The text of
//! answers (`token` events) and prompts are never written.

mod read;
mod schema;
mod waiting;
mod write;

use std::path::{Path, PathBuf};

use rbee_operations::JobState;
use rusqlite::Connection;
use sqlite_file::Trouble;
use tokio::sync::{mpsc, oneshot};
use worker_contract::JobId;

use self::write::{Record, Writer};
use crate::Limits;
use crate::context::LiveJob;
use crate::event_log::KeptEvent;
use crate::job::{Closed, Final, JobFacts};
use crate::kept;

/// How many records may wait for the disk.
const QUEUE: usize = 1024;
/// How many of an ended job's latest events are stored,
const STORED_EVENTS: usize = 256;
/// and how many bytes of JSON they may have. The final event is stored in any case, without data where it is large.
const STORED_BYTES: usize = 64 << 10;

/// The job store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or made.
    #[error("cannot open the job store {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The file cannot be read or written, or is no job store.
    #[error("cannot use the job store {path}{}", sqlite_file::advice(.source, "an empty one"))]
    Use {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The file was written by a later version of rbee.
    #[error(
        "the job store {path} has version {found}, but this rbee knows versions up to {known}{}",
        sqlite_file::advice_too_new(.path, *.known)
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The latest version that is understood.
        known: i64,
    },
    /// Another program reads the file for so long that the write-ahead log grows without end.
    #[error("another program has been reading the job store {path} for long; end it")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The thread that writes cannot be started.
    #[error("cannot start the thread that writes the job store")]
    Thread(#[source] std::io::Error),
}

impl StoreError {
    /// What SQLite says about it, without the file.
    fn reason(&self) -> String {
        match self {
            Self::Open { source, .. } | Self::Use { source, .. } => source.to_string(),
            Self::InUse { .. } => "another program has been reading the file for long".to_owned(),
            Self::TooNew { .. } | Self::Thread(_) => self.to_string(),
        }
    }

    fn is_want_of_room(&self) -> bool {
        match self {
            Self::Open { source, .. } => sqlite_file::is_want_of_room_to_open(source),
            Self::Use { source, .. } => sqlite_file::is_want_of_room(source),
            Self::TooNew { .. } | Self::InUse { .. } | Self::Thread(_) => false,
        }
    }
}

/// A job as it was read back; it has ended.
#[derive(Debug)]
pub(crate) struct StoredJob {
    pub(crate) facts: JobFacts,
    pub(crate) state: JobState,
    pub(crate) ended_at: String,
    pub(crate) error: Option<String>,
    pub(crate) events: Vec<KeptEvent>,
}

/// The queue to the writing thread, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Store {
    records: mpsc::Sender<Record>,
    trouble: Trouble,
}

/// The queue to the disk is full.
#[derive(Debug)]
pub(crate) struct QueueFull;

impl Store {
    /// Opens the file, ends the jobs that were interrupted, and reads back those that are within the limits,
    /// in the order of their beginnings. Where there is no room for that, the file stays as it is until there is.
    pub(crate) fn open(db: &Path, limits: &Limits) -> Result<(Self, Vec<StoredJob>), StoreError> {
        let trouble = Trouble::default();
        let (connection, jobs) = match take_over(db, limits) {
            Ok((connection, jobs)) => (Some(connection), jobs),
            Err(error) if error.is_want_of_room() => {
                let jobs = look(db, limits)?;
                trouble.begin(error.reason());
                tracing::error!(%error, reason = error.reason(), "the job store cannot be written: jobs are kept in memory until it can");
                (None, jobs)
            }
            Err(error) => return Err(error),
        };
        let (file, limits) = (db.to_owned(), *limits);
        let open = move || take_over(&file, &limits).map(|(connection, _)| connection);
        let writer = Writer::new(db.to_owned(), connection, Box::new(open), trouble.clone());
        let (records, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name("job-store".to_owned())
            .spawn(move || write::write_all(writer, queue))
            .map_err(StoreError::Thread)?;
        Ok((Self { records, trouble }, jobs))
    }

    /// Why nothing can be written at present.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.reason()
    }

    /// Tries again to write what could not be written. Does not wait for it.
    pub(crate) fn retry(&self) {
        // Where the queue is full, it is tried anyway.
        self.records.try_send(Record::Flush(oneshot::channel().0)).ok();
    }

    /// Records that a job was accepted.
    pub(crate) fn try_created(&self, facts: &JobFacts) -> Result<(), QueueFull> {
        match self.records.try_send(Record::Created(facts.clone())) {
            Err(mpsc::error::TrySendError::Full(_)) => Err(QueueFull),
            // A writer that is gone costs records, not jobs.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Records how a job ends that is closed.
    pub(crate) async fn ended(&self, live: &LiveJob, closed: Closed) {
        let (state, at) = (closed.state, closed.at.clone());
        let Final { error, event } = closed.into_stored();
        let event = kept::event(&event).unwrap_or(event);
        let events = {
            let job = live.job.borrow();
            let bytes = STORED_BYTES.saturating_sub(event.json.len());
            let mut events = job.log().public_tail(STORED_EVENTS - 1, bytes);
            events.push(KeptEvent { id: job.log().last_id() + 1, event });
            events
        };
        let id = live.facts.id.clone();
        self.send(Record::Ended { id, state, ended_at: at, error, events }).await;
    }

    /// Removes jobs.
    pub(crate) async fn forget(&self, ids: Vec<JobId>) {
        for id in ids {
            self.send(Record::Forgotten(id)).await;
        }
    }

    /// Writes what was recorded before, and closes the file: nothing lies beside it then.
    pub(crate) async fn close(&self) {
        let (closed, wait) = oneshot::channel();
        self.send(Record::Close(closed)).await;
        wait.await.ok();
    }

    /// Waits until all that was recorded before is on disk.
    pub(crate) async fn flush(&self) {
        let (reached, wait) = oneshot::channel();
        self.send(Record::Flush(reached)).await;
        wait.await.ok();
    }

    async fn send(&self, record: Record) {
        // A writer that is gone has said so in the log.
        self.records.send(record).await.ok();
    }
}

fn take_over(db: &Path, limits: &Limits) -> Result<(Connection, Vec<StoredJob>), StoreError> {
    let mut connection = schema::open(db)?;
    let jobs = read::take_over(&mut connection, limits)
        .map_err(|source| StoreError::Use { path: db.to_owned(), source })?;
    Ok((connection, jobs))
}

/// What can be read where nothing can be written. A disk that does not even give that is no reason not to start.
fn look(db: &Path, limits: &Limits) -> Result<Vec<StoredJob>, StoreError> {
    let read = schema::look(db).and_then(|looked| match looked {
        Some(mut connection) => read::look(&mut connection, limits)
            .map_err(|source| StoreError::Use { path: db.to_owned(), source }),
        None => Ok(Vec::new()),
    });
    match read {
        Err(error) if error.is_want_of_room() => {
            tracing::error!(%error, reason = error.reason(), "the jobs of the past cannot be read at present");
            Ok(Vec::new())
        }
        read => read,
    }
}
