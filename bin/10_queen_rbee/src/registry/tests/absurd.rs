//! Reports of what cannot be.

use super::*;

#[test]
fn of_figures_that_cannot_be_the_most_is_taken_that_can() {
    let (registry, now) = registry();
    let said = WorkerHeartbeat {
        slots: Slots { total: u32::MAX, busy: u32::MAX },
        queued: u32::MAX,
        kv_cache: KvCacheUse { used_tokens: u32::MAX, capacity_tokens: 100 },
        tokens_per_second: f32::MAX,
        ..beat("a", WorkerState::Ready, 0)
    };
    registry.worker_beat(said, now).unwrap();
    let said = &registry.workers(now)[0].said;
    assert_eq!((said.slots.total, said.slots.busy, said.queued), (1024, 1024, 65_536));
    assert_eq!(said.kv_cache, KvCacheUse { used_tokens: 100, capacity_tokens: 100 });
    assert!(said.tokens_per_second <= 1e6, "{}", said.tokens_per_second);
}
