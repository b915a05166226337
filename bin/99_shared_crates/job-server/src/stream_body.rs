//! A job's stream as server-sent events: `id:` and `data:` of each event, then `data: [DONE]`.
//!
//! A gap is an event named `gap` that carries the id of the last missing event, so that a reader who
//! comes back with that id goes on behind the gap. While a job is silent, comments keep proxies and
//! clients from giving up.
//!
//! Who may not read any more gets an event named `revoked`, with the id of the last event that it got, and nothing
//! after it, no `[DONE]` either.

use std::convert::Infallible;
use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use daemon_http::Right;
use futures::stream::{self, Stream};
use rbee_operations::{DONE_MARKER, EventLevel, JobEvent, REVOKED};
use serde_json::json;
use worker_contract::JobId;

use crate::JobRegistry;
use crate::event_log::{Batch, Gap};
use crate::follow::{Cursor, Found};
use crate::job::{now, to_json};

/// How long a stream may be silent.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Somebody who reads a job's stream.
pub(crate) struct Reader {
    pub(crate) cursor: Cursor,
    /// By what, where it is looked at while the stream goes on.
    pub(crate) admitted: Option<Admitted>,
}

/// By what somebody reads a job.
pub(crate) struct Admitted {
    pub(crate) right: Right,
    pub(crate) jobs: JobRegistry,
    pub(crate) job: JobId,
}

/// The body's chunks. Each holds all events that were waiting, so that replay is quick.
pub(crate) fn stream_body(
    reader: Reader,
    keep_alive: Duration,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    stream::unfold(Some(reader), move |reader| async move {
        let mut reader = reader?;
        let sent = reader.cursor.after();
        let found = tokio::time::timeout(keep_alive, reader.cursor.next()).await;
        if let Some(admitted) = reader.admitted.take_if(|it| !it.right.still_counts()) {
            drop(reader);
            return Some((Ok(admitted.last_word(sent)), None));
        }
        Some(match found {
            Err(_silent) => (Ok(Bytes::from_static(b": keep-alive\n\n")), Some(reader)),
            Ok(Some(Found::Events(batch))) => (Ok(render(&batch)), Some(reader)),
            Ok(Some(Found::Done)) => (Ok(format!("data: {DONE_MARKER}\n\n").into()), None),
            Ok(None) => return None,
        })
    })
}

impl Admitted {
    /// What a reader is told that is sent away after the event `sent`. A job that lives only for its readers ends with
    /// the last of them.
    fn last_word(self, sent: u64) -> Bytes {
        let goes_on = self.jobs.goes_on_unread(&self.job);
        let what = "the token by which this job was read does not count any more";
        let event = JobEvent {
            event: REVOKED.to_owned(),
            message: format!("{what}{}", if goes_on { "; the job goes on" } else { "" }),
            level: EventLevel::Error,
            at: now(),
            data: None,
            code: Some(REVOKED.to_owned()),
            hint: goes_on.then(|| {
                let job = &self.job;
                format!(
                    "rbee-keeper job show {job}, on the queen's machine, tells what becomes of it"
                )
            }),
        };
        let mut chunk = Vec::new();
        frame(&mut chunk, sent, &to_json(&event));
        chunk.into()
    }
}

fn render(batch: &Batch) -> Bytes {
    /// Room for `id: `, a number, `data: ` and three line ends.
    const FRAME: usize = 40;
    let size: usize = batch.events.iter().map(|kept| kept.event.json.len() + FRAME).sum();
    let mut chunk = Vec::with_capacity(size);
    if let Some(gap) = batch.gap {
        frame(&mut chunk, gap.first_available - 1, &to_json(&gap_event(gap)));
    }
    for kept in &batch.events {
        frame(&mut chunk, kept.id, &kept.event.json);
    }
    chunk.into()
}

fn frame(chunk: &mut Vec<u8>, id: u64, json: &[u8]) {
    write!(chunk, "id: {id}\ndata: ").expect("writing to memory does not fail");
    chunk.extend_from_slice(json);
    chunk.extend_from_slice(b"\n\n");
}

fn gap_event(gap: Gap) -> JobEvent {
    JobEvent {
        event: "gap".to_owned(),
        message: "Earlier events of this job are no longer kept".to_owned(),
        level: EventLevel::Warn,
        at: now(),
        data: Some(json!({"missed": gap.missed, "first_available": gap.first_available})),
        code: None,
        hint: None,
    }
}

#[cfg(test)]
mod tests {
    use access_tokens::{Authenticator, TokenStore};
    use axum::http::HeaderMap;
    use axum::http::header::AUTHORIZATION;
    use futures::StreamExt as _;
    use tokio::sync::watch;

    use super::*;
    use crate::Limits;
    use crate::event_log::{Event, EventLog};
    use crate::job::{End, Job};

    #[tokio::test(start_paused = true)]
    async fn a_silent_job_keeps_its_stream_alive_with_comments() {
        let (job, reader) = watch::channel(Job::queued(EventLog::new(10, 1000)));
        let mut body = Box::pin(stream_body(at(reader, 0), KEEP_ALIVE));
        assert_eq!(next(&mut body).await, ": keep-alive\n\n");
        job.send_if_modified(|job| job.append(empty_event()));
        assert_eq!(next(&mut body).await, "id: 1\ndata: {}\n\n");
        job.send_if_modified(|job| job.end("infer", End::Cancelled, "now".into()));
        assert!(next(&mut body).await.starts_with("id: 2\ndata: {\"event\":\"cancelled\""));
        assert_eq!(next(&mut body).await, "data: [DONE]\n\n");
        assert!(body.next().await.is_none());
    }

    #[tokio::test]
    async fn a_gap_carries_the_id_behind_which_reading_goes_on() {
        let (job, reader) = watch::channel(Job::queued(EventLog::new(2, 1000)));
        for _ in 0..5 {
            job.send_if_modified(|job| job.append(empty_event()));
        }
        let mut body = Box::pin(stream_body(at(reader, 1), KEEP_ALIVE));
        let chunk = next(&mut body).await;
        assert!(chunk.starts_with("id: 3\ndata: {\"event\":\"gap\""), "{chunk}");
        assert!(chunk.contains(r#""data":{"missed":2,"first_available":4}"#), "{chunk}");
        assert!(chunk.ends_with("\n\nid: 4\ndata: {}\n\nid: 5\ndata: {}\n\n"), "{chunk}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_not_read_any_more_gets_nothing_but_that_after_what_it_got() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = TokenStore::open(folder.path());
        let secret = tokens.create("reader").unwrap().secret;
        let auth = Authenticator::from_store(folder.path()).unwrap();
        let shown = format!("Bearer {}", secret.expose()).parse().unwrap();
        let right = Right::new(auth, &HeaderMap::from_iter([(AUTHORIZATION, shown)]));
        let (job, jobs) = ("j-1".parse().unwrap(), JobRegistry::in_memory(Limits::default()));
        let (told, reader) = watch::channel(Job::queued(EventLog::new(10, 1000)));
        told.send_if_modified(|job| job.append(empty_event()));
        let admitted = Some(Admitted { right, jobs, job });
        let reader = Reader { admitted, ..at(reader, 0) };
        let mut body = Box::pin(stream_body(reader, KEEP_ALIVE));
        assert_eq!(next(&mut body).await, "id: 1\ndata: {}\n\n");
        assert_eq!(next(&mut body).await, ": keep-alive\n\n");
        tokens.revoke("reader").unwrap();
        // A file is believed to be as it was for a moment.
        let mut last = next(&mut body).await;
        while last == ": keep-alive\n\n" {
            last = next(&mut body).await;
        }
        assert!(last.starts_with("id: 1\ndata: {\"event\":\"revoked\""), "{last}");
        assert!(body.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_when_a_reader_is_sent_away_is_not_said_to_be_sent() {
        let folder = tempfile::tempdir().unwrap();
        TokenStore::open(folder.path()).create("somebody").unwrap();
        let auth = Authenticator::from_store(folder.path()).unwrap();
        let right = Right::new(auth, &HeaderMap::new());
        let (job, jobs) = ("j-1".parse().unwrap(), JobRegistry::in_memory(Limits::default()));
        let (told, reader) = watch::channel(Job::queued(EventLog::new(10, 1000)));
        let admitted = Some(Admitted { right, jobs, job });
        let reader = Reader { admitted, ..at(reader, 0) };
        let mut body = Box::pin(stream_body(reader, KEEP_ALIVE));
        tokio::time::advance(KEEP_ALIVE / 2).await;
        told.send_if_modified(|job| job.append(empty_event()));
        let last = next(&mut body).await;
        assert!(last.starts_with("id: 0\ndata: {\"event\":\"revoked\""), "{last}");
    }

    fn at(job: watch::Receiver<Job>, after: u64) -> Reader {
        Reader { cursor: Cursor::new(job, after), admitted: None }
    }

    fn empty_event() -> Event {
        Event { json: Bytes::from_static(b"{}"), private: false }
    }

    async fn next(body: &mut (impl Stream<Item = Result<Bytes, Infallible>> + Unpin)) -> String {
        let Some(Ok(chunk)) = body.next().await else { panic!("the stream has ended") };
        String::from_utf8(chunk.to_vec()).unwrap()
    }
}
