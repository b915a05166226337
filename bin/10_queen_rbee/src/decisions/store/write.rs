//! What the thread that writes does with decisions.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, params};
use serde_json::json;
use sqlite_file::{Keep, News, StoreError, StoreFile};
use worker_contract::{ModelAlias, RequestId, WorkerId};

use super::Reader;
use crate::decisions::{Decided, Entry, Kind, Share};

/// How many decisions of each share are kept,
const MOST: i64 = 10_000;
/// and for how long;
const AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// but so many of the latest in any case.
const LATEST: i64 = 1_000;
/// How many bytes of texts they may have together: large ones push the oldest out.
const MOST_BYTES: i64 = 64 << 20;

/// The decisions in a file. Whenever it is opened, there is a connection to read by, too.
pub(super) struct Entries {
    pub(super) file: StoreFile,
    pub(super) reader: Reader,
}

impl Keep for Entries {
    type Record = Arc<Entry>;
    /// The oldest are forgotten then, too.
    const TIDY_AFTER: usize = 500;

    fn file(&self) -> &StoreFile {
        &self.file
    }

    fn open(&self) -> Result<Connection, StoreError> {
        super::opened(&self.file, Timestamp::now(), &self.reader)
    }

    fn write(&self, change: &Connection, entry: &Arc<Entry>) -> rusqlite::Result<()> {
        write(change, entry)
    }

    fn waits_after(&self, error: &StoreError) -> bool {
        error.is_passing()
    }

    fn prune(&self, connection: &Connection) {
        if let Err(error) = prune(connection, Timestamp::now()) {
            tracing::error!(%error, "old decisions cannot be removed");
        }
    }

    fn tell(&self, news: News<'_>) {
        match news {
            News::Failing { error, reason } => {
                tracing::error!(%error, reason, "cannot write the queen's decisions: she goes on, and the latest are kept in memory");
            }
            News::Well => tracing::info!("the queen's decisions can be recorded again"),
            News::Refused(error) => {
                tracing::error!(%error, "a decision cannot be written and is lost");
            }
            // The latest are in memory all the same.
            News::Over(_) | News::Unwritten(_) => {}
        }
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
