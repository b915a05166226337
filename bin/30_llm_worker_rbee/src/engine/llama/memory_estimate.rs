//! An upper bound of what a model needs, from its header alone. Pure but for reading the header.
//!
//! Measuring exactly means to load the vocabulary twice, which a small model takes longer for than
//! for all the rest. Where even this bound fits easily, nothing need be measured.

use super::context::ContextSettings;
use crate::gguf::{Header, Value};

/// The numbers of a header that memory depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    /// The file's size in bytes: its tensors are most of it.
    pub(super) file_bytes: u64,
    pub(super) layers: u64,
    /// Cached key values of a token in a layer, and cached values likewise.
    pub(super) key_width: u64,
    pub(super) value_width: u64,
    pub(super) heads: u64,
    pub(super) embedding: u64,
    pub(super) feed_forward: u64,
    pub(super) vocabulary: u64,
}

impl Facts {
    /// The facts of a model in one file, where the header has them.
    pub(super) fn read(header: &Header, file_bytes: u64) -> Option<Self> {
        if header.get("split.count").is_some() {
            return None;
        }
        let architecture = header.text("general.architecture")?;
        let number = |key: &str| {
            let number = header.get(&format!("{architecture}.{key}"))?.as_integer()?;
            u64::try_from(number).ok()
        };
        let Some(Value::Array(tokens)) = header.get("tokenizer.ggml.tokens") else { return None };
        let embedding = number("embedding_length")?;
        let heads = number("attention.head_count")?;
        let cached_heads = number("attention.head_count_kv").unwrap_or(heads);
        let default_width = embedding / heads.max(1);
        let key = number("attention.key_length").unwrap_or(default_width);
        let value = number("attention.value_length").unwrap_or(default_width);
        Some(Self {
            file_bytes,
            layers: number("block_count")?,
            key_width: cached_heads.saturating_mul(key),
            value_width: cached_heads.saturating_mul(value),
            heads,
            embedding,
            feed_forward: number("feed_forward_length")?,
            vocabulary: tokens.length,
        })
    }

    /// The memory of a context, cache and computing, in bytes: not more than this.
    ///
    /// Computing: logits of a batch twice, forty activations of the embedding's width and six of the
    /// feed-forward's, the attention scores of one layer as if there were no flash attention, and
    /// the mask. llama.cpp's own measure of common models is a third of it or less.
    pub(super) fn context_at_most(&self, settings: &ContextSettings) -> u64 {
        let tokens = u64::from(settings.kv_tokens);
        let batch = u64::from(super::context::BATCH_TOKENS);
        let attention = &settings.attention;
        let of_a_layer = attention
            .cache_type_k
            .bytes(self.key_width.saturating_mul(tokens))
            .saturating_add(attention.cache_type_v.bytes(self.value_width.saturating_mul(tokens)));
        let cells = tokens.saturating_mul(64);
        let activations = (self.vocabulary.saturating_mul(2))
            .saturating_add(self.embedding.saturating_mul(40))
            .saturating_add(self.feed_forward.saturating_mul(6))
            .saturating_add(self.heads.saturating_add(2).saturating_mul(tokens));
        of_a_layer
            .saturating_mul(self.layers)
            .saturating_add(cells)
            .saturating_add(activations.saturating_mul(batch).saturating_mul(4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::llama::AttentionSettings;

    /// SmolLM2-135M.
    const SMALL: Facts = Facts {
        file_bytes: 98_000_000,
        layers: 30,
        key_width: 192,
        value_width: 192,
        heads: 9,
        embedding: 576,
        feed_forward: 1536,
        vocabulary: 49_152,
    };

    fn context(kv_tokens: u32) -> ContextSettings {
        let attention = AttentionSettings::default();
        ContextSettings { slots: 4, kv_tokens, threads: None, batch_invariant: false, attention }
    }

    #[test]
    fn the_bound_is_above_the_cache_and_grows_with_it() {
        // 2 × 30 layers × 192 values × 2 bytes a token
        let cache = |tokens: u64| 2 * 30 * 192 * 2 * tokens;
        for tokens in [256, 8192, 1_000_000] {
            let bound = SMALL.context_at_most(&context(tokens));
            assert!(bound > cache(u64::from(tokens)), "{tokens}: {bound}");
        }
        let of_default = SMALL.context_at_most(&context(8192));
        assert!(of_default < 1 << 30, "a small model is not measured in vain: {of_default}");
    }

    #[test]
    fn absurd_numbers_do_not_overflow() {
        let most = u64::MAX;
        let absurd = Facts { layers: most, key_width: most, vocabulary: most, ..SMALL };
        assert_eq!(absurd.context_at_most(&context(u32::MAX)), u64::MAX);
    }
}
