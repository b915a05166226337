//! Taking over what an earlier process left.

use std::collections::HashMap;

use bytes::Bytes;
use rbee_operations::JobState;
use rusqlite::{Connection, Row, Transaction, params};
use worker_contract::JobId;

use super::StoredJob;
use crate::Limits;
use crate::event_log::{Event, KeptEvent};
use crate::job::{End, JobFacts, now, to_json};
use crate::limits::LATEST;

/// The id of the event that says that a job was interrupted. It is above all ids that the job can have
/// given to a reader before, none of which were stored.
const INTERRUPTED_ID: i64 = 1 << 32;

/// Ends the interrupted jobs, forgets what is over the limits, and reads the others back, in the order of
/// their ends.
pub(super) fn take_over(
    connection: &mut Connection,
    limits: &Limits,
) -> rusqlite::Result<Vec<StoredJob>> {
    let keep = limits.keep_jobs.max(1);
    let change = connection.transaction()?;
    end_interrupted(&change)?;
    change.execute(
        "DELETE FROM jobs WHERE number NOT IN
            (SELECT number FROM jobs ORDER BY ended_at DESC, number DESC LIMIT ?1)",
        [i64::try_from(keep).unwrap_or(i64::MAX)],
    )?;
    change.execute(
        "DELETE FROM jobs WHERE ended_at < ?1 AND number NOT IN
            (SELECT number FROM jobs ORDER BY ended_at DESC, number DESC LIMIT ?2)",
        params![limits.oldest(), i64::try_from(LATEST).unwrap_or(i64::MAX)],
    )?;
    let jobs = read(&change)?;
    change.commit()?;
    Ok(jobs)
}

fn end_interrupted(change: &Transaction<'_>) -> rusqlite::Result<()> {
    let running: Vec<(String, String)> = change
        .prepare("SELECT job_id, operation FROM jobs WHERE ended_at IS NULL")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (job_id, operation) in running {
        let (end, at) = (End::interrupted(), now());
        let state = end.state().as_str();
        let event = end.into_event(&operation, at.clone());
        change.execute(
            "UPDATE jobs SET state = ?2, ended_at = ?3, error = ?4 WHERE job_id = ?1",
            params![job_id, state, at, event.message],
        )?;
        change.execute(
            "INSERT OR REPLACE INTO job_events (job_id, event_id, json) VALUES (?1, ?2, ?3)",
            params![job_id, INTERRUPTED_ID, String::from_utf8_lossy(&to_json(&event))],
        )?;
    }
    Ok(())
}

fn read(change: &Transaction<'_>) -> rusqlite::Result<Vec<StoredJob>> {
    let mut events = read_events(change)?;
    let mut jobs = change.prepare(
        "SELECT job_id, operation, detail, caller, created_at, state, ended_at, error
         FROM jobs ORDER BY ended_at, number",
    )?;
    let jobs = jobs.query_map([], read_job)?;
    // A row that no rbee wrote, with an id that is none, is passed over.
    jobs.filter_map(Result::transpose)
        .map(|job| {
            let mut job = job?;
            job.events = events.remove(&job.facts.id).unwrap_or_default();
            Ok(job)
        })
        .collect()
}

fn read_events(change: &Transaction<'_>) -> rusqlite::Result<HashMap<JobId, Vec<KeptEvent>>> {
    let mut events: HashMap<JobId, Vec<KeptEvent>> = HashMap::new();
    let mut query = change
        .prepare("SELECT job_id, event_id, json FROM job_events ORDER BY job_id, event_id")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (id, number, json): (String, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if let (Ok(job), Ok(id)) = (id.parse(), u64::try_from(number)) {
            let event = Event { json: Bytes::from(json), private: false };
            events.entry(job).or_default().push(KeptEvent { id, event });
        }
    }
    Ok(events)
}

fn read_job(row: &Row<'_>) -> rusqlite::Result<Option<StoredJob>> {
    let Ok(id) = row.get::<_, String>(0)?.parse() else { return Ok(None) };
    let facts = JobFacts {
        id,
        operation: row.get(1)?,
        detail: serde_json::from_str(&row.get::<_, String>(2)?).unwrap_or_default(),
        caller: row.get(3)?,
        created_at: row.get(4)?,
    };
    let state = match row.get::<_, String>(5)?.as_str() {
        "succeeded" => JobState::Succeeded,
        "cancelled" => JobState::Cancelled,
        _ => JobState::Failed,
    };
    let (ended_at, error, events) = (row.get(6)?, row.get(7)?, Vec::new());
    Ok(Some(StoredJob { facts, state, ended_at, error, events }))
}
