//! Continuous batching: which sequence computes what in the next step.
//!
//! `step` decides, purely; `request` and `slot` are one request's state; `scheduler` is the loop
//! that owns the engine and runs the decisions on a thread of its own.

mod request;
mod scheduler;
#[cfg(test)]
mod scheduler_tests;
mod slot;
mod step;

pub use request::{Answer, Choice, Ends, EventReceiver, Prepared, answer_channel};
pub use scheduler::{Gauges, Scheduler, SubmitError, Submitter};
pub use slot::TextModel;
