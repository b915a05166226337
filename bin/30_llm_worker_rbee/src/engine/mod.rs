//! The engine: what turns tokens into logits.
//!
//! [`Engine`] is all that the batching loop knows of llama.cpp. Below this folder is the only
//! `unsafe` code of the workspace.

pub mod llama;
mod pooled;

use std::ops::Range;

use worker_contract::TokenId;

pub use pooled::{PooledEngine, PooledLimits};

use crate::media::Media;

/// One token of a step's batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchEntry {
    /// The token.
    pub token: TokenId,
    /// Its position in its sequence, from 0.
    pub position: u32,
    /// The sequence.
    pub sequence: u32,
    /// Whether the logits after this token are wanted.
    pub wants_logits: bool,
}

/// A part of an image in a sequence.
#[derive(Debug, Clone)]
pub struct MediaPart<'a> {
    /// The image.
    pub media: &'a Media,
    /// Which of its places; all of them where it must be computed as a whole.
    pub places: Range<usize>,
    /// The position of the image's first place in the sequence.
    pub position: u32,
    /// The sequence.
    pub sequence: u32,
}

/// What the engine can hold and do at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineLimits {
    /// KV cache size in tokens, for all sequences together.
    pub kv_tokens: u32,
    /// The longest sequence, in tokens.
    pub context_length: u32,
    /// How many requests run at once.
    pub slots: u32,
    /// How many sequences can be held at once; those beyond `slots` hold what may be reused.
    pub sequences: u32,
    /// How many tokens may lie idle beside running sequences: where each step goes over all cells, more
    /// would slow every stream down.
    pub idle_tokens: u32,
    /// Whether the KV cache is in a card's memory, from where each piece of a sequence is fetched by itself.
    pub is_far: bool,
    /// The most tokens of one step.
    pub batch_tokens: u32,
    /// Whether a part of a sequence can be dropped or shared. Recurrent models cannot do that: their
    /// state is that after the last token.
    pub has_parts: bool,
    /// Whether each step is to compute one sequence alone, so that no result depends on another one.
    pub batch_invariant: bool,
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

/// The KV cache entries of a sequence, outside the engine.
pub trait SavedSequence {
    /// Its size in memory.
    fn bytes(&self) -> usize;
}

/// Turns batches of tokens into logits, and remembers sequences in its KV cache.
pub trait Engine {
    /// A sequence that was taken out.
    type Saved: SavedSequence;

    /// What the engine can hold and do at once.
    fn limits(&self) -> EngineLimits;

    /// Computes one batch, of at most `batch_tokens` entries.
    fn step(&mut self, batch: &[BatchEntry]) -> Result<(), EngineError>;

    /// Computes a part of an image, of at most `batch_tokens` places. The logits of the last batch are
    /// lost.
    fn step_media(&mut self, part: MediaPart<'_>) -> Result<(), EngineError>;

    /// The logits after the batch entry `row`, one for each token of the vocabulary.
    ///
    /// Only for entries of the last batch that wanted logits.
    fn logits(&self, row: usize) -> &[f32];

    /// Forgets a whole sequence.
    fn forget(&mut self, sequence: u32);

    /// Forgets all of a sequence from a position on. `false` if that is not possible: then the
    /// sequence is as it was.
    fn truncate(&mut self, sequence: u32, position: u32) -> bool;

    /// Gives the empty sequence `to` what `from` has before a position; both share the cells.
    fn share(&mut self, from: u32, to: u32, position: u32);

    /// Whether a sequence still has its first tokens; sliding-window models drop them.
    fn has_beginning(&self, sequence: u32) -> bool;

    /// A copy of a sequence, outside the engine; `None` if it cannot be had.
    fn save(&self, sequence: u32) -> Option<Self::Saved>;

    /// Puts a copy into an empty sequence. `false` if there is no room: then it is empty still.
    fn restore(&mut self, sequence: u32, saved: &Self::Saved) -> bool;
}
