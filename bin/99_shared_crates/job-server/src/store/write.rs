//! What the thread that writes does with jobs.

use rbee_operations::JobState;
use rusqlite::{Connection, params};
use sqlite_file::{Keep, News, StoreError, StoreFile};
use worker_contract::JobId;

use crate::Limits;
use crate::event_log::KeptEvent;
use crate::job::JobFacts;

/// One thing to write.
#[derive(Debug)]
pub(super) enum Record {
    Created(JobFacts),
    /// What a running job has told of late.
    Told {
        id: JobId,
        /// Its earlier events are let go.
        since: u64,
        events: Vec<KeptEvent>,
    },
    Ended {
        id: JobId,
        state: JobState,
        ended_at: String,
        error: Option<String>,
        events: Vec<KeptEvent>,
    },
    Forgotten(JobId),
}

/// The jobs in a file.
pub(super) struct Jobs {
    pub(super) file: StoreFile,
    pub(super) limits: Limits,
}

impl Keep for Jobs {
    type Record = Record;
    const TIDY_AFTER: usize = 64;

    fn file(&self) -> &StoreFile {
        &self.file
    }

    fn open(&self) -> Result<Connection, StoreError> {
        super::take_over(&self.file, &self.limits).map(|(connection, _)| connection)
    }

    fn write(&self, change: &Connection, record: &Record) -> rusqlite::Result<()> {
        write(change, record)
    }

    fn bytes(&self, record: &Record) -> usize {
        match record {
            Record::Created(facts) => facts.detail.to_string().len(),
            Record::Told { events, .. } => bytes(events),
            Record::Ended { error, events, .. } => {
                error.as_ref().map_or(0, String::len) + bytes(events)
            }
            Record::Forgotten(_) => 0,
        }
    }

    /// Whatever it is: without the record of its beginning a job has none.
    fn waits_after(&self, _error: &StoreError) -> bool {
        true
    }

    fn tell(&self, news: News<'_>) {
        match news {
            News::Failing { error, reason } => {
                tracing::error!(%error, reason, "cannot write the job store: jobs go on, and their records wait in memory");
            }
            News::Well => tracing::info!("the job store can be written again"),
            News::Refused(error) => {
                tracing::error!(%error, "a record of a job cannot be written and is lost");
            }
            News::Over(records) => {
                tracing::warn!(
                    records,
                    "records of jobs are lost: more wait than are kept in memory"
                );
            }
            News::Unwritten(records) => {
                tracing::warn!(records, "records of jobs could not be written and are lost");
            }
        }
    }
}

fn bytes(events: &[KeptEvent]) -> usize {
    events.iter().map(|kept| kept.event.json.len()).sum()
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
        Record::Told { id, since, events } => {
            let is_running = change
                .prepare_cached("SELECT 1 FROM jobs WHERE job_id = ?1 AND ended_at IS NULL")?
                .exists([id.as_str()])?;
            // A job whose beginning could not be written has no record.
            if is_running { replace_events(change, id, *since, events) } else { Ok(()) }
        }
        Record::Ended { id, state, ended_at, error, events } => {
            let found = change
                .prepare_cached(
                    "UPDATE jobs SET state = ?2, ended_at = ?3, error = ?4 WHERE job_id = ?1",
                )?
                .execute(params![id.as_str(), state.as_str(), ended_at, error])?;
            if found > 0 { replace_events(change, id, u64::MAX, events) } else { Ok(()) }
        }
        Record::Forgotten(id) => change
            .prepare_cached("DELETE FROM jobs WHERE job_id = ?1")?
            .execute([id.as_str()])
            .map(drop),
    }
}

/// Lets the events go that are older than `since`, and adds others.
fn replace_events(
    change: &Connection,
    id: &JobId,
    since: u64,
    events: &[KeptEvent],
) -> rusqlite::Result<()> {
    change
        .prepare_cached("DELETE FROM job_events WHERE job_id = ?1 AND event_id < ?2")?
        .execute(params![id.as_str(), event_number(since)])?;
    let mut insert = change
        .prepare_cached("INSERT INTO job_events (job_id, event_id, json) VALUES (?1, ?2, ?3)")?;
    for kept in events {
        let number = event_number(kept.id);
        insert.execute(params![id.as_str(), number, String::from_utf8_lossy(&kept.event.json)])?;
    }
    Ok(())
}

/// The id of an event as SQLite knows numbers.
pub(super) fn event_number(id: u64) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;
    use crate::event_log::Event;
    use crate::store::schema;

    #[test]
    fn what_becomes_of_a_job_is_in_its_rows_and_one_without_a_beginning_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = StoreFile::new(&schema::KIND, &folder.path().join("state.db"));
        let connection = schema::open(&file).unwrap();
        let (first, second, nobody) = (facts(), facts(), facts());
        for record in [
            Record::Created(first.clone()),
            Record::Created(second.clone()),
            ended(&first),
            ended(&nobody),
        ] {
            write(&connection, &record).unwrap();
        }
        let (one, two) = (first.id.to_string(), second.id.to_string());
        let running = (two, "running".to_owned(), 0);
        assert_eq!(rows(&connection), [(one, "cancelled".to_owned(), 1), running.clone()]);
        write(&connection, &Record::Forgotten(first.id)).unwrap();
        assert_eq!(rows(&connection), [running]);
        let left = "SELECT count(*) FROM job_events";
        assert_eq!(connection.query_row(left, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
    }

    #[test]
    fn what_a_running_job_tells_is_a_tail_that_its_end_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let file = StoreFile::new(&schema::KIND, &folder.path().join("state.db"));
        let connection = schema::open(&file).unwrap();
        let (job, nobody) = (facts(), facts());
        write(&connection, &Record::Created(job.clone())).unwrap();
        let stored = || {
            let mut query = connection.prepare("SELECT event_id FROM job_events").unwrap();
            let ids = query.query_map([], |row| row.get::<_, i64>(0)).unwrap();
            ids.map(Result::unwrap).collect::<Vec<_>>()
        };
        for (record, expected) in [
            (told(&nobody, 1, &[1]), vec![]),
            (told(&job, 1, &[1, 3]), vec![1, 3]),
            (told(&job, 3, &[4, 5]), vec![3, 4, 5]),
            (ended(&job), vec![1]),
            (told(&job, 1, &[6]), vec![1]),
        ] {
            write(&connection, &record).unwrap();
            assert_eq!(stored(), expected, "after {record:?}");
        }
    }

    #[test]
    fn texts_count_among_what_waits() {
        let file = StoreFile::new(&schema::KIND, Path::new("state.db"));
        let jobs = Jobs { file, limits: Limits::default() };
        let job = facts();
        assert_eq!(jobs.bytes(&Record::Created(job.clone())), "null".len());
        assert_eq!(jobs.bytes(&ended(&job)), "no".len() + "{}".len());
        assert_eq!(jobs.bytes(&told(&job, 1, &[1, 2])), "{}{}".len());
        assert_eq!(jobs.bytes(&Record::Forgotten(job.id)), 0);
    }

    #[test]
    fn a_failure_names_the_job_store() {
        let file = StoreFile::new(&schema::KIND, Path::new("/state.db"));
        let failure = || rusqlite::Error::QueryReturnedNoRows;
        let unusable = file.unusable(failure());
        assert_eq!(unusable.to_string(), "cannot use the job store /state.db");
        let closed = StoreError::Open { file, source: failure() };
        assert_eq!(closed.to_string(), "cannot open the job store /state.db");
        assert_eq!((schema::KIND.content, schema::KIND.thread), ("the job store", "job-store"));
    }

    /// Ids, states and numbers of events, the oldest job first.
    fn rows(connection: &Connection) -> Vec<(String, String, i64)> {
        let query = "SELECT job_id, state,
                (SELECT count(*) FROM job_events WHERE job_events.job_id = jobs.job_id)
            FROM jobs ORDER BY number";
        let mut query = connection.prepare(query).unwrap();
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        rows.unwrap().map(Result::unwrap).collect()
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
        let (state, error) = (JobState::Cancelled, Some("no".to_owned()));
        Record::Ended { id, state, ended_at, error, events: vec![kept(1)] }
    }

    fn told(facts: &JobFacts, since: u64, ids: &[u64]) -> Record {
        let (id, events) = (facts.id.clone(), ids.iter().map(|id| kept(*id)).collect());
        Record::Told { id, since, events }
    }

    fn kept(id: u64) -> KeptEvent {
        KeptEvent { id, event: Event { json: "{}".into(), private: false } }
    }
}
