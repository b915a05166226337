//! The brain of rbee: every decision, and one OpenAI-compatible endpoint.
//!
//! [`App`] is all parts, built once. A request comes in by `http`, is understood by a `dialect`, waits
//! in `admission`, gets its place from the `scheduler`, and its answer through the `relay`. What the
//! queen knows of workers and hives is in the `registry`, made from their reports alone. Everything
//! that is no inference is a job, which `operation` carries out here or at a hive. The hives that she
//! was told of are in the `inventory`; servers of others whose models are workers are `attached`; `remote_hive` puts them on other machines by way of `ssh`.

pub mod admission;
mod app;
pub mod attached;
mod clock;
pub mod connection;
pub mod decisions;
pub mod dialect;
mod discovery;
pub mod dispatch;
#[cfg(test)]
mod doubles;
pub mod events;
pub mod hive_client;
mod http;
pub mod inventory;
mod json_file;
pub mod keyring;
pub mod metrics;
mod operation;
pub mod policy;
pub mod prompt;
pub mod registry;
pub mod relay;
mod remote_hive;
pub mod rules;
pub mod scheduler;
#[cfg(test)]
mod simulation;
pub mod spawner;
mod ssh;

pub use app::{App, Settings};
pub use http::REPORTS;

/// The cargo features that this queen was built with, and what one with a hive in her knows to do.
pub const FEATURES: &[&str] = if cfg!(feature = "local-hive") {
    &["local-hive", daemon_lifecycle::LEAVES_WORKERS]
} else {
    &[]
};
