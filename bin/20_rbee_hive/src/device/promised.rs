//! How much of the free memory is spoken for. Pure.
//!
//! A worker takes what it was promised while it loads, so that the same bytes leave what is free and are
//! still promised. What a device lost between two readings while promises were open is therefore taken for
//! theirs, and never more than they are. Weights that stay in their file are another matter: the system calls
//! the memory that holds them free, whether a worker reads them or not, so they count for as long as the
//! worker lives, and once for all workers that read the same file.

use std::collections::BTreeMap;

use worker_contract::{DeviceId, MemoryNeed, Sha256Digest};

/// When a device was read: before or after a worker had all its memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

/// All promises.
///
/// For each device, what is `seen` is never more than what those promises have taken that still count.
#[derive(Debug, Default)]
pub(super) struct Promised {
    moments: u64,
    next_number: u64,
    shares: Vec<Share>,
    devices: BTreeMap<DeviceId, Known>,
}

/// What one worker is promised of one device.
#[derive(Debug)]
struct Share {
    number: u64,
    device: DeviceId,
    bytes: u64,
    mapped_bytes: u64,
    file: Sha256Digest,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The worker takes it, or is about to.
    Open,
    /// The worker has had it since then. Readings of before do not show all of it.
    Taken(Moment),
    /// A reading of after that was taken in: it is no longer among what is free.
    Settled,
}

/// The last reading of a device.
#[derive(Debug)]
struct Known {
    /// Readings of before are not believed.
    at: Moment,
    free: u64,
    /// What left it since promises are open, and is no more than them.
    seen: u64,
}

/// What is in the way of a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InTheWay {
    /// What is free, in bytes.
    pub(super) free: u64,
    /// How much of that workers will take.
    pub(super) owed: u64,
    /// How much of that holds the weights of workers.
    pub(super) mapped: u64,
}

impl Promised {
    /// To be asked for before devices are read.
    pub(super) fn moment(&mut self) -> Moment {
        self.moments += 1;
        Moment(self.moments)
    }

    /// Takes in what was free on a device, as read since that moment, and gives what is known of it since
    /// the latest reading.
    pub(super) fn look(&mut self, device: DeviceId, free: u64, at: Moment) -> InTheWay {
        let open = self.open(device);
        let known = self.devices.entry(device).or_insert(Known { at, free, seen: 0 });
        if known.at <= at {
            let lost = known.free.saturating_sub(free);
            known.seen = known.seen.saturating_add(lost).min(open);
            (known.at, known.free) = (at, free);
            for share in self.shares.iter_mut().filter(|share| share.device == device) {
                if matches!(share.state, State::Taken(since) if since <= at) {
                    share.state = State::Settled;
                    known.seen = known.seen.saturating_sub(share.bytes);
                }
            }
        }
        let (free, seen) = (known.free, known.seen);
        InTheWay { free, owed: self.open(device).saturating_sub(seen), mapped: self.mapped(device) }
    }

    /// Promises a worker what it needs.
    pub(super) fn promise(&mut self, needs: &[MemoryNeed], file: &Sha256Digest) -> u64 {
        self.next_number += 1;
        let number = self.next_number;
        self.shares.extend(needs.iter().map(|need| Share {
            number,
            device: need.device,
            bytes: need.least_bytes(),
            mapped_bytes: need.mapped_bytes,
            file: file.clone(),
            state: State::Open,
        }));
        number
    }

    /// The worker has all of it.
    pub(super) fn taken(&mut self, number: u64) {
        let now = self.moment();
        for share in self.shares.iter_mut().filter(|share| share.number == number) {
            if share.state == State::Open {
                share.state = State::Taken(now);
            }
        }
    }

    /// The worker has had all of it for so long that nothing is left to be seen.
    pub(super) fn settled(&mut self, number: u64) {
        for share in self.shares.iter_mut().filter(|share| share.number == number) {
            share.state = State::Settled;
        }
    }

    /// The worker has lost it and will take it again.
    pub(super) fn lost(&mut self, number: u64) {
        let now = self.moment();
        for share in self.shares.iter_mut().filter(|share| share.number == number) {
            unsee(&mut self.devices, share, now);
            share.state = State::Open;
        }
    }

    /// The worker has ended.
    pub(super) fn give_back(&mut self, number: u64) {
        let now = self.moment();
        for share in self.shares.extract_if(.., |share| share.number == number) {
            unsee(&mut self.devices, &share, now);
        }
    }

    /// What the weights of workers hold of a device, as read from their files.
    pub(super) fn mapped(&self, device: DeviceId) -> u64 {
        let mut files: BTreeMap<&str, u64> = BTreeMap::new();
        for share in self.shares.iter().filter(|share| share.device == device) {
            let bytes = files.entry(share.file.as_hex()).or_default();
            *bytes = share.mapped_bytes.max(*bytes);
        }
        files.values().copied().fold(0, u64::saturating_add)
    }

    /// What of a file's weights is held already.
    pub(super) fn mapped_of(&self, device: DeviceId, file: &Sha256Digest) -> u64 {
        let of_it =
            self.shares.iter().filter(|share| share.device == device && share.file == *file);
        of_it.map(|share| share.mapped_bytes).max().unwrap_or(0)
    }

    /// What is promised, and no reading shows all of it.
    fn open(&self, device: DeviceId) -> u64 {
        let shares = self.shares.iter().filter(|share| share.device == device);
        let open = shares.filter(|share| share.state != State::Settled);
        open.map(|share| share.bytes).fold(0, u64::saturating_add)
    }
}

/// What was taken of a share is free again, and so nothing that was seen may be on its account. Which part of
/// that was, nobody knows: all of it, at worst. Readings of before would show it once more.
fn unsee(devices: &mut BTreeMap<DeviceId, Known>, share: &Share, now: Moment) {
    if share.state != State::Settled
        && let Some(known) = devices.get_mut(&share.device)
    {
        known.seen = known.seen.saturating_sub(share.bytes);
        known.at = now;
    }
}
