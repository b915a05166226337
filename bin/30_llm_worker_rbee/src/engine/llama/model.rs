//! A loaded model: weights, vocabulary and chat template.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use worker_contract::{DeviceId, GgufSummary, MemoryNeed, TokenId};

use super::attention::NeedsFlashAttention;
use super::cache_tensor::{self, CacheTensorTooLarge};
use super::context::ContextSettings;
use super::devices::{NoSuchDevice, gpus, numbered};
use super::engine_log;
use super::inspect::{InspectError, inspect_with_header};
use super::lora::{self, Adapter, AdapterError, AdapterSettings};
use super::memory_check::{Plan, check, needs};
use super::memory_estimate::Facts;
use super::memory_need::NotEnoughMemory;
use super::model_params::{ModelParams, NoFit};
use super::placement::{GpuLayers, Placement, PlacementError};
use super::pooling::{Metadata, Pooling, Purpose, PurposeError};
use super::rerank::has_classifier;
use super::runtime::Runtime;
use super::tokenize::Tokenizer;
use crate::gguf::{Header, Value};
use crate::sampling::Dry;
use crate::sampling::constraint::TokenEnvironment;

/// What is to be loaded, and where to.
#[derive(Debug, Clone)]
pub struct ModelSettings {
    /// The GGUF file.
    pub file: PathBuf,
    /// Where its layers go.
    pub placement: Placement,
    /// The LoRA adapters that apply to it.
    pub adapters: Vec<AdapterSettings>,
    /// Makes it an embedding or reranking model, or changes how it pools; `None` for what the file
    /// says.
    pub pooling: Option<Pooling>,
}

/// A model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is at fault.
    #[error(transparent)]
    File(#[from] InspectError),
    /// The device does not exist.
    #[error(transparent)]
    Device(#[from] NoSuchDevice),
    /// The placement contradicts itself.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// The attention's settings contradict themselves.
    #[error(transparent)]
    Attention(#[from] NeedsFlashAttention),
    /// No number of layers fits.
    #[error(transparent)]
    NoFit(#[from] NoFit),
    /// A device is too small.
    #[error(transparent)]
    Memory(#[from] NotEnoughMemory),
    /// A GPU's buffers are too small.
    #[error(transparent)]
    CacheTensor(#[from] CacheTensorTooLarge),
    /// An adapter is at fault.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// llama.cpp refused it.
    #[error("llama.cpp cannot load {path} on {device}: {reason}")]
    Refused {
        /// The file.
        path: String,
        /// The device that was asked for.
        device: DeviceId,
        /// llama.cpp's words.
        reason: String,
    },
    /// It is for nothing that the worker does.
    #[error("cannot use {path}")]
    Purpose {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: PurposeError,
    },
}

/// A loaded model. Shared by the engine's thread and the requests that tokenize.
#[derive(Debug)]
pub struct Model {
    pub(super) llama: LlamaModel,
    pub(super) adapters: Vec<Adapter>,
    pub(super) tokenizer: Tokenizer,
    purpose: Purpose,
    is_on_processor: bool,
}

impl Model {
    /// Loads a model; `on_progress` is told the part that is done, 0 to 1.
    ///
    /// `context` is what it is to be used in: a device that cannot hold both is refused before
    /// anything is loaded.
    pub fn load(
        runtime: &Runtime,
        settings: &ModelSettings,
        context: &ContextSettings,
        on_progress: impl FnMut(f32),
    ) -> Result<Self, LoadError> {
        let checked = CheckedFile::check(&settings.file)?;
        Self::load_checked(runtime, settings, checked, context, on_progress)
    }

    /// The same of a file that was checked before.
    pub fn load_checked(
        runtime: &Runtime,
        settings: &ModelSettings,
        checked: CheckedFile,
        context: &ContextSettings,
        on_progress: impl FnMut(f32),
    ) -> Result<Self, LoadError> {
        let placement = &settings.placement;
        let prepared = Prepared::new(runtime, settings, checked, context)?;
        let Prepared { purpose, file, params, .. } = &prepared;
        // A model for vectors has no KV cache of that size.
        if *purpose == Purpose::Text {
            check(runtime, prepared.plan(settings))?;
        }
        engine_log::forget_errors();
        let mut llama = params.load(file, on_progress).ok_or_else(|| refused(settings))?;
        tell_layers(placement, params, &llama);
        let adapters = lora::load(&mut llama, &prepared.architecture, &settings.adapters)?;
        let is_on_processor = placement.is_processor();
        let tokenizer = Tokenizer::of(&llama);
        Ok(Self { llama, adapters, tokenizer, purpose: *purpose, is_on_processor })
    }

    /// What a model would take of each device, by llama.cpp's own reckoning: it reads the file's
    /// metadata and takes no memory for tensors.
    pub fn memory_needs(
        runtime: &Runtime,
        settings: &ModelSettings,
        context: &ContextSettings,
    ) -> Result<Vec<MemoryNeed>, LoadError> {
        let checked = CheckedFile::check(&settings.file)?;
        let prepared = Prepared::new(runtime, settings, checked, context)?;
        let plan = prepared.plan(settings);
        needs(runtime, plan, prepared.purpose).ok_or_else(|| refused(settings))
    }

    /// Whether the processor computes it, and holds its KV cache.
    pub(super) fn is_on_processor(&self) -> bool {
        self.is_on_processor
    }

    /// What the model is for.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Whether each token stands for the same text as in another model.
    #[must_use]
    pub fn has_vocabulary_of(&self, other: &Self) -> bool {
        let piece = |model: &Self, token| {
            let mut bytes = Vec::new();
            model.append_piece(token, true, &mut bytes);
            (bytes, model.is_end(token))
        };
        let size = self.vocabulary_size();
        let mut tokens = (0..).take(size as usize);
        size == other.vocabulary_size() && tokens.all(|t| piece(self, t) == piece(other, t))
    }

    /// The longest context that the model was trained for, in tokens.
    #[must_use]
    pub fn trained_context(&self) -> u32 {
        self.llama.n_ctx_train()
    }

    /// The number of tokens in the vocabulary.
    #[must_use]
    pub fn vocabulary_size(&self) -> u32 {
        u32::try_from(self.llama.n_vocab()).unwrap_or(0)
    }

    /// Whether a text is one control token.
    #[must_use]
    pub fn is_control_token(&self, text: &str) -> bool {
        let vocab = self.llama.vocab();
        match vocab.tokenize(text.as_bytes(), false, true).as_slice() {
            [token] => vocab.is_control(*token),
            _ => false,
        }
    }

    /// Appends a token's bytes. Control tokens have some only where `with_control` is set.
    pub fn append_piece(&self, token: TokenId, with_control: bool, bytes: &mut Vec<u8>) {
        // The binding overwrites from the start of the spare room, so a second buffer is not needed.
        self.llama.vocab().token_to_piece_into(LlamaToken(token), bytes, with_control, None);
    }

    /// Whether a token ends the text.
    #[must_use]
    pub fn is_end(&self, token: TokenId) -> bool {
        self.llama.vocab().is_eog(LlamaToken(token))
    }

    /// The model's own chat template (Jinja), where it has one.
    #[must_use]
    pub fn chat_template(&self) -> Option<String> {
        self.llama.chat_template(None).ok()?.to_string().ok()
    }

    /// The text of the token that starts a sequence; empty where the model has none.
    #[must_use]
    pub fn bos_text(&self) -> String {
        self.special_text(self.llama.vocab().bos()).unwrap_or_default()
    }

    /// The text of the token that ends a sequence; empty where the model has none.
    #[must_use]
    pub fn eos_text(&self) -> String {
        self.special_text(self.llama.vocab().eos()).unwrap_or_default()
    }

    /// The vocabulary as grammars see it; `None` where no token ends a text. It walks the whole
    /// vocabulary: some hundred milliseconds where that is large.
    #[must_use]
    pub fn token_environment(&self) -> Option<TokenEnvironment> {
        let vocab = self.llama.vocab();
        let has_end = vocab.eot().0 >= 0 || vocab.eos().0 >= 0;
        has_end.then(|| LlamaSampler::llguidance_tok_env(&self.llama))
    }

    /// llama.cpp's DRY sampler. It walks the whole vocabulary for each sequence breaker.
    #[must_use]
    pub fn dry_sampler(&self, dry: &Dry) -> LlamaSampler {
        let int = |number| i32::try_from(number).unwrap_or(i32::MAX);
        LlamaSampler::dry(
            &self.llama,
            dry.multiplier,
            dry.base,
            int(dry.allowed_length),
            int(dry.last_n),
            // The binding panics at a zero byte; requests that have one are refused before.
            dry.sequence_breakers.iter().filter(|text| !text.contains('\0')),
        )
    }

    pub(super) fn special_text(&self, token: LlamaToken) -> Option<String> {
        if token.0 < 0 {
            return None;
        }
        Some(self.llama.vocab().text(token)?.to_string_lossy().into_owned())
    }
}

/// A model's file whose header llama.cpp may see. Making one needs nothing of llama.cpp.
#[derive(Debug)]
pub struct CheckedFile {
    summary: GgufSummary,
    header: Header,
}

impl CheckedFile {
    /// Checks a file's header, and those of its other parts.
    pub fn check(file: &Path) -> Result<Self, InspectError> {
        let (summary, header) = inspect_with_header(file)?;
        Ok(Self { summary, header })
    }
}

/// What is known of a model before it is loaded.
struct Prepared {
    architecture: String,
    purpose: Purpose,
    file: CString,
    params: ModelParams,
    context: ContextSettings,
    facts: Option<Facts>,
}

impl Prepared {
    fn new(
        runtime: &Runtime,
        settings: &ModelSettings,
        checked: CheckedFile,
        context: &ContextSettings,
    ) -> Result<Self, LoadError> {
        let placement = &settings.placement;
        placement.check()?;
        context.attention.check()?;
        let CheckedFile { summary, header } = checked;
        let path = || settings.file.display().to_string();
        let file = c_path(&settings.file).ok_or_else(|| LoadError::Refused {
            path: path(),
            device: placement.main_device(),
            reason: "its path is no plain text".to_owned(),
        })?;
        let purpose = purpose(&header, &summary.architecture, settings.pooling)
            .map_err(|source| LoadError::Purpose { path: path(), source })?;
        let gpus = gpus(runtime, &placement.devices)?;
        let context = context.clamped(summary.context_length);
        let mut params = ModelParams::new(runtime, placement, &gpus);
        let facts = Facts::read(&header, summary.size_bytes);
        if let Some(facts) = facts
            && purpose == Purpose::Text
        {
            cache_tensor::check(&numbered(), placement, &context, facts)?;
        }
        engine_log::forget_errors();
        if placement.layers() == GpuLayers::Auto {
            params.fit(&file, &context)?;
        }
        Ok(Self { architecture: summary.architecture, purpose, file, params, context, facts })
    }

    fn plan<'a>(&'a self, settings: &'a ModelSettings) -> Plan<'a> {
        Plan {
            file: &self.file,
            placement: &settings.placement,
            params: &self.params,
            context: &self.context,
            facts: self.facts,
        }
    }
}

/// llama.cpp's words about a model that it does not take.
fn refused(settings: &ModelSettings) -> LoadError {
    let reason = engine_log::last_errors();
    LoadError::Refused {
        path: settings.file.display().to_string(),
        device: settings.placement.main_device(),
        reason: reason.unwrap_or_else(|| "it does not say why".to_owned()),
    }
}

/// What a model is for by its header; `wanted` is the user's own choice.
pub(super) fn purpose(
    header: &Header,
    architecture: &str,
    wanted: Option<Pooling>,
) -> Result<Purpose, PurposeError> {
    let value = |key: &str| header.get(&format!("{architecture}.{key}"));
    let causal = match value("attention.causal") {
        Some(Value::Bool(causal)) => Some(*causal),
        _ => None,
    };
    let pooling = value("pooling_type").and_then(Value::as_integer);
    let pooling = pooling.and_then(|number| number.try_into().ok());
    let metadata = Metadata { architecture, causal, pooling };
    let purpose = metadata.purpose(wanted)?;
    if purpose == Purpose::Pooled(Pooling::Rank) && !has_classifier(header) {
        return Err(PurposeError::NoClassifier);
    }
    Ok(purpose)
}

/// A path as llama.cpp takes it.
fn c_path(file: &Path) -> Option<CString> {
    CString::new(file.to_str()?).ok()
}

/// Logs what the GPUs hold, for a number that was chosen by the fit above all.
fn tell_layers(placement: &Placement, params: &ModelParams, llama: &LlamaModel) {
    if placement.is_processor() {
        return;
    }
    // The output layer counts as one.
    let layers = llama.n_layer() + 1;
    let devices: Vec<String> = placement.devices.iter().map(ToString::to_string).collect();
    tracing::info!(
        devices = devices.join(","),
        wanted = %placement.layers(),
        layers,
        layers_on_gpus = params.layers_on_gpus(layers),
        parts_on_processor = params.parts_on_processor(),
        "the model's layers are placed"
    );
}
