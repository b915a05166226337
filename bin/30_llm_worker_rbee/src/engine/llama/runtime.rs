//! llama.cpp as a process-wide library: backends loaded, logs routed.

use llama_cpp_2::llama_backend::{LlamaBackend, load_backends_from_path};

use super::libraries::{LibraryError, engine_folder};

/// Proof that llama.cpp is initialised.
pub struct Runtime {
    pub(super) backend: LlamaBackend,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Runtime")
    }
}

/// llama.cpp could not be initialised.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// Its libraries are not there.
    #[error(transparent)]
    Libraries(#[from] LibraryError),
    /// It refused.
    #[error("llama.cpp could not be initialised")]
    Init(#[source] llama_cpp_2::LlamaCppError),
}

impl Runtime {
    /// Loads the backends that this machine can use and initialises llama.cpp, once a process.
    pub fn init() -> Result<Self, RuntimeError> {
        llama_cpp_2::send_logs_to_tracing(llama_cpp_2::LogOptions::default());
        load_backends_from_path(&engine_folder()?);
        let backend = LlamaBackend::init().map_err(RuntimeError::Init)?;
        Ok(Self { backend })
    }
}

/// The engine and its version, as heartbeats name it.
#[must_use]
pub fn build_name() -> String {
    format!("llama.cpp (llama-cpp-2 {})", "0.1.160")
}
