//! A hive's log: how it ends, or what is written to it as the job's events.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::time::Duration;

use job_server::{JobContext, JobError, Outcome};
use rbee_operations::HiveLogs;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::{Operations, outcome};
use crate::remote_hive::RemoteLog;

/// The most lines of a log that are shown.
const MAX_LINES: u16 = 10_000;
/// How often a file of this machine, and one of another machine, is looked at.
const LOOK: Duration = Duration::from_millis(200);
const LOOK_ELSEWHERE: Duration = Duration::from_secs(1);
/// How much of the log is read at once, in bytes.
const PIECE: u64 = 256 << 10;
/// About how many bytes of lines go into one event.
const EVENT_BYTES: usize = 16 << 10;

impl Operations {
    pub(super) async fn hive_logs(
        &self,
        logs: &HiveLogs,
        job: &JobContext,
    ) -> Result<Outcome, JobError> {
        let (hive, lines) = (&logs.hive_id, logs.lines.clamp(1, MAX_LINES));
        if !logs.follow {
            let text = if hive.is_localhost() {
                last_lines(&self.own_log(), lines).await?.1
            } else {
                self.remote.logs(hive, lines).await?
            };
            let message = format!("The last {} lines of hive {hive}", text.lines().count());
            return Ok(outcome(message, &json!({ "hive_id": hive, "text": text })));
        }
        let log = if hive.is_localhost() {
            Log::Here(self.own_log())
        } else {
            Log::Elsewhere(self.remote.open_log(hive).await?)
        };
        let ended = log.follow(lines, job).await;
        if let Log::Elsewhere(log) = log {
            log.close().await;
        }
        Err(ended)
    }

    fn own_log(&self) -> PathBuf {
        let program = if cfg!(feature = "local-hive") { "queen-rbee" } else { "rbee-hive" };
        self.logs.join(format!("{program}.log"))
    }
}

/// A log that is followed.
enum Log {
    Here(PathBuf),
    Elsewhere(RemoteLog),
}

impl Log {
    /// Tells lines until the job is cancelled, or the log cannot be read any longer.
    async fn follow(&self, lines: u16, job: &JobContext) -> JobError {
        let pause = match self {
            Self::Here(_) => LOOK,
            Self::Elsewhere(_) => LOOK_ELSEWHERE,
        };
        let telling = async {
            let (mut at, text) = self.read(None, lines).await?;
            let mut rest = String::new();
            tell(job, &mut rest, &text);
            loop {
                let (end, text) = self.read(Some(at), 0).await?;
                if text.is_empty() {
                    tokio::time::sleep(pause).await;
                }
                at = end;
                tell(job, &mut rest, &text);
            }
        };
        let ended: Option<Result<(), JobError>> =
            job.cancelled().run_until_cancelled(telling).await;
        match ended {
            Some(Err(error)) => error,
            Some(Ok(())) | None => JobError::cancelled(),
        }
    }

    async fn read(&self, from: Option<u64>, lines: u16) -> Result<(u64, String), JobError> {
        match (self, from) {
            (Self::Elsewhere(log), from) => log.read(from, lines).await,
            (Self::Here(file), None) => last_lines(file, lines).await,
            (Self::Here(file), Some(from)) => {
                after(file, from).await.map_err(|error| unreadable(file, &error))
            }
        }
    }
}

/// The last lines of a file, and how long it is.
async fn last_lines(file: &Path, lines: u16) -> Result<(u64, String), JobError> {
    let text = tokio::fs::read(file).await.map_err(|error| unreadable(file, &error))?;
    let end = text.len() as u64;
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.split_inclusive('\n').collect();
    Ok((end, all[all.len().saturating_sub(usize::from(lines))..].concat()))
}

/// What is after the first `from` bytes of a file, and where that ends. One that is shorter was begun
/// anew.
async fn after(file: &Path, from: u64) -> std::io::Result<(u64, String)> {
    let mut file = tokio::fs::File::open(file).await?;
    let length = file.metadata().await?.len();
    let from = if from > length { 0 } else { from };
    file.seek(SeekFrom::Start(from)).await?;
    let mut bytes = Vec::new();
    file.take(PIECE).read_to_end(&mut bytes).await?;
    Ok((from + bytes.len() as u64, String::from_utf8_lossy(&bytes).into_owned()))
}

fn unreadable(file: &Path, error: &std::io::Error) -> JobError {
    JobError::new("no_log", format!("{} cannot be read: {error}", file.display()))
}

/// Tells the lines that are whole; what is left of the last one waits for its end.
fn tell(job: &JobContext, rest: &mut String, text: &str) {
    rest.push_str(text);
    let Some(end) = rest.rfind('\n') else { return };
    let later = rest.split_off(end + 1);
    for event in events(rest) {
        job.event("log", event, None);
    }
    *rest = later;
}

/// Whole lines in pieces of a bounded size, each without its last end of line.
fn events(lines: &str) -> Vec<String> {
    let mut events: Vec<String> = Vec::new();
    for line in lines.lines() {
        match events.last_mut().filter(|event| event.len() + line.len() < EVENT_BYTES) {
            Some(event) => {
                event.push('\n');
                event.push_str(line);
            }
            None => events.push(line.to_owned()),
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_together_and_never_too_many_at_once() {
        assert_eq!(events("a\nb\n\nc\n"), ["a\nb\n\nc"]);
        let long = "x".repeat(EVENT_BYTES / 2);
        let all = format!("{long}\n{long}\nshort\n");
        assert_eq!(events(&all), [long.clone(), format!("{long}\nshort")]);
    }

    #[tokio::test]
    async fn a_file_is_read_on_from_where_it_was_and_anew_when_it_was_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("log");
        std::fs::write(&file, "one\ntwo\nthree\n").unwrap();
        let (at, text) = last_lines(&file, 2).await.unwrap();
        assert_eq!((at, &*text), (14, "two\nthree\n"));
        assert_eq!(after(&file, at).await.unwrap(), (14, String::new()));
        std::fs::write(&file, "one\ntwo\nthree\nfour").unwrap();
        assert_eq!(after(&file, at).await.unwrap(), (18, "four".to_owned()));
        std::fs::write(&file, "new\n").unwrap();
        assert_eq!(after(&file, 18).await.unwrap(), (4, "new\n".to_owned()));
    }
}
