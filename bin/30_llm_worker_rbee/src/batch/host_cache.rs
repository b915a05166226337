//! Computed prompts that had to leave the KV cache, kept in the machine's memory: bounded, the least
//! recently used go first.

use std::collections::VecDeque;

use worker_contract::TokenId;

use crate::engine::SavedSequence;
use crate::media::common_prefix;

/// Prompts below this size are computed again about as fast as they are copied.
pub(super) const LEAST_TOKENS: usize = 64;

/// Saved sequences, the least recently used first.
#[derive(Debug)]
pub(super) struct HostCache<S> {
    entries: VecDeque<Kept<S>>,
    bytes: usize,
    most_bytes: usize,
}

/// A saved sequence and what it holds.
#[derive(Debug)]
pub(super) struct Kept<S> {
    pub(super) tokens: Vec<TokenId>,
    pub(super) state: S,
}

impl<S: SavedSequence> HostCache<S> {
    /// An empty cache of at most `most_bytes`; 0 keeps nothing.
    pub(super) fn new(most_bytes: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, most_bytes }
    }

    /// Whether anything can be kept.
    pub(super) fn is_in_use(&self) -> bool {
        self.most_bytes > 0
    }

    /// Whether a sequence is worth being saved here: it is long enough, might fit, and is not a part
    /// of what is here already.
    pub(super) fn wants(&self, tokens: &[TokenId]) -> bool {
        self.most_bytes > 0
            && tokens.len() >= LEAST_TOKENS
            && !self.entries.iter().any(|kept| kept.tokens.starts_with(tokens))
    }

    /// Keeps a sequence; what it makes superfluous or finds no room goes.
    pub(super) fn keep(&mut self, tokens: Vec<TokenId>, state: S) {
        self.entries.retain(|kept| !tokens.starts_with(&kept.tokens));
        self.entries.push_back(Kept { tokens, state });
        self.bytes = self.entries.iter().map(Kept::bytes).sum();
        while self.bytes > self.most_bytes {
            let Some(gone) = self.entries.pop_front() else { break };
            self.bytes -= gone.bytes();
        }
    }

    /// How many tokens of `tokens` the best entry begins with.
    pub(super) fn longest_prefix(&self, tokens: &[TokenId]) -> usize {
        self.entries.iter().map(|kept| common_prefix(&kept.tokens, tokens)).max().unwrap_or(0)
    }

    /// Takes that entry out.
    pub(super) fn take(&mut self, tokens: &[TokenId]) -> Option<Kept<S>> {
        let lengths = self.entries.iter().map(|kept| common_prefix(&kept.tokens, tokens));
        let (best, _) = lengths.enumerate().max_by_key(|(_, length)| *length)?;
        let kept = self.entries.remove(best)?;
        self.bytes -= kept.bytes();
        Some(kept)
    }

    /// The size of everything here.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl<S: SavedSequence> Kept<S> {
    fn bytes(&self) -> usize {
        self.state.bytes() + self.tokens.len() * size_of::<TokenId>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Sized(usize);

    impl SavedSequence for Sized {
        fn bytes(&self) -> usize {
            self.0
        }
    }

    fn tokens(first: TokenId, length: usize) -> Vec<TokenId> {
        (0..).map(|n| first + n).take(length).collect()
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = HostCache::new(4000);
        for first in [0, 1000, 2000] {
            cache.keep(tokens(first, 100), Sized(1000));
        }
        assert_eq!(cache.longest_prefix(&tokens(0, 50)), 0, "three do not fit");
        assert_eq!(cache.longest_prefix(&tokens(1000, 50)), 50);
        let kept = cache.take(&tokens(1000, 50)).unwrap();
        cache.keep(kept.tokens, kept.state);
        cache.keep(tokens(3000, 100), Sized(1000));
        assert_eq!(cache.longest_prefix(&tokens(2000, 50)), 0);
        assert_eq!(cache.longest_prefix(&tokens(1000, 50)), 50, "it was used last");
    }

    #[test]
    fn what_is_a_part_of_something_longer_is_not_kept_twice() {
        let mut cache = HostCache::new(10_000);
        cache.keep(tokens(0, 100), Sized(10));
        assert!(!cache.wants(&tokens(0, 80)));
        assert!(cache.wants(&tokens(0, 120)) && !cache.wants(&tokens(5, 10)));
        cache.keep(tokens(0, 120), Sized(10));
        assert_eq!(cache.bytes(), 10 + 120 * 4);
    }

    #[test]
    fn a_cache_of_no_size_wants_nothing() {
        assert!(!HostCache::<Sized>::new(0).wants(&tokens(0, 100)));
    }

    proptest! {
        #[test]
        fn it_is_never_larger_than_allowed(
            sizes in prop::collection::vec((0_usize..5000, 64_usize..200), 0..40),
        ) {
            let mut cache = HostCache::new(6000);
            for (number, (size, length)) in (0..).zip(sizes) {
                cache.keep(tokens(number * 1000, length), Sized(size));
                prop_assert!(cache.bytes() <= 6000);
                let sum: usize = cache.entries.iter().map(Kept::bytes).sum();
                prop_assert_eq!(cache.bytes(), sum);
            }
        }
    }
}
