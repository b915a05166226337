//! Choosing a token from logits.
//!
//! Filters and penalties are llama.cpp's samplers, in its default order: penalties, top_k, top_p,
//! min_p, temperature. The draw itself is keyed by (seed, position of the token in the answer), not
//! by a running generator, so that an answer can be continued elsewhere from any token on.

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use worker_contract::{Sampling, TokenId, TokenLogprobs};

mod defaults;
mod draw;

pub use defaults::{InvalidSampling, check};

/// How far back the repetition penalty looks, in tokens (llama.cpp's `penalty_last_n`).
const REPEAT_LAST_N: i32 = 64;

/// Chooses the tokens of one answer.
pub struct TokenSampler {
    seed: u64,
    greedy: bool,
    /// Sees the prompt and the answer.
    repeat: Option<LlamaSampler>,
    /// Sees the answer only.
    presence: Option<LlamaSampler>,
    filters: LlamaSampler,
}

impl std::fmt::Debug for TokenSampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenSampler").field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// Room for one row of candidates, reused from token to token.
#[derive(Debug)]
pub struct Candidates(LlamaTokenDataArray);

impl Default for Candidates {
    fn default() -> Self {
        Self(LlamaTokenDataArray::new(Vec::new(), false))
    }
}

impl Candidates {
    fn fill(&mut self, logits: &[f32]) {
        self.0.data.clear();
        self.0.sorted = false;
        self.0.selected = None;
        let candidates = (0_i32..).zip(logits);
        self.0
            .data
            .extend(candidates.map(|(id, logit)| LlamaTokenData::new(LlamaToken(id), *logit, 0.0)));
    }
}

/// A token that was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// The token.
    pub token: TokenId,
    /// How likely it and others were, where the request asks for it. The texts of the tokens are not
    /// filled in: the sampler does not know them.
    pub logprobs: Option<TokenLogprobs>,
}

impl TokenSampler {
    /// A sampler for one answer; `vocabulary` is the number of logits in a row, `context_length`
    /// bounds what the presence and frequency penalties remember.
    #[must_use]
    pub fn new(sampling: &Sampling, seed: u64, vocabulary: u32, context_length: u32) -> Self {
        let size = i32::try_from(vocabulary).unwrap_or(i32::MAX);
        let context = i32::try_from(context_length).unwrap_or(i32::MAX);
        let repeat = sampling.repeat_penalty.filter(|p| (p - 1.0).abs() > f32::EPSILON);
        let frequency = sampling.frequency_penalty.unwrap_or(0.0);
        let presence = sampling.presence_penalty.unwrap_or(0.0);
        let has_presence = frequency != 0.0 || presence != 0.0;
        let temperature = sampling.temperature.unwrap_or(defaults::TEMPERATURE);
        let top_k = sampling.top_k.unwrap_or(defaults::TOP_K);
        let top_p = sampling.top_p.unwrap_or(defaults::TOP_P);
        let min_p = sampling.min_p.unwrap_or(defaults::MIN_P);
        let filters = [
            (top_k > 0).then(|| LlamaSampler::top_k(i32::try_from(top_k).unwrap_or(i32::MAX))),
            (top_p < 1.0).then(|| LlamaSampler::top_p(top_p, 1)),
            (min_p > 0.0).then(|| LlamaSampler::min_p(min_p, 1)),
            Some(LlamaSampler::temp(temperature)),
        ];
        Self {
            seed,
            greedy: temperature == 0.0,
            repeat: repeat.map(|p| LlamaSampler::penalties(size, REPEAT_LAST_N, p, 0.0, 0.0)),
            presence: has_presence
                .then(|| LlamaSampler::penalties(size, context, 1.0, frequency, presence)),
            filters: LlamaSampler::chain(filters.into_iter().flatten(), true),
        }
    }

    /// Tells the sampler the prompt.
    pub fn see_prompt(&mut self, prompt: &[TokenId]) {
        if let Some(repeat) = &mut self.repeat {
            let from = prompt.len().saturating_sub(REPEAT_LAST_N.unsigned_abs() as usize);
            prompt[from..].iter().for_each(|token| repeat.accept(LlamaToken(*token)));
        }
    }

    /// Tells the sampler a token of the answer.
    pub fn see_answer(&mut self, token: TokenId) {
        for penalty in self.repeat.iter_mut().chain(&mut self.presence) {
            penalty.accept(LlamaToken(token));
        }
    }

    /// Chooses the token at `position` of the answer.
    pub fn choose(&mut self, logits: &[f32], position: u64, room: &mut Candidates) -> Chosen {
        Chosen { token: self.choose_token(logits, position, room), logprobs: None }
    }

    fn choose_token(&mut self, logits: &[f32], position: u64, room: &mut Candidates) -> TokenId {
        if self.greedy && self.repeat.is_none() && self.presence.is_none() {
            return draw::likeliest(logits.iter().copied()).map_or(0, to_token);
        }
        room.fill(logits);
        let candidates = &mut room.0;
        for penalty in self.repeat.iter_mut().chain(&mut self.presence) {
            candidates.apply_sampler(penalty);
        }
        if self.greedy {
            let at = draw::likeliest(candidates.data.iter().map(LlamaTokenData::logit));
            return at.map_or(0, |at| candidates.data[at].id().0);
        }
        candidates.apply_sampler(&mut self.filters);
        let logits = || candidates.data.iter().map(LlamaTokenData::logit);
        let at = draw::weighted(logits, draw::uniform(self.seed, position));
        at.map_or(0, |at| candidates.data[at].id().0)
    }
}

fn to_token(index: usize) -> TokenId {
    TokenId::try_from(index).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(sampling: &Sampling) -> TokenSampler {
        TokenSampler::new(sampling, 7, 4, 64)
    }

    #[test]
    fn temperature_zero_takes_the_likeliest_token() {
        let mut greedy = sampler(&Sampling { temperature: Some(0.0), ..Sampling::default() });
        let mut room = Candidates::default();
        assert_eq!(greedy.choose(&[0.0, 3.0, 1.0, 2.0], 0, &mut room).token, 1);
    }

    #[test]
    fn the_same_seed_and_position_give_the_same_token() {
        let logits = [0.0, 0.1, 0.2, 0.3];
        let mut room = Candidates::default();
        let mut draw =
            |position| sampler(&Sampling::default()).choose(&logits, position, &mut room).token;
        let first: Vec<_> = (0..50).map(&mut draw).collect();
        let again: Vec<_> = (0..50).map(&mut draw).collect();
        assert_eq!(first, again);
        assert!(first.iter().any(|token| *token != first[0]), "{first:?}");
    }

    #[test]
    fn top_k_one_leaves_no_choice() {
        let mut one = sampler(&Sampling { top_k: Some(1), ..Sampling::default() });
        let mut room = Candidates::default();
        for position in 0..50 {
            assert_eq!(one.choose(&[0.0, 0.3, 0.2, 0.1], position, &mut room).token, 1);
        }
    }

    #[test]
    fn a_frequency_penalty_pushes_a_repeated_token_away() {
        let mut penal = sampler(&Sampling {
            temperature: Some(0.0),
            frequency_penalty: Some(2.0),
            ..Sampling::default()
        });
        let mut room = Candidates::default();
        assert_eq!(penal.choose(&[1.0, 0.0, 0.0, 0.0], 0, &mut room).token, 0);
        penal.see_answer(0);
        assert_eq!(penal.choose(&[1.0, 0.5, 0.0, 0.0], 1, &mut room).token, 1);
    }

    #[test]
    fn a_prompt_counts_for_repetition_but_not_for_presence() {
        let base = Sampling { temperature: Some(0.0), ..Sampling::default() };
        let mut room = Candidates::default();
        let mut repeat = sampler(&Sampling { repeat_penalty: Some(4.0), ..base.clone() });
        repeat.see_prompt(&[0]);
        assert_eq!(repeat.choose(&[1.0, 0.5, 0.0, 0.0], 0, &mut room).token, 1);
        let mut presence = sampler(&Sampling { presence_penalty: Some(2.0), ..base });
        presence.see_prompt(&[0]);
        assert_eq!(presence.choose(&[1.0, 0.5, 0.0, 0.0], 0, &mut room).token, 0);
    }
}
