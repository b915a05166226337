//! The body of a streamed answer: chunks as they come, comments while nothing does.
//!
//! The body is pulled: a reader that is slow slows its own worker's connection, and nothing is kept
//! for it. A reader that goes away drops the body, and with it the request down the chain.

use std::convert::Infallible;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _, stream};
use tokio::time::timeout;

use super::describe;
use super::inference::Parts;
use crate::dialect::openai::Writer;
use crate::registry::Registry;
use crate::relay::{Failure, Part};

/// How long a stream may be silent.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// What is sent while there is nothing to send.
const COMMENT: &[u8] = b": keep-alive\n\n";
/// Room for a chunk of one token.
const CHUNK: usize = 512;

struct StreamBody {
    writer: Writer,
    first: Option<Part>,
    parts: Parts,
    registry: Registry,
    has_failed: bool,
}

enum Next {
    Part(Result<Part, Failure>),
    /// Nothing came for a while.
    Silence,
}

/// The pieces of the body. A `first` part was taken from `parts` already.
pub(super) fn stream_body(
    writer: Writer,
    first: Option<Part>,
    parts: Parts,
    registry: Registry,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let is_late = first.is_none();
    let body = StreamBody { writer, first, parts, registry, has_failed: false };
    let comment = stream::iter(is_late.then(|| Ok(Bytes::from_static(COMMENT))));
    comment.chain(stream::unfold(body, |mut body| async move {
        body.piece().await.map(|piece| (Ok(piece), body))
    }))
}

impl StreamBody {
    async fn piece(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::with_capacity(CHUNK);
        let mut is_begun = false;
        // The first text is there when an answer has started: both go out as one piece. What stands
        // for nothing in this dialect is not worth a piece at all.
        while out.is_empty() || is_begun {
            let Some(part) = self.next_part().await else { break };
            is_begun = matches!(part, Next::Part(Ok(Part::Started { .. })));
            match part {
                Next::Part(part) => self.write(part, &mut out),
                Next::Silence => out.extend_from_slice(COMMENT),
            }
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    async fn next_part(&mut self) -> Option<Next> {
        if self.has_failed {
            return None;
        }
        if let Some(first) = self.first.take() {
            return Some(Next::Part(Ok(first)));
        }
        match timeout(KEEP_ALIVE, self.parts.next()).await {
            Ok(next) => next.map(Next::Part),
            Err(_) => Some(Next::Silence),
        }
    }

    fn write(&mut self, part: Result<Part, Failure>, out: &mut BytesMut) {
        match part {
            Ok(Part::Started { .. }) => self.writer.begin(out),
            Ok(Part::Text { text, .. }) => self.writer.text(&text, out),
            Ok(Part::Done { finish_reason, usage, .. }) => {
                self.writer.end(finish_reason, usage, out);
            }
            Err(failure) => {
                self.has_failed = true;
                self.writer.fail(describe(failure, &self.registry).detail, out);
            }
        }
    }
}
