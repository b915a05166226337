//! A job's stream as server-sent events: `id:` and `data:` of each event, then `data: [DONE]`.
//!
//! A gap is an event named `gap` that carries the id of the last missing event, so that a reader who
//! comes back with that id goes on behind the gap. While a job is silent, comments keep proxies and
//! clients from giving up.

use std::convert::Infallible;
use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, Stream};
use rbee_operations::{DONE_MARKER, EventLevel, JobEvent};
use serde_json::json;

use crate::event_log::{Batch, Gap};
use crate::follow::{Cursor, Found};
use crate::job::{now, to_json};

/// How long a stream may be silent.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The body's chunks. Each holds all events that were waiting, so that replay is quick.
pub(crate) fn stream_body(
    cursor: Cursor,
    keep_alive: Duration,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    stream::unfold(Some(cursor), move |cursor| async move {
        let mut cursor = cursor?;
        Some(match tokio::time::timeout(keep_alive, cursor.next()).await {
            Err(_silent) => (Ok(Bytes::from_static(b": keep-alive\n\n")), Some(cursor)),
            Ok(Some(Found::Events(batch))) => (Ok(render(&batch)), Some(cursor)),
            Ok(Some(Found::Done)) => (Ok(format!("data: {DONE_MARKER}\n\n").into()), None),
            Ok(None) => return None,
        })
    })
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
    use futures::StreamExt as _;
    use tokio::sync::watch;

    use super::*;
    use crate::event_log::{Event, EventLog};
    use crate::job::{End, Job};

    #[tokio::test(start_paused = true)]
    async fn a_silent_job_keeps_its_stream_alive_with_comments() {
        let (job, reader) = watch::channel(Job::queued(EventLog::new(10, 1000)));
        let mut body = Box::pin(stream_body(Cursor::new(reader, 0), KEEP_ALIVE));
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
        let mut body = Box::pin(stream_body(Cursor::new(reader, 1), KEEP_ALIVE));
        let chunk = next(&mut body).await;
        assert!(chunk.starts_with("id: 3\ndata: {\"event\":\"gap\""), "{chunk}");
        assert!(chunk.contains(r#""data":{"missed":2,"first_available":4}"#), "{chunk}");
        assert!(chunk.ends_with("\n\nid: 4\ndata: {}\n\nid: 5\ndata: {}\n\n"), "{chunk}");
    }

    fn empty_event() -> Event {
        Event { json: Bytes::from_static(b"{}"), private: false }
    }

    async fn next(body: &mut (impl Stream<Item = Result<Bytes, Infallible>> + Unpin)) -> String {
        let Some(Ok(chunk)) = body.next().await else { panic!("the stream has ended") };
        String::from_utf8(chunk.to_vec()).unwrap()
    }
}
