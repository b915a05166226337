//! A connection that is left where its client does not take what it is sent, or asks nothing while places
//! are short.
//!
//! While a write waits, the body of the answer is not looked at: neither its deadline nor what it holds. So
//! the time that a write may wait ends with the answer's own.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::Extensions;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::seat::Seat;

/// How long a client may take the rest of an answer that said itself that its time is over.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// When the time of an answer is over, as an extension of the response: what waits to be taken then is
/// not waited for, and its body is dropped.
#[derive(Debug, Clone)]
pub struct AnswerEnds {
    at: Instant,
    body: Weak<()>,
}

/// What the body of such an answer keeps: once it is dropped, its client may take the rest as slowly as
/// that of any other answer.
#[derive(Debug)]
pub struct Unfinished {
    _body: Arc<()>,
}

impl AnswerEnds {
    /// An answer that ends at a time, and what its body keeps.
    #[must_use]
    pub fn at(at: Instant) -> (Self, Unfinished) {
        let body = Arc::new(());
        (Self { at, body: Arc::downgrade(&body) }, Unfinished { _body: body })
    }
}

/// What a connection carries: whether it is a request, and when the answer ends.
#[derive(Debug, Default)]
pub(super) struct Carried {
    pub(super) seat: Seat,
    ends: Mutex<Option<AnswerEnds>>,
}

impl Carried {
    /// Another answer begins.
    pub(super) fn begin(&self, extensions: &Extensions) {
        *self.ends() = extensions.get().cloned();
    }

    fn until(&self) -> Option<Instant> {
        let ends = self.ends();
        ends.as_ref().filter(|ends| ends.body.strong_count() > 0).map(|ends| ends.at + LAST_WORDS)
    }

    fn ends(&self) -> MutexGuard<'_, Option<AnswerEnds>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream whose writes fail when they have waited for too long, and which ends, as if its client had
/// closed it, when it is to leave its [seat](Seat).
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    stall: Duration,
    carried: Arc<Carried>,
    /// Since when nothing is taken.
    waits_since: Option<Instant>,
    /// Made when a write waits for the first time: most never do.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, stall: Duration, carried: Arc<Carried>) -> Self {
        Self { stream, stall, carried, waits_since: None, alarm: None }
    }

    /// What came of a write, or that it has waited for too long.
    fn in_time<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waits_since = None;
            return written;
        }
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        let until = since + self.stall;
        let until = self.carried.until().map_or(until, |end| end.min(until));
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if alarm.deadline() != until {
            alarm.as_mut().reset(until);
        }
        match alarm.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into)?;
        if read.is_ready() {
            if into.filled().len() > before {
                self.carried.seat.begin();
            }
            return Poll::Ready(Ok(()));
        }
        // What waits to be written is the rest of an answer.
        if self.waits_since.is_none() {
            self.carried.seat.poll_leave(context).map(Ok)
        } else {
            Poll::Pending
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.in_time(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.in_time(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.in_time(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.in_time(context, shut)
    }
}
