//! Choosing a token from logits.
//!
//! The order is that of llama.cpp's default chain (`common/common.h`): bias and grammar, penalties,
//! DRY, `top_k`, `typical_p`, `top_p`, `min_p`, XTC, temperature. The grammar comes before every
//! filter, so that something that it allows is always left to choose. Randomness is keyed by (seed,
//! position of the token in the answer), not taken from a running generator, so that an answer can
//! be continued elsewhere from any token on.
//!
//! Filters, penalties and DRY are llama.cpp's own; only the steps that would touch the whole
//! vocabulary several times are written here (`select`, `adjust`, `softmax`).

mod adjust;
pub mod constraint;
mod defaults;
mod draw;
mod logprobs;
mod select;
mod softmax;
#[cfg(test)]
mod tests;
mod xtc;

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use worker_contract::{Sampling, TokenId, TokenLogprobs};

use adjust::Adjustments;
use constraint::Constraint;
use draw::Purpose;
use select::Top;
use xtc::Xtc;

pub use defaults::{Dry, InvalidSampling, check};
pub use draw::choice_seed;

/// How far below the likeliest a logit is that `typical_p` is not shown: its probability is 0 in
/// single precision, and llama.cpp takes the logarithm of it.
const TYPICAL_REACH: f32 = 80.0;

/// Chooses the tokens of one answer.
///
/// It belongs to one sequence; samplers of different sequences can be used at the same time.
pub struct TokenSampler {
    seed: u64,
    /// 0 is greedy.
    temperature: f32,
    /// `None` for all.
    top_k: Option<usize>,
    typical_p: Option<LlamaSampler>,
    /// `top_p` and `min_p`.
    nucleus: Option<LlamaSampler>,
    xtc: Option<Xtc>,
    adjustments: Adjustments,
    constraint: Option<Box<Constraint>>,
    /// How many of the likeliest tokens are told with each.
    logprobs: Option<usize>,
}

impl std::fmt::Debug for TokenSampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenSampler").field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// Room for one row of candidates, reused from token to token. Each thread that chooses needs one.
#[derive(Debug)]
pub struct Candidates {
    array: LlamaTokenDataArray,
    adjusted: Vec<f32>,
}

impl Default for Candidates {
    fn default() -> Self {
        Self { array: LlamaTokenDataArray::new(Vec::new(), false), adjusted: Vec::new() }
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
    /// bounds what penalties remember.
    #[must_use]
    pub fn new(sampling: &Sampling, seed: u64, vocabulary: u32, context_length: u32) -> Self {
        let top_k = sampling.top_k.unwrap_or(defaults::TOP_K);
        let top_p = sampling.top_p.unwrap_or(defaults::TOP_P);
        let min_p = sampling.min_p.unwrap_or(defaults::MIN_P);
        let typical_p = sampling.typical_p.filter(|p| *p < 1.0);
        let nucleus = [
            (top_p < 1.0).then(|| LlamaSampler::top_p(top_p, 1)),
            (min_p > 0.0).then(|| LlamaSampler::min_p(min_p, 1)),
        ];
        let has_nucleus = nucleus.iter().any(Option::is_some);
        let threshold = sampling.xtc_threshold.unwrap_or(defaults::XTC_THRESHOLD);
        let xtc = sampling.xtc_probability.filter(|probability| *probability > 0.0);
        Self {
            seed,
            temperature: sampling.temperature.unwrap_or(defaults::TEMPERATURE),
            top_k: (top_k > 0).then_some(top_k as usize),
            typical_p: typical_p.map(|p| LlamaSampler::typical(p, 1)),
            nucleus: has_nucleus.then(|| LlamaSampler::chain(nucleus.into_iter().flatten(), true)),
            xtc: xtc.map(|probability| Xtc { probability, threshold }),
            adjustments: Adjustments::new(sampling, vocabulary, context_length),
            constraint: None,
            logprobs: sampling.logprobs.map(|top| top as usize),
        }
    }

    /// With llama.cpp's DRY sampler, which looks `last_n` tokens back.
    #[must_use]
    pub fn with_dry(mut self, dry: LlamaSampler, last_n: u32) -> Self {
        self.adjustments.set_dry(dry, last_n);
        self
    }

    /// Held to a grammar, from the first token of the answer on.
    #[must_use]
    pub fn with_constraint(mut self, constraint: Constraint) -> Self {
        self.constraint = Some(Box::new(constraint));
        self
    }

    /// The sampler of another answer to the same prompt, at the same place, with its own seed.
    #[must_use]
    pub fn for_choice(&self, seed: u64) -> Self {
        Self {
            seed,
            temperature: self.temperature,
            top_k: self.top_k,
            typical_p: self.typical_p.clone(),
            nucleus: self.nucleus.clone(),
            xtc: self.xtc,
            adjustments: self.adjustments.clone(),
            constraint: self.constraint.as_ref().map(|constraint| Box::new(constraint.fork())),
            logprobs: self.logprobs,
        }
    }

    /// Tells the sampler the prompt.
    pub fn see_prompt(&mut self, prompt: &[TokenId]) {
        self.adjustments.see_prompt(prompt);
    }

    /// Tells the sampler a token of the answer, also of a part that was made elsewhere.
    ///
    /// A grammar may be [finished](Self::is_finished) afterwards, or have [failed](Self::failed).
    pub fn see_answer(&mut self, token: TokenId) {
        self.adjustments.see_answer(token);
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(token);
        }
    }

    /// Whether a grammar allows nothing more: the answer is complete, without an end token.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.constraint.as_ref().is_some_and(|constraint| constraint.is_finished())
    }

    /// Why a grammar cannot be followed any further. The answer must end by this error: tokens that
    /// are chosen afterwards are not held to anything.
    #[must_use]
    pub fn failed(&self) -> Option<&str> {
        self.constraint.as_ref()?.failed()
    }

    /// Chooses the token at `position` of the answer.
    ///
    /// With a grammar, the caller looks at [`Self::failed`] before it uses the token.
    pub fn choose(&mut self, logits: &[f32], position: u64, room: &mut Candidates) -> Chosen {
        let token = self.choose_token(logits, position, room);
        let logprobs = self.logprobs;
        let data = &mut room.array.data;
        Chosen { token, logprobs: logprobs.map(|top| logprobs::logprobs(logits, token, top, data)) }
    }

    fn choose_token(&mut self, logits: &[f32], position: u64, room: &mut Candidates) -> TokenId {
        let Candidates { array, adjusted } = room;
        let logits = if self.adjustments.is_none() {
            logits
        } else {
            adjusted.clear();
            adjusted.extend_from_slice(logits);
            self.adjustments.apply(adjusted, array);
            adjusted
        };
        if self.temperature <= 0.0 {
            return self.likeliest(logits);
        }
        let fallback = self.narrow(logits, position, array);
        let uniform = draw::uniform(self.seed, position, Purpose::Token);
        let drawn = draw::weighted(&mut array.data, self.temperature, uniform);
        drawn.map_or(fallback, |index| array.data[index].id().0)
    }

    /// The likeliest token that the grammar allows.
    ///
    /// The grammar is asked about the likeliest of all first, which is much less work than to find
    /// out all that it allows and cannot give another token.
    fn likeliest(&mut self, logits: &[f32]) -> TokenId {
        let likeliest = select::likeliest(logits).unwrap_or(0);
        let Some(constraint) = &mut self.constraint else { return likeliest };
        if constraint.allows(likeliest) {
            return likeliest;
        }
        constraint.likeliest(logits).unwrap_or(likeliest)
    }

    /// Fills in the candidates that bias, grammar and filters leave; gives the token to take where
    /// that is none, because no logit is a number.
    ///
    /// The grammar's whole mask is needed even when the likeliest tokens are allowed: to draw first
    /// and to draw again among the allowed when the grammar refuses would change the distribution.
    fn narrow(
        &mut self,
        logits: &[f32],
        position: u64,
        candidates: &mut LlamaTokenDataArray,
    ) -> TokenId {
        let mask = self.constraint.as_mut().and_then(|constraint| constraint.mask());
        let mut fallback = 0;
        let k = self.top_k.unwrap_or(usize::MAX);
        let mut top = Top::new(k.min(logits.len()), &mut candidates.data);
        match mask {
            None => top.offer_all(logits),
            Some(mask) => {
                fallback = mask.first_bit_set().and_then(|t| t.try_into().ok()).unwrap_or(0);
                mask.iter_set_entries(|token| {
                    if let Some(logit) = logits.get(token) {
                        top.offer(token, *logit);
                    }
                });
            }
        }
        candidates.sorted = self.top_k.is_some();
        candidates.selected = None;
        if candidates.sorted {
            top.finish();
        }
        // llama.cpp's filters abort the process where there is no candidate.
        if candidates.data.is_empty() {
            return fallback;
        }
        if let Some(typical_p) = &mut self.typical_p {
            let logits = candidates.data.iter().map(LlamaTokenData::logit);
            let lowest = logits.fold(f32::NEG_INFINITY, f32::max) - TYPICAL_REACH;
            candidates.data.retain(|candidate| candidate.logit() >= lowest);
            candidates.apply_sampler(typical_p);
        }
        if let Some(nucleus) = &mut self.nucleus {
            candidates.apply_sampler(nucleus);
        }
        if let Some(xtc) = self.xtc {
            xtc.apply(candidates, draw::uniform(self.seed, position, Purpose::Xtc));
        }
        fallback
    }
}
