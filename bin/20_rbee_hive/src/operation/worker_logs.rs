//! What a worker's engine has written, as events of a job.

use std::time::Duration;

use job_server::{JobContext, JobError, Outcome};
use narration::with_causes;
use rbee_operations::WorkerLogs;
use serde_json::json;
use worker_contract::WorkerId;

use super::outcome;
use crate::hive::Parts;
use crate::supervisor::LogReader;

/// How many lines are shown if nobody says how many.
const LINES: u32 = 100;
/// The most lines of before that are shown.
const MAX_LINES: u32 = 10_000;
/// How often it is looked for further lines.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// About how many bytes of lines go into one event.
const EVENT_BYTES: usize = 16 * 1024;

/// Shows the last lines and, if wished, goes on until the worker is off the list.
pub(super) async fn show(
    parts: &Parts,
    request: &WorkerLogs,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    let id = &request.worker_id;
    let lines = request.lines.unwrap_or(LINES);
    if lines > MAX_LINES {
        let message = format!("lines must be 0 to {MAX_LINES}, not {lines}");
        return Err(JobError::new("invalid_value", message));
    }
    let reader = parts.supervisor.log(id)?;
    let (mut reader, last) = read(reader, move |log| log.last_lines(lines as usize)).await?;
    let mut told = tell(job, &last);
    if !request.follow {
        return Ok(done(id, told));
    }
    loop {
        let is_listed = parts.supervisor.get(id).is_ok();
        let (back, more) = read(reader, LogReader::more).await?;
        reader = back;
        told += tell(job, &more);
        if !more.is_empty() {
            continue;
        }
        if !is_listed {
            return Ok(done(id, told));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = job.cancelled().cancelled() => return Err(JobError::cancelled()),
        }
    }
}

fn done(id: &WorkerId, told: usize) -> Outcome {
    let message = format!("{told} lines of the log of worker {id}");
    outcome(message, &json!({ "worker_id": id, "lines": told }))
}

/// Reads off the threads that serve others.
async fn read(
    mut reader: LogReader,
    look: impl FnOnce(&mut LogReader) -> std::io::Result<Vec<String>> + Send + 'static,
) -> Result<(LogReader, Vec<String>), JobError> {
    let looked =
        tokio::task::spawn_blocking(move || look(&mut reader).map(|lines| (reader, lines)));
    let looked = looked.await.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
    looked.map_err(|error| {
        let message = format!("the worker's log cannot be read: {}", with_causes(&error));
        JobError::new("log_not_readable", message)
    })
}

/// Tells the lines in events of a bounded size, and how many they were.
fn tell(job: &JobContext, lines: &[String]) -> usize {
    let mut rest = lines;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|line| {
            let is_first = bytes == 0;
            bytes += line.len() + 1;
            is_first || bytes <= EVENT_BYTES
        });
        let (event, later) = rest.split_at(fits.count());
        job.event("log", event.join("\n"), None);
        rest = later;
    }
    lines.len()
}
