//! Why a supervisor does not do what it was asked to.

use std::io;

use worker_contract::{DeviceId, ModelAlias, WorkerId};

use super::failure::first_line;
use crate::ports::NoFreePort;

/// A worker could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The hive ends.
    #[error("the hive is stopping")]
    Stopping,
    /// No port is left.
    #[error(transparent)]
    Ports(#[from] NoFreePort),
    /// The same failed too often.
    #[error("{model} on {device} is not started again: worker {worker} failed, {}", first_line(.reason).0)]
    GivenUp {
        /// The worker that failed.
        worker: WorkerId,
        /// What it ran.
        model: ModelAlias,
        /// On what.
        device: DeviceId,
        /// How often, and why.
        reason: String,
    },
    /// Its log file cannot be made.
    #[error("the worker's log file cannot be written")]
    Log(#[source] io::Error),
    /// The system refused the process.
    #[error("the worker's process cannot be started")]
    Process(#[source] io::Error),
}

/// A supervisor cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    /// What it knows its workers by cannot be read or made.
    #[error("the file worker-tokens in the run folder cannot be written")]
    Tokens(#[source] io::Error),
    /// No HTTP client can be made.
    #[error("no HTTP client can be made")]
    Client(#[source] reqwest::Error),
}

/// There is no such worker.
#[derive(Debug, thiserror::Error)]
#[error("there is no worker {0} on this hive")]
pub(crate) struct UnknownWorker(pub(crate) WorkerId);

/// A worker is not restarted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoRestart {
    /// There is none.
    #[error(transparent)]
    Unknown(#[from] UnknownWorker),
    /// Somebody else is at it.
    #[error("worker {0} is being restarted already")]
    Busy(WorkerId),
    /// A hive that kept no plans has started it.
    #[error("it is not known how worker {0} was started: an older hive did that")]
    NoPlan(WorkerId),
}
