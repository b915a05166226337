//! What a report says beyond what can be is taken for the most that can. Pure.

use worker_contract::WorkerHeartbeat;

/// The most slots of a worker,
const MOST_SLOTS: u32 = 1024;
/// the most requests that wait in one,
const MOST_QUEUED: u32 = 65_536;
/// and the most tokens that it gives in a second.
const MOST_TOKENS_PER_SECOND: f32 = 1e6;

/// A report of which nobody is shown, or reckons with, what no worker can have.
pub(super) fn plausible(mut beat: WorkerHeartbeat) -> WorkerHeartbeat {
    let (slots, kv_cache) = (&mut beat.slots, &mut beat.kv_cache);
    slots.total = slots.total.min(MOST_SLOTS);
    slots.busy = slots.busy.min(slots.total);
    beat.queued = beat.queued.min(MOST_QUEUED);
    kv_cache.used_tokens = kv_cache.used_tokens.min(kv_cache.capacity_tokens);
    beat.tokens_per_second = beat.tokens_per_second.clamp(0.0, MOST_TOKENS_PER_SECOND);
    beat
}
