//! Reading decisions back.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use worker_contract::{ModelAlias, RequestId};

use crate::decisions::{Because, Decided, Entry, Filter, Kind};

/// The largest number.
pub(super) fn last_id(connection: &Connection) -> rusqlite::Result<u64> {
    let last: Option<i64> =
        connection.query_row("SELECT max(id) FROM decisions", [], |row| row.get(0))?;
    Ok(last.and_then(|id| u64::try_from(id).ok()).unwrap_or(0))
}

/// What a filter lets through of numbers below `below`, the latest first.
pub(super) fn find(
    connection: &Connection,
    filter: &Filter,
    below: u64,
) -> rusqlite::Result<Vec<Arc<Entry>>> {
    let mut query = connection.prepare_cached(
        "SELECT id, at_ms, kind, request_id, caller, model, worker_id, reason, why, detail
         FROM decisions
         WHERE id < ?1 AND (?2 IS NULL OR request_id = ?2) AND (?3 IS NULL OR model = ?3)
         ORDER BY id DESC LIMIT ?4",
    )?;
    let rows = query.query_map(
        params![
            i64::try_from(below).unwrap_or(i64::MAX),
            filter.request_id.as_ref().map(RequestId::as_str),
            filter.model.as_ref().map(ModelAlias::as_str),
            i64::try_from(filter.limit).unwrap_or(i64::MAX),
        ],
        entry,
    )?;
    // A row that no rbee wrote is passed over: a single bit makes a text none.
    let readable = rows.filter_map(|row| match row {
        Err(error) if sqlite_file::is_foreign_value(&error) => None,
        row => row.transpose(),
    });
    readable.map(|entry| entry.map(Arc::new)).collect()
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Option<Entry>> {
    fn name<T: std::str::FromStr>(text: Option<String>) -> Option<T> {
        text.and_then(|text| text.parse().ok())
    }
    let (id, at, kind): (i64, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let (Ok(id), Ok(at), Some(kind)) =
        (u64::try_from(id), Timestamp::from_millisecond(at), Kind::named(&kind))
    else {
        return Ok(None);
    };
    let detail: Option<String> = row.get(9)?;
    let because = Because::Stored {
        reason: row.get(7)?,
        why: row.get(8)?,
        detail: detail.and_then(|detail| serde_json::from_str(&detail).ok()),
    };
    let decided = Decided {
        kind,
        request_id: name(row.get(3)?),
        caller: row.get(4)?,
        model: name(row.get(5)?),
        worker_id: name(row.get(6)?),
        because,
    };
    Ok(Some(Entry { id, at, decided }))
}
