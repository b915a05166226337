//! What goes wrong, and for how long.

use std::time::Duration;

use fastrand::Rng;

/// Something that goes wrong at one worker or on its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its process ends; its hive starts it again.
    Crash,
    /// It computes nothing and reports nothing.
    Hang,
    /// It computes nothing, and reports as if it did.
    Stall,
    /// It takes ten times as long.
    Slow,
    /// It sends what is no event.
    Babble,
    /// Nothing gets through, either way.
    Cut,
    /// Nothing gets from it to the queen.
    CutFrom,
    /// Nothing gets from the queen to it.
    CutTo,
    /// It is told to end: it goes on with what it has and takes nothing else, until its time is over and
    /// the process ends, whatever it has then. The next one is there at once.
    Drain,
}

/// A fault, where, and when it is over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Planned {
    pub(super) fault: Fault,
    pub(super) worker: usize,
    pub(super) at: Duration,
    pub(super) until: Duration,
}

/// The faults of a history, in their order.
pub(super) fn plan(rng: &mut Rng, workers: usize, end: Duration) -> Vec<Planned> {
    let mut planned: Vec<Planned> = Vec::new();
    let mut at = Duration::from_millis(rng.u64(1500..4000));
    while at < end {
        let fault = match rng.u32(0..14) {
            0 => Fault::Hang,
            1 => Fault::Stall,
            2 => Fault::Slow,
            3 => Fault::Babble,
            4 => Fault::Cut,
            5 => Fault::CutFrom,
            6 => Fault::CutTo,
            7..9 => Fault::Drain,
            _ => Fault::Crash,
        };
        let worker = rng.usize(0..workers);
        let until = (at + Duration::from_millis(rng.u64(300..9000))).min(end);
        // One fault at a time at each worker: where two meet, the later one is left out.
        if !planned.iter().any(|other| other.worker == worker && other.until > at) {
            planned.push(Planned { fault, worker, at, until });
        }
        at += Duration::from_millis(rng.u64(200..4000));
    }
    planned
}
