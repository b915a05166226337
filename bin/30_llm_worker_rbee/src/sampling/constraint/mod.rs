//! Grammars that an answer is held to, token by token (crate `llguidance`).
//!
//! `factory` makes a [`Constraint`] of what a request asks for, once, and refuses what cannot be
//! followed; `schema` and `termination` look at a JSON schema before anything is made of it. A constraint follows one
//! answer. Whatever a grammar from outside does to the engine (its limits, a panic), it ends that
//! answer only.

mod factory;
mod schema;
mod termination;
#[cfg(test)]
mod tests;

use llguidance::Matcher;
use llguidance::api::StopReason;
use llguidance::toktrie::SimpleVob;
use worker_contract::TokenId;

pub use factory::{
    ConstraintFactory, InvalidFormat, LazyConstraintFactory, NoVocabulary, TokenEnvironment,
};

/// The place of one answer in its grammar.
pub struct Constraint {
    matcher: Matcher,
    /// Tokens that end a text and are not to be chosen while anything else may follow.
    unwanted_ends: Vec<u32>,
    failure: Option<String>,
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint").field("failure", &self.failure).finish_non_exhaustive()
    }
}

impl Constraint {
    fn new(matcher: Matcher) -> Self {
        Self { matcher, unwanted_ends: Vec::new(), failure: None }
    }

    /// Goes on as long as the grammar has anything to say, also where the text could end: for
    /// answers that are not to end by the model's end token.
    #[must_use]
    pub fn ignoring_ends(mut self) -> Self {
        let ends = self.matcher.tok_env().map(|env| env.tok_trie().eos_tokens().to_vec());
        self.unwanted_ends = ends.unwrap_or_default();
        self
    }

    /// The same place in the same grammar for another answer. The two do not share anything that
    /// either would have to wait for.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            matcher: self.matcher.deep_clone(),
            unwanted_ends: self.unwanted_ends.clone(),
            failure: self.failure.clone(),
        }
    }

    /// Takes the answer's next token in.
    pub fn accept(&mut self, token: TokenId) {
        if self.failure.is_some() || self.matcher.is_stopped() {
            return;
        }
        if let Err(error) = self.matcher.consume_token(token.cast_unsigned()) {
            self.fail(&error);
        }
    }

    /// Whether nothing but the end may follow.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(
            self.matcher.stop_reason(),
            StopReason::NoExtension | StopReason::NoExtensionBias | StopReason::EndOfSentence
        )
    }

    /// Why the grammar cannot be followed any further.
    #[must_use]
    pub fn failed(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Whether a token may follow.
    pub(super) fn allows(&mut self, token: TokenId) -> bool {
        let token = token.cast_unsigned();
        if self.failure.is_some() || self.unwanted_ends.contains(&token) {
            return false;
        }
        match self.matcher.validate_tokens(&[token]) {
            Ok(valid) => valid == 1,
            Err(error) => {
                self.fail(&error);
                false
            }
        }
    }

    /// Which tokens may follow, at least one; `None` when the grammar has failed.
    pub(super) fn mask(&mut self) -> Option<SimpleVob> {
        if self.failure.is_some() {
            return None;
        }
        match self.matcher.compute_mask_or_eos() {
            Ok(mut mask) => {
                for end in &self.unwanted_ends {
                    mask.disallow_token(*end);
                }
                if mask.is_zero() {
                    for end in &self.unwanted_ends {
                        mask.allow_token(*end);
                    }
                }
                Some(mask)
            }
            Err(error) => {
                self.fail(&error);
                None
            }
        }
    }

    /// The likeliest token that may follow, the first one among equals; `None` when the grammar has
    /// failed.
    pub(super) fn likeliest(&mut self, logits: &[f32]) -> Option<TokenId> {
        let mask = self.mask()?;
        let mut best: Option<(usize, f32)> = None;
        mask.iter_set_entries(|token| {
            let logit = logits.get(token).copied().unwrap_or(f32::NEG_INFINITY);
            if best.is_none_or(|(_, most)| logit > most || most.is_nan()) {
                best = Some((token, logit));
            }
        });
        best.and_then(|(token, _)| TokenId::try_from(token).ok())
    }

    fn fail(&mut self, error: &impl std::fmt::Display) {
        self.failure = Some(format!(
            "the answer's format could not be kept up: {}",
            factory::short_reason(&error.to_string())
        ));
    }
}
