//! The thread that writes.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, params};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use worker_contract::{ModelAlias, RequestId, WorkerId};

use crate::decisions::{Decided, Entry, Kind};

/// How many records one transaction has at most.
const BATCH: usize = 256;
/// How many decisions are kept, of frequent kinds and of all others each,
pub(super) const MOST: i64 = 10_000;
/// and for how long;
const AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// but so many of the latest in any case.
const LATEST: i64 = 1_000;
/// After how many more of them the oldest are forgotten.
const PRUNE_AFTER: usize = 500;

/// One thing to write.
#[derive(Debug)]
pub(super) enum Record {
    Add(Arc<Entry>),
    /// Answered when all before it is written, or has failed to be, and the file is closed. What comes
    /// later is lost.
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
    let mut entries = Vec::with_capacity(BATCH);
    let (mut is_failing, mut since_pruned, mut closed) = (false, 0, None);
    while closed.is_none() {
        let mut next = Some(queue.blocking_recv()?);
        while let Some(record) = next {
            match record {
                Record::Add(entry) => entries.push(entry),
                Record::Close(asked) => closed = Some(asked),
            }
            next = if entries.len() < BATCH { queue.try_recv().ok() } else { None };
        }
        let written = write_batch(connection, &entries);
        if let Err(error) = &written
            && !is_failing
        {
            tracing::error!(%error, "cannot write the queen's decisions: she goes on without records");
        }
        is_failing = written.is_err();
        since_pruned += entries.len();
        entries.clear();
        if since_pruned >= PRUNE_AFTER && !is_failing {
            since_pruned = 0;
            if let Err(error) = prune(connection, Timestamp::now()) {
                tracing::error!(%error, "old decisions cannot be removed");
            }
        }
    }
    closed
}

/// Forgets what is too old, and all but the latest. A clock that is years ahead for a while, as that of a
/// machine with an empty battery, makes everything old: no time counts that is after the latest decision,
/// and once it has stamped some, the latest are still there.
pub(super) fn prune(connection: &Connection, now: Timestamp) -> rusqlite::Result<()> {
    let age = i64::try_from(AGE.as_millis()).unwrap_or(i64::MAX);
    connection.execute(
        "DELETE FROM decisions WHERE at_ms < min(?1, (SELECT max(at_ms) FROM decisions)) - ?2
            AND id <= (SELECT id FROM decisions ORDER BY id DESC LIMIT 1 OFFSET ?3)",
        [now.as_millisecond(), age, LATEST],
    )?;
    let frequent = Kind::ALL.into_iter().filter(|kind| kind.is_frequent()).map(Kind::as_str);
    let frequent = json!(frequent.collect::<Vec<_>>());
    for is_frequent in [false, true] {
        connection.execute(
            "WITH frequent AS (SELECT value FROM json_each(?1))
             DELETE FROM decisions WHERE (kind IN frequent) = ?2 AND id <=
                (SELECT id FROM decisions WHERE (kind IN frequent) = ?2
                    ORDER BY id DESC LIMIT 1 OFFSET ?3)",
            params![frequent.to_string(), is_frequent, MOST],
        )?;
    }
    Ok(())
}

fn write_batch(connection: &mut Connection, entries: &[Arc<Entry>]) -> rusqlite::Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let change = connection.transaction()?;
    for entry in entries {
        write(&change, entry)?;
    }
    change.commit()
}

fn write(change: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    let Decided { kind, request_id, caller, model, worker_id, because } = &entry.decided;
    change
        .prepare_cached(
            "INSERT OR REPLACE INTO decisions
                (id, at_ms, kind, request_id, caller, model, worker_id, reason, why, detail)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            i64::try_from(entry.id).unwrap_or(i64::MAX),
            entry.at.as_millisecond(),
            kind.as_str(),
            request_id.as_ref().map(RequestId::as_str),
            caller,
            model.as_ref().map(ModelAlias::as_str),
            worker_id.as_ref().map(WorkerId::as_str),
            because.reason(),
            because.why(),
            because.detail().map(|detail| detail.to_string()),
        ])
        .map(drop)
}
