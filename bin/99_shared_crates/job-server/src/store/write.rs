//! The thread that writes.

use rbee_operations::JobState;
use rusqlite::{Connection, params};
use tokio::sync::{mpsc, oneshot};
use worker_contract::JobId;

use crate::event_log::KeptEvent;
use crate::job::JobFacts;

/// How many records one transaction has at most.
const BATCH: usize = 256;

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

/// Writes what comes until the file is to be closed, or the queue is closed and empty.
pub(super) fn write_all(mut connection: Connection, mut queue: mpsc::Receiver<Record>) {
    if let Some(closed) = write_until_close(&mut connection, &mut queue) {
        drop(connection);
        // Who asked may have given up waiting.
        closed.send(()).ok();
    }
}

fn write_until_close(
    connection: &mut Connection,
    queue: &mut mpsc::Receiver<Record>,
) -> Option<oneshot::Sender<()>> {
    let mut batch = Vec::with_capacity(BATCH);
    let (mut health, mut closed) = (Health::default(), None);
    while closed.is_none() {
        let first = queue.blocking_recv()?;
        batch.push(first);
        while batch.len() < BATCH
            && let Ok(next) = queue.try_recv()
        {
            batch.push(next);
        }
        let written = write_batch(connection, &batch);
        if let Some(error) = health.news(written) {
            tracing::error!(%error, "cannot write the job store: jobs go on without records");
        }
        for record in batch.drain(..) {
            match record {
                // Who asked may have given up waiting.
                Record::Flush(reached) => reached.send(()).unwrap_or_default(),
                Record::Close(asked) => closed = Some(asked),
                _ => {}
            }
        }
    }
    closed
}

/// Whether the last attempt to write something succeeded, so that a disk that fails is told of once.
#[derive(Debug, Default)]
struct Health {
    is_failing: bool,
}

impl Health {
    /// The failure, where it is the first in a row. An attempt that had nothing to write says nothing about the disk.
    fn news(&mut self, written: rusqlite::Result<usize>) -> Option<rusqlite::Error> {
        match written {
            Ok(0) => None,
            Ok(_) => {
                self.is_failing = false;
                None
            }
            Err(error) => (!std::mem::replace(&mut self.is_failing, true)).then_some(error),
        }
    }
}

/// Writes all in one transaction; where that fails, each by itself, so that one cannot spoil the rest. Tells how
/// many rows were written.
fn write_batch(connection: &mut Connection, batch: &[Record]) -> rusqlite::Result<usize> {
    if batch.iter().all(|record| matches!(record, Record::Flush(_) | Record::Close(_))) {
        return Ok(0);
    }
    if let Ok(rows) = write_together(connection, batch) {
        return Ok(rows);
    }
    let mut result = Ok(0);
    for record in batch {
        let written = write_together(connection, std::slice::from_ref(record));
        result = result.and_then(|rows| written.map(|more| rows + more));
    }
    result
}

fn write_together(connection: &mut Connection, records: &[Record]) -> rusqlite::Result<usize> {
    let change = connection.transaction()?;
    let mut rows = 0;
    for record in records {
        rows += write(&change, record)?;
    }
    change.commit()?;
    Ok(rows)
}

/// Tells how many rows it has written.
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
    use serde_json::Value;

    use super::*;
    use crate::store::schema;

    #[test]
    fn a_disk_that_fails_is_told_of_once_until_something_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut connection = schema::open(&folder.path().join("state.db")).unwrap();
        let mut health = Health::default();
        let mut is_told = |connection: &mut Connection, record: Record| {
            health.news(write_batch(connection, &[record])).is_some()
        };
        let flush = || Record::Flush(oneshot::channel().0);
        let (lost, kept) = (facts(), facts());
        assert!(!is_told(&mut connection, flush()));
        connection.execute_batch("PRAGMA query_only = ON").unwrap();
        assert!(is_told(&mut connection, Record::Created(lost.clone())));
        assert!(!is_told(&mut connection, flush()));
        assert!(!is_told(&mut connection, Record::Created(facts())));
        connection.execute_batch("PRAGMA query_only = OFF").unwrap();
        // The end of a job that has no record is nothing to write.
        assert!(!is_told(&mut connection, ended(&lost)));
        connection.execute_batch("PRAGMA query_only = ON").unwrap();
        assert!(!is_told(&mut connection, Record::Created(facts())));
        connection.execute_batch("PRAGMA query_only = OFF").unwrap();
        assert!(!is_told(&mut connection, Record::Created(kept.clone())));
        assert!(!is_told(&mut connection, ended(&kept)));
        connection.execute_batch("PRAGMA query_only = ON").unwrap();
        assert!(is_told(&mut connection, Record::Created(facts())), "it has worked meanwhile");
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
