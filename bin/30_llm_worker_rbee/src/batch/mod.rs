//! Continuous batching: which sequence computes what in the next step.
//!
//! `step` decides, purely; `sequences` knows what the KV cache holds, `draft` guesses ahead; `slot` is
//! one answer's state and `reply` what the answers of one request share. `scheduler` is the loop that
//! owns the engine, by way of `kv_cache`, and runs the decisions on a thread of its own.

#[cfg(test)]
mod arithmetic;
mod copy_cost;
mod draft;
mod draft_model;
mod gauges;
mod host_cache;
mod kv_cache;
mod reply;
mod request;
mod sampling;
mod scheduler;
#[cfg(test)]
mod scheduler_tests;
mod sequences;
mod slot;
mod step;

pub use gauges::{Gauges, SubmitError, Submitter};
pub use request::{Answer, Choice, Ends, EventReceiver, Prepared, answer_channel, is_wanted};
pub use scheduler::{Scheduler, SchedulerSettings};
pub use slot::TextModel;
