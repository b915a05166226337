//! The wire types that queen, hive and worker share.
//!
//! One definition for each message; validated names, so that an illegal value cannot travel.
//! This crate knows no HTTP, no process and no file: it only says what the bytes mean.
#![warn(missing_docs)]

mod device;
mod error;
mod event;
mod heartbeat;
mod ids;
mod inference;
mod model;
mod text;

pub use device::{Device, DeviceId, DeviceKind, DeviceLoad, InvalidDeviceId, MemoryNeed};
pub use error::{ApiErrorBody, ErrorDetail, ErrorKind};
pub use event::{
    Delta, FinishReason, InferenceEvent, Timings, TokenLogprob, TokenLogprobs, ToolCallDelta, Usage,
};
pub use heartbeat::{
    HealthReport, HiveHeartbeat, KvCacheUse, ModelInUse, Restarts, Slots, SupervisedState,
    SupervisedWorker, WorkerHeartbeat, WorkerState,
};
pub use ids::{HiveAlias, InvalidName, JobId, ModelAlias, RequestId, WorkerId};
pub use inference::{
    Chat, ChatMessage, Image, InferenceRequest, OutputFormat, Prompt, Role, Sampling, Task,
    TokenId, Tool, ToolCall, ToolChoice,
};
pub use model::{GgufSummary, ModelEntry, ModelKind, ModelProjector, ModelShard, Sha256Digest};
pub use text::{cut, cut_visibly};
