//! LoRA adapters: checked, loaded beside the model, and set on its contexts.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::model::{LlamaLoraAdapter, LlamaModel};
use llama_cpp_sys_2 as sys;

use super::engine_log;
use super::inspect::{InspectError, check_file};
use super::raw;

/// An adapter that is wanted, written `FILE` or `FILE:SCALE`.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterSettings {
    /// The GGUF file.
    pub file: PathBuf,
    /// How strongly it applies: 1 as it was trained, 0 not at all.
    pub scale: f32,
}

/// An adapter cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// The file is at fault.
    #[error(transparent)]
    File(#[from] InspectError),
    /// It is something else.
    #[error("{path} is no LoRA adapter: its general.type is {found}")]
    NotAnAdapter {
        /// The file.
        path: String,
        /// What it says it is.
        found: String,
    },
    /// It is another kind of adapter.
    #[error("{path} is an adapter of type {found}; only lora can be used")]
    NotLora {
        /// The file.
        path: String,
        /// What it says it is.
        found: String,
    },
    /// It is for another architecture.
    #[error("{path} is an adapter for {adapter} models, and this model is {model}")]
    OtherArchitecture {
        /// The file.
        path: String,
        /// The adapter's architecture.
        adapter: String,
        /// The model's.
        model: String,
    },
    /// llama.cpp refused it.
    #[error("llama.cpp cannot use the adapter {path}: {reason}")]
    Refused {
        /// The file.
        path: String,
        /// llama.cpp's words.
        reason: String,
    },
}

/// llama.cpp did not take a model's adapters for a context.
#[derive(Debug, thiserror::Error)]
#[error("llama.cpp did not take the model's LoRA adapters")]
pub(super) struct AdaptersNotSet;

/// A loaded adapter. llama.cpp frees it with its model.
#[derive(Debug)]
pub(super) struct Adapter {
    lora: LlamaLoraAdapter,
    scale: f32,
}

impl FromStr for AdapterSettings {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // What follows the last colon is a scale only if it is a number: names may have colons.
        let (file, scale) = match text.rsplit_once(':') {
            Some((file, scale)) => match scale.parse::<f32>() {
                Ok(scale) => (file, scale),
                Err(_) => (text, 1.0),
            },
            None => (text, 1.0),
        };
        if file.is_empty() {
            return Err("the file is missing: write FILE or FILE:SCALE".into());
        }
        if !scale.is_finite() {
            return Err("the scale must be a finite number, 1 by default".into());
        }
        Ok(Self { file: file.into(), scale })
    }
}

/// Loads adapters for a model of that architecture.
pub(super) fn load(
    model: &mut LlamaModel,
    architecture: &str,
    wanted: &[AdapterSettings],
) -> Result<Vec<Adapter>, AdapterError> {
    let mut adapters = Vec::with_capacity(wanted.len());
    for AdapterSettings { file, scale } in wanted {
        check(file, architecture)?;
        engine_log::forget_errors();
        let lora = model.lora_adapter_init(file).map_err(|error| AdapterError::Refused {
            path: file.display().to_string(),
            reason: engine_log::last_errors().unwrap_or_else(|| error.to_string()),
        })?;
        tracing::info!(file = %file.display(), scale, "a LoRA adapter is loaded");
        adapters.push(Adapter { lora, scale: *scale });
    }
    Ok(adapters)
}

/// Whether a file says that it is a LoRA adapter for such a model.
fn check(file: &Path, architecture: &str) -> Result<(), AdapterError> {
    let path = file.display().to_string();
    let header = check_file(file)?;
    let said = |key: &str| header.text(key).unwrap_or("not given").to_owned();
    let kind = said("general.type");
    if kind != "adapter" {
        return Err(AdapterError::NotAnAdapter { path, found: kind });
    }
    let kind = said("adapter.type");
    if kind != "lora" {
        return Err(AdapterError::NotLora { path, found: kind });
    }
    if header.get("adapter.alora.invocation_tokens").is_some() {
        // It would have to be switched on by the tokens of each request.
        return Err(AdapterError::NotLora { path, found: "activated lora".into() });
    }
    let adapter = said("general.architecture");
    if adapter != architecture {
        let model = architecture.to_owned();
        return Err(AdapterError::OtherArchitecture { path, adapter, model });
    }
    Ok(())
}

/// Sets a model's adapters on one of its contexts, all at once: llama-cpp-2's call sets a single
/// one in the place of those that were set before.
pub(super) fn set(
    context: &mut LlamaContext<'_>,
    adapters: &[Adapter],
) -> Result<(), AdaptersNotSet> {
    if adapters.is_empty() {
        return Ok(());
    }
    let pointer = raw::context_pointer(context).ok_or(AdaptersNotSet)?;
    let mut loras: Vec<_> = adapters.iter().map(|a| raw::adapter_pointer(&a.lora)).collect();
    let mut scales: Vec<f32> = adapters.iter().map(|adapter| adapter.scale).collect();
    // SAFETY: the context is borrowed exclusively; the adapters were loaded for its model, which it
    // borrows, and llama.cpp copies both lists, which are equally long.
    let status = unsafe {
        let (loras, scales) = (loras.as_mut_ptr(), scales.as_mut_ptr());
        sys::llama_set_adapters_lora(pointer.as_ptr(), loras, adapters.len(), scales)
    };
    if status == 0 { Ok(()) } else { Err(AdaptersNotSet) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_is_a_file_and_maybe_a_scale() {
        for (text, file, scale) in [
            ("a.gguf", "a.gguf", 1.0),
            ("a.gguf:0.5", "a.gguf", 0.5),
            ("/x/a:b.gguf", "/x/a:b.gguf", 1.0),
            ("/x/a:b.gguf:-2", "/x/a:b.gguf", -2.0),
        ] {
            let wanted = AdapterSettings { file: file.into(), scale };
            assert_eq!(text.parse(), Ok(wanted), "{text}");
        }
        for text in ["", ":1", "a.gguf:inf", "a.gguf:nan"] {
            assert!(text.parse::<AdapterSettings>().is_err(), "{text}");
        }
    }
}
