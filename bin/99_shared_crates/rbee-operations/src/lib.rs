//! What a job can do, and how jobs look on the wire.
//!
//! An [`Operation`] is sent as `{"operation": {"WorkerSpawn": {…}}}`. Keeper and queen, queen and
//! hive use the same types. This crate decides nothing but which side an operation belongs to.
#![warn(missing_docs)]

mod attached;
mod fit;
mod job;
mod machine;
mod model;
mod model_ref;
mod operation;
mod policy;
mod projector;
mod ssh_target;
mod wished;

pub use attached::{
    AttachedServer, AttachedWorker, ServerApi, WorkerAttach, WorkerDetach, without_user,
};
pub use fit::{FitReport, LARGER_THAN_DEVICE, NOT_ENOUGH_MEMORY, WorkerFit, is_want_of_memory};
pub use job::{
    DONE_MARKER, EventLevel, JobCreated, JobEvent, JobList, JobState, JobSummary, LISTED_JOBS,
    MAX_LISTED_JOBS, Pace, Progress, REVOKED, SubmitJob,
};
pub use machine::{
    DiscoveredHive, HiveAdd, HiveDiscover, HiveInstall, HiveLogs, HiveUninstall, SshHost,
};
pub use model::{
    FileOffer, ModelCopy, ModelDownload, ModelDownloadCancel, ModelFetch, ModelGarbage,
    ModelImport, ModelImportStore, ModelName, ModelPin, ModelProjectorSet, ModelStore, ModelUpdate,
    ProjectorOffer,
};
pub use model_ref::{HubRef, InvalidModelRef, ModelRef};
pub use operation::{
    HiveTarget, Infer, ListAll, Listed, ModelTarget, Operation, WorkerExcuse, WorkerLogs,
    WorkerSpawn, WorkerTarget,
};
pub use policy::{ModelPolicy, ModelPolicySet};
pub use projector::{InvalidProjectorChoice, ProjectorChoice};
pub use ssh_target::{InvalidSshTarget, SshTarget};
pub use wished::Wished;
