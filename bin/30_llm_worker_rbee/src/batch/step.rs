//! What one step computes: pure.
//!
//! Each step is one batch. Every sequence that decodes gets its one token; what is left of the
//! batch goes to prompts, the oldest first. While anybody decodes, prompts get at most
//! [`PREFILL_BESIDE_DECODE`] tokens a step, so that a long prompt delays a running stream by no
//! more than one such chunk at a time.

/// The most prompt tokens of a step that also decodes.
pub(super) const PREFILL_BESIDE_DECODE: usize = 128;

/// How many tokens a request is given room for beyond those it has, when it starts.
const HEADROOM: usize = 256;

/// What a step needs to know of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sequence {
    /// The slot that holds it.
    pub(super) slot: usize,
    /// When it started, as a serial number.
    pub(super) serial: u64,
    /// Tokens that are not in the KV cache yet, at least 1.
    pub(super) pending: usize,
    /// Tokens that are in the KV cache.
    pub(super) held: usize,
    /// Whether its reader is behind: it rests until there is room for its output.
    pub(super) stalled: bool,
}

/// The share of one sequence in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// The slot.
    pub(super) slot: usize,
    /// How many of its pending tokens are computed.
    pub(super) tokens: usize,
    /// Whether these are the last pending ones, so that a token is sampled after them.
    pub(super) completes: bool,
}

/// Shares of the next step. Empty when nobody can go on.
pub(super) fn plan(sequences: &[Sequence], batch_tokens: usize) -> Vec<Share> {
    let awake = || sequences.iter().filter(|s| !s.stalled);
    let mut left = batch_tokens;
    let mut shares = Vec::with_capacity(sequences.len());
    for sequence in awake().filter(|s| s.pending == 1) {
        if left == 0 {
            return shares;
        }
        shares.push(Share { slot: sequence.slot, tokens: 1, completes: true });
        left -= 1;
    }
    if !shares.is_empty() {
        left = left.min(PREFILL_BESIDE_DECODE);
    }
    let mut prompts: Vec<&Sequence> = awake().filter(|s| s.pending > 1).collect();
    prompts.sort_by_key(|s| s.serial);
    for sequence in prompts {
        let tokens = sequence.pending.min(left);
        if tokens == 0 {
            break;
        }
        shares.push(Share { slot: sequence.slot, tokens, completes: tokens == sequence.pending });
        left -= tokens;
    }
    shares
}

/// Whether a request can start beside those that run.
///
/// It needs room for what it has and some headroom (less if it may make fewer tokens). Alone it
/// can always start: its prompt was checked against the context when it arrived.
pub(super) fn has_room(
    running: &[Sequence],
    kv_tokens: usize,
    request_tokens: usize,
    may_add: usize,
) -> bool {
    let promised: usize =
        running.iter().map(|s| s.held + s.pending + HEADROOM.min(kv_tokens / 8)).sum();
    running.is_empty() || promised + request_tokens + may_add.min(HEADROOM) <= kv_tokens
}

/// The sequence that gives its room up when the KV cache is full: the one that started last.
///
/// `None` when there is only one: then the context itself is at its end.
pub(super) fn victim(sequences: &[Sequence]) -> Option<usize> {
    if sequences.len() < 2 {
        return None;
    }
    sequences.iter().max_by_key(|s| s.serial).map(|s| s.slot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sequence(slot: usize, pending: usize) -> Sequence {
        Sequence { slot, serial: slot as u64, pending, held: 0, stalled: false }
    }

    #[test]
    fn a_long_prompt_leaves_running_streams_their_token_in_each_step() {
        let shares = plan(&[sequence(0, 5000), sequence(1, 1), sequence(2, 1)], 512);
        let of = |slot| shares.iter().find(|s| s.slot == slot).copied();
        assert_eq!(of(1), Some(Share { slot: 1, tokens: 1, completes: true }));
        assert_eq!(of(2), Some(Share { slot: 2, tokens: 1, completes: true }));
        let prompt = of(0).unwrap();
        assert_eq!((prompt.tokens, prompt.completes), (PREFILL_BESIDE_DECODE, false));
    }

    #[test]
    fn a_prompt_alone_gets_the_whole_batch() {
        assert_eq!(plan(&[sequence(0, 5000)], 512)[0].tokens, 512);
    }

    #[test]
    fn a_stalled_sequence_rests() {
        let stalled = Sequence { stalled: true, ..sequence(0, 1) };
        assert!(plan(&[stalled], 512).is_empty());
    }

    #[test]
    fn a_request_alone_always_has_room() {
        assert!(has_room(&[], 100, 100, 5000));
        assert!(!has_room(&[sequence(0, 90)], 100, 20, 1));
    }

    #[test]
    fn the_youngest_gives_way_and_the_last_one_never() {
        assert_eq!(victim(&[sequence(3, 1), sequence(7, 1), sequence(5, 1)]), Some(7));
        assert_eq!(victim(&[sequence(3, 1)]), None);
    }

    proptest! {
        #[test]
        fn a_plan_fits_the_batch_and_never_starves(
            pendings in prop::collection::vec((1_usize..3000, any::<bool>()), 0..40),
            batch in 64_usize..1024,
        ) {
            let sequences: Vec<_> = pendings
                .iter()
                .enumerate()
                .map(|(slot, (pending, stalled))| Sequence {
                    stalled: *stalled,
                    ..sequence(slot, *pending)
                })
                .collect();
            let shares = plan(&sequences, batch);
            prop_assert!(shares.iter().map(|s| s.tokens).sum::<usize>() <= batch);
            for share in &shares {
                let of = sequences[share.slot];
                prop_assert!(!of.stalled && share.tokens >= 1 && share.tokens <= of.pending);
                prop_assert_eq!(share.completes, share.tokens == of.pending);
            }
            let awake: Vec<_> = sequences.iter().filter(|s| !s.stalled).collect();
            if !awake.is_empty() {
                prop_assert!(!shares.is_empty());
            }
            for decoding in awake.iter().filter(|s| s.pending == 1) {
                prop_assert!(shares.iter().any(|s| s.slot == decoding.slot));
            }
        }
    }
}
