//! Which worker gets a request: a pure function over what the queen knows at one moment.
//!
//! No I/O, no clock, no lock. The wanted properties are in the README beside this file, and each of
//! them is a test.

mod decision;
mod demand;
mod placement;
mod schedule;
mod snapshot;
#[cfg(test)]
mod tests;

pub use decision::{Decision, RejectReason};
pub use demand::Demand;
pub use schedule::schedule;
pub use snapshot::{HiveView, Readiness, Snapshot, WorkerView};
