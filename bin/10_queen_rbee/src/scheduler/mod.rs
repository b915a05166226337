//! Which worker gets a request, and where one is started for it: a pure function over what the queen
//! knows at one moment.
//!
//! No I/O, no clock, no lock. The wanted properties are in the README beside this file, and each of
//! them is a test.

mod beliefs;
mod decision;
mod demand;
mod placement;
mod schedule;
mod snapshot;
#[cfg(test)]
mod tests;
mod turns;
mod ways;

pub use decision::{
    Advantage, Decision, Estimate, Lack, MakeWay, Reason, RejectReason, Spawn, WaitReason, Why,
};
pub use demand::{Ahead, Demand, FailedBy};
pub use placement::{memory_need, place_another};
pub use schedule::schedule;
pub use snapshot::{
    ByDevice, Circuit, Claim, FailedSite, Fleet, HiveView, Readiness, Resident, Ruled, Snapshot,
    Speed, WarmUp, Wish, Word, WorkerView,
};
pub use ways::Ways;
