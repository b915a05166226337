//! The devices of this machine, as the worker's engine sees them.
//!
//! Asking the engine starts a process, so the answer is kept until somebody asks for a fresh one.

mod choose;

use std::sync::{Mutex, MutexGuard, PoisonError};

use worker_contract::{Device, DeviceId};

pub(crate) use self::choose::NoDevice;
use self::choose::choose;
use crate::changes::Changes;
use crate::worker_binary::{AskError, WorkerBinary};

/// The known devices.
#[derive(Debug)]
pub(crate) struct Devices {
    binary: WorkerBinary,
    changes: Changes,
    known: Mutex<Vec<Device>>,
}

/// No device for a worker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    /// The devices are not known.
    #[error("the devices of this machine are not known")]
    Ask(#[from] AskError),
    /// They are, and the right one is not among them.
    #[error(transparent)]
    NoDevice(#[from] NoDevice),
}

impl Devices {
    /// No device is known until the first [`Self::refresh`].
    pub(crate) fn new(binary: WorkerBinary, changes: Changes) -> Self {
        Self { binary, changes, known: Mutex::default() }
    }

    /// The devices as they were when the engine was last asked.
    pub(crate) fn list(&self) -> Vec<Device> {
        self.known().clone()
    }

    /// Asks the engine.
    pub(crate) async fn refresh(&self) -> Result<(), AskError> {
        let found = self.binary.devices().await?;
        *self.known() = found;
        self.changes.note();
        Ok(())
    }

    /// The device for a worker; one that is not known may have come since the engine was asked.
    pub(crate) async fn choose(&self, asked: Option<DeviceId>) -> Result<DeviceId, DeviceError> {
        if let Ok(chosen) = choose(&self.known(), asked) {
            return Ok(chosen);
        }
        self.refresh().await?;
        Ok(choose(&self.known(), asked)?)
    }

    fn known(&self) -> MutexGuard<'_, Vec<Device>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
