//! What goes wrong in a village, where and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use fastrand::Rng;

use super::machine::Machine;
use crate::simulation::worker::Knobs;

/// Something that goes wrong at one machine, or at the queen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// One of its workers ends.
    WorkerCrash,
    /// One of its workers does nothing, and says nothing.
    WorkerHang,
    /// One of its workers does nothing, and reports as if it did.
    WorkerStall,
    /// One of its workers takes ten times as long.
    WorkerSlow,
    /// One of its workers sends what is no event.
    WorkerBabble,
    /// The operator ends one of its workers: that goes on with what it has and takes nothing else, until its
    /// time is over.
    WorkerDrain,
    /// The operator ends all of its workers so.
    Drain,
    /// Its hive ends, and is started again at the end; workers go on.
    HiveCrash,
    /// Its power is cut: nobody is told, and nothing of it is there afterwards.
    PowerCut,
    /// Nothing gets through between it and the queen, either way.
    Cut,
    /// Nothing gets from it to the queen.
    CutFrom,
    /// Nothing gets from the queen to it.
    CutTo,
    /// Models take ten times as long to load.
    SlowStarts,
    /// No worker comes up.
    FailingStarts,
    /// The operator has the queen forget its hive, which goes on reporting.
    Forget,
    /// The queen's clock jumps ahead, as after a pause of her machine.
    Jump,
}

/// A fault, where, and when it is over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Planned {
    pub(super) fault: Fault,
    pub(super) machine: usize,
    pub(super) at: Duration,
    pub(super) until: Duration,
}

/// The faults of a history, in their order; one at a time at each machine. In a `mild` one every hive is
/// there all the time.
pub(super) fn plan(rng: &mut Rng, machines: usize, mild: bool, end: Duration) -> Vec<Planned> {
    let mut planned: Vec<Planned> = Vec::new();
    let mut at = Duration::from_millis(rng.u64(1000..4000));
    while at < end {
        let fault = match rng.u32(0..23) {
            20..22 => Fault::WorkerDrain,
            22 => Fault::Drain,
            which if mild => match which {
                0..3 => Fault::WorkerHang,
                3..6 => Fault::WorkerStall,
                6..9 => Fault::WorkerSlow,
                9..12 => Fault::SlowStarts,
                12..16 => Fault::Jump,
                _ => Fault::WorkerCrash,
            },
            0 => Fault::WorkerHang,
            1 => Fault::WorkerStall,
            2 => Fault::WorkerSlow,
            3 => Fault::WorkerBabble,
            4..7 => Fault::HiveCrash,
            7..10 => Fault::PowerCut,
            10 => Fault::Cut,
            11 => Fault::CutFrom,
            12 => Fault::CutTo,
            13 => Fault::SlowStarts,
            14 => Fault::FailingStarts,
            15 => Fault::Forget,
            16 => Fault::Jump,
            _ => Fault::WorkerCrash,
        };
        let machine = rng.usize(0..machines);
        let until = (at + Duration::from_millis(rng.u64(300..15_000))).min(end);
        if !planned.iter().any(|other| other.machine == machine && other.until > at) {
            planned.push(Planned { fault, machine, at, until });
        }
        at += Duration::from_millis(rng.u64(200..3000));
    }
    planned
}

/// What the operator, or time, does to the queen.
#[derive(Debug, Clone)]
pub(super) enum ToQueen {
    Forget(worker_contract::HiveAlias),
    Jump(Duration),
}

/// A fault that has begun, with what ends it.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) planned: Planned,
    /// The worker that it struck.
    worker: Option<Arc<Knobs>>,
    /// The workers that are to end when it is over.
    draining: Vec<Arc<Knobs>>,
}

impl Planned {
    /// Begins; gives what is to be told to the queen.
    pub(super) fn begin(
        self,
        sim: &mut turmoil::Sim<'_>,
        machine: &Machine,
        rng: &mut Rng,
    ) -> (Begun, Option<ToQueen>) {
        let name = machine.name.as_str();
        let mut living = machine.living();
        // What never was ready is not started again.
        living.retain(|worker| !worker.is_loading.load(SeqCst));
        let worker = (!living.is_empty()).then(|| Arc::clone(&living[rng.usize(0..living.len())]));
        let (mut told, mut draining) = (None, Vec::new());
        match self.fault {
            Fault::WorkerCrash => {
                if let Some(worker) = &worker {
                    machine.kill(&worker.who.name);
                }
            }
            Fault::WorkerDrain => draining.extend(worker.clone()),
            Fault::Drain => draining = living,
            Fault::HiveCrash => machine.hive_is_down.store(true, SeqCst),
            Fault::PowerCut => {
                sim.partition(name, "queen");
                sim.crash(name);
            }
            Fault::Cut => sim.partition(name, "queen"),
            Fault::CutFrom => sim.partition_oneway(name, "queen"),
            Fault::CutTo => sim.partition_oneway("queen", name),
            Fault::SlowStarts => machine.starts_are_slow.store(true, SeqCst),
            Fault::FailingStarts => machine.starts_fail.store(true, SeqCst),
            Fault::Forget => told = Some(ToQueen::Forget(machine.name.clone())),
            Fault::Jump => told = Some(ToQueen::Jump(self.until.saturating_sub(self.at))),
            fault => {
                if let Some(knob) = worker.as_ref().and_then(|worker| knob(worker, fault)) {
                    knob.store(true, SeqCst);
                }
            }
        }
        for worker in &draining {
            machine.drain(&worker.who.name);
        }
        (Begun { planned: self, worker, draining }, told)
    }
}

impl Begun {
    /// Ends; tells how many answers are cut off by that.
    pub(super) fn end(&self, sim: &mut turmoil::Sim<'_>, machine: &Machine) -> u32 {
        let name = machine.name.as_str();
        match self.planned.fault {
            Fault::HiveCrash => machine.hive_is_down.store(false, SeqCst),
            Fault::PowerCut => {
                sim.repair(name, "queen");
                sim.bounce(name);
            }
            Fault::Cut | Fault::CutFrom | Fault::CutTo => sim.repair(name, "queen"),
            Fault::SlowStarts => machine.starts_are_slow.store(false, SeqCst),
            Fault::FailingStarts => machine.starts_fail.store(false, SeqCst),
            Fault::WorkerCrash
            | Fault::WorkerDrain
            | Fault::Drain
            | Fault::Forget
            | Fault::Jump => {}
            fault => {
                if let Some(knob) = self.worker.as_ref().and_then(|worker| knob(worker, fault)) {
                    knob.store(false, SeqCst);
                }
            }
        }
        self.draining.iter().map(|worker| machine.remove(&worker.who.name)).sum()
    }

    /// The name of the worker that it struck.
    pub(super) fn worker(&self) -> &str {
        self.worker.as_ref().map_or("-", |worker| &worker.who.name)
    }
}

fn knob(worker: &Knobs, fault: Fault) -> Option<&AtomicBool> {
    match fault {
        Fault::WorkerHang => Some(&worker.hangs),
        Fault::WorkerStall => Some(&worker.stalls),
        Fault::WorkerSlow => Some(&worker.is_slow),
        Fault::WorkerBabble => Some(&worker.babbles),
        _ => None,
    }
}
