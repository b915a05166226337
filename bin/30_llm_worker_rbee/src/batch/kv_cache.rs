//! The engine with what it remembers: computed prompts are found again, shared, and dropped when
//! their room is wanted.
//!
//! A request takes over the longest beginning of its tokens that is anywhere: from an idle sequence,
//! from one that runs, or from the copies in the machine's memory. An idle sequence that has to make
//! room is copied there first, if it is worth it.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use worker_contract::TokenId;

use super::copy_cost::CopyCost;
use super::host_cache::HostCache;
use super::sequences::{SequenceId, Sequences};
use super::step::ALIGNED_CHUNK;
use crate::engine::{Engine, EngineLimits};
use crate::media::{common_prefix, cut, positions};

/// A shorter common beginning than this is computed again: that costs less than to arrange it.
const LEAST_SHARED: usize = 16;

/// How much longer a beginning from outside the engine must be than one inside.
const LEAST_RESTORED: usize = 64;

/// An engine, its sequences, and copies of some that it does not hold any more.
pub(super) struct KvCache<E: Engine> {
    pub(super) engine: E,
    sequences: Sequences,
    host: HostCache<E::Saved>,
    copy_cost: CopyCost,
    limits: EngineLimits,
}

impl<E: Engine> KvCache<E> {
    /// An engine that holds nothing; at most `host_bytes` of its sequences are kept outside it.
    pub(super) fn new(engine: E, host_bytes: usize) -> Self {
        let limits = engine.limits();
        let sequences = Sequences::new(limits.sequences);
        let host = HostCache::new(host_bytes);
        Self { engine, sequences, host, copy_cost: CopyCost::default(), limits }
    }

    /// Cells in use.
    pub(super) fn used(&self) -> usize {
        self.sequences.used()
    }

    /// Cells in use by running sequences: the others can be dropped.
    pub(super) fn used_by_running(&self) -> usize {
        self.sequences.used_by_running()
    }

    /// Bytes of copies outside the engine.
    pub(super) fn host_bytes(&self) -> usize {
        self.host.bytes()
    }

    /// How many of `tokens` would not have to be computed.
    pub(super) fn known(&self, tokens: &[TokenId]) -> usize {
        if self.limits.batch_invariant {
            return 0;
        }
        let inside = self.inside(tokens).map_or(0, |(_, length)| length);
        inside.max(if self.may_restore() { self.host.longest_prefix(tokens) } else { 0 })
    }

    /// A sequence for a request, with as much of `tokens` in it as is known, and how much that is.
    /// `None` if all run.
    pub(super) fn acquire(&mut self, tokens: &[TokenId]) -> Option<(SequenceId, usize)> {
        if self.limits.batch_invariant {
            return self.acquire_aligned(tokens);
        }
        let inside = self.inside(tokens);
        let length = inside.map_or(0, |(_, length)| length);
        if self.may_restore()
            && self.host.longest_prefix(tokens) >= length + LEAST_RESTORED
            && let Some(restored) = self.restore(tokens)
        {
            return Some(restored);
        }
        // What was found may be gone after an attempt to restore.
        let Some((found, length)) = self.inside(tokens) else {
            return self.empty_sequence(None).map(|id| (id, 0));
        };
        if self.sequences.is_idle(found) && length == self.sequences.held(found) {
            self.sequences.run(found);
            return Some((found, length));
        }
        if let Some(id) = self.empty_sequence(Some(found)) {
            self.engine.share(found, id, self.position(found, length));
            self.sequences.share(found, id, length);
            return Some((id, length));
        }
        // The only sequence that does not run is the one that was found.
        if !self.sequences.is_idle(found) {
            return None;
        }
        let kept = if self.truncate(found, length) { length } else { 0 };
        self.sequences.run(found);
        Some((found, kept))
    }

    /// A running sequence has computed tokens.
    pub(super) fn append(&mut self, id: SequenceId, tokens: &[TokenId]) {
        let is_chunk = tokens.len() == ALIGNED_CHUNK;
        self.sequences.append(id, tokens, is_chunk);
    }

    /// Drops tokens that the engine computed for a running sequence and that were not appended.
    pub(super) fn drop_beyond(&mut self, id: SequenceId) {
        // Guesses are made only where parts can be dropped.
        let held = self.position(id, self.sequences.held(id));
        if !self.engine.truncate(id, held) {
            tracing::error!(sequence = id, "the engine kept tokens that were only guessed");
        }
    }

    /// A request has ended; what it computed stays for others, unless somebody else has it too.
    pub(super) fn rest(&mut self, id: SequenceId) {
        self.sequences.rest(id);
        let tokens = self.sequences.tokens(id);
        let twin = |other: &SequenceId| {
            let others = self.sequences.tokens(*other);
            *other != id && (tokens.starts_with(others) || others.starts_with(tokens))
        };
        let twins: Vec<SequenceId> = self.sequences.idle().filter(twin).collect();
        for twin in twins {
            match self.sequences.held(twin).cmp(&self.sequences.held(id)) {
                Ordering::Greater => return self.forget(id),
                Ordering::Less | Ordering::Equal => self.forget(twin),
            }
        }
    }

    /// Empties a sequence.
    pub(super) fn forget(&mut self, id: SequenceId) {
        self.engine.forget(id);
        self.sequences.forget(id);
    }

    /// Drops the sequence that has been idle for the longest time. `false` if none is idle.
    pub(super) fn drop_oldest(&mut self, kept: Option<SequenceId>) -> bool {
        let Some(oldest) = self.sequences.oldest_idle(kept) else { return false };
        self.copy(oldest);
        self.forget(oldest);
        true
    }

    /// Tokens of prompts were computed: what that takes decides about copies.
    pub(super) fn note_computed(&mut self, tokens: usize, took: Duration) {
        self.copy_cost.computed(tokens, took);
    }

    /// Keeps a copy of a sequence outside the engine, where that is worth it.
    fn copy(&mut self, id: SequenceId) {
        let (tokens, pieces) = (self.sequences.tokens(id), self.sequences.pieces(id));
        let is_far = self.limits.is_far;
        if !self.host.wants(tokens)
            || (is_far && !self.copy_cost.is_worth_copying(tokens.len(), pieces))
        {
            return;
        }
        let begin = Instant::now();
        let Some(saved) = self.engine.save(id) else { return };
        self.copy_cost.copied(tokens.len(), pieces, begin.elapsed());
        self.host.keep(tokens.to_vec(), saved);
    }

    /// Makes room for `tokens` more, as far as idle sequences have some.
    pub(super) fn make_room(&mut self, tokens: usize, kept: Option<SequenceId>) -> bool {
        while self.sequences.used() + tokens > self.limits.kv_tokens as usize {
            if !self.drop_oldest(kept) {
                return false;
            }
        }
        true
    }

    /// Moves idle sequences out of the way of the running ones, as far as they can be kept elsewhere.
    pub(super) fn clear_the_way(&mut self) {
        let most = self.limits.idle_tokens as usize;
        while self.host.is_in_use()
            && self.sequences.used() - self.sequences.used_by_running() > most
            && self.drop_oldest(None)
        {}
    }

    /// The longest usable beginning of `tokens` that the engine holds.
    fn inside(&self, tokens: &[TokenId]) -> Option<(SequenceId, usize)> {
        let whole =
            || self.sequences.longest_whole(tokens).filter(|(id, _)| self.sequences.is_idle(*id));
        let found = if self.limits.has_parts {
            let found = self.sequences.longest_prefix(tokens);
            found.filter(|(id, _)| self.engine.has_beginning(*id)).or_else(whole)
        } else {
            whole()
        };
        found.filter(|(_, length)| *length >= LEAST_SHARED)
    }

    fn may_restore(&self) -> bool {
        self.limits.has_parts && self.host.bytes() > 0
    }

    fn restore(&mut self, tokens: &[TokenId]) -> Option<(SequenceId, usize)> {
        let id = self.empty_sequence(None)?;
        let kept = self.host.take(tokens)?;
        if !self.make_room(kept.tokens.len(), None) || !self.engine.restore(id, &kept.state) {
            self.host.keep(kept.tokens, kept.state);
            // It was made to run for this alone.
            self.sequences.rest(id);
            return None;
        }
        self.sequences.append(id, &kept.tokens, false);
        let length = common_prefix(&kept.tokens, tokens);
        if length < kept.tokens.len() {
            self.truncate(id, length);
            // Its end may be wanted again.
            self.host.keep(kept.tokens, kept.state);
        }
        Some((id, self.sequences.held(id)))
    }

    /// The engine's position behind the first `length` places of a sequence.
    fn position(&self, id: SequenceId, length: usize) -> u32 {
        positions(&self.sequences.tokens(id)[..length])
    }

    fn truncate(&mut self, id: SequenceId, length: usize) -> bool {
        if length == self.sequences.held(id) {
            return true;
        }
        let done = self.engine.truncate(id, self.position(id, length));
        if done {
            self.sequences.truncate(id, length);
        } else {
            self.forget(id);
        }
        done
    }

    /// An empty running sequence. `kept` stays, whatever is dropped for it.
    fn empty_sequence(&mut self, kept: Option<SequenceId>) -> Option<SequenceId> {
        let free = match self.sequences.free() {
            Some(free) => free,
            None if self.drop_oldest(kept) => self.sequences.free()?,
            None => return None,
        };
        self.sequences.run(free);
        Some(free)
    }

    /// Where results may depend on nothing else: only whole chunks that a prompt's own computation
    /// put at the same places are the very same, and only in the sequence that has them.
    fn acquire_aligned(&mut self, tokens: &[TokenId]) -> Option<(SequenceId, usize)> {
        let aligned = |id: SequenceId| {
            let common = common_prefix(self.sequences.tokens(id), tokens);
            whole_chunks(tokens, common.min(self.sequences.chunked(id)))
        };
        let best = self.sequences.idle().map(|id| (aligned(id), id)).max();
        match (best, self.sequences.free()) {
            (Some((length, id)), free) if length > 0 || free.is_none() => {
                let kept = if self.truncate(id, length) { length } else { 0 };
                self.sequences.run(id);
                Some((id, kept))
            }
            (_, Some(free)) => {
                self.sequences.run(free);
                Some((free, 0))
            }
            _ => None,
        }
    }
}

/// How many of the first `length` places are whole chunks, with no image cut.
fn whole_chunks(tokens: &[TokenId], mut length: usize) -> usize {
    loop {
        let chunks = length / ALIGNED_CHUNK * ALIGNED_CHUNK;
        length = cut(tokens, chunks);
        if length == chunks {
            return length;
        }
    }
}
