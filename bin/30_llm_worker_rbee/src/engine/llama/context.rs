//! A llama.cpp context: the KV cache of all sequences, and the batches that are computed in it.

use std::num::NonZeroU32;

use llama_cpp_2::DecodeError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::context::session::{LlamaStateSeqFlags, SeqState};
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_sys_2 as sys;

use super::attention::AttentionSettings;
use super::engine_log;
use super::lora;
use super::media_batch;
use super::model::Model;
use super::runtime::Runtime;
use crate::engine::{BatchEntry, Engine, EngineError, EngineLimits, MediaPart, SavedSequence};

/// The most tokens of one step: llama.cpp's default for `--ubatch-size`, so that a step is one
/// pass over the weights.
pub(super) const BATCH_TOKENS: u32 = 512;

/// How many computed prompts are kept for reuse beside the running ones, at most.
const SPARE_SEQUENCES: u32 = 16;

/// How many tokens may lie idle beside running sequences on the processor. Its attention looks at each
/// cell up to the last one in use, whosever it is; GPUs pass over blocks of them. And the last cell of
/// an idle sequence is a late one, for cells are given out in turns.
/// Measured: sixteen streams on two cores lose 20 % beside 5,000 idle tokens. A few may stay: the end of
/// a prompt whose beginning a running one shares is not worth a copy.
const IDLE_BESIDE_RUNNING: u32 = 32;

/// llama.cpp's `LLAMA_MAX_SEQ`.
const MOST_SEQUENCES: u32 = 256;

/// How a context is made.
#[derive(Debug, Clone, Copy)]
pub struct ContextSettings {
    /// How many requests run at once.
    pub slots: u32,
    /// KV cache size in tokens, for all sequences together.
    pub kv_tokens: u32,
    /// Threads of the processor; `None` for all physical cores.
    pub threads: Option<u32>,
    /// Whether no result may depend on what else is computed.
    pub batch_invariant: bool,
    /// How attention is computed, and what the KV cache is made of.
    pub attention: AttentionSettings,
}

impl ContextSettings {
    /// The same with no more tokens than all slots can use: more would only be lost memory.
    #[must_use]
    pub fn clamped(self, trained_context: u32) -> Self {
        let most = trained_context.saturating_mul(self.slots);
        Self { kv_tokens: self.kv_tokens.min(most), ..self }
    }

    /// What the context is made with.
    pub(super) fn params(&self, sequences: u32) -> LlamaContextParams {
        let threads = self.threads.unwrap_or_else(default_threads);
        let threads = i32::try_from(threads).unwrap_or(i32::MAX);
        LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(self.kv_tokens))
            .with_n_batch(BATCH_TOKENS)
            .with_n_ubatch(BATCH_TOKENS)
            .with_n_seq_max(sequences)
            .with_kv_unified(!self.batch_invariant)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_type_k(self.attention.cache_type_k.engine())
            .with_type_v(self.attention.cache_type_v.engine())
            .with_flash_attention_policy(self.attention.flash_attention.engine())
            .with_no_perf(true)
    }

    /// The parts of [`Self::params`] that memory depends on, as llama.cpp has them.
    pub(super) fn for_fit(&self) -> sys::llama_context_params {
        // SAFETY: it takes nothing and gives values.
        let mut params = unsafe { sys::llama_context_default_params() };
        params.n_ctx = self.kv_tokens;
        params.n_batch = BATCH_TOKENS;
        params.n_ubatch = BATCH_TOKENS;
        params.n_seq_max = self.sequences(true);
        params.kv_unified = !self.batch_invariant;
        params.type_k = self.attention.cache_type_k.engine().into();
        params.type_v = self.attention.cache_type_v.engine().into();
        params.flash_attn_type = self.attention.flash_attention.engine();
        params
    }

    /// How many sequences the context holds; `has_parts`: whether a sequence can be cut.
    ///
    /// Each sequence of a recurrent model costs its state. In a cache of its own, a sequence has
    /// its cells in the order of its tokens, whatever others do.
    pub(super) fn sequences(&self, has_parts: bool) -> u32 {
        let spare = if has_parts && !self.batch_invariant { SPARE_SEQUENCES } else { 0 };
        self.slots.saturating_add(spare).min(MOST_SEQUENCES)
    }
}

/// Whether parts of a sequence can be kept and the rest forgotten.
pub(super) fn has_parts(llama: &LlamaModel) -> bool {
    !llama.is_recurrent() && !llama.is_hybrid()
}

/// A context on a model.
pub struct LlamaEngine<'model> {
    context: LlamaContext<'model>,
    batch: LlamaBatch<'static>,
    limits: EngineLimits,
}

impl std::fmt::Debug for LlamaEngine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LlamaEngine").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// There is not enough memory for the context, or the model does not allow it.
#[derive(Debug, thiserror::Error)]
#[error("llama.cpp cannot make a context of {kv_tokens} tokens for {slots} slots: {reason}")]
pub struct ContextError {
    kv_tokens: u32,
    slots: u32,
    reason: String,
}

impl<'model> LlamaEngine<'model> {
    /// Makes a context.
    pub fn new(
        runtime: &Runtime,
        model: &'model Model,
        settings: ContextSettings,
    ) -> Result<Self, ContextError> {
        let ContextSettings { slots, kv_tokens, batch_invariant, .. } = settings;
        let failed = |reason| ContextError { kv_tokens, slots, reason };
        let has_parts = has_parts(&model.llama);
        let sequences = settings.sequences(has_parts);
        engine_log::forget_errors();
        let mut context =
            model.llama.new_context(&runtime.backend, settings.params(sequences)).map_err(
                |error| failed(engine_log::last_errors().unwrap_or_else(|| error.to_string())),
            )?;
        lora::set(&mut context, &model.adapters).map_err(|error| failed(error.to_string()))?;
        let kv_tokens = context.n_ctx();
        let longest = if batch_invariant { kv_tokens / slots.max(1) } else { kv_tokens };
        let limits = EngineLimits {
            kv_tokens,
            context_length: longest.min(model.trained_context()),
            slots,
            sequences,
            idle_tokens: if model.is_on_processor() { IDLE_BESIDE_RUNNING } else { kv_tokens },
            is_far: !model.is_on_processor(),
            batch_tokens: BATCH_TOKENS,
            has_parts,
            batch_invariant,
        };
        let batch = LlamaBatch::new(BATCH_TOKENS as usize, 1);
        Ok(Self { context, batch, limits })
    }
}

/// A sequence's KV cache entries in the machine's memory.
#[derive(Debug)]
pub struct SavedState(SeqState);

impl SavedSequence for SavedState {
    fn bytes(&self) -> usize {
        self.0.byte_len()
    }
}

impl Engine for LlamaEngine<'_> {
    type Saved = SavedState;

    fn limits(&self) -> EngineLimits {
        self.limits
    }

    fn step(&mut self, batch: &[BatchEntry]) -> Result<(), EngineError> {
        self.batch.clear();
        for entry in batch {
            let position = i32::try_from(entry.position).unwrap_or(i32::MAX);
            self.batch
                .add(LlamaToken(entry.token), position, &[id(entry.sequence)], entry.wants_logits)
                .map_err(|error| EngineError::Failed(error.to_string()))?;
        }
        self.context.decode(&mut self.batch).map_err(|error| match error {
            DecodeError::NoKvCacheSlot => EngineError::KvCacheFull,
            error => EngineError::Failed(error.to_string()),
        })
    }

    fn step_media(&mut self, part: MediaPart<'_>) -> Result<(), EngineError> {
        media_batch::decode(&mut self.context, &part)
    }

    fn logits(&self, row: usize) -> &[f32] {
        self.context.get_logits_ith(i32::try_from(row).unwrap_or(i32::MAX))
    }

    fn forget(&mut self, sequence: u32) {
        if let Err(error) = self.context.kv_cache_seq_rm(id(sequence), None, None) {
            // A whole sequence can always be removed; only parts can be refused.
            tracing::error!(%error, sequence, "llama.cpp did not forget a sequence");
        }
    }

    fn truncate(&mut self, sequence: u32, position: u32) -> bool {
        self.context.kv_cache_seq_rm(id(sequence), Some(position), None).is_ok()
    }

    fn share(&mut self, from: u32, to: u32, position: u32) {
        let (from, to) = (id(from), id(to));
        if let Err(error) = self.context.kv_cache_seq_cp(from, to, Some(0), Some(position)) {
            // Only a position above what a context can have is refused.
            tracing::error!(%error, from, to, "llama.cpp did not share a sequence");
        }
    }

    fn has_beginning(&self, sequence: u32) -> bool {
        self.context.kv_cache_seq_pos_min(id(sequence)) == 0
    }

    fn save(&self, sequence: u32) -> Option<SavedState> {
        let saved = self.context.state_seq_get(id(sequence), LlamaStateSeqFlags::empty());
        saved.map(SavedState).ok()
    }

    fn restore(&mut self, sequence: u32, saved: &SavedState) -> bool {
        let restored = self.context.state_seq_set(&saved.0, id(sequence)).is_ok();
        if !restored {
            self.forget(sequence);
        }
        restored
    }
}

/// A sequence's number as llama.cpp takes it.
fn id(sequence: u32) -> i32 {
    i32::try_from(sequence).unwrap_or(i32::MAX)
}

/// One thread for each physical core: a second one on the same core slows matrix products down.
#[must_use]
pub fn default_threads() -> u32 {
    let logical = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let logical = u32::try_from(logical).unwrap_or(1);
    physical_cores().map_or(logical, |cores| cores.clamp(1, logical))
}

/// The number of different cores that the kernel reports, where it does.
fn physical_cores() -> Option<u32> {
    let mut cores = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir("/sys/devices/system/cpu").ok()? {
        let topology = entry.ok()?.path().join("topology/thread_siblings_list");
        if let Ok(siblings) = std::fs::read_to_string(topology) {
            cores.insert(siblings);
        }
    }
    u32::try_from(cores.len()).ok().filter(|count| *count > 0)
}
