//! The thread that writes.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, params};
use serde_json::json;
use sqlite_file::Trouble;
use tokio::sync::{mpsc, oneshot};
use worker_contract::{ModelAlias, RequestId, WorkerId};

use super::{StoreError, unusable};
use crate::decisions::{Decided, Entry, Kind, Share};

/// How many records are taken from the queue at once.
const BATCH: usize = 256;
/// How many wait in memory while nothing can be written. The oldest is lost first.
const MOST_WAITING: usize = 1024;
/// How many decisions of each share are kept,
pub(super) const MOST: i64 = 10_000;
/// and for how long;
const AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// but so many of the latest in any case.
const LATEST: i64 = 1_000;
/// How many bytes of texts they may have together: large ones push the oldest out.
const MOST_BYTES: i64 = 64 << 20;
/// After how many more of them the oldest are forgotten.
const PRUNE_AFTER: usize = 500;

/// One thing to write.
#[derive(Debug)]
pub(super) enum Record {
    Add(Arc<Entry>),
    /// Only a reason to try again.
    Retry,
    /// Answered when all before it is written, or has failed to be, and the file is closed. What comes
    /// later is lost.
    Close(oneshot::Sender<()>),
}

/// Opens the file as at the start.
type Open = Box<dyn FnMut() -> Result<Connection, StoreError> + Send>;

/// The file, and what is to be written to it.
pub(super) struct Writer {
    path: PathBuf,
    /// `None` as long as there was no room to open it.
    connection: Option<Connection>,
    open: Open,
    waiting: VecDeque<Arc<Entry>>,
    since_pruned: usize,
    trouble: Trouble,
}

/// Writes what comes until the file is to be closed, or the queue is closed and empty.
pub(super) fn write_all(mut writer: Writer, mut queue: mpsc::Receiver<Record>) {
    if let Some(closed) = write_until_close(&mut writer, &mut queue) {
        drop(writer);
        // Who asked may have given up waiting.
        closed.send(()).ok();
    }
}

fn write_until_close(
    writer: &mut Writer,
    queue: &mut mpsc::Receiver<Record>,
) -> Option<oneshot::Sender<()>> {
    let mut closed = None;
    while closed.is_none() {
        let mut next = Some(queue.blocking_recv()?);
        let mut taken = 0;
        while let Some(record) = next {
            match record {
                Record::Add(entry) => writer.waiting.push_back(entry),
                Record::Retry => {}
                Record::Close(asked) => closed = Some(asked),
            }
            taken += 1;
            next = if taken < BATCH { queue.try_recv().ok() } else { None };
        }
        writer.write();
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
        Self { path, connection, open, waiting: VecDeque::new(), since_pruned: 0, trouble }
    }

    /// Writes what waits. What there is no room for waits on, and what a file cannot take for another reason is lost. A disk
    /// or a file that fails is told of once, until something was written; a decision that cannot be written is no such failure.
    fn write(&mut self) {
        if self.waiting.is_empty() && self.connection.is_some() {
            return;
        }
        match self.try_to_write() {
            Ok(()) => {
                if self.trouble.end() {
                    tracing::info!("the queen's decisions can be recorded again");
                }
            }
            Err(error) => self.bear(&error),
        }
    }

    fn bear(&mut self, error: &StoreError) {
        let reason = error.reason();
        if self.trouble.begin(reason.clone()) {
            tracing::error!(%error, reason, "cannot write the queen's decisions: she goes on, and the latest are kept in memory");
        }
        let most = if error.is_passing() { MOST_WAITING } else { 0 };
        let over = self.waiting.len().saturating_sub(most);
        self.waiting.drain(..over);
    }

    fn try_to_write(&mut self) -> Result<(), StoreError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert((self.open)()?),
        };
        self.since_pruned += self.waiting.len();
        if self.since_pruned >= PRUNE_AFTER {
            if !sqlite_file::tidy(connection, &self.path).map_err(|e| unusable(&self.path, e))? {
                return Err(StoreError::InUse { path: self.path.clone() });
            }
            self.since_pruned = 0;
            if let Err(error) = prune(connection, Timestamp::now()) {
                tracing::error!(%error, "old decisions cannot be removed");
            }
        }
        write_waiting(connection, &mut self.waiting).map_err(|e| unusable(&self.path, e))
    }
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
    for share in Share::ALL {
        // What no rbee wrote is among the rest.
        let is_rest = share == Share::Rest;
        let named = |kind: &Kind| if is_rest { kind.is_frequent() } else { kind.share() == share };
        let named: Vec<_> = Kind::ALL.into_iter().filter(named).map(Kind::as_str).collect();
        connection.execute(
            "WITH named AS (SELECT value FROM json_each(?1))
             DELETE FROM decisions WHERE (kind IN named) = ?2 AND id <=
                (SELECT id FROM decisions WHERE (kind IN named) = ?2
                    ORDER BY id DESC LIMIT 1 OFFSET ?3)",
            params![json!(named).to_string(), !is_rest, MOST],
        )?;
    }
    connection.execute(
        "DELETE FROM decisions WHERE id <= (
            SELECT max(id) FROM (
                SELECT id, sum(length(why) + ifnull(length(detail), 0)) OVER (ORDER BY id DESC) AS bytes
                FROM decisions)
            WHERE bytes > ?1)",
        [MOST_BYTES],
    )?;
    Ok(())
}

/// Writes all in one transaction; where that fails, each by itself, so that one cannot spoil the rest.
fn write_waiting(
    connection: &mut Connection,
    waiting: &mut VecDeque<Arc<Entry>>,
) -> rusqlite::Result<()> {
    if waiting.is_empty() {
        return Ok(());
    }
    if write_together(connection, waiting.make_contiguous()).is_ok() {
        waiting.clear();
        return Ok(());
    }
    let mut result = Ok(());
    while let Some(entry) = waiting.front() {
        match write_together(connection, std::slice::from_ref(entry)) {
            Ok(()) => {}
            Err(error) if sqlite_file::is_passing(&error) => return Err(error),
            Err(error) if sqlite_file::is_of_row(&error) => {
                tracing::error!(%error, "a decision cannot be written and is lost");
            }
            Err(error) => result = result.and(Err(error)),
        }
        waiting.pop_front();
    }
    result
}

fn write_together(connection: &mut Connection, entries: &[Arc<Entry>]) -> rusqlite::Result<()> {
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
