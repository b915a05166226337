//! How a daemon of rbee is found, started, watched and stopped.
//!
//! A running daemon holds a lock and publishes its pid and its address in the run folder. A process
//! is known by its pid and its start time together, so that no signal ever reaches a process that
//! only got the same pid later. This crate knows no HTTP.
#![warn(missing_docs)]

mod binary;
mod build;
mod detached;
mod error;
mod identity;
mod run_files;
mod signals;
mod stop;

pub use binary::find_binary;
pub use build::{BuildInfo, build_info};
pub use detached::start_detached;
pub use error::LifecycleError;
pub use identity::process_start_time;
pub use run_files::{RunFiles, RunLock, Running};
pub use signals::shutdown_token;
pub use stop::{StopOutcome, stop};
