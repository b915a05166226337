//! The devices of this machine: which there are is what the worker's engine sees, how they are what the
//! system tells.
//!
//! Asking the engine starts a process, so the answer is kept until somebody asks for a fresh one. The
//! system is asked every few seconds. A device that disappears stays on the list, as gone.

mod choose;
mod fit;
mod readings;
mod reserve;
#[cfg(test)]
mod sample;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use worker_contract::{Device, DeviceId};

pub(crate) use self::choose::NoDevice;
use self::choose::choose;
pub(crate) use self::fit::Fit;
use self::readings::Readings;
pub(crate) use self::reserve::{Reservation, Reservations, TooLittleMemory};
use crate::changes::Changes;
use crate::worker_binary::{AskError, WorkerBinary};

/// How often the system is asked.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The known devices. A clone knows the same.
#[derive(Debug, Clone)]
pub(crate) struct Devices {
    binary: WorkerBinary,
    changes: Changes,
    known: Arc<Mutex<Vec<Device>>>,
    readings: Arc<Mutex<Readings>>,
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
        let readings = Arc::new(Mutex::new(Readings::new()));
        Self { binary, changes, known: Arc::default(), readings }
    }

    /// The devices as they were last seen.
    pub(crate) fn list(&self) -> Vec<Device> {
        self.known().clone()
    }

    /// Asks the engine. What it does not see any more is gone.
    pub(crate) async fn refresh(&self) -> Result<(), AskError> {
        let found = self.binary.devices().await?;
        self.replace(found);
        self.look().await;
        self.changes.note();
        Ok(())
    }

    /// Asks the system how the devices are.
    pub(crate) async fn look(&self) {
        let devices = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut list = devices.list();
            devices.readings.lock().unwrap_or_else(PoisonError::into_inner).update(&mut list);
            list
        });
        let Ok(list) = read.await else { return };
        for seen in list {
            self.take_in(seen);
        }
    }

    /// Looks every few seconds, until it is told to stop.
    pub(crate) async fn keep_looking(self, stop: CancellationToken) {
        let mut clock = tokio::time::interval(LOOK_EVERY);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = clock.tick() => self.look().await,
                () = stop.cancelled() => return,
            }
        }
    }

    /// What is free on a device, in bytes, as the system says at this moment; `None` where it does not.
    pub(crate) async fn free(&self) -> impl Fn(DeviceId) -> Option<u64> + use<> {
        self.look().await;
        let list = self.list();
        move |id| {
            let device = list.iter().find(|device| device.id == id)?;
            (device.memory_total_bytes > 0).then_some(device.memory_free_bytes)
        }
    }

    /// The device for a worker; one that is not known may have come since the engine was asked.
    pub(crate) async fn choose(&self, asked: Option<DeviceId>) -> Result<DeviceId, DeviceError> {
        if let Ok(chosen) = choose(&self.known(), asked) {
            return Ok(chosen);
        }
        self.refresh().await?;
        Ok(choose(&self.known(), asked)?)
    }

    /// Takes the engine's list; what was there before and is not in it stays as gone.
    fn replace(&self, found: Vec<Device>) {
        let mut known = self.known();
        let missing: Vec<Device> = known
            .iter()
            .filter(|device| !found.iter().any(|other| other.id == device.id))
            .map(|device| Device { is_gone: true, memory_free_bytes: 0, ..device.clone() })
            .collect();
        for device in
            missing.iter().filter(|gone| known.iter().any(|d| d.id == gone.id && !d.is_gone))
        {
            tracing::warn!(device = %device.id, name = device.name, "the engine sees a device no longer");
        }
        *known = found;
        known.extend(missing);
        known.sort_by_key(|device| device.id);
    }

    fn take_in(&self, seen: Device) {
        let mut known = self.known();
        let Some(device) = known.iter_mut().find(|device| device.id == seen.id) else { return };
        let vanished = seen.is_gone && !device.is_gone;
        *device = seen;
        if vanished {
            tracing::warn!(device = %device.id, name = device.name, "a device has disappeared");
            self.changes.note();
        }
    }

    fn known(&self) -> MutexGuard<'_, Vec<Device>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::sample::device;
    use super::*;

    #[test]
    fn a_device_that_the_engine_sees_no_longer_is_gone_until_it_is_back() {
        let devices = Devices::new(WorkerBinary::new(None), Changes::default());
        devices.replace(vec![device("CPU-0"), device("GPU-0")]);
        devices.replace(vec![device("CPU-0")]);
        let gone: Vec<_> = devices.list().iter().map(|d| (d.id.to_string(), d.is_gone)).collect();
        assert_eq!(gone, [("CPU-0".to_owned(), false), ("GPU-0".to_owned(), true)]);
        devices.replace(vec![device("CPU-0"), device("GPU-0")]);
        assert!(devices.list().iter().all(|device| !device.is_gone));
    }
}
