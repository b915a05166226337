//! One connection to a job's stream: bytes in, messages out.

use bytes::Bytes;
use eventsource_stream::{Event, EventStream, EventStreamError};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use rbee_operations::{DONE_MARKER, JobEvent, REVOKED};
use reqwest::{Method, Response, header};
use worker_contract::JobId;

use crate::{ClientError, FollowedEvent, JobClient};

/// The longest single event, in bytes.
const MAX_EVENT: usize = 16 << 20;

/// What a stream says.
pub(crate) enum Message {
    Event(Box<FollowedEvent>),
    Done,
}

/// Opens the stream of a job behind the event `after`.
pub(crate) async fn open(
    client: &JobClient,
    job_id: &JobId,
    after: u64,
) -> Result<BoxStream<'static, Result<Message, ClientError>>, ClientError> {
    let mut request = client.request(Method::GET, &format!("/v1/jobs/{job_id}/stream"));
    if after > 0 {
        request = request.header("last-event-id", after);
    }
    let response = client.send(request).await?;
    if !is_event_stream(&response) {
        return Err(client.protocol("a job's stream that is not text/event-stream"));
    }
    let events = EventStream::new(bounded(response, MAX_EVENT));
    let client = client.clone();
    Ok(events.map(move |event| understand(&client, event)).boxed())
}

fn is_event_stream(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("text/event-stream"))
}

/// Why bytes stopped coming.
#[derive(Debug)]
enum Broken {
    Transport(reqwest::Error),
    TooLong,
}

/// The body's bytes, until one event has more than `max` of them.
fn bounded(response: Response, max: usize) -> impl Stream<Item = Result<Bytes, Broken>> + Send {
    let mut size = EventSize::default();
    response.bytes_stream().map(move |chunk| {
        let chunk = chunk.map_err(Broken::Transport)?;
        if size.feed(&chunk) > max { Err(Broken::TooLong) } else { Ok(chunk) }
    })
}

/// Counts the bytes of the event that is arriving.
#[derive(Debug, Default)]
struct EventSize {
    bytes: usize,
    line_is_empty: bool,
}

impl EventSize {
    /// The size of the largest event that the chunk belongs to, as far as it has arrived.
    fn feed(&mut self, chunk: &[u8]) -> usize {
        let mut largest = self.bytes;
        for byte in chunk {
            match byte {
                b'\n' if self.line_is_empty => self.bytes = 0,
                b'\n' => self.line_is_empty = true,
                b'\r' => {}
                _ => self.line_is_empty = false,
            }
            self.bytes += 1;
            largest = largest.max(self.bytes);
        }
        largest
    }
}

fn understand(
    client: &JobClient,
    event: Result<Event, EventStreamError<Broken>>,
) -> Result<Message, ClientError> {
    let event = event.map_err(|error| match error {
        EventStreamError::Transport(Broken::Transport(error)) => client.failed(error),
        EventStreamError::Transport(Broken::TooLong) => {
            client.protocol(format!("an event of more than {MAX_EVENT} bytes"))
        }
        EventStreamError::Utf8(_) => client.protocol("a stream that is not UTF-8"),
        EventStreamError::Parser(_) => client.protocol("a stream that is not server-sent events"),
    })?;
    if event.data == DONE_MARKER {
        return Ok(Message::Done);
    }
    let id = event.id.parse().map_err(|_| client.protocol("an event without a numeric id"))?;
    // The error's own text could quote the event, which may be of an answer.
    let event: JobEvent = serde_json::from_str(&event.data).map_err(|error| {
        client.protocol(format!("an event that is wrong at column {} of its JSON", error.column()))
    })?;
    if event.event == REVOKED {
        return Err(ClientError::Revoked(Box::new(event)));
    }
    Ok(Message::Event(Box::new(FollowedEvent { id, event })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_an_event_counts_from_the_empty_line_before_it() {
        let mut size = EventSize::default();
        assert_eq!(size.feed(b"id: 1\ndata: x\n"), 14);
        assert_eq!(size.feed(b"\nid: 2\r\n\r\nda"), 14);
        assert_eq!(size.feed(b"ta: ..."), 10);
        assert_eq!(size.feed(&[b'x'; 1000]), 1010);
    }
}
