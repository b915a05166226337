//! A streamed answer: each token is an event and a chunk of its own, written when it is due.

use std::convert::Infallible;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::time::{Instant, Sleep, sleep_until};

use super::dialect::Dialect;
use crate::order::{Order, Token, micros};

/// The tokens of one order.
pub(super) struct Answer {
    dialect: Dialect,
    order: Order,
    /// How many tokens were written.
    written: u32,
    is_begun: bool,
    is_ended: bool,
    /// Whether the last token was sent.
    is_flushed: bool,
    /// When the next token is due; none where they come as fast as they are taken.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Answer {
    /// The tokens of an order after those that were `given` before; the first one comes at once.
    pub(super) fn new(dialect: Dialect, order: Order, given: u32) -> Self {
        let alarm = (!order.pace.is_zero()).then(|| Box::pin(sleep_until(Instant::now())));
        Self {
            dialect,
            order,
            written: given,
            is_begun: false,
            is_ended: false,
            is_flushed: true,
            alarm,
        }
    }

    fn piece(&mut self) -> Bytes {
        let mut out = Vec::with_capacity(256);
        if !self.is_begun {
            self.is_begun = true;
            out.extend_from_slice(self.dialect.begin());
        }
        if self.written < self.order.tokens {
            self.written += 1;
            let (tag, number) = (self.order.tag, self.written);
            self.dialect.token(Token { tag, number, written: micros() }, &mut out);
        }
        if self.written >= self.order.tokens {
            self.is_ended = true;
            out.extend_from_slice(&self.dialect.end(self.order.tokens));
        }
        out.into()
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_ended {
            return Poll::Ready(None);
        }
        // As a worker that computes: each token is sent before there is another one.
        self.is_flushed = !self.is_flushed;
        if self.is_flushed && self.alarm.is_none() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let pace = self.order.pace;
        if let Some(alarm) = &mut self.alarm {
            std::task::ready!(alarm.as_mut().poll(context));
            let next = alarm.deadline() + pace;
            alarm.as_mut().reset(next);
        }
        Poll::Ready(Some(Ok(Frame::data(self.piece()))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_ended
    }
}
