//! The body of a streamed answer: chunks as they come, comments while nothing does.
//!
//! The body is pulled: a reader that is slow slows its own worker's connection, and nothing is kept
//! for it. A reader that goes away drops the body, and with it the request down the chain.

use std::convert::Infallible;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _, stream};
use tokio::time::{Instant, Sleep, sleep};

use super::describe;
use super::inference::{Parts, ROUTE, WORKER};
use crate::dialect::openai::Writer;
use crate::registry::Registry;
use crate::relay::{Failure, Part};

/// How long a stream may be silent.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// What is sent while there is nothing to send.
const COMMENT: &[u8] = b": keep-alive\n\n";
/// Room for a chunk of one token.
const CHUNK: usize = 512;
/// Parts that are there already go out together, up to so many bytes.
const PIECE: usize = 8 * 1024;

struct StreamBody {
    writer: Writer,
    first: Option<Part>,
    parts: Parts,
    registry: Registry,
    /// The head went out before there was a worker to name in it.
    is_late: bool,
    /// Nothing comes any more: `parts` has ended, or failed.
    is_over: bool,
    /// When something was sent last.
    sent_at: Instant,
    /// Rings at times to look whether the stream is silent: setting it anew for each token costs more
    /// than the token's text.
    alarm: Pin<Box<Sleep>>,
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
    // In a box, since the stream of its pieces moves it with each.
    let body = Box::new(StreamBody {
        writer,
        first,
        parts,
        registry,
        is_late,
        is_over: false,
        sent_at: Instant::now(),
        alarm: Box::pin(sleep(KEEP_ALIVE)),
    });
    let comment = stream::iter(is_late.then(|| Ok(Bytes::from_static(COMMENT))));
    comment.chain(stream::unfold(body, |mut body| async move {
        body.piece().await.map(|piece| (Ok(piece), body))
    }))
}

impl StreamBody {
    /// The next that is sent: what is there, and where nothing is, what comes first.
    async fn piece(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::with_capacity(CHUNK);
        let mut is_begun = false;
        // The first text is there when an answer has started: both go out as one piece. What stands
        // for nothing in this dialect is not worth a piece at all.
        while out.len() < PIECE {
            let may_wait = out.is_empty() || is_begun;
            let next = poll_fn(|context| match self.poll_part(context) {
                Poll::Pending if !may_wait => Poll::Ready(None),
                next => next,
            });
            let Some(part) = next.await else { break };
            is_begun = matches!(part, Next::Part(Ok(Part::Started { .. })));
            match part {
                Next::Part(part) => self.write(part, &mut out),
                Next::Silence => out.extend_from_slice(COMMENT),
            }
        }
        self.sent_at = Instant::now();
        (!out.is_empty()).then(|| out.freeze())
    }

    fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Option<Next>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Next::Part(Ok(first))));
        }
        if let Poll::Ready(part) = self.parts.as_mut().poll_next(context) {
            self.is_over = part.is_none();
            return Poll::Ready(part.map(Next::Part));
        }
        loop {
            ready!(self.alarm.as_mut().poll(context));
            let due = self.sent_at + KEEP_ALIVE;
            let is_silent = due <= Instant::now();
            self.alarm.as_mut().reset(if is_silent { Instant::now() + KEEP_ALIVE } else { due });
            if is_silent {
                return Poll::Ready(Some(Next::Silence));
            }
        }
    }

    fn write(&mut self, part: Result<Part, Failure>, out: &mut BytesMut) {
        match part {
            Ok(Part::Started { worker_id, why }) => {
                if std::mem::take(&mut self.is_late) {
                    let reason = why.reason.as_str();
                    let told = format!(": {WORKER}: {worker_id}\n: {ROUTE}: {reason}\n\n");
                    out.extend_from_slice(told.as_bytes());
                }
                self.writer.begin(out);
            }
            Ok(Part::Delta(delta)) => self.writer.delta(&delta, out),
            Ok(Part::Aside(aside)) => self.writer.aside(aside),
            Ok(Part::ChoiceDone { index, finish_reason }) => {
                self.writer.choice_done(index, finish_reason, out);
            }
            // Its head is out; the relay gives the others to who asks for them only.
            Ok(Part::GoesOn { .. } | Part::Embedding { .. } | Part::Score { .. }) => {}
            Ok(Part::Done { finish_reason, usage, .. }) => {
                self.writer.end(finish_reason, usage, out);
            }
            Err(failure) => {
                self.is_over = true;
                self.writer.fail(describe(failure, &self.registry).detail, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use worker_contract::{Delta, FinishReason, Timings, Usage};

    use super::*;
    use crate::dialect::openai::{Head, Kind};
    use crate::scheduler::{Estimate, Reason, Why};

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_is_kept_alive_by_comments_and_loses_nothing() {
        let (sender, mut body) = body(None);
        assert_eq!(next(&mut body).await, ": keep-alive\n\n", "it began without a part");
        assert_eq!(next(&mut body).await, ": keep-alive\n\n", "nothing came for a while");
        sender.send(Ok(started())).await.unwrap();
        sender.send(Ok(text("Hi"))).await.unwrap();
        let first = next(&mut body).await;
        assert!(first.starts_with(": x-rbee-worker: w-1\n: x-rbee-route: only_one\n\n"), "{first}");
        assert!(first.contains(r#""role":"assistant""#) && first.contains("Hi"), "{first}");
        assert_eq!(next(&mut body).await, ": keep-alive\n\n");
        sender.send(Ok(done())).await.unwrap();
        drop(sender);
        assert!(next(&mut body).await.ends_with("data: [DONE]\n\n"));
        assert!(body.next().await.is_none());
    }

    #[tokio::test]
    async fn a_failure_is_the_last_that_comes() {
        let (sender, mut body) = body(Some(started()));
        sender.send(Ok(text("Hi"))).await.unwrap();
        assert!(next(&mut body).await.contains("Hi"));
        sender.send(Err(Failure::Deadline { tokens: 1, word: None })).await.unwrap();
        sender.send(Ok(text("too late"))).await.unwrap();
        let last = next(&mut body).await;
        assert!(last.starts_with(r#"data: {"error":{"message":"#), "{last}");
        assert!(body.next().await.is_none());
    }

    #[tokio::test]
    async fn what_is_there_goes_out_together_and_bounded() {
        let (sender, mut body) = body(Some(started()));
        for part in [text("Hi"), text(" you"), text(&"x".repeat(PIECE)), text("!")] {
            sender.send(Ok(part)).await.unwrap();
        }
        let first = next(&mut body).await;
        assert_eq!(first.matches("data: ").count(), 4, "{first}");
        assert_eq!(next(&mut body).await.matches("data: ").count(), 1, "it waits for no more");
    }

    type Body = Pin<Box<dyn Stream<Item = Result<Bytes, Infallible>> + Send>>;

    fn body(first: Option<Part>) -> (mpsc::Sender<Result<Part, Failure>>, Body) {
        let (sender, mut receiver) = mpsc::channel(8);
        let parts = stream::poll_fn(move |context| receiver.poll_recv(context));
        let head = Head { id: "x-1".into(), created: 5, model: "m".into() };
        let writer = Writer::new(Kind::Chat, &head, false, 1);
        let registry = Registry::new(Duration::from_secs(2), Vec::new(), std::time::Instant::now());
        (sender, Box::pin(stream_body(writer, first, Box::pin(parts), registry)))
    }

    async fn next(body: &mut Body) -> String {
        let Some(Ok(piece)) = body.next().await else { panic!("the body has ended") };
        String::from_utf8(piece.to_vec()).unwrap()
    }

    fn started() -> Part {
        let worker: worker_contract::WorkerId = "w-1".parse().unwrap();
        let chosen =
            Estimate { worker: worker.clone(), expected_ms: 1, load: 0, slots: 1, held_bytes: 0 };
        let why = Why { reason: Reason::OnlyOne, chosen, next: None, candidates: 1 };
        Part::Started { worker_id: worker, why }
    }

    fn text(text: &str) -> Part {
        Part::Delta(Delta { text: text.into(), tokens: vec![1], ..Delta::default() })
    }

    fn done() -> Part {
        let (usage, timings) = (Usage::default(), Timings::default());
        Part::Done { finish_reason: FinishReason::Stop, usage, timings }
    }
}
