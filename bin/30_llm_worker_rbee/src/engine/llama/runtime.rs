//! llama.cpp as a process-wide library: backends loaded, logs routed.

use llama_cpp_2::llama_backend::{LlamaBackend, load_backends_from_path};

use super::engine_log;
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
        engine_log::listen();
        let folder = engine_folder()?;
        let loading = engine_log::Loading::new();
        load_backends_from_path(&folder);
        drop(loading);
        let backend = LlamaBackend::init().map_err(RuntimeError::Init)?;
        Ok(Self { backend })
    }
}

/// How long a thread of the engine spins at a barrier before it sleeps, in GNU OpenMP's turns.
///
/// Its default spins for milliseconds. When anything else wants the processor (a second worker, a
/// compiler), the spinning threads keep the one that they wait for from running. Measured with two
/// workers on two cores: 4 to 8 times faster together, and 8 % slower than the default at most when
/// nothing else runs; fewer turns cost more there, more turns help less here.
const SPIN_COUNT: &str = "2000";

/// Has the engine's thread library told, unless the user has told it already.
///
/// The library reads its environment when it is loaded, before `main`: so the program begins once more,
/// as the same process, with the variable set. To be called first thing in `main`.
pub fn prepare_process() {
    const VARIABLE: &str = "GOMP_SPINCOUNT";
    let is_set = |name| std::env::var_os(name).is_some();
    if is_set(VARIABLE) || is_set("OMP_WAIT_POLICY") {
        return;
    }
    #[cfg(target_os = "linux")]
    if let Ok(program) = std::env::current_exe() {
        let mut arguments = std::env::args_os();
        let mut again = std::process::Command::new(program);
        if let Some(name) = arguments.next() {
            std::os::unix::process::CommandExt::arg0(&mut again, name);
        }
        again.args(arguments).env(VARIABLE, SPIN_COUNT);
        // It comes back only where it fails; then the threads spin, and everything works.
        let _ = std::os::unix::process::CommandExt::exec(&mut again);
    }
}

/// The engine and its version, as heartbeats name it.
#[must_use]
pub fn build_name() -> String {
    format!("llama.cpp (llama-cpp-2 {})", "0.1.160")
}
