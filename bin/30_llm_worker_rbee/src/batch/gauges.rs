//! What the outside may know of the loop, and the way into it.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed},
};
use std::sync::mpsc::{SyncSender, TrySendError};

use super::request::Prepared;

/// What the outside may know of the loop at any moment.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Slots with a running answer.
    pub busy: AtomicU32,
    /// Requests that are prepared, or wait for that, away from the threads that carry connections.
    pub preparing: AtomicU32,
    /// Answers that wait for a slot.
    pub queued: AtomicU32,
    /// Tokens in the KV cache that running answers hold.
    pub kv_used: AtomicU32,
    /// Tokens in the KV cache that may be reused, and are dropped when their room is wanted.
    pub kv_idle: AtomicU32,
    /// Bytes of computed prompts in the machine's memory.
    pub prompt_cache_bytes: AtomicU64,
    /// Tokens of answers, since the start.
    pub tokens: AtomicU64,
    /// Whether the engine's thread has ended.
    pub ended: AtomicBool,
}

impl Gauges {
    /// Whether no answer runs or waits, and no request is prepared.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        // In this order: what leaves one of them was counted in the next before.
        self.waiting() == 0 && self.busy.load(Acquire) == 0
    }

    /// How many wait for a slot, those that are prepared for it included.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        let preparing = self.preparing.load(Acquire);
        preparing.saturating_add(self.queued.load(Acquire))
    }
}

/// Hands requests to the loop. The loop ends when the last one is dropped and all is answered.
#[derive(Debug, Clone)]
pub struct Submitter {
    inbox: SyncSender<Prepared>,
    gauges: Arc<Gauges>,
    max_queue: u32,
}

/// A request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Too many wait already.
    #[error("the worker's queue is full: {0} requests wait")]
    QueueFull(u32),
    /// The engine's thread has ended.
    #[error("the engine has stopped")]
    Stopped,
}

impl Submitter {
    pub(super) fn new(inbox: SyncSender<Prepared>, gauges: Arc<Gauges>, max_queue: u32) -> Self {
        Self { inbox, gauges, max_queue }
    }

    /// Puts a request into the queue. Each of its answers counts, but an empty queue takes any.
    pub fn submit(&self, request: Prepared) -> Result<(), SubmitError> {
        let answers = u32::try_from(request.choices.len()).unwrap_or(u32::MAX);
        let more = |waiting: u32| {
            let sum = waiting.saturating_add(answers);
            (sum <= self.max_queue || waiting == 0).then_some(sum)
        };
        self.gauges.queued.fetch_update(Relaxed, Relaxed, more).map_err(SubmitError::QueueFull)?;
        self.inbox.try_send(request).map_err(|error| {
            self.gauges.queued.fetch_sub(answers, Relaxed);
            match error {
                TrySendError::Full(_) => SubmitError::QueueFull(self.max_queue),
                TrySendError::Disconnected(_) => SubmitError::Stopped,
            }
        })
    }
}
