//! llama.cpp's own loop, with nothing of rbee around it: what the worker is measured against.

use std::num::NonZeroU32;
use std::path::Path;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;

/// A model as llama.cpp loads it.
pub(crate) struct Bare {
    backend: LlamaBackend,
    pub(crate) model: LlamaModel,
}

impl Bare {
    /// Loads `file` on the processor, with the backends of `folder`.
    pub(crate) fn load(file: &Path, folder: &Path) -> Self {
        llama_cpp_2::llama_backend::load_backends_from_path(folder);
        let mut backend = LlamaBackend::init().expect("llama.cpp starts");
        backend.void_logs();
        let params = LlamaModelParams::default().with_n_gpu_layers(0);
        let model = LlamaModel::load_from_file(&backend, file, &params).expect("the model loads");
        Self { backend, model }
    }

    /// A context for `sequences` sequences, set up as the worker's.
    pub(crate) fn context(&self, sequences: u32, kv_tokens: u32, threads: i32) -> LlamaContext<'_> {
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(kv_tokens))
            .with_n_batch(512)
            .with_n_ubatch(512)
            .with_n_seq_max(sequences)
            .with_kv_unified(true)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_no_perf(true);
        self.model.new_context(&self.backend, params).expect("the context is made")
    }

    /// The tokens of a text.
    pub(crate) fn tokenize(&self, text: &str) -> Vec<LlamaToken> {
        self.model.vocab().tokenize(text.as_bytes(), true, false)
    }

    /// The text of tokens.
    pub(crate) fn text(&self, tokens: &[LlamaToken]) -> String {
        let bytes = tokens.iter().flat_map(|t| self.model.vocab().token_to_piece(*t, false, None));
        String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
    }

    /// Continues each prompt by up to `count` tokens, greedily, all in one batch a step.
    pub(crate) fn greedy(
        &self,
        context: &mut LlamaContext<'_>,
        prompts: &[Vec<LlamaToken>],
        count: usize,
        ignore_end: bool,
    ) -> Vec<Vec<LlamaToken>> {
        let mut sampler = LlamaSampler::greedy();
        let mut batch = LlamaBatch::new(512, 1);
        let mut answers = vec![Vec::new(); prompts.len()];
        let mut positions: Vec<i32> = Vec::new();
        let mut rows = Vec::new();
        for (sequence, prompt) in prompts.iter().enumerate() {
            let id = i32::try_from(sequence).expect("few sequences");
            let length = i32::try_from(prompt.len()).expect("a short prompt");
            for (position, token) in (0..).zip(prompt) {
                let is_last = position + 1 == length;
                batch.add(*token, position, &[id], is_last).expect("the prompts fit");
            }
            rows.push((sequence, batch.n_tokens() - 1));
            positions.push(length);
        }
        context.decode(&mut batch).expect("the prompts are computed");
        while !rows.is_empty() {
            batch.clear();
            let mut next_rows = Vec::new();
            for (sequence, row) in rows {
                let token = sampler.sample(context, row);
                if !ignore_end && self.model.vocab().is_eog(token) {
                    continue;
                }
                answers[sequence].push(token);
                if answers[sequence].len() == count {
                    continue;
                }
                let id = i32::try_from(sequence).expect("few sequences");
                batch.add(token, positions[sequence], &[id], true).expect("one token each");
                positions[sequence] += 1;
                next_rows.push((sequence, batch.n_tokens() - 1));
            }
            if !next_rows.is_empty() {
                context.decode(&mut batch).expect("a step is computed");
            }
            rows = next_rows;
        }
        answers
    }
}
