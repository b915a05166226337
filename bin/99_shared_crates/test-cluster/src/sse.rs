//! Event streams, as they arrive.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use eventsource_stream::Eventsource;
use futures::{Stream, StreamExt};
use reqwest::RequestBuilder;
use reqwest::header::CONTENT_TYPE;
use tokio::time::Instant;

/// The longest pause inside a stream.
const SILENCE: Duration = Duration::from_secs(60);

/// One event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent {
    /// The `id:` in force.
    pub id: Option<u64>,
    /// The `event:`, or `message` where there is none.
    pub name: String,
    /// The `data:` lines.
    pub data: String,
    /// When it came, counted from the request.
    pub after: Duration,
}

/// An open event stream. Dropping it closes the connection.
pub struct SseStream {
    asked: Instant,
    events: Pin<Box<dyn Stream<Item = Result<eventsource_stream::Event>> + Send>>,
}

impl SseStream {
    pub(crate) async fn open(request: RequestBuilder) -> Result<Self> {
        let asked = Instant::now();
        let response = request.send().await?;
        let status = response.status();
        let kind = response.headers().get(CONTENT_TYPE);
        let is_stream = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        if !status.is_success() || !is_stream {
            bail!("no event stream but {status}: {}", response.text().await?);
        }
        let events = response.bytes_stream().eventsource().map(|event| Ok(event?));
        Ok(Self { asked, events: Box::pin(events) })
    }

    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Result<Option<SseEvent>> {
        let event = tokio::time::timeout(SILENCE, self.events.next())
            .await
            .context("the event stream fell silent")?;
        let Some(event) = event.transpose()? else { return Ok(None) };
        Ok(Some(SseEvent {
            id: event.id.parse().ok(),
            name: event.event,
            data: event.data,
            after: self.asked.elapsed(),
        }))
    }

    /// All events up to the end of the stream.
    pub async fn rest(mut self) -> Result<Vec<SseEvent>> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await? {
            events.push(event);
        }
        Ok(events)
    }
}

impl fmt::Debug for SseStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SseStream").finish_non_exhaustive()
    }
}
