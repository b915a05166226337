//! What one step computes: pure.
//!
//! Each step is one batch. Every sequence that decodes gets its one token, and room for its guesses;
//! what is left of the batch goes to prompts. While anybody decodes, prompts get at most
//! [`PREFILL_BESIDE_DECODE`] tokens a step, so that a long prompt delays a running stream by no more
//! than one such chunk at a time. Prompts share their part evenly, so a short one is soon through
//! beside a long one; what one does not need is the others'.
//!
//! Where results must not depend on other sequences ([`plan_alone`]), a step computes one sequence:
//! a chunk of its prompt that begins and ends at fixed places, or one token.

/// The most prompt tokens of a step that also decodes.
pub(super) const PREFILL_BESIDE_DECODE: usize = 128;

/// Where chunks of a prompt begin that is computed alone: at the multiples of this.
pub(super) const ALIGNED_CHUNK: usize = 128;

/// How many tokens a request is given room for beyond those it has, when it starts.
const HEADROOM: usize = 256;

/// What a step needs to know of a sequence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sequence {
    /// The slot that holds it.
    pub(super) slot: usize,
    /// When it started, as a serial number.
    pub(super) serial: u64,
    /// Tokens that are not in the KV cache yet, up to the next image; none where one comes next.
    pub(super) pending: usize,
    /// What is to be computed behind those, before a token can be sampled.
    pub(super) behind: usize,
    /// The image that comes next, or what is left of it.
    pub(super) image: Option<NextImage>,
    /// Tokens that are in the KV cache.
    pub(super) held: usize,
    /// The length of its prompt.
    pub(super) prompt: usize,
    /// Tokens that are guessed to follow.
    pub(super) guessed: usize,
    /// Whether it rests: its reader is behind, or it waits for another one's prefix.
    pub(super) rests: bool,
}

/// What is left of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NextImage {
    /// How many places.
    pub(super) left: usize,
    /// Whether they must be computed at once.
    pub(super) whole: bool,
}

impl Sequence {
    fn is_decoding(&self) -> bool {
        self.pending == 1 && self.behind == 0
    }

    fn is_awake(&self) -> bool {
        !self.rests && self.image.is_none()
    }

    /// Places that are not in the KV cache yet.
    fn uncomputed(&self) -> usize {
        self.pending + self.behind + self.image.map_or(0, |image| image.left)
    }

    fn completes(&self, tokens: usize) -> bool {
        tokens == self.pending && self.behind == 0
    }
}

/// The places of an image that a step computes, beside the tokens of other sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ImageShare {
    /// The slot.
    pub(super) slot: usize,
    /// How many places.
    pub(super) places: usize,
}

/// The share of one sequence in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// The slot.
    pub(super) slot: usize,
    /// How many of its pending tokens are computed.
    pub(super) tokens: usize,
    /// How many of the guessed ones are computed after them.
    pub(super) guessed: usize,
    /// Whether these are the last pending ones, so that a token is sampled after them.
    pub(super) completes: bool,
}

impl Share {
    /// How many rows of the batch it takes.
    pub(super) fn rows(&self) -> usize {
        self.tokens + self.guessed
    }
}

/// What one step computes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// In a batch of its own, before the others: nothing is sampled after it.
    pub(super) image: Option<ImageShare>,
    /// In one batch.
    pub(super) shares: Vec<Share>,
}

impl Step {
    /// Whether nobody can go on.
    pub(super) fn is_empty(&self) -> bool {
        self.image.is_none() && self.shares.is_empty()
    }

    /// How many places it adds to sequences.
    pub(super) fn places(&self) -> usize {
        let image = self.image.map_or(0, |image| image.places);
        image + self.shares.iter().map(Share::rows).sum::<usize>()
    }
}

/// The next step.
pub(super) fn plan(sequences: &[Sequence], batch_tokens: usize) -> Step {
    let image = plan_image(sequences, batch_tokens);
    Step { image, shares: plan_tokens(sequences, batch_tokens) }
}

fn plan_tokens(sequences: &[Sequence], batch_tokens: usize) -> Vec<Share> {
    let awake = || sequences.iter().filter(|s| s.is_awake());
    let mut left = batch_tokens;
    let mut shares = Vec::with_capacity(sequences.len());
    for sequence in awake().filter(|s| s.is_decoding()) {
        if left == 0 {
            return shares;
        }
        shares.push(Share { slot: sequence.slot, tokens: 1, guessed: 0, completes: true });
        left -= 1;
    }
    for (share, sequence) in shares.iter_mut().zip(awake().filter(|s| s.is_decoding())) {
        share.guessed = sequence.guessed.min(left);
        left -= share.guessed;
    }
    if !shares.is_empty() {
        left = left.min(PREFILL_BESIDE_DECODE);
    }
    let mut prompts: Vec<&Sequence> = awake().filter(|s| !s.is_decoding()).collect();
    prompts.sort_by_key(|s| s.serial);
    let tokens = divide(&prompts.iter().map(|s| s.pending).collect::<Vec<_>>(), left);
    for (sequence, tokens) in prompts.into_iter().zip(tokens).filter(|(_, tokens)| *tokens > 0) {
        let completes = sequence.completes(tokens);
        shares.push(Share { slot: sequence.slot, tokens, guessed: 0, completes });
    }
    shares
}

/// The image that the next step computes, or a part of one: images take turns in the order of their
/// requests, and have a batch of their own. Beside streams it is as short as a prompt's part.
fn plan_image(sequences: &[Sequence], batch_tokens: usize) -> Option<ImageShare> {
    let awake = || sequences.iter().filter(|s| !s.rests);
    let (sequence, image) =
        awake().filter_map(|s| Some((s, s.image?))).min_by_key(|(s, _)| s.serial)?;
    let beside_streams = awake().any(|s| s.image.is_none() && s.is_decoding());
    let most = if beside_streams { PREFILL_BESIDE_DECODE.min(batch_tokens) } else { batch_tokens };
    let places = if image.whole { image.left } else { image.left.min(most) };
    Some(ImageShare { slot: sequence.slot, places })
}

/// Divides `left` among those that want some: evenly, but to nobody more than it wants; what one
/// leaves is the others'.
fn divide(wants: &[usize], mut left: usize) -> Vec<usize> {
    let mut by_size: Vec<usize> = (0..wants.len()).collect();
    by_size.sort_by_key(|index| wants[*index]);
    let mut gets = vec![0; wants.len()];
    for (done, index) in by_size.into_iter().enumerate() {
        let even = left / (wants.len() - done);
        gets[index] = wants[index].min(even);
        left -= gets[index];
    }
    gets
}

/// The next step where each sequence is computed alone: a share of the next one awake after the slot
/// `last`.
pub(super) fn plan_alone(sequences: &[Sequence], last: usize) -> Step {
    let awake = || sequences.iter().filter(|s| !s.rests);
    let mut step = Step::default();
    let Some(next) = awake().find(|s| s.slot > last).or_else(|| awake().next()) else {
        return step;
    };
    let slot = next.slot;
    if let Some(NextImage { left, whole }) = next.image {
        let places = if whole { left } else { left.min(ALIGNED_CHUNK) };
        step.image = Some(ImageShare { slot, places });
    } else {
        let tokens = aligned_chunk(next.held, next.prompt).min(next.pending);
        step.shares.push(Share { slot, tokens, guessed: 0, completes: next.completes(tokens) });
    }
    step
}

/// How many tokens are computed next where `held` are there: of a prompt as many as there are up to
/// the next multiple of [`ALIGNED_CHUNK`], of an answer one. Nothing else may matter here.
fn aligned_chunk(held: usize, prompt: usize) -> usize {
    if held < prompt { (ALIGNED_CHUNK - held % ALIGNED_CHUNK).min(prompt - held) } else { 1 }
}

/// Whether a request can start beside those that run.
///
/// `used` cells are in use by running sequences. The request needs room for the `tokens` that it
/// has and shares with none of them, and some headroom (less if it may make fewer tokens). Alone it
/// can always start: its prompt was checked against the context when it arrived.
pub(super) fn has_room(
    running: &[Sequence],
    used: usize,
    kv_tokens: usize,
    tokens: usize,
    may_add: usize,
) -> bool {
    let reserve = HEADROOM.min(kv_tokens / 8);
    let promised: usize = running.iter().map(|s| s.uncomputed() + reserve).sum();
    running.is_empty() || used + promised + tokens + may_add.min(HEADROOM) <= kv_tokens
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
        Sequence { slot, serial: slot as u64, pending, ..Sequence::default() }
    }

    fn of(shares: &[Share], slot: usize) -> Share {
        *shares.iter().find(|share| share.slot == slot).expect("it has a share")
    }

    #[test]
    fn a_long_prompt_leaves_running_streams_their_token_in_each_step() {
        let shares = plan(&[sequence(0, 5000), sequence(1, 1), sequence(2, 1)], 512).shares;
        for slot in [1, 2] {
            let decodes = Share { slot, tokens: 1, guessed: 0, completes: true };
            assert_eq!(of(&shares, slot), decodes);
        }
        let prompt = of(&shares, 0);
        assert_eq!((prompt.tokens, prompt.completes), (PREFILL_BESIDE_DECODE, false));
    }

    #[test]
    fn a_prompt_alone_gets_the_whole_batch() {
        assert_eq!(plan(&[sequence(0, 5000)], 512).shares[0].tokens, 512);
    }

    #[test]
    fn prompts_share_a_step_and_a_short_one_is_through_at_once() {
        let shares = plan(&[sequence(0, 5000), sequence(1, 40), sequence(2, 900)], 512).shares;
        assert_eq!(of(&shares, 1), Share { slot: 1, tokens: 40, guessed: 0, completes: true });
        assert_eq!((of(&shares, 0).tokens, of(&shares, 2).tokens), (236, 236));
        assert_eq!(divide(&[5, 1, 5], 7), [3, 1, 3]);
    }

    #[test]
    fn guesses_are_computed_after_everybody_has_a_token() {
        let guessing = Sequence { guessed: 9, ..sequence(0, 1) };
        let shares = plan(&[guessing, sequence(1, 1), sequence(2, 1)], 8).shares;
        assert_eq!(of(&shares, 0).guessed, 5);
        assert_eq!(of(&shares, 2).tokens, 1);
    }

    #[test]
    fn a_resting_sequence_has_no_share() {
        let resting = Sequence { rests: true, ..sequence(0, 1) };
        assert!(plan(&[resting], 512).is_empty() && plan_alone(&[resting], 0).is_empty());
    }

    #[test]
    fn alone_a_prompt_comes_in_chunks_at_fixed_places_and_an_answer_token_by_token() {
        let at = |held, prompt, pending| {
            let sequence = Sequence { held, prompt, ..sequence(0, pending) };
            let share = plan_alone(&[sequence], 9).shares[0];
            (share.tokens, share.completes)
        };
        assert_eq!(at(0, 300, 300), (128, false));
        assert_eq!(at(128, 300, 172), (128, false));
        assert_eq!(at(256, 300, 44), (44, true));
        assert_eq!(at(256, 300, 50), (44, false), "resumed tokens are no part of the prompt");
        assert_eq!(at(300, 300, 6), (1, false));
        assert_eq!(at(310, 300, 1), (1, true));
    }

    #[test]
    fn alone_sequences_take_turns() {
        let all = [sequence(0, 1), sequence(2, 1), sequence(5, 1)];
        let next = |last| plan_alone(&all, last).shares[0].slot;
        assert_eq!([next(0), next(2), next(5), next(9)], [2, 5, 0, 0]);
    }

    #[test]
    fn text_before_an_image_is_no_answer_yet() {
        let asked = Sequence { behind: 40, ..sequence(0, 1) };
        for step in [plan(&[asked], 512), plan_alone(&[Sequence { prompt: 41, ..asked }], 9)] {
            assert_eq!(step.shares, [Share { slot: 0, tokens: 1, guessed: 0, completes: false }]);
        }
    }

    #[test]
    fn an_image_leaves_running_streams_their_token_in_each_step() {
        let image =
            |whole| Sequence { image: Some(NextImage { left: 300, whole }), ..sequence(0, 0) };
        let step = plan(&[image(false), sequence(1, 1)], 512);
        assert_eq!(step.image, Some(ImageShare { slot: 0, places: PREFILL_BESIDE_DECODE }));
        assert_eq!(step.shares, [Share { slot: 1, tokens: 1, guessed: 0, completes: true }]);
        assert_eq!(step.places(), PREFILL_BESIDE_DECODE + 1);
        for (sequences, places) in [
            (vec![image(false)], 300),
            (vec![image(false), sequence(1, 900)], 300),
            (vec![image(true), sequence(1, 1)], 300),
        ] {
            assert_eq!(plan(&sequences, 512).image, Some(ImageShare { slot: 0, places }));
        }
        let alone = |whole| plan_alone(&[image(whole)], 9).image.map(|image| image.places);
        assert_eq!((alone(false), alone(true)), (Some(ALIGNED_CHUNK), Some(300)));
    }

    #[test]
    fn a_request_alone_always_has_room() {
        assert!(has_room(&[], 0, 100, 100, 5000));
        assert!(!has_room(&[sequence(0, 1)], 90, 100, 20, 1));
        assert!(has_room(&[sequence(0, 1)], 900, 4000, 1000, 1));
    }

    #[test]
    fn the_youngest_gives_way_and_the_last_one_never() {
        assert_eq!(victim(&[sequence(3, 1), sequence(7, 1), sequence(5, 1)]), Some(7));
        assert_eq!(victim(&[sequence(3, 1)]), None);
    }

    proptest! {
        #[test]
        fn a_plan_fits_the_batch_and_never_starves(
            pendings in prop::collection::vec((1_usize..3000, 0_usize..20, any::<bool>()), 0..40),
            batch in 64_usize..1024,
        ) {
            let sequences: Vec<_> = pendings
                .iter()
                .enumerate()
                .map(|(slot, (pending, guessed, rests))| Sequence {
                    rests: *rests,
                    guessed: *guessed,
                    ..sequence(slot, *pending)
                })
                .collect();
            let shares = plan(&sequences, batch).shares;
            prop_assert!(shares.iter().map(Share::rows).sum::<usize>() <= batch);
            for share in &shares {
                let of = sequences[share.slot];
                prop_assert!(!of.rests && share.tokens >= 1 && share.tokens <= of.pending);
                prop_assert!(share.guessed <= of.guessed);
                prop_assert_eq!(share.completes, share.tokens == of.pending);
            }
            let awake: Vec<_> = sequences.iter().filter(|s| !s.rests).collect();
            if !awake.is_empty() {
                prop_assert!(!shares.is_empty());
            }
            for decoding in awake.iter().filter(|s| s.pending == 1) {
                prop_assert!(shares.iter().any(|s| s.slot == decoding.slot));
            }
        }
    }
}
