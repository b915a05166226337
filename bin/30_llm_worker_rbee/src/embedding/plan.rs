//! Which texts share the next batch. Pure.
//!
//! Every request gets its turn: the next text is taken from the request that had the fewest tokens
//! computed so far. So a request with thousands of texts does not hold up one with a single text,
//! and a request's texts stay in their order.

use crate::engine::PooledLimits;

/// A request as the planner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pending {
    /// The tokens that were computed for it, on the clock of [`start`].
    pub(super) served: u64,
    /// The lengths of its next texts, in tokens: as many as its reader has room for.
    pub(super) texts: Vec<usize>,
}

/// How many of a request's next texts are in the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// The request's index.
    pub(super) request: usize,
    /// How many texts.
    pub(super) texts: usize,
    /// How many tokens these have.
    pub(super) tokens: usize,
}

/// The texts of the next batch: one share for each request that is in it.
///
/// Empty only where no request has a text. A text that is longer than a batch should be is alone.
pub(super) fn plan(pending: &[Pending], limits: PooledLimits) -> Vec<Share> {
    let mut shares: Vec<Share> =
        (0..pending.len()).map(|request| Share { request, texts: 0, tokens: 0 }).collect();
    let mut open: Vec<usize> = (0..pending.len()).collect();
    let (mut texts, mut tokens) = (0, 0);
    while texts < limits.batch_texts as usize {
        open.retain(|request| shares[*request].texts < pending[*request].texts.len());
        let turn = |request: &&usize| pending[**request].served + shares[**request].tokens as u64;
        let Some(next) = open.iter().min_by_key(turn).copied() else { break };
        let share = &mut shares[next];
        let length = pending[next].texts[share.texts];
        if texts > 0 && tokens + length > limits.batch_tokens as usize {
            // Its turn comes first in the next batch; shorter texts of others may still fit here.
            open.retain(|request| *request != next);
            continue;
        }
        share.texts += 1;
        share.tokens += length;
        texts += 1;
        tokens += length;
    }
    shares.retain(|share| share.texts > 0);
    shares
}

/// Where the clock of a request begins that comes, or comes back, beside these: it neither waits
/// for what they had before it, nor do they wait until it has had as much.
pub(super) fn start<'a>(beside: impl IntoIterator<Item = &'a Pending>) -> u64 {
    let waiting = beside.into_iter().filter(|pending| !pending.texts.is_empty());
    waiting.map(|pending| pending.served).min().unwrap_or(0)
}

/// Where a request is on the clock before the next batch.
///
/// Who waited for its reader gains no turns by it; and who had more, because its texts fitted into
/// room that the others could not use, is not kept waiting for that.
pub(super) fn settled(served: u64, clock: u64, limits: PooledLimits) -> u64 {
    let ahead = u64::from(limits.text_tokens) + u64::from(limits.batch_tokens);
    served.clamp(clock, clock + ahead)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: PooledLimits = PooledLimits { text_tokens: 40, batch_tokens: 20, batch_texts: 4 };

    fn pending(served: u64, texts: &[usize]) -> Pending {
        Pending { served, texts: texts.to_vec() }
    }

    /// What it is, who waits, and the request and number of texts of each share.
    type Row = (&'static str, Vec<Pending>, &'static [(usize, usize)]);

    #[test]
    fn a_batch_is_shared_by_those_who_had_least() {
        let rows: [Row; 10] = [
            ("nothing to do", vec![], &[]),
            ("a request without texts", vec![pending(0, &[])], &[]),
            ("one text", vec![pending(0, &[5])], &[(0, 1)]),
            ("several texts of one request", vec![pending(0, &[5, 5, 5])], &[(0, 3)]),
            ("at most so many texts", vec![pending(0, &[1; 9])], &[(0, 4)]),
            ("at most so many tokens", vec![pending(0, &[9, 9, 9])], &[(0, 2)]),
            ("a long text is alone", vec![pending(0, &[40, 1]), pending(0, &[1])], &[(0, 1)]),
            (
                "a long text waits until it is first",
                vec![pending(1, &[40]), pending(0, &[3, 3])],
                &[(1, 2)],
            ),
            ("in turns", vec![pending(0, &[5; 9]), pending(0, &[5; 9])], &[(0, 2), (1, 2)]),
            ("who had less gets more", vec![pending(100, &[5; 9]), pending(0, &[5; 9])], &[(1, 4)]),
        ];
        for (what, pending, expected) in rows {
            let shares = plan(&pending, LIMITS);
            let got: Vec<_> = shares.iter().map(|s| (s.request, s.texts)).collect();
            assert_eq!(got, expected, "{what}");
        }
    }

    /// Runs batches until everything is computed; gives each batch's texts.
    fn run(requests: &[Vec<usize>], room: usize) -> Vec<Vec<(usize, usize)>> {
        let mut served = vec![0_u64; requests.len()];
        let mut next = vec![0_usize; requests.len()];
        let mut batches = Vec::new();
        loop {
            let pending: Vec<Pending> = (0..requests.len())
                .map(|r| Pending {
                    served: served[r],
                    texts: requests[r][next[r]..].iter().copied().take(room).collect(),
                })
                .collect();
            let shares = plan(&pending, LIMITS);
            if shares.is_empty() {
                return batches;
            }
            let mut batch = Vec::new();
            for share in shares {
                batch.extend((0..share.texts).map(|n| (share.request, next[share.request] + n)));
                next[share.request] += share.texts;
                served[share.request] += share.tokens as u64;
            }
            batches.push(batch);
        }
    }

    fn requests() -> impl Strategy<Value = Vec<Vec<usize>>> {
        proptest::collection::vec(proptest::collection::vec(1_usize..=40, 0..30), 0..8)
    }

    proptest! {
        #[test]
        fn every_text_is_computed_once_and_in_its_requests_order(
            requests in requests(), room in 1_usize..8,
        ) {
            let mut next = vec![0; requests.len()];
            for (request, text) in run(&requests, room).into_iter().flatten() {
                prop_assert_eq!(text, next[request]);
                next[request] += 1;
            }
            let all: Vec<usize> = requests.iter().map(Vec::len).collect();
            prop_assert_eq!(next, all);
        }

        #[test]
        fn no_batch_is_larger_than_allowed(requests in requests(), room in 1_usize..8) {
            for batch in run(&requests, room) {
                let tokens: usize = batch.iter().map(|(r, t)| requests[*r][*t]).sum();
                prop_assert!(batch.len() <= LIMITS.batch_texts as usize);
                prop_assert!(tokens <= LIMITS.batch_tokens as usize || batch.len() == 1);
            }
        }

        #[test]
        fn a_text_that_fits_is_not_left_out(requests in requests()) {
            let pending: Vec<Pending> = requests.iter().map(|texts| pending(0, texts)).collect();
            let shares = plan(&pending, LIMITS);
            let (texts, tokens) =
                shares.iter().fold((0, 0), |(n, t), s| (n + s.texts, t + s.tokens));
            for (request, all) in requests.iter().enumerate() {
                let taken = shares.iter().find(|s| s.request == request).map_or(0, |s| s.texts);
                if let Some(next) = all.get(taken) {
                    prop_assert!(
                        texts == LIMITS.batch_texts as usize
                            || tokens + next > LIMITS.batch_tokens as usize
                    );
                }
            }
        }

        #[test]
        fn a_request_that_comes_late_waits_for_one_batch_of_each_other_at_most(
            lengths in proptest::collection::vec(1_usize..=40, 1..6),
            before in 0_usize..50,
            late in 1_usize..=40,
        ) {
            // The others never end: each has texts of one length.
            let mut all: Vec<Pending> =
                lengths.iter().map(|length| pending(0, &[*length; 64])).collect();
            let step = |all: &mut [Pending]| {
                let shares = plan(all, LIMITS);
                for share in &shares {
                    all[share.request].served += share.tokens as u64;
                }
                shares
            };
            for _ in 0..before {
                step(&mut all);
            }
            let served = start(&all);
            all.push(Pending { served, texts: vec![late] });
            let waited = (0..).take_while(|_| {
                let shares = step(&mut all);
                !shares.iter().any(|share| share.request == lengths.len())
            });
            prop_assert!(waited.count() <= lengths.len());
        }

        #[test]
        fn in_every_batch_is_the_request_that_had_least(
            requests in requests(), served in proptest::collection::vec(0_u64..500, 8),
        ) {
            let all: Vec<Pending> =
                served.iter().zip(&requests).map(|(served, texts)| pending(*served, texts)).collect();
            let waiting = (0..all.len()).filter(|request| !all[*request].texts.is_empty());
            if let Some(least) = waiting.min_by_key(|request| all[*request].served) {
                let shares = plan(&all, LIMITS);
                prop_assert!(shares.iter().any(|share| share.request == least), "{shares:?}");
            }
        }

        #[test]
        fn whoever_gets_more_is_not_kept_waiting_for_it(
            lengths in proptest::collection::vec(1_usize..=40, 2..6), batches in 1_usize..200,
        ) {
            let mut all: Vec<Pending> =
                lengths.iter().map(|length| pending(0, &[*length; 64])).collect();
            for _ in 0..batches {
                let clock = start(&all);
                for pending in &mut all {
                    pending.served = settled(pending.served, clock, LIMITS);
                }
                let most = all.iter().map(|pending| pending.served).max().expect("there are some");
                prop_assert!(most - clock <= u64::from(LIMITS.text_tokens + LIMITS.batch_tokens));
                for share in plan(&all, LIMITS) {
                    all[share.request].served += share.tokens as u64;
                }
            }
        }
    }
}
