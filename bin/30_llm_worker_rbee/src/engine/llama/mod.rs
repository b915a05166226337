//! llama.cpp, by the crate `llama-cpp-2`.

mod context;
mod devices;
mod inspect;
mod libraries;
mod model;
mod runtime;

pub use context::{ContextSettings, LlamaEngine, default_threads};
pub use devices::{devices, placement};
pub use inspect::{InspectError, inspect};
pub use libraries::{LibraryError, engine_folder};
pub use model::{LoadError, Model, ModelSettings};
pub use runtime::{Runtime, build_name, prepare_process};
