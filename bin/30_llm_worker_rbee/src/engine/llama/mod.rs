//! llama.cpp, by the crate `llama-cpp-2`.

mod attention;
mod cache_tensor;
mod context;
mod cuts;
mod devices;
mod engine_log;
mod host_memory;
mod inspect;
mod libraries;
mod lora;
mod media_batch;
mod memory_check;
mod memory_estimate;
mod memory_need;
mod model;
mod model_params;
mod placement;
mod pooled;
mod pooling;
mod raw;
mod rerank;
mod runtime;
mod tokenize;
mod vision;

pub use attention::{AttentionSettings, CacheType, FlashAttention, NeedsFlashAttention};
pub use cache_tensor::CacheTensorTooLarge;
pub use context::{ContextSettings, LlamaEngine, default_threads};
pub use devices::devices;
pub use inspect::{InspectError, check_file, inspect, parts};
pub use libraries::{LibraryError, engine_folder};
pub use lora::{AdapterError, AdapterSettings};
pub use memory_need::NotEnoughMemory;
pub use model::{CheckedFile, LoadError, Model, ModelSettings};
pub use model_params::NoFit;
pub use placement::{GpuLayers, Placement, PlacementError, SplitMode};
pub use pooled::{LlamaPooledEngine, PooledContextError, PooledSettings};
pub use pooling::{Pooling, Purpose, PurposeError};
pub use runtime::{Runtime, build_name, prepare_process};
pub use tokenize::{NotTokenized, TokenCount};
pub use vision::{
    Chunk, Chunks, EncodeError, ImageChunk, Picture, Vision, VisionError, VisionSettings,
};
