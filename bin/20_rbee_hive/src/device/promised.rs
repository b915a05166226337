//! How much of the free memory is spoken for. Pure.
//!
//! A worker takes what it was promised while it loads, so that the same bytes leave what is free and are
//! still promised. What a device lost between two readings while promises were open is therefore taken for
//! theirs, and never more than they are. Weights that stay in their file are another matter: the system calls
//! the memory that holds them free, whether a worker reads them or not, so they count for as long as the
//! worker lives, and once for all workers that read the same file.
//!
//! Where workers may have no more than so much of main memory, no reading tells how much of that they have: what
//! they are promised counts, for as long as they live.

use std::collections::BTreeMap;

use worker_contract::{DeviceId, DeviceKind, MemoryNeed, Sha256Digest};

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
    /// What all workers may have of main memory, where not all of it is theirs.
    most: Option<u64>,
}

/// What one worker is promised of one device.
#[derive(Debug)]
struct Share {
    number: u64,
    device: DeviceId,
    bytes: u64,
    /// What of them the worker had before anybody looked.
    had: u64,
    mapped_bytes: u64,
    file: Sha256Digest,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is no process that could take it.
    Waiting,
    /// The worker takes it.
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
    /// What workers may have, where that is limited.
    pub(super) limit: Option<Limit>,
}

/// What all workers may have of main memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) most: u64,
    /// How much of that workers are promised that are not ready.
    pub(super) starting: u64,
    /// How much of that ready ones have, but for weights in files.
    pub(super) running: u64,
}

impl InTheWay {
    /// What is left for one more worker by what is free.
    pub(super) fn left(&self) -> u64 {
        self.free.saturating_sub(self.owed).saturating_sub(self.mapped)
    }

    /// Whether less is left of what workers may have than of what is free.
    pub(super) fn is_for_limit(&self) -> bool {
        self.left_of_limit().is_some_and(|left| left <= self.left())
    }

    /// Whether there is room for what is needed, where `held` bytes of the same file are held already.
    pub(super) fn have_room_for(&self, need: &MemoryNeed, held: u64) -> bool {
        let left = self.left().min(self.left_of_limit().unwrap_or(u64::MAX));
        need.total_bytes() - held.min(need.mapped_bytes) <= left
    }

    /// What is left of what workers may have.
    pub(super) fn left_of_limit(&self) -> Option<u64> {
        let Limit { most, starting, running } = self.limit?;
        let taken = starting.saturating_add(running).saturating_add(self.mapped);
        Some(most.saturating_sub(taken))
    }
}

impl Share {
    /// What it is still to take of what is free.
    fn missing(&self) -> u64 {
        self.bytes - self.had
    }

    /// Whether part of it may have been seen to leave what was free.
    fn is_being_seen(&self) -> bool {
        matches!(self.state, State::Open | State::Taken(_))
    }
}

impl Promised {
    /// Nothing is promised yet of what workers may have.
    pub(super) fn of_at_most(most: Option<u64>) -> Self {
        Self { most, ..Self::default() }
    }

    /// To be asked for before devices are read.
    pub(super) fn moment(&mut self) -> Moment {
        self.moments += 1;
        Moment(self.moments)
    }

    /// Takes in what was free on a device, as read since that moment, and gives what is known of it since
    /// the latest reading.
    pub(super) fn look(&mut self, device: DeviceId, free: u64, at: Moment) -> InTheWay {
        let could = self.sum_of(device, Share::is_being_seen);
        let known = self.devices.entry(device).or_insert(Known { at, free, seen: 0 });
        if known.at <= at {
            let lost = known.free.saturating_sub(free);
            known.seen = known.seen.saturating_add(lost).min(could);
            (known.at, known.free) = (at, free);
            for share in self.shares.iter_mut().filter(|share| share.device == device) {
                if matches!(share.state, State::Taken(since) if since <= at) {
                    share.state = State::Settled;
                    known.seen = known.seen.saturating_sub(share.missing());
                }
            }
        }
        let (free, seen) = (known.free, known.seen);
        let owed = self.sum_of(device, |share| share.state != State::Settled).saturating_sub(seen);
        InTheWay { free, owed, mapped: self.mapped(device), limit: self.limit(device) }
    }

    /// What workers may have of a device, and have.
    pub(super) fn limit(&self, device: DeviceId) -> Option<Limit> {
        self.limit_by(device, self.of_device(device))
    }

    /// The same where only these have something of it.
    fn limit_by<'a>(
        &self,
        device: DeviceId,
        shares: impl Iterator<Item = &'a Share>,
    ) -> Option<Limit> {
        let most = self.most.filter(|_| device.kind == DeviceKind::Cpu)?;
        let (mut starting, mut running) = (0_u64, 0_u64);
        for share in shares {
            let is_ready = matches!(share.state, State::Taken(_) | State::Settled);
            let sum = if is_ready { &mut running } else { &mut starting };
            *sum = sum.saturating_add(share.bytes);
        }
        Some(Limit { most, starting, running })
    }

    /// Promises a worker what it needs.
    pub(super) fn promise(&mut self, needs: &[MemoryNeed], file: &Sha256Digest) -> u64 {
        self.next_number += 1;
        let number = self.next_number;
        self.shares.extend(needs.iter().map(|need| Share {
            number,
            device: need.device,
            bytes: need.least_bytes(),
            had: 0,
            mapped_bytes: need.mapped_bytes,
            file: file.clone(),
            state: State::Waiting,
        }));
        number
    }

    /// The worker has a process, which takes it.
    pub(super) fn begun(&mut self, number: u64) {
        for share in self.shares.iter_mut().filter(|share| share.number == number) {
            if share.state == State::Waiting {
                share.state = State::Open;
            }
        }
    }

    /// The worker's process was there before anybody looked, and has so much main memory of its own.
    pub(super) fn found(&mut self, number: u64, main_memory: u64) {
        self.begun(number);
        for share in self.shares.iter_mut().filter(|share| share.number == number) {
            if share.device.kind == DeviceKind::Cpu {
                share.had = main_memory.min(share.bytes);
                // What it took since that reading would be counted twice.
                self.devices.remove(&share.device);
            }
        }
    }

    /// The worker has all of it.
    pub(super) fn taken(&mut self, number: u64) {
        let now = self.moment();
        for share in self.shares.iter_mut().filter(|share| share.number == number) {
            if matches!(share.state, State::Waiting | State::Open) {
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

    /// The worker's process is gone, if it had one, and another one will take it again.
    pub(super) fn lost(&mut self, number: u64) {
        let now = self.moment();
        for share in self.shares.iter_mut().filter(|share| share.number == number) {
            unsee(&mut self.devices, share, now);
            (share.state, share.had) = (State::Waiting, 0);
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
        mapped_by(self.of_device(device))
    }

    /// What of a file's weights is held already.
    pub(super) fn mapped_of(&self, device: DeviceId, file: &Sha256Digest) -> u64 {
        mapped_by(self.of_device(device).filter(|share| share.file == *file))
    }

    /// What would be in the way when workers of these files with this memory had ended, and what of
    /// `file` would still be held.
    pub(super) fn without(
        &self,
        device: DeviceId,
        file: &Sha256Digest,
        others: InTheWay,
        leaving: &[(&Sha256Digest, Vec<MemoryNeed>)],
    ) -> (InTheWay, u64) {
        let numbers = self.numbers_of(device, leaving);
        let leaves = |share: &&Share| numbers.contains(&share.number);
        // A file's pages are held until the last worker that reads them has ended.
        let staying = || self.of_device(device).filter(|share| !leaves(share));
        let given_back = sum(self.of_device(device).filter(leaves).map(|share| share.bytes));
        // What one that is starting has not taken is free as it is.
        let is_unsettled = |share: &&Share| share.state != State::Settled;
        let promised = self.of_device(device).filter(leaves).filter(is_unsettled);
        let untaken = sum(promised.map(Share::missing)).min(others.owed);
        let others = InTheWay {
            free: others.free.saturating_add(given_back.saturating_sub(untaken)),
            owed: others.owed - untaken,
            mapped: mapped_by(staying()),
            limit: self.limit_by(device, staying()),
        };
        (others, mapped_by(staying().filter(|share| share.file == *file)))
    }

    /// By which numbers such workers have something of a device. Twins stand for each other.
    fn numbers_of(
        &self,
        device: DeviceId,
        workers: &[(&Sha256Digest, Vec<MemoryNeed>)],
    ) -> Vec<u64> {
        let mut numbers = Vec::new();
        for (file, needs) in workers {
            for need in needs.iter().filter(|need| need.device == device) {
                let share = self.of_device(device).find(|share| {
                    share.file == **file
                        && share.bytes == need.least_bytes()
                        && !numbers.contains(&share.number)
                });
                numbers.extend(share.map(|share| share.number));
            }
        }
        numbers
    }

    /// What such shares of a device are still to take of what is free.
    fn sum_of(&self, device: DeviceId, is_such: impl Fn(&Share) -> bool) -> u64 {
        sum(self.of_device(device).filter(|share| is_such(share)).map(Share::missing))
    }

    fn of_device(&self, device: DeviceId) -> impl Iterator<Item = &Share> {
        self.shares.iter().filter(move |share| share.device == device)
    }
}

/// What the weights hold that these read from their files: each file once.
fn mapped_by<'a>(shares: impl Iterator<Item = &'a Share>) -> u64 {
    let mut files: BTreeMap<&str, u64> = BTreeMap::new();
    for share in shares {
        let bytes = files.entry(share.file.as_hex()).or_default();
        *bytes = share.mapped_bytes.max(*bytes);
    }
    sum(files.into_values())
}

fn sum(bytes: impl Iterator<Item = u64>) -> u64 {
    bytes.fold(0, u64::saturating_add)
}

/// What was taken of a share is free again, and so nothing that was seen may be on its account. Which part of
/// that was, nobody knows: all of it, at worst. Readings of before would show it once more.
fn unsee(devices: &mut BTreeMap<DeviceId, Known>, share: &Share, now: Moment) {
    if share.is_being_seen()
        && let Some(known) = devices.get_mut(&share.device)
    {
        known.seen = known.seen.saturating_sub(share.missing());
        known.at = now;
    }
}
