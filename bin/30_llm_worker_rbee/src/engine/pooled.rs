//! Engines that turn a whole text into one row of numbers: a vector, or scores.

use worker_contract::TokenId;

use super::EngineError;

/// What such an engine can compute at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PooledLimits {
    /// The longest text, in tokens. A text is computed in one piece.
    pub text_tokens: u32,
    /// How many tokens one batch should have at most; a longer text is a batch of its own.
    pub batch_tokens: u32,
    /// The most texts of one batch.
    pub batch_texts: u32,
}

/// Turns whole texts into rows of numbers, and remembers nothing.
pub trait PooledEngine {
    /// What it can compute at once.
    fn limits(&self) -> PooledLimits;

    /// Computes a batch of texts, which do not see each other.
    fn compute(&mut self, texts: &[&[TokenId]]) -> Result<(), EngineError>;

    /// The row of the text with this number in the last batch.
    fn output(&self, text: usize) -> Result<&[f32], EngineError>;
}
