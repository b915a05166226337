//! Memory that is promised to workers, so that two that start at once cannot both count on it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytesize::ByteSize;
use tokio::sync::Notify;
use worker_contract::{Device, DeviceId, MemoryNeed, Sha256Digest};

use super::promised::{InTheWay, Limit, Moment, Promised};
use crate::supervisor::WorkerPlan;

/// What is promised on all devices. A clone is the same book.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reservations {
    book: Arc<Mutex<Promised>>,
    overcommits: bool,
    most: Option<u64>,
    /// Fires when a worker has taken its memory, or has given it back.
    moved: Arc<Notify>,
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
    "{device} cannot hold this: {} are needed (weights {}, context {}, computing {}), and {}",
    ByteSize(need.total_bytes()),
    ByteSize(need.weights_bytes.saturating_add(need.mapped_bytes)),
    ByteSize(need.context_bytes),
    ByteSize(need.compute_bytes),
    words(others)
)]
pub(crate) struct TooLittleMemory {
    pub(crate) device: DeviceId,
    /// What is needed; without weights that may be read again and again.
    pub(crate) need: MemoryNeed,
    others: InTheWay,
}

/// What there is, and who has it.
fn words(others: &InTheWay) -> String {
    let limit = others.limit.filter(|_| others.is_for_limit());
    let (there, uses) = if let Some(Limit { most, starting, running }) = limit {
        let there = format!("workers may have {} in all ([hive] memory)", ByteSize(most));
        (there, [(starting, STARTING), (others.mapped, WEIGHTS), (running, RUNNING)])
    } else {
        let there = format!("{} are free", ByteSize(others.free));
        (there, [(others.owed, STARTING), (others.mapped, WEIGHTS), (0, RUNNING)])
    };
    let uses = uses.into_iter().filter(|(bytes, _)| *bytes > 0);
    let uses: Vec<_> = uses.map(|(bytes, what)| format!("{} {what}", ByteSize(bytes))).collect();
    match uses.as_slice() {
        [] => there,
        [first @ .., last] if !first.is_empty() => {
            format!("{there}, of which {} and {last}", first.join(", "))
        }
        only => format!("{there}, of which {}", only.concat()),
    }
}

const STARTING: &str = "are promised to workers that are starting";
const WEIGHTS: &str = "hold the weights of running workers";
const RUNNING: &str = "are what running workers have besides";

impl TooLittleMemory {
    /// Whether it would do if weights were read from their files again and again.
    pub(crate) fn is_for_weights_in_files(&self) -> bool {
        let without = InTheWay { mapped: 0, ..self.others };
        let least = self.need.least_bytes();
        self.need.mapped_bytes > 0
            && least <= without.left()
            && without.left_of_limit().is_none_or(|left| least <= left)
    }

    /// Whether it would do if so many bytes more were left.
    pub(crate) fn would_do_with(&self, more: u64) -> bool {
        let left = self.others.left().min(self.others.left_of_limit().unwrap_or(u64::MAX));
        self.need.total_bytes() <= left.saturating_add(more)
    }

    /// Whether it would do if workers might have more of what there is.
    pub(crate) fn is_for_limit(&self) -> bool {
        self.others.is_for_limit()
    }
}

impl Reservations {
    /// Nothing is promised. Where it `overcommits`, weights that stay in their files do not count: a machine
    /// that reads them again and again is slow, and its user's choice.
    /// Of main memory workers get no more than `most` in all, where that is given.
    pub(crate) fn new(overcommits: bool, most: Option<u64>) -> Self {
        let book = Arc::new(Mutex::new(Promised::of_at_most(most)));
        Self { book, overcommits, most, moved: Arc::default() }
    }

    /// Waits until a worker has taken its memory or given it back, if none has since the last call.
    pub(super) async fn moved(&self) {
        self.moved.notified().await;
    }

    /// What workers may have of main memory, where not all of it is theirs.
    pub(crate) fn most(&self) -> Option<u64> {
        self.most
    }

    /// To be asked for before devices are read.
    pub(crate) fn moment(&self) -> Moment {
        self.book().moment()
    }

    /// Takes in how the devices are, as read since a moment.
    pub(crate) fn read(&self, devices: &[Device], since: Moment) {
        let mut book = self.book();
        let told = devices.iter().filter(|device| device.memory_total_bytes > 0 && !device.is_gone);
        for device in told {
            book.look(device.id, device.memory_free_bytes, since);
        }
    }

    /// Promises a worker of this model file what it needs. Where nobody knows what is free, nothing is
    /// refused.
    pub(crate) fn reserve(
        &self,
        needs: &[MemoryNeed],
        file: &Sha256Digest,
        reading: &Reading<impl Fn(DeviceId) -> Option<u64>>,
    ) -> Result<Reservation, TooLittleMemory> {
        let needs = self.counted_all(needs);
        let mut book = self.book();
        for need in &needs {
            let Some(free) = (reading.free)(need.device) else { continue };
            let others = book.look(need.device, free, reading.since);
            if !others.have_room_for(need, book.mapped_of(need.device, file)) {
                return Err(TooLittleMemory { device: need.device, need: need.clone(), others });
            }
        }
        let number = book.promise(&needs, file);
        drop(book);
        Ok(Reservation { number, reservations: self.clone() })
    }

    /// Why a worker of this model file would be refused what it needs when those that are `leaving` had
    /// ended; `None` if it would not, or where nobody knows what they have.
    pub(crate) fn would_refuse(
        &self,
        needs: &[MemoryNeed],
        file: &Sha256Digest,
        leaving: &[WorkerPlan],
        reading: &Reading<impl Fn(DeviceId) -> Option<u64>>,
    ) -> Option<TooLittleMemory> {
        let leaving: Vec<_> = leaving
            .iter()
            .map(|plan| (&plan.digest, plan.memory.iter().map(|need| self.counted(need)).collect()))
            .collect();
        let leaves_unknown = leaving.iter().any(|(_, memory): &(_, Vec<_>)| memory.is_empty());
        let mut book = self.book();
        let refused = needs.iter().map(|need| self.counted(need)).find_map(|need| {
            let free = (reading.free)(need.device)?;
            let others = book.look(need.device, free, reading.since);
            let (others, held) = book.without(need.device, file, others, &leaving);
            let is_refused = !others.have_room_for(&need, held);
            is_refused.then_some(TooLittleMemory { device: need.device, need, others })
        });
        refused.filter(|_| !leaves_unknown)
    }

    /// What counts of needs.
    pub(crate) fn counted_all(&self, needs: &[MemoryNeed]) -> Vec<MemoryNeed> {
        needs.iter().map(|need| self.counted(need)).collect()
    }

    /// The reservation of a worker that gets what it needs whatever is free, as one of an earlier hive.
    pub(crate) fn adopt(&self, needs: &[MemoryNeed], file: &Sha256Digest) -> Reservation {
        let number = self.book().promise(&self.counted_all(needs), file);
        Reservation { number, reservations: self.clone() }
    }

    /// The devices as whoever places workers has to see them: what the weights of workers hold is not
    /// free, though the system calls it so, nor is what is beyond the limit.
    pub(crate) fn without_held(&self, devices: Vec<Device>) -> Vec<Device> {
        let book = self.book();
        let without = |device: Device| {
            let (free, mapped) = (device.memory_free_bytes, book.mapped(device.id));
            let others = InTheWay { free, owed: 0, mapped, limit: book.limit(device.id) };
            let left = others.left().min(others.left_of_limit().unwrap_or(u64::MAX));
            Device { memory_free_bytes: left, ..device }
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
    /// The worker has a process, which takes what it needs.
    pub(crate) fn being_taken(&self) {
        self.reservations.book().begun(self.number);
    }

    /// The worker has a process of an earlier hive, which has so much main memory of its own by now and takes
    /// the rest.
    pub(crate) fn partly_taken(&self, main_memory: u64) {
        self.reservations.book().found(self.number, main_memory);
    }

    /// The worker has had all of it since before anybody looked.
    pub(crate) fn settled(&self) {
        self.reservations.book().settled(self.number);
    }

    /// The worker has a process that is ready: what it needs is taken.
    pub(crate) fn taken(&self) {
        self.reservations.book().taken(self.number);
        self.reservations.moved.notify_one();
    }

    /// Its process is gone and another one will be started: what it needs is to be taken again.
    pub(crate) fn to_be_taken(&self) {
        self.reservations.book().lost(self.number);
        self.reservations.moved.notify_one();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.reservations.book().give_back(self.number);
        self.reservations.moved.notify_one();
    }
}

#[cfg(test)]
mod tests;
