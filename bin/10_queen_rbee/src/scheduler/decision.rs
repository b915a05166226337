//! What becomes of a request.

use worker_contract::{DeviceId, HiveAlias, WorkerId};

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// A worker gets it.
    Dispatch {
        /// Which one.
        worker: WorkerId,
    },
    /// A worker is started for it.
    Spawn {
        /// Where.
        hive: HiveAlias,
        /// On what; `None` where the hive has to choose.
        device: Option<DeviceId>,
    },
    /// It waits for a worker that is there or coming.
    Wait,
    /// It cannot be served.
    Reject {
        /// Why.
        reason: RejectReason,
        /// When it is worth trying again, in seconds.
        retry_after_s: Option<u64>,
    },
}

/// Why a request cannot be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RejectReason {
    /// No worker runs the model, and no catalog has it.
    UnknownModel,
    /// The only hive whose catalog has the model is gone.
    HiveGone {
        /// The hive.
        hive: HiveAlias,
    },
    /// The workers of the model are ending or unreachable, and no catalog has it.
    NoWorkerLeft,
}
