//! What a worker has of the machine beside its process and its port.

use worker_contract::{ModelAlias, WorkerId};

use crate::catalog::InUse;
use crate::device::Reservation;

/// What a worker holds as long as it runs or is to be started again.
///
/// Whoever asks for a worker takes these first, so that two who ask at once cannot both get what is
/// there once. They are given back, by being dropped, before others can see that the worker has ended:
/// on every path, be it stopped, failed or never started.
#[derive(Debug)]
pub(crate) struct Holdings {
    /// Keeps the model's file from being deleted; `None` for an adopted worker whose model is just
    /// being removed.
    _model: Option<InUse>,
    /// What it is promised of devices' memory; `None` where nobody knows how much that is.
    memory: Option<Reservation>,
}

/// A worker and what it needs of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) worker: WorkerId,
    pub(crate) model: ModelAlias,
    pub(crate) bytes: u64,
}

impl Holdings {
    /// Those of a worker that uses this model.
    pub(crate) fn new(model: Option<InUse>, memory: Option<Reservation>) -> Self {
        Self { _model: model, memory }
    }

    /// The same with memory.
    pub(crate) fn with_memory(self, memory: Reservation) -> Self {
        Self { memory: Some(memory), ..self }
    }

    /// The worker has a process, which takes its memory.
    pub(super) fn being_taken(&self) {
        if let Some(memory) = &self.memory {
            memory.being_taken();
        }
    }

    /// The worker is ready: its memory is taken.
    pub(super) fn taken(&self) {
        if let Some(memory) = &self.memory {
            memory.taken();
        }
    }

    /// Its process is gone, and another one will be started.
    pub(super) fn to_be_taken(&self) {
        if let Some(memory) = &self.memory {
            memory.to_be_taken();
        }
    }
}
