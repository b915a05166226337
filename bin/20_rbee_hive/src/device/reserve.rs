//! Memory that is promised to workers which have not taken it yet, so that two that start at once
//! cannot both count on it. Pure but for the lock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytesize::ByteSize;
use worker_contract::{DeviceId, MemoryNeed};

/// What is promised on all devices.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reservations {
    book: Arc<Mutex<Book>>,
}

#[derive(Debug, Default)]
struct Book {
    next_number: u64,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    needs: Vec<(DeviceId, u64)>,
    /// Whether the worker has the memory, so that it is no longer among what is free.
    is_taken: bool,
}

/// What one worker is promised, from before its start to its end.
#[derive(Debug)]
pub(crate) struct Reservation {
    number: u64,
    reservations: Reservations,
}

/// A device has too little memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{device} cannot hold this: {} are needed (weights {}, context {}, computing {}), and {} are free{}",
    ByteSize(need.least_bytes()),
    ByteSize(need.weights_bytes),
    ByteSize(need.context_bytes),
    ByteSize(need.compute_bytes),
    ByteSize(*free),
    promised_words(*promised)
)]
pub(crate) struct TooLittleMemory {
    device: DeviceId,
    need: MemoryNeed,
    /// What is free, in bytes.
    free: u64,
    /// How much of that is promised to others.
    promised: u64,
}

fn promised_words(promised: u64) -> String {
    if promised == 0 {
        return String::new();
    }
    format!(", of which {} are promised to workers that are starting", ByteSize(promised))
}

impl Reservations {
    /// Promises a worker what it needs. `free` tells what is free on a device; where it does not know,
    /// nothing is refused.
    ///
    /// Weights that stay in the file are not counted: a machine that reads them again and again is slow,
    /// and its user's choice.
    pub(crate) fn reserve(
        &self,
        needs: &[MemoryNeed],
        free: impl Fn(DeviceId) -> Option<u64>,
    ) -> Result<Reservation, TooLittleMemory> {
        let mut book = self.book();
        for need in needs {
            let Some(free) = free(need.device) else { continue };
            let promised = book.promised(need.device);
            if need.least_bytes().saturating_add(promised) > free {
                let (device, need) = (need.device, need.clone());
                return Err(TooLittleMemory { device, need, free, promised });
            }
        }
        let number = book.next_number;
        book.next_number += 1;
        let needs = needs.iter().map(|need| (need.device, need.least_bytes())).collect();
        book.entries.push(Entry { number, needs, is_taken: false });
        drop(book);
        Ok(Reservation { number, reservations: self.clone() })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// What is promised on a device and not taken yet, in bytes.
    fn promised(&self, device: DeviceId) -> u64 {
        let open = self.entries.iter().filter(|entry| !entry.is_taken);
        let needs = open.flat_map(|entry| &entry.needs).filter(|(of, _)| *of == device);
        needs.map(|(_, bytes)| bytes).sum()
    }
}

impl Reservation {
    /// The worker has a process that is ready: what it needs is taken.
    pub(crate) fn taken(&self) {
        self.mark(true);
    }

    /// Its process is gone and another one will be started: what it needs is to be taken again.
    pub(crate) fn to_be_taken(&self) {
        self.mark(false);
    }

    fn mark(&self, is_taken: bool) {
        let mut book = self.reservations.book();
        if let Some(entry) = book.entries.iter_mut().find(|entry| entry.number == self.number) {
            entry.is_taken = is_taken;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.reservations.book().entries.retain(|entry| entry.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_cannot_be_promised_again_until_it_is_given_back() {
        let all = Reservations::default();
        let free = |_| Some(100);
        let first = all.reserve(&[need("GPU-0", 60)], free).unwrap();
        let refused = all.reserve(&[need("GPU-0", 60)], free).unwrap_err();
        assert_eq!((refused.free, refused.promised), (100, 60));
        assert!(refused.to_string().contains("promised to workers that are starting"));
        let small = all.reserve(&[need("GPU-0", 40)], free).unwrap();
        assert!(all.reserve(&[need("GPU-1", 100)], free).is_ok(), "another device");
        drop(first);
        assert!(all.reserve(&[need("GPU-0", 61)], free).is_err());
        assert!(all.reserve(&[need("GPU-0", 60)], free).is_ok());
        drop(small);
        assert_eq!(all.book().entries.len(), 0);
    }

    #[test]
    fn what_a_worker_has_taken_is_no_longer_among_the_free() {
        let all = Reservations::default();
        let first = all.reserve(&[need("GPU-0", 60)], |_| Some(100)).unwrap();
        first.taken();
        let second = all.reserve(&[need("GPU-0", 40)], |_| Some(40)).unwrap();
        drop(second);
        // Its process has crashed, and the next one is on its way.
        first.to_be_taken();
        assert!(all.reserve(&[need("GPU-0", 60)], |_| Some(100)).is_err());
    }

    #[test]
    fn nothing_is_promised_where_one_of_several_devices_is_too_small() {
        let all = Reservations::default();
        let free = |id: DeviceId| Some(if id.index == 0 { 100 } else { 10 });
        assert!(all.reserve(&[need("GPU-0", 60), need("GPU-1", 60)], free).is_err());
        assert!(all.reserve(&[need("GPU-0", 100)], free).is_ok());
        assert!(all.reserve(&[need("GPU-0", u64::MAX)], |_| None).is_ok(), "nobody knows");
    }

    fn need(device: &str, weights_bytes: u64) -> MemoryNeed {
        MemoryNeed {
            device: device.parse().unwrap(),
            weights_bytes,
            mapped_bytes: u64::MAX,
            context_bytes: 0,
            compute_bytes: 0,
        }
    }
}
