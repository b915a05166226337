//! The worker of an embedding or reranking model.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use worker_contract::ModelKind;

use super::Worker;
use crate::embedding::{EmbeddingPreparer, EmbeddingScheduler, Submitter};
use crate::engine::llama::{LlamaPooledEngine, Model, PooledSettings, Pooling, Runtime};
use crate::engine::{PooledEngine as _, PooledLimits};

/// An embedding or reranking model that is ready.
#[derive(Debug)]
pub(super) struct Vectors {
    model: Arc<Model>,
    limits: PooledLimits,
    /// Taken away at shutdown, so that the engine's thread ends.
    submitter: Mutex<Option<Submitter>>,
}

impl Vectors {
    pub(super) fn kind(&self) -> ModelKind {
        self.model.purpose().kind()
    }

    /// The longest text, in tokens.
    pub(super) fn context_length(&self) -> u32 {
        self.limits.text_tokens
    }

    pub(super) fn close(&self) {
        *self.submitter.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Worker {
    /// Makes the context and serves requests until [`Self::close`].
    pub(super) fn run_vectors(
        &self,
        runtime: &Runtime,
        model: &Arc<Model>,
        pooling: Pooling,
    ) -> Result<(), Box<dyn Error>> {
        let settings = &self.settings;
        let context = PooledSettings {
            pooling,
            text_tokens: settings.ctx_size,
            threads: settings.threads,
            batch_invariant: settings.batch_invariant,
        };
        let engine = LlamaPooledEngine::new(runtime, model, context)?;
        let limits = engine.limits();
        let gauges = Arc::clone(&self.gauges);
        let (scheduler, submitter) = EmbeddingScheduler::new(
            engine,
            settings.slots,
            settings.max_queue,
            gauges,
            self.metrics.clone(),
        );
        let submitter = Mutex::new(Some(submitter));
        let vectors = Vectors { model: Arc::clone(model), limits, submitter };
        if self.vectors.set(vectors).is_err() {
            return Err("a worker loads one model, once".into());
        }
        self.become_ready();
        tracing::info!(
            model = %self.identity.alias,
            %pooling,
            text_tokens = limits.text_tokens,
            "the model is loaded; it makes vectors or scores of whole texts"
        );
        scheduler.run();
        Ok(())
    }

    /// What requests are checked against; `None` where the model makes text or is not loaded.
    #[must_use]
    pub fn embedding_preparer(&self) -> Option<EmbeddingPreparer<'_>> {
        let vectors = self.vectors.get()?;
        Some(EmbeddingPreparer {
            name: &self.identity.alias,
            model: &vectors.model,
            limits: vectors.limits,
            batch_invariant: self.settings.batch_invariant,
        })
    }

    /// The way to the engine; `None` where the model makes text or is not loaded, and after
    /// [`Self::close`].
    #[must_use]
    pub fn embedding_submitter(&self) -> Option<Submitter> {
        let guard = self.vectors.get()?.submitter.lock();
        guard.unwrap_or_else(PoisonError::into_inner).clone()
    }
}
