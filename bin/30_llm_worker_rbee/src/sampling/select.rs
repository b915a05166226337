//! The largest of many logits, in one pass over them.

use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use worker_contract::TokenId;

/// How many logits are compared side by side; the compiler makes vector instructions of it.
const LANES: usize = 16;

/// How many candidates beyond `k` [`Top`] takes before it sorts the surplus out.
const SURPLUS: usize = 64;

/// The largest logit; negative infinity where there is none.
pub(super) fn largest(logits: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (rows, rest) = logits.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for row in rows {
        for (lane, logit) in lanes.iter_mut().zip(row) {
            *lane = larger(*lane, *logit);
        }
    }
    lanes.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, larger)
}

/// The token with the largest logit; the first one among equals, as llama.cpp's greedy sampler.
pub(super) fn likeliest(logits: &[f32]) -> Option<TokenId> {
    let largest = largest(logits);
    let (rows, _) = logits.as_chunks::<LANES>();
    // Up to the row that has it, rows are compared as a whole.
    let has_it = |row: &[f32; LANES]| row.iter().filter(|logit| **logit >= largest).count() > 0;
    let start = rows.iter().position(has_it).unwrap_or(rows.len()) * LANES;
    let index = start + logits[start..].iter().position(|logit| *logit >= largest)?;
    TokenId::try_from(index).ok()
}

/// A candidate for the choice. Its probability is not known yet.
pub(super) fn candidate(index: usize, logit: f32) -> LlamaTokenData {
    LlamaTokenData::new(LlamaToken(TokenId::try_from(index).unwrap_or(TokenId::MAX)), logit, 0.0)
}

/// The order of candidates: the largest logit first, among equals the lower token.
pub(super) fn likelier_first(a: &LlamaTokenData, b: &LlamaTokenData) -> std::cmp::Ordering {
    b.logit().total_cmp(&a.logit()).then_with(|| a.id().0.cmp(&b.id().0))
}

/// Keeps the `k` largest of the logits that it is offered in the order of their tokens.
///
/// Logits of negative infinity and those that are no numbers are never among them.
pub(super) struct Top<'a> {
    k: usize,
    /// Only what is larger can be among the `k` largest.
    floor: f32,
    found: &'a mut Vec<LlamaTokenData>,
}

impl<'a> Top<'a> {
    /// Collects in `found`, which is emptied first.
    pub(super) fn new(k: usize, found: &'a mut Vec<LlamaTokenData>) -> Self {
        found.clear();
        Self { k, floor: f32::NEG_INFINITY, found }
    }

    pub(super) fn offer(&mut self, index: usize, logit: f32) {
        if logit > self.floor {
            self.found.push(candidate(index, logit));
            if self.found.len() >= self.k.saturating_add(self.k.max(SURPLUS)) {
                self.drop_surplus();
            }
        }
    }

    pub(super) fn offer_all(&mut self, logits: &[f32]) {
        let (rows, rest) = logits.as_chunks::<LANES>();
        for (number, row) in rows.iter().enumerate() {
            // Counted, without a branch for each logit, so that a row is compared at once.
            if row.iter().filter(|logit| **logit > self.floor).count() > 0 {
                for (lane, logit) in row.iter().enumerate() {
                    self.offer(number * LANES + lane, *logit);
                }
            }
        }
        for (index, logit) in (rows.len() * LANES..).zip(rest) {
            self.offer(index, *logit);
        }
    }

    /// Ends the collection: the likeliest first.
    pub(super) fn finish(mut self) {
        self.drop_surplus();
        self.found.sort_unstable_by(likelier_first);
    }

    fn drop_surplus(&mut self) {
        if self.k == 0 {
            self.found.clear();
        } else if self.found.len() > self.k {
            let (_, last, _) = self.found.select_nth_unstable_by(self.k - 1, likelier_first);
            self.floor = last.logit();
            self.found.truncate(self.k);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_logits_give_the_first() {
        assert_eq!(likeliest(&[1.0, 2.0, 2.0]), Some(1));
        assert_eq!(likeliest(&[]), None);
        assert_eq!(likeliest(&[f32::NAN, 1.0]), Some(1));
        assert_eq!(likeliest(&[f32::NEG_INFINITY; 40]), Some(0));
    }

    fn logits() -> impl Strategy<Value = Vec<f32>> {
        // Few values, so that there are many equals; some impossible ones and some that are no numbers.
        let logit = prop_oneof![
            8 => (-20_i8..20).prop_map(f32::from),
            1 => Just(f32::NEG_INFINITY),
            1 => Just(f32::NAN),
        ];
        prop::collection::vec(logit, 0..600)
    }

    proptest! {
        #[test]
        fn the_top_is_that_of_a_full_sort(logits in logits(), k in 0_usize..200) {
            let mut all: Vec<_> = logits
                .iter()
                .enumerate()
                .filter(|(_, logit)| **logit > f32::NEG_INFINITY)
                .map(|(index, logit)| candidate(index, *logit))
                .collect();
            all.sort_by(likelier_first);
            all.truncate(k);
            let mut found = vec![candidate(7, 7.0)];
            let mut top = Top::new(k, &mut found);
            top.offer_all(&logits);
            top.finish();
            prop_assert_eq!(&found, &all);
            if let Some(first) = all.first() {
                prop_assert_eq!(likeliest(&logits), Some(first.id().0));
            }
        }
    }
}
