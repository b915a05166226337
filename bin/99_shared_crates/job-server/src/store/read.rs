//! Taking over what an earlier process left.

use std::collections::HashMap;

use bytes::Bytes;
use rbee_operations::{JobEvent, JobState};
use rusqlite::{Connection, Row, Rows, Transaction, params};
use worker_contract::JobId;

use super::StoredJob;
use super::write::event_number;
use crate::Limits;
use crate::event_log::{Event, INTERRUPTED_ID, KeptEvent};
use crate::job::{End, JobFacts, now, time_text, to_json};
use crate::kept;
use crate::limits::LATEST;

/// Forgets what is over the limits, ends the interrupted jobs, and reads all back, in the order of their beginnings.
pub(super) fn take_over(
    connection: &mut Connection,
    limits: &Limits,
) -> rusqlite::Result<Vec<StoredJob>> {
    let change = connection.transaction()?;
    let jobs = taken_over(&change, limits)?;
    change.commit()?;
    Ok(jobs)
}

/// The same jobs, while the file stays as it is.
pub(super) fn look(
    connection: &mut Connection,
    limits: &Limits,
) -> rusqlite::Result<Vec<StoredJob>> {
    let change = connection.transaction()?;
    let jobs = taken_over(&change, limits)?;
    change.rollback()?;
    Ok(jobs)
}

fn taken_over(change: &Transaction<'_>, limits: &Limits) -> rusqlite::Result<Vec<StoredJob>> {
    forget_over(change, limits)?;
    end_interrupted(change)?;
    let mut unreadable = 0_usize;
    let jobs = read(change, &mut unreadable)?;
    if unreadable > 0 {
        tracing::warn!(
            rows = unreadable,
            "records of past jobs cannot be read and are passed over"
        );
    }
    Ok(jobs)
}

/// The latest are those with the highest numbers, and those that have just been interrupted: times are as wrong as
/// the clocks that told them.
fn forget_over(change: &Transaction<'_>, limits: &Limits) -> rusqlite::Result<()> {
    let keep = limits.keep_jobs.max(1);
    change.execute(
        "DELETE FROM jobs WHERE number NOT IN
            (SELECT number FROM jobs ORDER BY (ended_at IS NULL) DESC, number DESC LIMIT ?1)",
        [i64::try_from(keep).unwrap_or(i64::MAX)],
    )?;
    change.execute(
        "DELETE FROM jobs WHERE ended_at < ?1 AND number NOT IN
            (SELECT number FROM jobs ORDER BY number DESC LIMIT ?2)",
        params![limits.oldest(), i64::try_from(LATEST).unwrap_or(i64::MAX)],
    )?;
    Ok(())
}

/// A job with a damaged text is ended like the others.
fn end_interrupted(change: &Transaction<'_>) -> rusqlite::Result<()> {
    let mut query = change.prepare("SELECT number FROM jobs WHERE ended_at IS NULL")?;
    let numbers = query.query_map([], |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
    for number in numbers {
        let at = last_told_at(change, number)?.or(created_at(change, number)?);
        end_as_interrupted(change, number, &at.unwrap_or_else(now))?;
    }
    Ok(())
}

fn end_as_interrupted(change: &Transaction<'_>, number: i64, at: &str) -> rusqlite::Result<()> {
    let end = End::interrupted(None);
    let state = end.state().as_str();
    // The event of a failure does not name the operation.
    let event = end.into_event("", at.to_owned());
    change.execute(
        "INSERT OR REPLACE INTO job_events (job_id, event_id, json)
            SELECT job_id, ?1, ?2 FROM jobs WHERE number = ?3",
        params![event_number(INTERRUPTED_ID), String::from_utf8_lossy(&to_json(&event)), number],
    )?;
    change.execute(
        "UPDATE jobs SET state = ?1, ended_at = ?2, error = ?3 WHERE number = ?4",
        params![state, at, event.message, number],
    )?;
    Ok(())
}

/// When a job told the last of what is kept: that it was interrupted is found out much later, perhaps.
fn last_told_at(change: &Transaction<'_>, number: i64) -> rusqlite::Result<Option<String>> {
    let mut query = change.prepare_cached(
        "SELECT json FROM job_events WHERE job_id = (SELECT job_id FROM jobs WHERE number = ?1)
         ORDER BY event_id DESC LIMIT 1",
    )?;
    let json = first_text(&mut query.query([number])?)?;
    let event = json.and_then(|json| serde_json::from_str::<JobEvent>(&json).ok());
    Ok(event.and_then(|event| readable_time(&event.at)))
}

fn created_at(change: &Transaction<'_>, number: i64) -> rusqlite::Result<Option<String>> {
    let mut query = change.prepare_cached("SELECT created_at FROM jobs WHERE number = ?1")?;
    let at = first_text(&mut query.query([number])?)?;
    Ok(at.and_then(|at| readable_time(&at)))
}

fn first_text(rows: &mut Rows<'_>) -> rusqlite::Result<Option<String>> {
    rows.next()?.map_or(Ok(None), |row| readable(row.get(0).map(Some)))
}

fn readable_time(at: &str) -> Option<String> {
    at.parse().ok().map(time_text)
}

fn read(change: &Transaction<'_>, unreadable: &mut usize) -> rusqlite::Result<Vec<StoredJob>> {
    let mut events = read_events(change, unreadable)?;
    let mut query = change.prepare(
        "SELECT job_id, operation, detail, caller, created_at, state, ended_at, error
         FROM jobs ORDER BY number",
    )?;
    let mut rows = query.query([])?;
    let mut jobs = Vec::new();
    while let Some(row) = rows.next()? {
        if let Some(mut job) = readable(read_job(row))? {
            job.events = events.remove(&job.facts.id).unwrap_or_default();
            jobs.push(job);
        } else {
            *unreadable += 1;
        }
    }
    Ok(jobs)
}

fn read_events(
    change: &Transaction<'_>,
    unreadable: &mut usize,
) -> rusqlite::Result<HashMap<JobId, Vec<KeptEvent>>> {
    let mut events: HashMap<JobId, Vec<KeptEvent>> = HashMap::new();
    let mut query = change
        .prepare("SELECT job_id, event_id, json FROM job_events ORDER BY job_id, event_id")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        if let Some((job, event)) = readable(read_event(row))? {
            events.entry(job).or_default().push(event);
        } else {
            *unreadable += 1;
        }
    }
    Ok(events)
}

fn read_event(row: &Row<'_>) -> rusqlite::Result<Option<(JobId, KeptEvent)>> {
    let (job, id, json): (String, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let event = kept::event(&Event { json: Bytes::from(json), private: false });
    let (Ok(job), Ok(id), Some(event)) = (job.parse(), u64::try_from(id), event) else {
        return Ok(None);
    };
    Ok(Some((job, KeptEvent { id, event })))
}

fn read_job(row: &Row<'_>) -> rusqlite::Result<Option<StoredJob>> {
    let Ok(id) = row.get::<_, String>(0)?.parse() else { return Ok(None) };
    let detail = serde_json::from_str(&row.get::<_, String>(2)?).unwrap_or_default();
    let facts = JobFacts {
        id,
        operation: row.get(1)?,
        detail: kept::detail(detail),
        caller: row.get(3)?,
        created_at: row.get(4)?,
    };
    let state = match row.get::<_, String>(5)?.as_str() {
        "succeeded" => JobState::Succeeded,
        "cancelled" => JobState::Cancelled,
        _ => JobState::Failed,
    };
    let error: Option<String> = row.get(7)?;
    let (ended_at, error, events) = (row.get(6)?, error.map(kept::text), Vec::new());
    Ok(Some(StoredJob { facts, state, ended_at, error, events }))
}

/// What a row says; `None` where no rbee wrote it so: a single bit makes a text none.
fn readable<T>(read: rusqlite::Result<Option<T>>) -> rusqlite::Result<Option<T>> {
    match read {
        Err(error) if sqlite_file::is_foreign_value(&error) => Ok(None),
        read => read,
    }
}
