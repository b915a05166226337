//! Jobs on disk, in SQLite: what was asked, by whom, what was told of it last, and how it ended.
//!
//! Reading happens once, at the start. Writing happens on a thread of its own behind a bounded queue ([`WriteQueue`]),
//! several records in one transaction. Where there is no room, records wait in memory, bounded, until there is; a disk
//! that fails costs records, never a job: the daemon goes on, also from its start, and says so in its log. The text of
//! answers (`token` events) and prompts are never written.

mod read;
mod schema;
mod write;

use std::path::Path;

use rbee_operations::JobState;
use rusqlite::Connection;
use sqlite_file::{QueueFull, StoreError, StoreFile, Trouble, WriteQueue};
use worker_contract::JobId;

use self::write::{Jobs, Record};
use crate::Limits;
use crate::context::LiveJob;
use crate::event_log::KeptEvent;
use crate::job::{Closed, Final, JobFacts};
use crate::kept;

/// How many of a job's latest events are stored,
const STORED_EVENTS: usize = 256;
/// and how many bytes of JSON they may have. The final event is stored in any case, without data where it is large.
const STORED_BYTES: usize = 64 << 10;

/// A job as it was read back; it has ended.
#[derive(Debug)]
pub(crate) struct StoredJob {
    pub(crate) facts: JobFacts,
    pub(crate) state: JobState,
    pub(crate) ended_at: String,
    pub(crate) error: Option<String>,
    pub(crate) events: Vec<KeptEvent>,
}

/// The queue to the writing thread.
#[derive(Debug)]
pub(crate) struct Store {
    records: WriteQueue<Record>,
}

impl Store {
    /// Opens the file, ends the jobs that were interrupted, and reads back those that are within the limits,
    /// in the order of their beginnings. Where there is no room for that, the file stays as it is until there is.
    pub(crate) fn open(db: &Path, limits: &Limits) -> Result<(Self, Vec<StoredJob>), StoreError> {
        let trouble = Trouble::default();
        let file = StoreFile::new(&schema::KIND, db);
        let (connection, jobs) = match take_over(&file, limits) {
            Ok((connection, jobs)) => (Some(connection), jobs),
            Err(error) if error.is_want_of_room() => {
                let jobs = look(&file, limits)?;
                trouble.begin(error.reason());
                tracing::error!(%error, reason = error.reason(), "the job store cannot be written: jobs are kept in memory until it can");
                (None, jobs)
            }
            Err(error) => return Err(error),
        };
        let records = WriteQueue::start(Jobs { file, limits: *limits }, connection, trouble)?;
        Ok((Self { records }, jobs))
    }

    /// Why nothing can be written at present.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.records.trouble()
    }

    /// Tries again to write what could not be written. Does not wait for it.
    pub(crate) fn retry(&self) {
        self.records.retry();
    }

    /// Records that a job was accepted.
    pub(crate) fn try_created(&self, facts: &JobFacts) -> Result<(), QueueFull> {
        self.records.try_add(Record::Created(facts.clone()))
    }

    /// Records what a running job has told since its event `last`, and gives the last one that is recorded then. `None`
    /// where that cannot be now: it must not push out what waits for room.
    pub(crate) fn try_told(&self, live: &LiveJob, last: u64) -> Option<u64> {
        if self.trouble().is_some() {
            return None;
        }
        let mut events = live.job.borrow().log().public_tail(STORED_EVENTS - 1, STORED_BYTES);
        let (Some(first), Some(latest)) = (events.first(), events.last()) else {
            return Some(last);
        };
        let (since, latest) = (first.id, latest.id);
        if latest <= last {
            return Some(last);
        }
        events.retain(|kept| kept.id > last);
        let told = Record::Told { id: live.facts.id.clone(), since, events };
        self.records.try_add(told).ok().map(|()| latest)
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
        self.records.add(Record::Ended { id, state, ended_at: at, error, events }).await;
    }

    /// Removes jobs.
    pub(crate) async fn forget(&self, ids: Vec<JobId>) {
        for id in ids {
            self.records.add(Record::Forgotten(id)).await;
        }
    }

    /// Writes what was recorded before, and closes the file: nothing lies beside it then.
    pub(crate) async fn close(&self) {
        self.records.close().await;
    }

    /// Waits until all that was recorded before is on disk.
    pub(crate) async fn flush(&self) {
        self.records.flush().await;
    }
}

fn take_over(
    file: &StoreFile,
    limits: &Limits,
) -> Result<(Connection, Vec<StoredJob>), StoreError> {
    let mut connection = schema::open(file)?;
    let jobs = read::take_over(&mut connection, limits).map_err(|e| file.unusable(e))?;
    Ok((connection, jobs))
}

/// What can be read where nothing can be written. A disk that does not even give that is no reason not to start.
fn look(file: &StoreFile, limits: &Limits) -> Result<Vec<StoredJob>, StoreError> {
    let read = schema::look(file).and_then(|looked| match looked {
        Some(mut connection) => read::look(&mut connection, limits).map_err(|e| file.unusable(e)),
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
