//! What a job can do, and how jobs look on the wire.
//!
//! An [`Operation`] is sent as `{"operation": {"WorkerSpawn": {…}}}`. Keeper and queen, queen and
//! hive use the same types. This crate decides nothing but which side an operation belongs to.
#![warn(missing_docs)]

mod job;
mod operation;

pub use job::{
    DONE_MARKER, EventLevel, JobCreated, JobEvent, JobState, JobSummary, Progress, SubmitJob,
};
pub use operation::{
    HiveTarget, Infer, ModelImport, ModelTarget, Operation, WorkerSpawn, WorkerTarget,
};
