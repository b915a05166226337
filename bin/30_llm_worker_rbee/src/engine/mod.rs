//! The engine: what turns tokens into logits.
//!
//! [`Engine`] is all that the batching loop knows of llama.cpp. Below this folder is the only
//! `unsafe` code of the workspace.

pub mod llama;

use worker_contract::TokenId;

/// One token of a step's batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchEntry {
    /// The token.
    pub token: TokenId,
    /// Its position in its sequence, from 0.
    pub position: u32,
    /// The sequence, which is the number of the slot.
    pub sequence: u32,
    /// Whether the logits after this token are wanted.
    pub wants_logits: bool,
}

/// What the engine can hold and do at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineLimits {
    /// KV cache size in tokens, for all sequences together.
    pub kv_tokens: u32,
    /// The longest sequence, in tokens.
    pub context_length: u32,
    /// How many sequences can be held at once.
    pub sequences: u32,
    /// The most tokens of one step.
    pub batch_tokens: u32,
}

/// A step failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// There is no room in the KV cache for this batch; nothing was computed.
    #[error("the KV cache is full")]
    KvCacheFull,
    /// The engine could not compute the batch.
    #[error("the engine failed: {0}")]
    Failed(String),
}

/// Turns batches of tokens into logits, and remembers sequences in its KV cache.
pub trait Engine {
    /// What the engine can hold and do at once.
    fn limits(&self) -> EngineLimits;

    /// Computes one batch, of at most `batch_tokens` entries.
    fn step(&mut self, batch: &[BatchEntry]) -> Result<(), EngineError>;

    /// The logits after the batch entry `row`, one for each token of the vocabulary.
    ///
    /// Only for entries of the last batch that wanted logits.
    fn logits(&self, row: usize) -> &[f32];

    /// Forgets a whole sequence.
    fn forget(&mut self, sequence: u32);
}
