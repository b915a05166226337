//! Which worker holds the beginning of which prompt. Pure.
//!
//! It follows from what the queen has sent where: a worker keeps the KV cache of what it computed
//! until it needs the room, the least recently used first, and so does this index.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use lru::{DefaultHasher, LruCache};

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

/// Who holds each block. The hasher is a quick one with a secret seed: blocks are digests already.
type Blocks = HashMap<u64, Vec<Holder>, DefaultHasher>;

/// Who holds which blocks.
#[derive(Debug)]
pub(super) struct Prefixes {
    /// In the order of their numbers.
    holders: Blocks,
    held: HashMap<Holder, LruCache<u64, ()>>,
    /// How many blocks are remembered of all workers, and may be.
    total: usize,
    limit: usize,
}

/// Who holds a beginning of one prompt.
#[derive(Debug)]
pub(super) struct Held {
    /// How many blocks of it, in the order of the holders' numbers.
    found: Vec<(Holder, usize)>,
    /// A bit for each of them, which several may share. A thousand are asked for of whom few hold anything.
    bits: u64,
}

impl Held {
    /// How many blocks a worker holds.
    #[inline]
    pub(super) fn blocks_of(&self, holder: Holder) -> usize {
        if self.bits & bit_of(holder) == 0 {
            return 0;
        }
        let place = self.found.binary_search_by_key(&holder, |(holder, _)| *holder);
        place.map_or(0, |place| self.found[place].1)
    }
}

/// The numbers are far from random: those of neighbours must not share a bit for that.
#[inline]
fn bit_of(holder: Holder) -> u64 {
    1 << (holder.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58)
}

impl Default for Prefixes {
    fn default() -> Self {
        Self { holders: Blocks::default(), held: HashMap::new(), total: 0, limit: MOST_OF_ALL }
    }
}

impl Prefixes {
    /// Notes that a worker, with a KV cache of so many tokens, is given a prompt.
    pub(super) fn insert(&mut self, holder: Holder, blocks: &[u64], cache_tokens: u32) {
        if blocks.is_empty() {
            return;
        }
        let room = usize::try_from(cache_tokens).unwrap_or(MOST) * BYTES_A_TOKEN / BLOCK_BYTES;
        let room = room.clamp(LEAST, MOST);
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
        self.keep_to_limit();
    }

    /// Where too much is remembered, those of whom most is remembered lose what exceeds an equal share.
    fn keep_to_limit(&mut self) {
        while self.total > self.limit {
            let share = (self.limit / self.held.len().max(1)).max(LEAST);
            let most = self.held.iter_mut().max_by_key(|(_, held)| held.len());
            let Some((holder, held)) = most.filter(|(_, held)| held.len() > share) else { return };
            while held.len() > share {
                let Some((old, ())) = held.pop_lru() else { break };
                self.total -= 1;
                forget(&mut self.holders, old, *holder);
            }
        }
    }

    /// Who holds a beginning of a prompt.
    pub(super) fn held(&self, blocks: &[u64]) -> Held {
        let found = self.lookup(blocks);
        let bits = found.iter().fold(0, |bits, (holder, _)| bits | bit_of(*holder));
        Held { found, bits }
    }

    /// For each worker that holds a beginning of the prompt, how many blocks of it, in the order of their
    /// numbers. Who holds a block holds all before it: they are more recently used.
    fn lookup(&self, blocks: &[u64]) -> Vec<(Holder, usize)> {
        let Some(first) = blocks.first().and_then(|block| self.holders.get(block)) else {
            return Vec::new();
        };
        let mut found: Vec<_> = first.iter().map(|holder| (*holder, 1)).collect();
        // Neighbours in `found` that all hold so many blocks, and none of them more than so many. Who holds
        // more than another comes before it.
        let mut open = vec![(0, found.len(), 1, blocks.len())];
        while let Some((from, to, least, most)) = open.pop() {
            if from == to || least == most {
                found[from..to].iter_mut().for_each(|(_, length)| *length = least);
                continue;
            }
            let middle = least + (most - least).div_ceil(2);
            let holders = self.holders.get(&blocks[middle - 1]).map_or(&[][..], Vec::as_slice);
            let split = match holders.len().saturating_sub(from) {
                0 => from,
                all if all >= to - from => to,
                _ => bring_forward(&mut found, (from, to), holders),
            };
            open.push((from, split, middle, most));
            open.push((split, to, least, middle - 1));
        }
        found.sort_unstable();
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

/// Brings those of a part that are among the holders to its front; gives the end of these.
fn bring_forward(
    found: &mut [(Holder, usize)],
    (from, to): (usize, usize),
    holders: &[Holder],
) -> usize {
    let mut split = from;
    for at in from..to {
        if holders.binary_search(&found[at].0).is_ok() {
            found.swap(split, at);
            split += 1;
        }
    }
    split
}

fn forget(holders: &mut Blocks, block: u64, holder: Holder) {
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
    fn of_all_workers_together_no_more_is_remembered_than_may_be() {
        let mut index = Prefixes { limit: 150, ..Prefixes::default() };
        let blocks = |holder: u64| (holder * 1000..holder * 1000 + 100).collect::<Vec<_>>();
        for holder in 1..=4 {
            index.insert(holder, &blocks(holder), 8192);
            let held: usize = index.held.values().map(LruCache::len).sum();
            assert!(index.total <= 150 && index.total == held, "{}: {held}", index.total);
        }
        assert!(index.lookup(&blocks(4))[0].1 >= 37, "the beginnings stay");
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

    /// The blocks of a prompt as its chain has them: each stands for all before it.
    fn chain(parts: &[u64]) -> Vec<u64> {
        let step = |hash: &mut u64, part: &u64| {
            *hash = (*hash * 31 + part + 1) % 1_000_000_007;
            Some(*hash)
        };
        parts.iter().scan(7, step).collect()
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_each_worker_holds_from_the_first_block_on(
            given in prop::collection::vec((0_u64..9, prop::collection::vec(0_u64..2, 1..50)), 1..40),
            asked in prop::collection::vec(0_u64..2, 1..50),
        ) {
            let mut index = Prefixes::default();
            for (holder, parts) in &given {
                index.insert(*holder, &chain(parts), 0);
            }
            let asked = chain(&asked);
            let mut expected: Vec<_> = index.held.iter().map(|(holder, held)| {
                (*holder, asked.iter().take_while(|block| held.contains(block)).count())
            }).filter(|(_, length)| *length > 0).collect();
            expected.sort_unstable();
            let held = index.held(&asked);
            for holder in 0..9 {
                let of_it = expected.iter().find(|(it, _)| *it == holder);
                prop_assert_eq!(held.blocks_of(holder), of_it.map_or(0, |(_, length)| *length));
            }
            prop_assert_eq!(held.found, expected);
        }

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
