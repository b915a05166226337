//! A llama.cpp context that turns whole texts into vectors or scores.

use std::num::NonZeroU32;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{LlamaContextParams, LlamaPoolingType};
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;
use worker_contract::TokenId;

use super::context::default_threads;
use super::model::Model;
use super::pooling::Pooling;
use super::runtime::Runtime;
use crate::engine::{EngineError, PooledEngine, PooledLimits};

/// The tokens of a batch of short texts. More at once is not faster: attention is computed between
/// all tokens of a batch and masked between texts.
const BATCH_TOKENS: u32 = 512;

/// The most texts of a batch; llama.cpp's own limit (`LLAMA_MAX_SEQ`) is 256.
pub(super) const BATCH_TEXTS: u32 = 64;

/// llama.cpp makes room for the logits of each token of a batch, also where it computes none: from
/// this many bytes on, the user is told.
const LARGE_OUTPUT: u64 = 1 << 30;

/// How a context for whole texts is made.
#[derive(Debug, Clone, Copy)]
pub struct PooledSettings {
    /// How the vectors of a text's tokens become one.
    pub pooling: Pooling,
    /// The longest text that is wanted, in tokens; the model's own limit may be lower.
    pub text_tokens: u32,
    /// Threads of the processor; `None` for all physical cores.
    pub threads: Option<u32>,
    /// Whether each text is computed alone, so that nothing beside it can change its last digits.
    pub batch_invariant: bool,
}

impl PooledSettings {
    /// The same with texts no longer than the model allows.
    pub(super) fn clamped(self, trained_context: u32) -> Self {
        Self { text_tokens: self.text_tokens.min(trained_context).max(1), ..self }
    }

    /// A text must be computed in one piece, so the longest one is the size of everything.
    fn capacity(&self) -> u32 {
        self.text_tokens.max(BATCH_TOKENS)
    }

    /// What the context is made with.
    pub(super) fn params(&self) -> LlamaContextParams {
        let capacity = self.capacity();
        let threads = self.threads.unwrap_or_else(default_threads);
        let threads = i32::try_from(threads).unwrap_or(i32::MAX);
        LlamaContextParams::default()
            .with_embeddings(true)
            .with_pooling_type(pooling_type(self.pooling))
            .with_n_ctx(NonZeroU32::new(capacity))
            .with_n_batch(capacity)
            .with_n_ubatch(capacity)
            .with_n_seq_max(BATCH_TEXTS)
            .with_kv_unified(true)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_no_perf(true)
    }
}

/// A context on an embedding or reranking model.
pub struct LlamaPooledEngine<'model> {
    context: LlamaContext<'model>,
    batch: LlamaBatch<'static>,
    limits: PooledLimits,
    /// How many sequences the last batch had.
    held: i32,
}

impl std::fmt::Debug for LlamaPooledEngine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LlamaPooledEngine").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// There is not enough memory for the context, or the model does not allow it.
#[derive(Debug, thiserror::Error)]
#[error(
    "llama.cpp cannot make a context for texts of {0} tokens; a smaller --ctx-size needs less memory"
)]
pub struct PooledContextError(u32);

impl<'model> LlamaPooledEngine<'model> {
    /// Makes a context.
    pub fn new(
        runtime: &Runtime,
        model: &'model Model,
        settings: PooledSettings,
    ) -> Result<Self, PooledContextError> {
        let settings = settings.clamped(model.trained_context());
        let text_tokens = settings.text_tokens;
        let context = model
            .llama
            .new_context(&runtime.backend, settings.params())
            .map_err(|_| PooledContextError(text_tokens))?;
        let output_bytes = u64::from(text_tokens) * u64::from(model.vocabulary_size()) * 4;
        if output_bytes > LARGE_OUTPUT {
            tracing::warn!(
                text_tokens,
                mib = output_bytes >> 20,
                "the longest text needs this much memory beside the model; a smaller --ctx-size needs less"
            );
        }
        let batch_texts = if settings.batch_invariant { 1 } else { BATCH_TEXTS };
        let limits = PooledLimits { text_tokens, batch_tokens: BATCH_TOKENS, batch_texts };
        Ok(Self {
            context,
            batch: LlamaBatch::new(settings.capacity() as usize, 1),
            limits,
            held: 0,
        })
    }
}

impl PooledEngine for LlamaPooledEngine<'_> {
    fn limits(&self) -> PooledLimits {
        self.limits
    }

    fn compute(&mut self, texts: &[&[TokenId]]) -> Result<(), EngineError> {
        // Causal models keep a KV cache, where the last batch still is; the others have none.
        for sequence in 0..std::mem::take(&mut self.held) {
            self.context
                .kv_cache_seq_rm(sequence, None, None)
                .map_err(|error| EngineError::Failed(error.to_string()))?;
        }
        self.batch.clear();
        for (sequence, text) in (0..).zip(texts) {
            self.held = sequence + 1;
            for (position, token) in (0..).zip(text.iter()) {
                self.batch
                    .add(LlamaToken(*token), position, &[sequence], true)
                    .map_err(|error| EngineError::Failed(error.to_string()))?;
            }
        }
        // It encodes, where the model has no KV cache.
        self.context.decode(&mut self.batch).map_err(|error| EngineError::Failed(error.to_string()))
    }

    fn output(&self, text: usize) -> Result<&[f32], EngineError> {
        let sequence = i32::try_from(text).unwrap_or(i32::MAX);
        self.context
            .embeddings_seq_ith(sequence)
            .map_err(|error| EngineError::Failed(error.to_string()))
    }
}

fn pooling_type(pooling: Pooling) -> LlamaPoolingType {
    match pooling {
        Pooling::Mean => LlamaPoolingType::Mean,
        Pooling::Cls => LlamaPoolingType::Cls,
        Pooling::Last => LlamaPoolingType::Last,
        Pooling::Rank => LlamaPoolingType::Rank,
    }
}
