//! How a daemon of rbee is found, started, watched and stopped.
//!
//! A process is known by its id **and** its start time, so that a process that got a dead
//! daemon's id is never taken for it, and never signalled. This crate knows no daemon in
//! particular and no HTTP.
#![warn(missing_docs)]

mod binary;
mod build_info;
mod environment;
mod error;
mod handle;
mod log_file;
mod open_files;
mod process;
mod run_files;
mod shutdown;
mod start;
mod stop;

pub use binary::find_binary;
pub use build_info::{BuildInfo, LEAVES_WORKERS, build_info};
pub use environment::{find_started_with, started_with};
pub use error::LifecycleError;
pub use handle::ProcessHandle;
pub use log_file::keep_log_bounded;
pub use open_files::raise_file_limit;
pub use process::{ProcessIdentity, process_start_time};
pub use run_files::{RunFiles, RunLock, Running};
pub use shutdown::shutdown_token;
pub use start::start_detached;
pub use stop::{StopOutcome, stop};

#[cfg(test)]
mod testing;
