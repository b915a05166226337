//! The loop that owns the engine: takes requests in, computes steps, sends tokens out.
//!
//! It runs on a thread of its own and never waits for a reader. Requests come through a bounded
//! queue; an answer's reader ends its request by going away, which is seen before the next step.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use worker_contract::FinishReason;

use super::request::Prepared;
use super::slot::{Progress, Slot, TextModel};
use super::step::{Sequence, Share, has_room, plan, victim};
use crate::engine::{BatchEntry, Engine, EngineError, EngineLimits};
use crate::sampling::Candidates;

/// How long the loop rests when every sequence waits for its reader.
const STALL_REST: Duration = Duration::from_millis(2);

/// What the outside may know of the loop at any moment.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Slots with a running request.
    pub busy: AtomicU32,
    /// Requests that wait for a slot.
    pub queued: AtomicU32,
    /// Tokens in the KV cache.
    pub kv_used: AtomicU32,
    /// Tokens of answers, since the start.
    pub tokens: AtomicU64,
    /// Whether the engine's thread has ended.
    pub ended: AtomicBool,
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
    /// Puts a request into the queue.
    pub fn submit(&self, request: Prepared) -> Result<(), SubmitError> {
        let one_more = |waiting| (waiting < self.max_queue).then_some(waiting + 1);
        self.gauges
            .queued
            .fetch_update(Relaxed, Relaxed, one_more)
            .map_err(SubmitError::QueueFull)?;
        self.inbox.try_send(request).map_err(|error| {
            self.gauges.queued.fetch_sub(1, Relaxed);
            match error {
                TrySendError::Full(_) => SubmitError::QueueFull(self.max_queue),
                TrySendError::Disconnected(_) => SubmitError::Stopped,
            }
        })
    }
}

/// The loop.
pub struct Scheduler<E, M> {
    engine: E,
    limits: EngineLimits,
    model: Arc<M>,
    inbox: Receiver<Prepared>,
    gauges: Arc<Gauges>,
    waiting: VecDeque<Slot>,
    slots: Vec<Option<Slot>>,
    next_serial: u64,
    batch: Vec<BatchEntry>,
    room: Candidates,
}

impl<E, M> std::fmt::Debug for Scheduler<E, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl<E: Engine, M: TextModel> Scheduler<E, M> {
    /// A loop on an engine; at most `max_queue` requests wait for a slot.
    pub fn new(engine: E, model: Arc<M>, max_queue: u32, gauges: Arc<Gauges>) -> (Self, Submitter) {
        let limits = engine.limits();
        let (inbox_in, inbox) = sync_channel(max_queue as usize);
        let scheduler = Self {
            engine,
            limits,
            model,
            inbox,
            gauges: Arc::clone(&gauges),
            waiting: VecDeque::new(),
            slots: (0..limits.sequences).map(|_| None).collect(),
            next_serial: 0,
            batch: Vec::with_capacity(limits.batch_tokens as usize),
            room: Candidates::default(),
        };
        (scheduler, Submitter { inbox: inbox_in, gauges, max_queue })
    }

    /// Runs until the last [`Submitter`] is gone and everything is answered.
    pub fn run(mut self) {
        let ended = EndMarker(Arc::clone(&self.gauges));
        loop {
            let open = self.receive();
            self.end_abandoned_and_overdue(Instant::now());
            self.fill_slots(Instant::now());
            self.step();
            self.publish();
            if !open && self.waiting.is_empty() && self.slots.iter().all(Option::is_none) {
                break;
            }
        }
        drop(ended);
    }

    /// Takes in what has come; waits only when there is nothing to compute.
    /// `false` when nothing can come any more.
    fn receive(&mut self) -> bool {
        let is_idle = self.waiting.is_empty() && self.slots.iter().all(Option::is_none);
        let first = if is_idle {
            self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else if self.sequences().iter().all(|s| s.stalled) {
            self.inbox.recv_timeout(STALL_REST)
        } else {
            self.inbox.recv_timeout(Duration::ZERO)
        };
        match first {
            Ok(request) => self.admit(request),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        while let Ok(request) = self.inbox.try_recv() {
            self.admit(request);
        }
        true
    }

    fn admit(&mut self, request: Prepared) {
        let mut request = request;
        let Some(choice) = request.choices.pop() else { return };
        let slot = Slot::new(request, choice, &*self.model, self.limits.context_length);
        self.waiting.push_back(slot);
    }

    fn end_abandoned_and_overdue(&mut self, now: Instant) {
        let ends = |slot: &Slot| {
            if slot.is_overdue(now) {
                slot.fail("deadline_exceeded", "the request's deadline has passed".to_owned());
            }
            slot.is_abandoned() || slot.is_overdue(now)
        };
        let before = self.waiting.len();
        self.waiting.retain(|slot| !ends(slot));
        self.count_off_queue(before - self.waiting.len());
        for index in 0..self.slots.len() {
            if self.slots[index].as_ref().is_some_and(ends) {
                self.release(index);
            }
        }
    }

    /// Gives free slots to those that wait, in order, while there is room for them.
    fn fill_slots(&mut self, now: Instant) {
        while let Some(next) = self.waiting.front() {
            let Some(free) = self.slots.iter().position(Option::is_none) else { return };
            let kv_tokens = self.limits.kv_tokens as usize;
            if !has_room(&self.sequences(), kv_tokens, next.len(), next.may_add()) {
                return;
            }
            let Some(mut slot) = self.waiting.pop_front() else { return };
            self.count_off_queue(1);
            slot.start(self.next_serial, now);
            self.next_serial += 1;
            if slot.may_add() == 0 {
                slot.finish(FinishReason::Length, now);
                continue;
            }
            self.slots[free] = Some(slot);
        }
    }

    /// Computes one batch and sends its tokens.
    fn step(&mut self) {
        let shares = self.plan_within_kv_cache();
        if shares.is_empty() {
            return;
        }
        self.batch.clear();
        for share in &shares {
            let Some(slot) = &self.slots[share.slot] else { continue };
            let sequence = u32::try_from(share.slot).unwrap_or(u32::MAX);
            let first = slot.held();
            let tokens = slot.pending()[..share.tokens].iter().enumerate();
            self.batch.extend(tokens.map(|(n, token)| BatchEntry {
                token: *token,
                position: u32::try_from(first + n).unwrap_or(u32::MAX),
                sequence,
                wants_logits: share.completes && n + 1 == share.tokens,
            }));
        }
        match self.engine.step(&self.batch) {
            Ok(()) => self.sample(&shares),
            Err(EngineError::KvCacheFull) => self.make_room(),
            Err(error @ EngineError::Failed(_)) => {
                tracing::error!(%error, "a step failed");
                for share in &shares {
                    if let Some(slot) = &self.slots[share.slot] {
                        slot.fail("engine_error", error.to_string());
                    }
                    self.release(share.slot);
                }
            }
        }
    }

    /// The next step's shares, after the youngest sequences gave way if all do not fit.
    fn plan_within_kv_cache(&mut self) -> Vec<Share> {
        loop {
            let sequences = self.sequences();
            let shares = plan(&sequences, self.limits.batch_tokens as usize);
            let held: usize = sequences.iter().map(|s| s.held).sum();
            let adds: usize = shares.iter().map(|s| s.tokens).sum();
            if held + adds <= self.limits.kv_tokens as usize || shares.is_empty() {
                return shares;
            }
            self.make_room();
        }
    }

    fn sample(&mut self, shares: &[Share]) {
        let now = Instant::now();
        let mut row = 0;
        for share in shares {
            row += share.tokens;
            let Some(slot) = &mut self.slots[share.slot] else { continue };
            slot.advance(share.tokens);
            if !share.completes {
                continue;
            }
            let logits = self.engine.logits(row - 1);
            self.gauges.tokens.fetch_add(1, Relaxed);
            if slot.decode(logits, &*self.model, &mut self.room, now) == Progress::Ended {
                self.release(share.slot);
            }
        }
    }

    /// The youngest sequence gives way and waits in front; a sequence alone has reached the end.
    fn make_room(&mut self) {
        if let Some(index) = victim(&self.sequences()) {
            if let Some(mut slot) = self.slots[index].take() {
                tracing::debug!(slot = index, "the KV cache is full: a request waits");
                slot.give_way();
                self.waiting.push_front(slot);
                self.gauges.queued.fetch_add(1, Relaxed);
            }
            self.engine.forget(u32::try_from(index).unwrap_or(u32::MAX));
            return;
        }
        if let Some(index) = self.slots.iter().position(Option::is_some) {
            if let Some(slot) = &mut self.slots[index] {
                slot.finish(FinishReason::Length, Instant::now());
            }
            self.release(index);
        }
    }

    /// Frees a slot and its part of the KV cache.
    fn release(&mut self, index: usize) {
        self.slots[index] = None;
        self.engine.forget(u32::try_from(index).unwrap_or(u32::MAX));
    }

    fn sequences(&self) -> Vec<Sequence> {
        let running = self.slots.iter().enumerate();
        let running = running.filter_map(|(index, slot)| Some((index, slot.as_ref()?)));
        running
            .map(|(index, slot)| Sequence {
                slot: index,
                serial: slot.serial,
                pending: slot.pending().len(),
                held: slot.held(),
                stalled: slot.is_stalled(),
            })
            .collect()
    }

    fn publish(&self) {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let running = self.slots.iter().flatten();
        self.gauges.kv_used.store(count(running.clone().map(Slot::held).sum()), Relaxed);
        self.gauges.busy.store(count(running.count()), Relaxed);
    }

    fn count_off_queue(&self, requests: usize) {
        self.gauges.queued.fetch_sub(u32::try_from(requests).unwrap_or(u32::MAX), Relaxed);
    }
}

/// Marks the loop as ended, also when it panicked.
struct EndMarker(Arc<Gauges>);

impl Drop for EndMarker {
    fn drop(&mut self) {
        self.0.ended.store(true, Relaxed);
    }
}
