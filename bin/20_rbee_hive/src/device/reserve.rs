//! Memory that is promised to workers, so that two that start at once cannot both count on it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytesize::ByteSize;
use worker_contract::{Device, DeviceId, MemoryNeed, Sha256Digest};

use super::promised::{InTheWay, Moment, Promised};

/// What is promised on all devices. A clone is the same book.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reservations {
    book: Arc<Mutex<Promised>>,
    overcommits: bool,
}

/// What one worker is promised, from before its start to its end.
#[derive(Debug)]
pub(crate) struct Reservation {
    number: u64,
    reservations: Reservations,
}

/// What was free on each device, as read since a moment.
pub(crate) struct Reading<Free> {
    /// From [`Reservations::moment`], asked for before the devices were read.
    pub(crate) since: Moment,
    /// Tells what is free on a device, in bytes; `None` where nobody knows.
    pub(crate) free: Free,
}

/// A device has too little memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{device} cannot hold this: {} are needed (weights {}, context {}, computing {}), and {} are free{}",
    ByteSize(need.total_bytes()),
    ByteSize(need.weights_bytes.saturating_add(need.mapped_bytes)),
    ByteSize(need.context_bytes),
    ByteSize(need.compute_bytes),
    ByteSize(others.free),
    promised_words(*others)
)]
pub(crate) struct TooLittleMemory {
    device: DeviceId,
    /// What is needed; without weights that may be read again and again.
    need: MemoryNeed,
    others: InTheWay,
}

fn promised_words(InTheWay { owed, mapped, .. }: InTheWay) -> String {
    let promised = format!("{} are promised to workers that are starting", ByteSize(owed));
    let held = format!("{} hold the weights of running workers", ByteSize(mapped));
    match (owed, mapped) {
        (0, 0) => String::new(),
        (_, 0) => format!(", of which {promised}"),
        (0, _) => format!(", of which {held}"),
        _ => format!(", of which {promised} and {held}"),
    }
}

impl TooLittleMemory {
    /// Whether it would do if weights were read from their files again and again.
    pub(crate) fn is_for_weights_in_files(&self) -> bool {
        self.need.least_bytes().saturating_add(self.others.owed) <= self.others.free
    }
}

impl Reservations {
    /// Nothing is promised. Where it `overcommits`, weights that stay in their files do not count: a machine
    /// that reads them again and again is slow, and its user's choice.
    pub(crate) fn new(overcommits: bool) -> Self {
        Self { book: Arc::default(), overcommits }
    }

    /// To be asked for before devices are read.
    pub(crate) fn moment(&self) -> Moment {
        self.book().moment()
    }

    /// Promises a worker of this model file what it needs. Where nobody knows what is free, nothing is
    /// refused.
    pub(crate) fn reserve(
        &self,
        needs: &[MemoryNeed],
        file: &Sha256Digest,
        reading: &Reading<impl Fn(DeviceId) -> Option<u64>>,
    ) -> Result<Reservation, TooLittleMemory> {
        let needs: Vec<_> = needs.iter().map(|need| self.counted(need)).collect();
        let mut book = self.book();
        for need in &needs {
            let Some(free) = (reading.free)(need.device) else { continue };
            let others = book.look(need.device, free, reading.since);
            let shared = book.mapped_of(need.device, file).min(need.mapped_bytes);
            let in_all = [need.total_bytes() - shared, others.owed, others.mapped];
            if in_all.into_iter().fold(0, u64::saturating_add) > others.free {
                return Err(TooLittleMemory { device: need.device, need: need.clone(), others });
            }
        }
        let number = book.promise(&needs, file);
        drop(book);
        Ok(Reservation { number, reservations: self.clone() })
    }

    /// The reservation of a worker of an earlier hive, which was not asked.
    pub(crate) fn adopt(
        &self,
        needs: &[MemoryNeed],
        file: &Sha256Digest,
        is_taken: bool,
    ) -> Reservation {
        let needs: Vec<_> = needs.iter().map(|need| self.counted(need)).collect();
        let mut book = self.book();
        let number = book.promise(&needs, file);
        if is_taken {
            book.settled(number);
        }
        drop(book);
        Reservation { number, reservations: self.clone() }
    }

    /// The devices as whoever places workers has to see them: what the weights of workers hold is not
    /// free, though the system calls it so.
    pub(crate) fn without_held(&self, devices: Vec<Device>) -> Vec<Device> {
        let book = self.book();
        let without = |device: Device| {
            let free = device.memory_free_bytes.saturating_sub(book.mapped(device.id));
            Device { memory_free_bytes: free, ..device }
        };
        devices.into_iter().map(without).collect()
    }

    fn counted(&self, need: &MemoryNeed) -> MemoryNeed {
        let mapped_bytes = if self.overcommits { 0 } else { need.mapped_bytes };
        MemoryNeed { mapped_bytes, ..need.clone() }
    }

    fn book(&self) -> MutexGuard<'_, Promised> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// The worker has a process that is ready: what it needs is taken.
    pub(crate) fn taken(&self) {
        self.reservations.book().taken(self.number);
    }

    /// Its process is gone and another one will be started: what it needs is to be taken again.
    pub(crate) fn to_be_taken(&self) {
        self.reservations.book().lost(self.number);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.reservations.book().give_back(self.number);
    }
}

#[cfg(test)]
mod tests;
