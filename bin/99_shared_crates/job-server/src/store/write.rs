//! The thread that writes.

use std::path::PathBuf;

use rbee_operations::JobState;
use rusqlite::{Connection, params};
use sqlite_file::Trouble;
use tokio::sync::{mpsc, oneshot};
use worker_contract::JobId;

use super::StoreError;
use super::waiting::Waiting;
use crate::event_log::KeptEvent;
use crate::job::JobFacts;

/// How many records are taken from the queue at once.
const BATCH: usize = 256;
/// After how many of them room is given back, and the write-ahead log looked at.
const TIDY_AFTER: usize = 64;

/// One thing to write.
#[derive(Debug)]
pub(super) enum Record {
    Created(JobFacts),
    Ended {
        id: JobId,
        state: JobState,
        ended_at: String,
        error: Option<String>,
        events: Vec<KeptEvent>,
    },
    Forgotten(JobId),
    /// Answered when all before it is written, or has failed to be.
    Flush(oneshot::Sender<()>),
    /// Answered when the file is closed; what comes later is lost.
    Close(oneshot::Sender<()>),
}

impl Record {
    /// How many bytes of texts it has, about.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Created(facts) => facts.detail.to_string().len(),
            Self::Ended { error, events, .. } => {
                let events: usize = events.iter().map(|kept| kept.event.json.len()).sum();
                error.as_ref().map_or(0, String::len) + events
            }
            Self::Forgotten(_) | Self::Flush(_) | Self::Close(_) => 0,
        }
    }
}

/// Opens the file as at the start.
type Open = Box<dyn FnMut() -> Result<Connection, StoreError> + Send>;

/// The file, and what is to be written to it.
pub(super) struct Writer {
    path: PathBuf,
    /// `None` as long as there was no room to open it.
    connection: Option<Connection>,
    open: Open,
    waiting: Waiting,
    since_tidied: usize,
    trouble: Trouble,
}

/// Writes what comes until the file is to be closed, or the queue is closed and empty.
pub(super) fn write_all(mut writer: Writer, mut queue: mpsc::Receiver<Record>) {
    if let Some(closed) = write_until_close(&mut writer, &mut queue) {
        if !writer.waiting.is_empty() {
            let records = writer.waiting.len();
            tracing::warn!(records, "records of jobs could not be written and are lost");
        }
        drop(writer);
        // Who asked may have given up waiting.
        closed.send(()).ok();
    }
}

fn write_until_close(
    writer: &mut Writer,
    queue: &mut mpsc::Receiver<Record>,
) -> Option<oneshot::Sender<()>> {
    let (mut flushed, mut closed) = (Vec::new(), None);
    while closed.is_none() {
        let mut next = Some(queue.blocking_recv()?);
        let mut taken = 0;
        while let Some(record) = next {
            match record {
                Record::Flush(reached) => flushed.push(reached),
                Record::Close(asked) => closed = Some(asked),
                record => writer.waiting.push(record),
            }
            taken += 1;
            next = if taken < BATCH { queue.try_recv().ok() } else { None };
        }
        writer.write();
        for reached in flushed.drain(..) {
            // Who asked may have given up waiting.
            reached.send(()).unwrap_or_default();
        }
    }
    closed
}

impl Writer {
    pub(super) fn new(
        path: PathBuf,
        connection: Option<Connection>,
        open: Open,
        trouble: Trouble,
    ) -> Self {
        let waiting = Waiting::default();
        Self { path, connection, open, waiting, since_tidied: 0, trouble }
    }

    /// Writes what waits. What there is no room for waits on, and what a file cannot take for another reason is lost. A disk
    /// or a file that fails is told of once, until something was written; a record that cannot be written is no such failure.
    fn write(&mut self) {
        match self.try_to_write() {
            // That had nothing to write says nothing about the disk.
            Ok(0) => {}
            Ok(_) => {
                if self.trouble.end() {
                    tracing::info!("the job store can be written again");
                }
            }
            Err(error) => self.bear(&error),
        }
    }

    fn bear(&mut self, error: &StoreError) {
        let reason = error.reason();
        if self.trouble.begin(reason.clone()) {
            tracing::error!(%error, reason, "cannot write the job store: jobs go on, and their records wait in memory");
        }
        let records = self.waiting.limit();
        if records > 0 {
            tracing::warn!(records, "records of jobs are lost: more wait than are kept in memory");
        }
    }

    /// Tells how many records are done with; a file that could be opened counts as one.
    fn try_to_write(&mut self) -> Result<usize, StoreError> {
        if self.waiting.is_empty() && self.connection.is_some() {
            return Ok(0);
        }
        let failed = |source| StoreError::Use { path: self.path.clone(), source };
        let (connection, opened) = match &mut self.connection {
            Some(connection) => (connection, 0),
            none => (none.insert((self.open)()?), 1),
        };
        self.since_tidied += self.waiting.len();
        if self.since_tidied >= TIDY_AFTER {
            if !sqlite_file::tidy(connection, &self.path).map_err(failed)? {
                return Err(StoreError::InUse { path: self.path.clone() });
            }
            self.since_tidied = 0;
        }
        let records = write_waiting(connection, &mut self.waiting).map_err(failed)?;
        Ok(records + opened)
    }
}

/// Writes all in one transaction; where that fails, each by itself, so that one cannot spoil the rest. Tells how
/// many are done with: written, or such that no file takes them.
fn write_waiting(connection: &mut Connection, waiting: &mut Waiting) -> rusqlite::Result<usize> {
    let all = waiting.all();
    if write_together(connection, all).is_ok() {
        let done = all.len();
        waiting.clear();
        return Ok(done);
    }
    let mut result = Ok(0);
    while let Some(record) = waiting.first() {
        let written = write_together(connection, std::slice::from_ref(record));
        result = match written {
            Ok(()) => result.map(|done| done + 1),
            // The next ones wait, too: their order matters.
            Err(error) if sqlite_file::is_passing(&error) => return Err(error),
            Err(error) if sqlite_file::is_of_row(&error) => {
                tracing::error!(%error, "a record of a job cannot be written and is lost");
                result.map(|done| done + 1)
            }
            Err(error) => result.and(Err(error)),
        };
        waiting.pop();
    }
    result
}

fn write_together(connection: &mut Connection, records: &[Record]) -> rusqlite::Result<()> {
    let change = connection.transaction()?;
    for record in records {
        write(&change, record)?;
    }
    change.commit()
}

/// Tells how many rows of jobs it has written.
fn write(change: &Connection, record: &Record) -> rusqlite::Result<usize> {
    match record {
        Record::Created(facts) => change
            .prepare_cached(
                "INSERT INTO jobs (job_id, operation, detail, caller, state, created_at)
                 VALUES (?1, ?2, ?3, ?4, 'running', ?5)",
            )?
            .execute(params![
                facts.id.as_str(),
                facts.operation,
                facts.detail.to_string(),
                facts.caller,
                facts.created_at,
            ]),
        Record::Ended { id, state, ended_at, error, events } => {
            let found = change
                .prepare_cached(
                    "UPDATE jobs SET state = ?2, ended_at = ?3, error = ?4 WHERE job_id = ?1",
                )?
                .execute(params![id.as_str(), state.as_str(), ended_at, error])?;
            // A job whose beginning could not be written has no record.
            if found > 0 {
                write_events(change, id, events)?;
            }
            Ok(found)
        }
        Record::Forgotten(id) => {
            change.prepare_cached("DELETE FROM jobs WHERE job_id = ?1")?.execute([id.as_str()])
        }
        Record::Flush(_) | Record::Close(_) => Ok(0),
    }
}

fn write_events(change: &Connection, id: &JobId, events: &[KeptEvent]) -> rusqlite::Result<()> {
    let mut insert = change
        .prepare_cached("INSERT INTO job_events (job_id, event_id, json) VALUES (?1, ?2, ?3)")?;
    for kept in events {
        let number = i64::try_from(kept.id).unwrap_or(i64::MAX);
        insert.execute(params![id.as_str(), number, String::from_utf8_lossy(&kept.event.json)])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;
    use crate::store::schema;

    #[test]
    fn a_disk_that_fails_is_told_of_until_it_works_and_nothing_is_lost_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state.db");
        let (trouble, mut writer) = writer(&file, Some(schema::open(&file).unwrap()));
        let (first, second) = (facts(), facts());
        writer.write();
        pragma(&writer, "query_only = ON");
        writer.take(Record::Created(first.clone()));
        let reason = trouble.reason().unwrap();
        assert!(reason.contains("readonly"), "{reason}");
        writer.take(ended(&first));
        writer.write();
        assert!(trouble.reason().is_some(), "it was tried in vain");
        pragma(&writer, "query_only = OFF");
        writer.take(Record::Created(second.clone()));
        assert_eq!(trouble.reason(), None);
        let (one, two) = (first.id.to_string(), second.id.to_string());
        let cancelled = (one, "cancelled".to_owned());
        assert_eq!(states(&file), [cancelled, (two, "running".to_owned())]);
    }

    #[test]
    fn a_record_that_can_never_be_written_holds_no_other_up() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state.db");
        let (trouble, mut writer) = writer(&file, Some(schema::open(&file).unwrap()));
        let (twice, other) = (facts(), facts());
        writer.take(Record::Created(twice.clone()));
        writer.waiting.push(Record::Created(twice));
        writer.waiting.push(Record::Created(other));
        writer.write();
        assert_eq!(trouble.reason(), None, "all others are kept");
        assert_eq!((writer.waiting.len(), states(&file).len()), (0, 2));
    }

    #[test]
    fn trouble_ends_with_the_last_record_that_waits_whatever_becomes_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state.db");
        let (trouble, mut writer) = writer(&file, Some(schema::open(&file).unwrap()));
        let twice = facts();
        writer.take(Record::Created(twice.clone()));
        for last in [Record::Created(twice), ended(&facts())] {
            pragma(&writer, "query_only = ON");
            writer.take(last);
            assert!(trouble.reason().is_some());
            pragma(&writer, "query_only = OFF");
            writer.write();
            assert_eq!((trouble.reason(), writer.waiting.len()), (None, 0));
        }
    }

    #[test]
    fn a_file_that_takes_no_record_any_more_is_told_of_until_it_does() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state.db");
        let (trouble, mut writer) = writer(&file, Some(schema::open(&file).unwrap()));
        let rename = |from: &str, to: &str| {
            let other = Connection::open(&file).unwrap();
            other.execute_batch(&format!("ALTER TABLE {from} RENAME TO {to}")).unwrap();
        };
        rename("jobs", "lost");
        writer.take(Record::Created(facts()));
        assert!(trouble.reason().unwrap().contains("jobs"), "{trouble:?}");
        writer.write();
        assert!(trouble.reason().is_some(), "that nothing waits mends no file");
        rename("lost", "jobs");
        writer.take(Record::Created(facts()));
        assert_eq!(trouble.reason(), None);
    }

    #[test]
    fn a_file_that_cannot_be_opened_gets_what_waits_when_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("later").join("state.db");
        let (trouble, mut writer) = writer(&file, None);
        let job = facts();
        writer.take(Record::Created(job.clone()));
        assert!(trouble.reason().is_some());
        std::fs::create_dir(folder.path().join("later")).unwrap();
        writer.take(ended(&job));
        assert_eq!(trouble.reason(), None);
        assert_eq!(states(&file), [(job.id.to_string(), "cancelled".to_owned())]);
    }

    impl Writer {
        fn take(&mut self, record: Record) {
            self.waiting.push(record);
            self.write();
        }
    }

    fn writer(file: &Path, connection: Option<Connection>) -> (Trouble, Writer) {
        let (trouble, path) = (Trouble::default(), file.to_owned());
        let open = Box::new(move || schema::open(&path));
        (trouble.clone(), Writer::new(file.to_owned(), connection, open, trouble))
    }

    fn pragma(writer: &Writer, what: &str) {
        let connection = writer.connection.as_ref().unwrap();
        connection.execute_batch(&format!("PRAGMA {what}")).unwrap();
    }

    fn states(file: &Path) -> Vec<(String, String)> {
        let connection = Connection::open(file).unwrap();
        let mut query =
            connection.prepare("SELECT job_id, state FROM jobs ORDER BY number").unwrap();
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    }

    fn facts() -> JobFacts {
        JobFacts {
            id: JobId::random(),
            operation: "hive_list".to_owned(),
            detail: Value::Null,
            caller: "local".to_owned(),
            created_at: crate::job::now(),
        }
    }

    fn ended(facts: &JobFacts) -> Record {
        let (id, ended_at) = (facts.id.clone(), crate::job::now());
        let state = JobState::Cancelled;
        Record::Ended { id, state, ended_at, error: None, events: Vec::new() }
    }
}
