//! What changes the logits of single tokens: bias, penalties, DRY.
//!
//! llama.cpp's samplers do the arithmetic, on the few tokens that they can concern and not on the
//! whole vocabulary: each changes a token's logit by that token alone, never by the other candidates.

use std::collections::HashSet;

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use worker_contract::{Sampling, TokenId};

use super::defaults::REPEAT_LAST_N;
use super::select::candidate;

/// Changes logits, in llama.cpp's order: bias, penalties, DRY.
#[derive(Clone)]
pub(super) struct Adjustments {
    bias: Vec<(TokenId, f32)>,
    /// Sees the prompt and the answer.
    repeat: Option<Windowed>,
    /// Sees the answer only.
    presence: Option<LlamaSampler>,
    /// Sees the prompt and the answer.
    dry: Option<Windowed>,
    /// The tokens that any of them has seen, each once.
    seen: Vec<TokenId>,
    is_seen: HashSet<TokenId>,
}

/// A sampler and how many tokens it looks back.
#[derive(Clone)]
struct Windowed {
    sampler: LlamaSampler,
    last_n: usize,
}

impl Adjustments {
    /// Without DRY, which needs the model's vocabulary.
    pub(super) fn new(sampling: &Sampling, vocabulary: u32, context_length: u32) -> Self {
        let size = i32::try_from(vocabulary).unwrap_or(i32::MAX);
        let context = i32::try_from(context_length).unwrap_or(i32::MAX);
        let repeat = sampling.repeat_penalty.filter(|p| (p - 1.0).abs() > f32::EPSILON);
        let last_n = sampling.repeat_last_n.unwrap_or(REPEAT_LAST_N).min(context_length);
        let frequency = sampling.frequency_penalty.unwrap_or(0.0);
        let presence = sampling.presence_penalty.unwrap_or(0.0);
        let has_presence = frequency != 0.0 || presence != 0.0;
        Self {
            bias: sampling.logit_bias.clone(),
            repeat: repeat.filter(|_| last_n > 0).map(|penalty| Windowed {
                sampler: LlamaSampler::penalties(
                    size,
                    i32::try_from(last_n).unwrap_or(i32::MAX),
                    penalty,
                    0.0,
                    0.0,
                ),
                last_n: last_n as usize,
            }),
            presence: has_presence
                .then(|| LlamaSampler::penalties(size, context, 1.0, frequency, presence)),
            dry: None,
            seen: Vec::new(),
            is_seen: HashSet::new(),
        }
    }

    /// Adds llama.cpp's DRY sampler, which looks `last_n` tokens back.
    pub(super) fn set_dry(&mut self, dry: LlamaSampler, last_n: u32) {
        self.dry = Some(Windowed { sampler: dry, last_n: last_n as usize });
    }

    /// Whether it changes nothing, ever.
    pub(super) fn is_none(&self) -> bool {
        self.bias.is_empty()
            && self.repeat.is_none()
            && self.presence.is_none()
            && self.dry.is_none()
    }

    /// Takes the prompt in.
    pub(super) fn see_prompt(&mut self, prompt: &[TokenId]) {
        let (seen, is_seen) = (&mut self.seen, &mut self.is_seen);
        for windowed in self.repeat.iter_mut().chain(&mut self.dry) {
            for token in &prompt[prompt.len().saturating_sub(windowed.last_n)..] {
                windowed.sampler.accept(LlamaToken(*token));
                if is_seen.insert(*token) {
                    seen.push(*token);
                }
            }
        }
    }

    /// Takes a token of the answer in.
    pub(super) fn see_answer(&mut self, token: TokenId) {
        let windowed = self.repeat.iter_mut().chain(&mut self.dry).map(|w| &mut w.sampler);
        let mut has_seen = false;
        for sampler in windowed.chain(&mut self.presence) {
            sampler.accept(LlamaToken(token));
            has_seen = true;
        }
        if has_seen && self.is_seen.insert(token) {
            self.seen.push(token);
        }
    }

    /// Changes the logits of a whole vocabulary; `room` is overwritten.
    pub(super) fn apply(&mut self, logits: &mut [f32], room: &mut LlamaTokenDataArray) {
        for (token, bias) in &self.bias {
            if let Some(logit) = at(*token).and_then(|index| logits.get_mut(index)) {
                *logit += bias;
            }
        }
        room.data.clear();
        room.sorted = false;
        room.selected = None;
        let seen = self.seen.iter().filter_map(|token| at(*token));
        room.data.extend(seen.filter_map(|index| Some(candidate(index, *logits.get(index)?))));
        if room.data.is_empty() {
            return;
        }
        let repeat = self.repeat.iter_mut().map(|w| &mut w.sampler);
        let dry = self.dry.iter_mut().map(|w| &mut w.sampler);
        for sampler in repeat.chain(&mut self.presence).chain(dry) {
            room.apply_sampler(sampler);
        }
        for adjusted in &room.data {
            if let Some(logit) = at(adjusted.id().0).and_then(|index| logits.get_mut(index)) {
                *logit = adjusted.logit();
            }
        }
    }
}

fn at(token: TokenId) -> Option<usize> {
    usize::try_from(token).ok()
}
