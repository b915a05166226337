//! Which worker holds the beginning of which prompt. Pure.
//!
//! It follows from what the queen has sent where: a worker keeps the KV cache of what it computed
//! until it needs the room, the least recently used first, and so does this index.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::prompt::BLOCK_BYTES;

/// Characters of a token, as far as room is concerned.
const BYTES_A_TOKEN: usize = 4;
/// The fewest blocks that are remembered of a worker.
const LEAST: usize = 32;
/// The most blocks that are remembered of a worker: 1 MiB of text.
const MOST: usize = 8192;
/// The most blocks that are remembered of all workers.
const MOST_OF_ALL: usize = 1 << 20;

/// The number of a worker's process in the index.
pub(super) type Holder = u64;

/// Who holds which blocks.
#[derive(Debug, Default)]
pub(super) struct Prefixes {
    /// In the order of their numbers.
    holders: HashMap<u64, Vec<Holder>>,
    held: HashMap<Holder, LruCache<u64, ()>>,
    total: usize,
}

impl Prefixes {
    /// Notes that a worker, with a KV cache of so many tokens, is given a prompt.
    pub(super) fn insert(&mut self, holder: Holder, blocks: &[u64], cache_tokens: u32) {
        if blocks.is_empty() {
            return;
        }
        let room = usize::try_from(cache_tokens).unwrap_or(MOST) * BYTES_A_TOKEN / BLOCK_BYTES;
        let share = MOST_OF_ALL / (self.held.len() + 1);
        let room = room.clamp(LEAST, MOST).min(share.max(LEAST));
        // The invariant of the clamp: it is at least `LEAST`, which is not zero.
        let capacity = NonZeroUsize::new(room).unwrap_or(NonZeroUsize::MIN);
        let held = self.held.entry(holder).or_insert_with(|| LruCache::new(capacity));
        while held.len() > room {
            let Some((old, ())) = held.pop_lru() else { break };
            self.total -= 1;
            forget(&mut self.holders, old, holder);
        }
        held.resize(capacity);
        // The first block last: it is the most recently used, since every longer prompt needs it.
        for block in blocks.iter().take(room).rev() {
            match held.push(*block, ()) {
                Some((same, ())) if same == *block => continue,
                Some((old, ())) => forget(&mut self.holders, old, holder),
                None => self.total += 1,
            }
            let list = self.holders.entry(*block).or_default();
            if let Err(place) = list.binary_search(&holder) {
                list.insert(place, holder);
            }
        }
    }

    /// For each worker that holds a beginning of the prompt, how many blocks of it.
    pub(super) fn lookup(&self, blocks: &[u64]) -> Vec<(Holder, usize)> {
        let mut found: Vec<(Holder, usize)> = Vec::new();
        for (number, block) in blocks.iter().enumerate() {
            let Some(holders) = self.holders.get(block) else { break };
            if number == 0 {
                found.extend(holders.iter().map(|holder| (*holder, 1)));
                continue;
            }
            let mut goes_on = false;
            for (holder, length) in &mut found {
                if *length == number && holders.binary_search(holder).is_ok() {
                    *length += 1;
                    goes_on = true;
                }
            }
            if !goes_on {
                break;
            }
        }
        found
    }

    /// Forgets all processes but some: what the others held is gone.
    pub(super) fn keep_only(&mut self, is_there: impl Fn(Holder) -> bool) {
        let gone: Vec<Holder> = self.held.keys().copied().filter(|held| !is_there(*held)).collect();
        for holder in gone {
            self.remove(holder);
        }
    }

    /// Whether nobody holds anything.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    fn remove(&mut self, holder: Holder) {
        let Some(held) = self.held.remove(&holder) else { return };
        self.total -= held.len();
        for (block, ()) in &held {
            forget(&mut self.holders, *block, holder);
        }
    }
}

fn forget(holders: &mut HashMap<u64, Vec<Holder>>, block: u64, holder: Holder) {
    if let Some(list) = holders.get_mut(&block) {
        list.retain(|other| *other != holder);
        if list.is_empty() {
            holders.remove(&block);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_worker_holds_the_beginnings_that_it_was_given() {
        let mut index = Prefixes::default();
        let (a, b) = (1, 2);
        index.insert(a, &[1, 2, 3, 4], 8192);
        index.insert(b, &[1, 2, 9], 8192);
        let found = |blocks: &[u64]| {
            let mut found = index.lookup(blocks);
            found.sort_unstable();
            found
        };
        assert_eq!(found(&[1, 2, 3, 7]), [(a, 3), (b, 2)]);
        assert_eq!(found(&[8]), []);
    }

    #[test]
    fn what_is_not_used_for_long_is_forgotten_first_and_from_its_end() {
        let mut index = Prefixes::default();
        let a = 1;
        let old: Vec<u64> = (0..20).collect();
        let other: Vec<u64> = (100..120).collect();
        index.insert(a, &old, 0);
        index.insert(a, &other, 0);
        assert_eq!(index.lookup(&other), [(a, 20)]);
        assert_eq!(index.lookup(&old), [(a, LEAST - 20)]);
    }

    #[test]
    fn a_process_that_ended_holds_nothing() {
        let mut index = Prefixes::default();
        let (a, b) = (1, 2);
        index.insert(a, &[1, 2], 8192);
        index.insert(b, &[1], 8192);
        index.keep_only(|holder| holder == b);
        assert_eq!(index.lookup(&[1, 2]), [(b, 1)]);
        index.remove(b);
        assert!(index.holders.is_empty() && index.held.is_empty() && index.total == 0);
    }

    proptest! {
        #[test]
        fn both_sides_of_the_index_agree(
            steps in prop::collection::vec((0_u64..4, 0_u64..6, 1_u64..60, any::<bool>()), 1..60),
        ) {
            let mut index = Prefixes::default();
            for (holder, first, length, removes) in steps {
                if removes {
                    index.remove(holder);
                } else {
                    let blocks: Vec<u64> = (first * 10..first * 10 + length).collect();
                    index.insert(holder, &blocks, 0);
                }
                let listed: usize = index.holders.values().map(Vec::len).sum();
                let held: usize = index.held.values().map(LruCache::len).sum();
                prop_assert_eq!((listed, index.total), (held, held));
                for (holder, held) in &index.held {
                    prop_assert!(held.len() <= LEAST);
                    for (block, ()) in held {
                        prop_assert!(index.holders[block].contains(holder));
                    }
                }
            }
        }
    }
}
