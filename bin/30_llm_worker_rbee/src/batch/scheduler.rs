//! The loop that owns the engine: takes requests in, computes steps, sends tokens out.
//!
//! It runs on a thread of its own and never waits for a reader. Requests come through a bounded
//! queue; an answer's reader ends its request by going away, which is seen before the next step.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use worker_contract::FinishReason;

use super::draft::{MOST, StepCost};
use super::draft_model::DraftModel;
use super::gauges::{Gauges, Submitter};
use super::kv_cache::KvCache;
use super::request::Prepared;
use super::sampling::{Sampled, sample_all};
use super::slot::{Outcome, Slot, TextModel, slots};
use super::step::{ImageShare, Sequence, Share, Step, has_room, plan, plan_alone, victim};
use crate::engine::{BatchEntry, Engine, EngineError, EngineLimits};
use crate::media::common_prefix;
use crate::metrics::Metrics;

/// How long the loop rests when every sequence waits for its reader.
const STALL_REST: Duration = Duration::from_millis(2);

/// How many more tokens a running prompt must come to share with a request for the request to wait
/// for it.
const WORTH_WAITING: usize = 64;

/// What guesses may add to a step beside other streams, as a part of it.
const BESIDE_OTHERS: f32 = 0.05;

/// How the loop works.
#[derive(Debug, Clone, Copy)]
pub struct SchedulerSettings {
    /// At most this many answers wait for a slot.
    pub max_queue: u32,
    /// How many bytes of computed prompts are kept outside the engine; 0 is none.
    pub prompt_cache_bytes: usize,
    /// Whether the next tokens are guessed and verified in one step.
    pub drafts: bool,
}

/// The loop.
pub struct Scheduler<E: Engine, M> {
    cache: KvCache<E>,
    limits: EngineLimits,
    drafts: bool,
    draft_model: Option<DraftModel<E>>,
    model: Arc<M>,
    inbox: Receiver<Prepared>,
    gauges: Arc<Gauges>,
    metrics: Metrics,
    waiting: VecDeque<Slot>,
    slots: Vec<Option<Slot>>,
    next_serial: u64,
    /// The slot that was computed last, where each is computed alone.
    last_alone: usize,
    step_cost: StepCost,
    /// What was computed since somebody looked at logits, as far as it was prompts.
    unread: Option<Unread>,
    batch: Vec<BatchEntry>,
}

/// Steps that may be under way still: an engine computes until somebody looks at its logits.
#[derive(Debug, Clone, Copy)]
struct Unread {
    since: Instant,
    tokens: usize,
}

impl<E: Engine, M> std::fmt::Debug for Scheduler<E, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl<E: Engine, M: TextModel + Sync> Scheduler<E, M> {
    /// A loop on an engine.
    pub fn new(
        engine: E,
        model: Arc<M>,
        settings: SchedulerSettings,
        gauges: Arc<Gauges>,
        metrics: Metrics,
    ) -> (Self, Submitter) {
        let limits = engine.limits();
        let (inbox_in, inbox) = sync_channel(settings.max_queue as usize);
        let scheduler = Self {
            cache: KvCache::new(engine, settings.prompt_cache_bytes),
            limits,
            drafts: settings.drafts && may_draft(limits),
            draft_model: None,
            model,
            inbox,
            gauges: Arc::clone(&gauges),
            metrics,
            waiting: VecDeque::new(),
            slots: (0..limits.slots).map(|_| None).collect(),
            next_serial: 0,
            last_alone: 0,
            step_cost: StepCost::default(),
            unread: None,
            batch: Vec::with_capacity(limits.batch_tokens as usize),
        };
        (scheduler, Submitter::new(inbox_in, gauges, settings.max_queue))
    }

    /// Lets a second, smaller model guess ahead. It has the same vocabulary and as many slots.
    ///
    /// Nothing happens where guesses cannot be taken back, or where each sequence is computed alone.
    #[must_use]
    pub fn with_draft_model(mut self, engine: E) -> Self {
        if may_draft(self.limits) && engine.limits().has_parts {
            self.draft_model = Some(DraftModel::new(engine));
        }
        self
    }

    /// Runs until the last [`Submitter`] is gone and everything is answered.
    pub fn run(mut self) {
        let ended = EndMarker(Arc::clone(&self.gauges));
        loop {
            let open = self.receive();
            self.end_abandoned_and_overdue(Instant::now());
            self.fill_slots();
            self.begin_sequences(Instant::now());
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
        } else if self.running().all(|(index, slot)| slot.as_sequence(index).rests) {
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
        let context_length = self.limits.context_length;
        let metrics = self.metrics.clone();
        let slots = slots(request, &*self.model, metrics, context_length, self.drafts);
        self.waiting.extend(slots);
    }

    fn end_abandoned_and_overdue(&mut self, now: Instant) {
        let ends = |slot: &Slot| {
            if slot.reply.is_overdue(now) {
                let message = "the request's deadline has passed".to_owned();
                slot.reply.fail("deadline_exceeded", message);
            }
            slot.reply.is_abandoned()
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
    fn fill_slots(&mut self) {
        while let Some(next) = self.waiting.front() {
            let Some(free) = self.slots.iter().position(Option::is_none) else { return };
            let tokens = next.tokens();
            let shared = self.running().map(|(_, slot)| common_prefix(slot.tokens(), tokens)).max();
            let own = tokens.len() - shared.unwrap_or(0);
            let (used, most) = (self.cache.used_by_running(), self.limits.kv_tokens as usize);
            if !has_room(&self.sequences(), used, most, own, next.may_add()) {
                return;
            }
            let Some(mut slot) = self.waiting.pop_front() else { return };
            // Counted here before it is not counted there: who asks must never see it nowhere.
            self.gauges.busy.fetch_add(1, Relaxed);
            self.count_off_queue(1);
            slot.serial = self.next_serial;
            self.next_serial += 1;
            self.slots[free] = Some(slot);
        }
    }

    /// Lets slots begin that have no sequence yet: with what is known of their tokens, or later, when
    /// a running prompt will have computed more of them.
    fn begin_sequences(&mut self, now: Instant) {
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots[index].as_ref().filter(|s| s.sequence.is_none()) else {
                continue;
            };
            if let Some(reason) = slot.ends_at_once() {
                self.finish(index, reason, now);
                continue;
            }
            // A part of an answer is computed token by token, and must not come from somebody's chunk.
            let alone = self.limits.batch_invariant;
            let tokens = if alone { slot.reusable_prompt() } else { slot.reusable() };
            if self.soon_known(tokens) >= self.cache.known(tokens) + WORTH_WAITING {
                continue;
            }
            let Some((sequence, held)) = self.cache.acquire(tokens) else { continue };
            if let Some(slot) = &mut self.slots[index] {
                slot.sequence = Some(sequence);
                slot.hold(held);
                slot.reply.start(held.min(slot.reply.prompt_tokens), now);
                self.cache.clear_the_way();
            }
        }
    }

    /// How many of `tokens` a prompt that is being computed begins with.
    fn soon_known(&self, tokens: &[i32]) -> usize {
        if self.limits.batch_invariant || !self.limits.has_parts {
            return 0;
        }
        let computes = |(index, slot): &(usize, &Slot)| {
            slot.tokens().len() - slot.held > 1 && !slot.as_sequence(*index).rests
        };
        let prompts = self.running().filter(computes);
        prompts.map(|(_, slot)| common_prefix(slot.tokens(), tokens)).max().unwrap_or(0)
    }

    /// Computes one batch and sends its tokens.
    fn step(&mut self) {
        let Step { image, shares } = self.plan_within_kv_cache();
        let has_room = image.is_none_or(|image| self.compute_image(image));
        if shares.is_empty() || !has_room {
            return;
        }
        self.fill_batch(&shares);
        self.metrics.step(self.batch.len());
        let begin = Instant::now();
        match self.cache.engine.step(&self.batch) {
            Ok(()) => {
                let outcomes = self.sample(&shares, begin);
                self.settle(&shares, &outcomes);
            }
            Err(EngineError::KvCacheFull) => self.make_room_at_once(),
            Err(error @ EngineError::Failed(_)) => {
                self.fail_step(&error, shares.iter().map(|share| share.slot));
            }
        }
    }

    /// Computes a part of an image. `false` if there was no room for it: then the step is to be planned
    /// again.
    fn compute_image(&mut self, image: ImageShare) -> bool {
        let Some(slot) = &mut self.slots[image.slot] else { return true };
        let Some(part) = slot.image_part(image.places) else { return true };
        self.metrics.step(image.places);
        let sequence = part.sequence;
        match self.cache.engine.step_media(part) {
            Ok(()) => {
                let held = slot.held + image.places;
                self.cache.append(sequence, &slot.tokens()[slot.held..held]);
                slot.hold(held);
            }
            Err(EngineError::KvCacheFull) => {
                self.make_room_at_once();
                return false;
            }
            Err(error @ EngineError::Failed(_)) => self.fail_step(&error, [image.slot]),
        }
        true
    }

    /// The engine had no room, whatever the books say.
    fn make_room_at_once(&mut self) {
        if !self.cache.drop_oldest(None) {
            self.make_room();
        }
    }

    fn fail_step(&mut self, error: &EngineError, slots: impl IntoIterator<Item = usize>) {
        tracing::error!(%error, "a step failed");
        for index in slots {
            if let Some(slot) = &self.slots[index] {
                slot.reply.fail("engine_error", error.to_string());
            }
            self.abandon(index);
        }
    }

    /// The next step's shares, after idle sequences and then the youngest running ones gave way if
    /// all do not fit.
    fn plan_within_kv_cache(&mut self) -> Step {
        self.draft();
        loop {
            let sequences = self.sequences();
            let step = if self.limits.batch_invariant {
                plan_alone(&sequences, self.last_alone)
            } else {
                plan(&sequences, self.limits.batch_tokens as usize)
            };
            if step.is_empty() || self.cache.make_room(step.places(), None) {
                let slot = step.shares.first().map(|share| share.slot);
                if let Some(slot) = slot.or(step.image.map(|image| image.slot)) {
                    self.last_alone = slot;
                }
                return step;
            }
            let guesses = self.slots.iter_mut().flatten().any(|slot| {
                let had_some = !slot.guess.is_empty();
                slot.guess.clear();
                had_some
            });
            if !guesses {
                self.make_room();
            }
        }
    }

    /// Lets streams guess, as long as that costs the others next to nothing.
    fn draft(&mut self) {
        if !self.drafts && self.draft_model.is_none() {
            return;
        }
        let awake = |slot: &Slot| slot.sequence.is_some() && !slot.reply.is_behind();
        let is_decoding = |slot: &Slot| slot.tokens().len() - slot.held == 1;
        let decoding = self.slots.iter().flatten().filter(|s| awake(s) && is_decoding(s));
        let streams = decoding.count();
        let cost = self.step_cost.of_one_more(streams);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small positive number"
        )]
        let mut left = if streams > 1 { (BESIDE_OTHERS / cost) as usize } else { MOST };
        for slot in self.slots.iter_mut().flatten() {
            if awake(slot) {
                slot.draft(left, cost);
                left -= slot.guess.len();
            }
        }
        let Some(model) = &mut self.draft_model else { return };
        let cost = cost + self.step_cost.of_other(&model.step_cost, streams);
        let mut wanted = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let slot = slot.as_mut().filter(|slot| awake(slot));
            let one = slot.and_then(|slot| slot.wanted_of_model(index, left, cost));
            left -= one.as_ref().map_or(0, |one| one.most);
            wanted.extend(one);
        }
        model.propose(&mut wanted);
    }

    fn fill_batch(&mut self, shares: &[Share]) {
        self.batch.clear();
        for share in shares {
            let Some(slot) = &self.slots[share.slot] else { continue };
            let Some(sequence) = slot.sequence else { continue };
            let pending = slot.pending()[..share.tokens].iter();
            let guessed = slot.guess[..share.guessed].iter();
            self.batch.extend(pending.chain(guessed).zip(0..).map(|(token, n)| BatchEntry {
                token: *token,
                position: slot.position + n,
                sequence,
                wants_logits: share.completes && n as usize + 1 >= share.tokens,
            }));
        }
    }

    /// Chooses tokens, for all shares that are complete at once.
    fn sample(&mut self, shares: &[Share], begin: Instant) -> Vec<Outcome> {
        let mut row = 0;
        let mut work = Vec::with_capacity(shares.len());
        let mut slots: Vec<Option<&mut Slot>> = self.slots.iter_mut().map(Option::as_mut).collect();
        let is_decoding = shares.iter().all(|share| share.completes && share.tokens == 1);
        for share in shares {
            let first = row + share.tokens - 1;
            row += share.rows();
            let Some(slot) = slots[share.slot].take() else { continue };
            let rows = if share.completes { first..row } else { 0..0 };
            let rows: Vec<&[f32]> = rows.map(|row| self.cache.engine.logits(row)).collect();
            work.push(Sampled { slot, rows });
        }
        // The engine may compute until somebody looks at its logits.
        let now = Instant::now();
        if is_decoding {
            self.step_cost.observe(self.batch.len(), now.saturating_duration_since(begin));
        }
        let outcomes = sample_all(&mut work, &*self.model, now);
        self.observe_prompts(shares, begin, now);
        outcomes
    }

    /// Learns what prompts cost, from steps that compute little else.
    fn observe_prompts(&mut self, shares: &[Share], begin: Instant, now: Instant) {
        let prompts = shares.iter().filter(|share| share.tokens > 1);
        let of_prompts: usize = prompts.map(|share| share.tokens).sum();
        let before = self.unread.take();
        if 2 * of_prompts < self.batch.len() {
            return;
        }
        let tokens = before.map_or(0, |unread| unread.tokens) + self.batch.len();
        let since = before.map_or(begin, |unread| unread.since);
        if shares.iter().any(|share| share.completes) {
            self.cache.note_computed(tokens, now.saturating_duration_since(since));
        } else {
            self.unread = Some(Unread { since, tokens });
        }
    }

    /// Books what a step has computed.
    fn settle(&mut self, shares: &[Share], outcomes: &[Outcome]) {
        for (share, outcome) in shares.iter().zip(outcomes) {
            let Some(slot) = &mut self.slots[share.slot] else { continue };
            let Some(sequence) = slot.sequence else { continue };
            let computed = share.tokens + outcome.accepted;
            let tokens = &slot.tokens()[slot.held..slot.held + computed];
            self.cache.append(sequence, tokens);
            slot.hold_text(computed);
            if outcome.accepted < share.guessed {
                self.cache.drop_beyond(sequence);
            }
            self.gauges.tokens.fetch_add(outcome.tokens as u64, Relaxed);
            if outcome.ended.is_some() {
                self.release(share.slot);
            }
        }
    }

    /// The youngest sequence gives way and waits in front; a sequence alone has reached the end.
    fn make_room(&mut self) {
        if let Some(index) = victim(&self.sequences()) {
            if let Some(mut slot) = self.slots[index].take() {
                tracing::debug!(slot = index, "the KV cache is full: a request waits");
                if let Some(sequence) = slot.sequence.take() {
                    self.cache.rest(sequence);
                }
                slot.hold(0);
                self.waiting.push_front(slot);
                self.gauges.queued.fetch_add(1, Relaxed);
            }
        } else if let Some(index) = self.slots.iter().position(Option::is_some) {
            self.finish(index, FinishReason::Length, Instant::now());
        }
    }

    fn finish(&mut self, index: usize, reason: FinishReason, now: Instant) {
        if let Some(slot) = &mut self.slots[index] {
            slot.reply.start(0, now);
            slot.finish(reason, now);
        }
        self.release(index);
    }

    /// Frees a slot; what it computed may be reused.
    fn release(&mut self, index: usize) {
        if let Some(sequence) = self.slots[index].take().and_then(|slot| slot.sequence) {
            self.cache.rest(sequence);
        }
    }

    /// Frees a slot whose sequence is in an unknown state.
    fn abandon(&mut self, index: usize) {
        if let Some(sequence) = self.slots[index].take().and_then(|slot| slot.sequence) {
            self.cache.rest(sequence);
            self.cache.forget(sequence);
        }
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Slot)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| Some((index, slot.as_ref()?)))
    }

    fn sequences(&self) -> Vec<Sequence> {
        self.running().map(|(index, slot)| slot.as_sequence(index)).collect()
    }

    fn publish(&self) {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let running = self.cache.used_by_running();
        self.gauges.kv_used.store(count(running), Relaxed);
        self.gauges.kv_idle.store(count(self.cache.used() - running), Relaxed);
        self.gauges.prompt_cache_bytes.store(self.cache.host_bytes() as u64, Relaxed);
        self.gauges.busy.store(count(self.running().count()), Relaxed);
    }

    fn count_off_queue(&self, answers: usize) {
        self.gauges.queued.fetch_sub(u32::try_from(answers).unwrap_or(u32::MAX), Release);
    }
}

/// Whether guesses can be taken back, and may be computed beside other tokens.
fn may_draft(limits: EngineLimits) -> bool {
    limits.has_parts && !limits.batch_invariant
}

/// Marks the loop as ended, also when it panicked.
struct EndMarker(Arc<Gauges>);

impl Drop for EndMarker {
    fn drop(&mut self) {
        self.0.ended.store(true, Relaxed);
    }
}
