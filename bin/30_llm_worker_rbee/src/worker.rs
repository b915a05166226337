//! The worker's parts, and the way from an empty process to a ready one.

mod vectors;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use tokio::sync::watch;
use worker_contract::{
    HealthReport, HiveAlias, KvCacheUse, ModelAlias, ModelInUse, ModelKind, Sha256Digest, Slots,
    WorkerHeartbeat, WorkerId, WorkerState,
};

use self::vectors::Vectors;
use crate::batch::{Gauges, Scheduler, SchedulerSettings, Submitter};
use crate::engine::llama::{
    AdapterSettings, AttentionSettings, CheckedFile, ContextSettings, LlamaEngine, Model,
    ModelSettings, Placement, Pooling, Purpose, Runtime, Vision, VisionError, VisionSettings,
    build_name, default_threads,
};
use crate::engine::{Engine as _, EngineLimits};
use crate::images::Eyes;
use crate::metrics::Metrics;
use crate::preparations::Preparations;
use crate::prepare::Preparer;
use crate::sampling::constraint::LazyConstraintFactory;
use crate::sandbox::Sandbox;
use crate::text::ChatTemplate;

/// Who this worker is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its id.
    pub worker_id: WorkerId,
    /// The hive that started it.
    pub hive_id: HiveAlias,
    /// Its base URL as the queen can reach it.
    pub address: String,
    /// The model's name in requests.
    pub alias: ModelAlias,
    /// The digest of the model's file, where the hive gave one.
    pub digest: Option<Sha256Digest>,
}

/// What this worker loads, and how.
#[derive(Debug, Clone)]
pub struct LoadSettings {
    /// The GGUF file.
    pub file: PathBuf,
    /// Where its layers go.
    pub placement: Placement,
    /// The LoRA adapters that apply to it.
    pub adapters: Vec<AdapterSettings>,
    /// How attention is computed, and what the KV cache is made of.
    pub attention: AttentionSettings,
    /// How many requests run at once.
    pub slots: u32,
    /// KV cache size in tokens, for all slots together; of an embedding or reranking model the
    /// longest text, where the model itself allows that much.
    pub ctx_size: u32,
    /// How the model makes vectors or scores; `None` for what its file says.
    pub pooling: Option<Pooling>,
    /// Threads of the processor; `None` for all physical cores.
    pub threads: Option<u32>,
    /// The most requests that wait for a slot.
    pub max_queue: u32,
    /// Whether no answer may depend on what else is computed.
    pub batch_invariant: bool,
    /// How much of the machine's memory may keep computed prompts, in MiB.
    pub prompt_cache_mib: u32,
    /// Whether the next tokens are guessed from the text so far.
    pub drafts: bool,
    /// A smaller model that guesses them.
    pub draft_model: Option<PathBuf>,
    /// What turns images into what the model takes.
    pub projector: Option<PathBuf>,
    /// What is given up once the model is loaded.
    pub sandbox: Sandbox,
}

impl LoadSettings {
    /// What is loaded of it as a model.
    #[must_use]
    pub fn model(&self) -> ModelSettings {
        ModelSettings {
            file: self.file.clone(),
            placement: self.placement.clone(),
            adapters: self.adapters.clone(),
            pooling: self.pooling,
        }
    }

    /// What takes memory beside the model, as a model of its own.
    #[must_use]
    pub fn draft_model(&self) -> Option<ModelSettings> {
        let file = self.draft_model.clone()?;
        let placement = self.placement.clone();
        Some(ModelSettings { file, placement, adapters: Vec::new(), pooling: None })
    }

    /// What the model is used in.
    #[must_use]
    pub fn context(&self) -> ContextSettings {
        ContextSettings {
            slots: self.slots,
            kv_tokens: self.ctx_size,
            threads: self.threads,
            batch_invariant: self.batch_invariant,
            attention: self.attention,
        }
    }
}

/// The worker, shared by its HTTP handlers, its heartbeat and its engine's thread.
#[derive(Debug)]
pub struct Worker {
    /// Who it is.
    pub identity: Identity,
    settings: LoadSettings,
    state: watch::Sender<WorkerState>,
    gauges: Arc<Gauges>,
    preparations: Preparations,
    metrics: Metrics,
    loaded: OnceLock<Loaded>,
    /// In the place of `loaded`, where the model makes vectors or scores.
    vectors: OnceLock<Vectors>,
}

/// A model that is ready.
#[derive(Debug)]
struct Loaded {
    model: Arc<Model>,
    template: Option<ChatTemplate>,
    constraints: LazyConstraintFactory,
    eyes: Option<Eyes>,
    limits: EngineLimits,
    /// Taken away at shutdown, so that the engine's thread ends.
    submitter: std::sync::Mutex<Option<Submitter>>,
}

impl Worker {
    /// A worker that has not loaded its model.
    #[must_use]
    pub fn new(identity: Identity, settings: LoadSettings) -> Arc<Self> {
        let gauges = Arc::<Gauges>::default();
        let preparations = Preparations::new(Arc::clone(&gauges), settings.max_queue);
        Arc::new(Self {
            identity,
            settings,
            state: watch::Sender::new(WorkerState::Loading { progress: 0.0 }),
            gauges,
            preparations,
            metrics: Metrics::default(),
            loaded: OnceLock::new(),
            vectors: OnceLock::new(),
        })
    }

    /// Loads the model and runs the engine on a thread of its own, which ends after [`Self::close`].
    ///
    /// `on_end` is called when the thread ends, for whatever reason.
    pub fn start_engine(
        self: &Arc<Self>,
        on_end: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<JoinHandle<()>> {
        let worker = Arc::clone(self);
        std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
            let _call_at_end = CallAtEnd(Some(on_end));
            if let Err(error) = worker.load_and_run() {
                let reason = reason(&*error);
                worker.state.send_replace(WorkerState::Failed { reason });
            }
        })
    }

    fn load_and_run(&self) -> Result<(), Box<dyn std::error::Error>> {
        let settings = &self.settings;
        // Neither needs the other, and both take a while.
        let (runtime, checked) = std::thread::scope(|scope| {
            let checking = scope.spawn(|| CheckedFile::check(&settings.file));
            let runtime = Runtime::init();
            (runtime, checking.join())
        });
        let (runtime, checked) = (runtime?, checked.map_err(|_| "the file could not be checked")??);
        let state = self.state.clone();
        let context = settings.context();
        let on_progress = move |progress| {
            state.send_replace(WorkerState::Loading { progress });
        };
        let model =
            Model::load_checked(&runtime, &settings.model(), checked, &context, on_progress)?;
        let model = Arc::new(model);
        if let Purpose::Pooled(pooling) = model.purpose() {
            return self.run_vectors(&runtime, &model, pooling);
        }
        let eyes = settings.projector.as_deref().map(|file| self.open_eyes(&runtime, file, &model));
        let eyes = eyes.transpose()?;
        let small = settings.draft_model();
        let small =
            small.map(|small| self.load_draft_model(&runtime, &small, &model)).transpose()?;
        let engine = LlamaEngine::new(&runtime, &model, context.clamped(model.trained_context()))?;
        let limits = engine.limits();
        let template = match model.chat_template() {
            Some(source) => {
                Some(ChatTemplate::new(&source, model.bos_text(), model.eos_text(), |text| {
                    model.is_control_token(text)
                })?)
            }
            None => None,
        };
        let (scheduler, submitter) = Scheduler::new(
            engine,
            Arc::clone(&model),
            SchedulerSettings {
                max_queue: settings.max_queue,
                prompt_cache_bytes: (settings.prompt_cache_mib as usize) << 20,
                drafts: settings.drafts,
            },
            Arc::clone(&self.gauges),
            self.metrics.clone(),
        );
        let scheduler = match &small {
            Some(small) => {
                let context = context.clamped(small.trained_context());
                scheduler.with_draft_model(LlamaEngine::new(&runtime, small, context)?)
            }
            None => scheduler,
        };
        let submitter = std::sync::Mutex::new(Some(submitter));
        let constraints = LazyConstraintFactory::default();
        let model_in_use = Arc::clone(&model);
        let loaded = Loaded { model: model_in_use, template, constraints, eyes, limits, submitter };
        if self.loaded.set(loaded).is_err() {
            return Err("a worker loads one model, once".into());
        }
        self.become_ready();
        // Made here: what samples has no more rights than this thread, and need not ask for the number
        // of processors.
        let threads = settings.threads.unwrap_or_else(default_threads) as usize;
        if let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global() {
            tracing::warn!(%error, "tokens are sampled on one thread");
        }
        tracing::info!(
            model = %self.identity.alias,
            slots = limits.slots,
            context_length = limits.context_length,
            "the model is loaded"
        );
        scheduler.run();
        Ok(())
    }

    fn open_eyes(
        &self,
        runtime: &Runtime,
        file: &Path,
        model: &Arc<Model>,
    ) -> Result<Eyes, VisionError> {
        let (placement, threads) = (&self.settings.placement, self.settings.threads);
        let settings = VisionSettings { file, device: placement.main_device(), threads };
        let vision = Vision::load(runtime, model, &settings)?;
        tracing::info!(file = %file.display(), "the model sees images");
        Ok(Eyes::new(vision))
    }

    fn load_draft_model(
        &self,
        runtime: &Runtime,
        settings: &ModelSettings,
        model: &Model,
    ) -> Result<Model, Box<dyn std::error::Error>> {
        let file = &settings.file;
        let small = Model::load(runtime, settings, &self.settings.context(), |_| {})?;
        if small.purpose() != Purpose::Text {
            return Err(format!("the draft model {} makes no text", file.display()).into());
        }
        if !small.has_vocabulary_of(model) {
            let file = file.display();
            return Err(format!(
                "the draft model {file} has another vocabulary than the model; use a smaller one of the same family"
            )
            .into());
        }
        Ok(small)
    }

    fn become_ready(&self) {
        self.settings.sandbox.after_load();
        self.state.send_if_modified(|state| {
            // A worker that was told to end while it loaded goes on draining.
            let was_loading = matches!(state, WorkerState::Loading { .. });
            if was_loading {
                *state = WorkerState::Ready;
            }
            was_loading
        });
    }

    /// What requests are checked against; `None` until the model is loaded.
    #[must_use]
    pub fn preparer(&self) -> Option<Preparer<'_>> {
        let loaded = self.loaded.get()?;
        Some(Preparer {
            name: &self.identity.alias,
            model: &loaded.model,
            template: loaded.template.as_ref(),
            constraints: &loaded.constraints,
            context_length: loaded.limits.context_length,
            batch_invariant: loaded.limits.batch_invariant,
            eyes: loaded.eyes.as_ref(),
        })
    }

    /// How requests are prepared that take a while.
    #[must_use]
    pub fn preparations(&self) -> &Preparations {
        &self.preparations
    }

    /// The way to the engine; `None` until the model is loaded and after [`Self::close`].
    #[must_use]
    pub fn submitter(&self) -> Option<Submitter> {
        let guard = self.loaded.get()?.submitter.lock();
        guard.unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Its state, and a way to wait for the next one.
    #[must_use]
    pub fn watch_state(&self) -> watch::Receiver<WorkerState> {
        self.state.subscribe()
    }

    /// No new requests from here on; those that run go on.
    pub fn drain(&self) {
        self.state.send_if_modified(|state| {
            let changes = !matches!(state, WorkerState::Failed { .. } | WorkerState::Draining);
            if changes {
                *state = WorkerState::Draining;
            }
            changes
        });
    }

    /// Lets the engine's thread end when everything is answered.
    pub fn close(&self) {
        if let Some(loaded) = self.loaded.get() {
            *loaded.submitter.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
        }
        if let Some(vectors) = self.vectors.get() {
            vectors.close();
        }
    }

    /// Whether no request runs, waits or is prepared.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.gauges.is_idle()
    }

    /// Tokens of answers since the start; of an embedding or reranking model those of the texts.
    #[must_use]
    pub fn tokens_made(&self) -> u64 {
        self.gauges.tokens.load(Relaxed)
    }

    /// The answer to `GET /metrics`.
    #[must_use]
    pub fn metrics_text(&self) -> String {
        let kv_tokens = self.loaded.get().map_or(0, |l| l.limits.kv_tokens);
        self.metrics.text(&self.gauges, self.settings.slots, kv_tokens)
    }

    /// The answer to `GET /health`.
    #[must_use]
    pub fn health(&self) -> HealthReport {
        HealthReport {
            worker_id: self.identity.worker_id.clone(),
            model: self.identity.alias.clone(),
            state: self.state.borrow().clone(),
            slots: self.slots(),
            queued: self.gauges.waiting(),
            context_length: self.context_length(),
            kind: self.vectors.get().map_or(ModelKind::Generative, Vectors::kind),
        }
    }

    /// A report for the queen.
    #[must_use]
    pub fn heartbeat(&self, tokens_per_second: f32) -> WorkerHeartbeat {
        let health = self.health();
        WorkerHeartbeat {
            worker_id: health.worker_id,
            hive_id: self.identity.hive_id.clone(),
            address: self.identity.address.clone(),
            model: ModelInUse {
                name: health.model,
                digest: self.identity.digest.clone(),
                context_length: health.context_length,
                kind: health.kind,
            },
            device: self.settings.placement.main_device(),
            state: health.state,
            slots: health.slots,
            queued: health.queued,
            kv_cache: KvCacheUse {
                used_tokens: self.gauges.kv_used.load(Relaxed),
                capacity_tokens: self.loaded.get().map_or(0, |l| l.limits.kv_tokens),
            },
            tokens_per_second,
            engine_build: build_name(),
            pid: std::process::id(),
        }
    }

    fn context_length(&self) -> u32 {
        let text = self.loaded.get().map(|loaded| loaded.limits.context_length);
        text.or_else(|| self.vectors.get().map(Vectors::context_length)).unwrap_or(0)
    }

    fn slots(&self) -> Slots {
        Slots { total: self.settings.slots, busy: self.gauges.busy.load(Relaxed) }
    }
}

/// Calls a function when it goes out of scope, also by a panic.
struct CallAtEnd<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for CallAtEnd<F> {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

/// An error and its causes in one line.
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
