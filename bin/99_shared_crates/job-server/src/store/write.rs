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
    let (mut failing, mut closed) = (false, None);
    while closed.is_none() {
        let first = queue.blocking_recv()?;
        batch.push(first);
        while batch.len() < BATCH
            && let Ok(next) = queue.try_recv()
        {
            batch.push(next);
        }
        let written = write_batch(connection, &batch);
        if let Err(error) = &written
            && !failing
        {
            tracing::error!(%error, "cannot write the job store: jobs go on without records");
        }
        failing = written.is_err();
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

/// Writes all in one transaction; where that fails, each by itself, so that one cannot spoil the rest.
fn write_batch(connection: &mut Connection, batch: &[Record]) -> rusqlite::Result<()> {
    if batch.iter().all(|record| matches!(record, Record::Flush(_) | Record::Close(_))) {
        return Ok(());
    }
    if write_together(connection, batch).is_ok() {
        return Ok(());
    }
    let mut result = Ok(());
    for record in batch {
        result = result.and(write_together(connection, std::slice::from_ref(record)));
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

fn write(change: &Connection, record: &Record) -> rusqlite::Result<()> {
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
            ])
            .map(drop),
        Record::Ended { id, state, ended_at, error, events } => {
            let found = change
                .prepare_cached(
                    "UPDATE jobs SET state = ?2, ended_at = ?3, error = ?4 WHERE job_id = ?1",
                )?
                .execute(params![id.as_str(), state.as_str(), ended_at, error])?;
            // A job whose beginning could not be written has no record.
            if found == 0 { Ok(()) } else { write_events(change, id, events) }
        }
        Record::Forgotten(id) => change
            .prepare_cached("DELETE FROM jobs WHERE job_id = ?1")?
            .execute([id.as_str()])
            .map(drop),
        Record::Flush(_) | Record::Close(_) => Ok(()),
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
