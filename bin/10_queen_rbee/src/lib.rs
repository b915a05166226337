//! The brain of rbee: every decision, and one OpenAI-compatible endpoint.
//!
//! [`App`] is all parts, built once. A request comes in by `http`, is understood by a `dialect`, waits
//! in `admission`, gets its place from the `scheduler`, and its answer through the `relay`. What the
//! queen knows of workers and hives is in the `registry`, made from their reports alone. Everything
//! that is no inference is a job, which `operation` carries out here or at a hive.

pub mod admission;
mod app;
pub mod dialect;
pub mod dispatch;
pub mod hive_client;
mod http;
mod operation;
pub mod registry;
pub mod relay;
pub mod scheduler;
pub mod spawner;

pub use app::{App, Settings};

/// The cargo features that this queen was built with.
pub const FEATURES: &[&str] = if cfg!(feature = "local-hive") { &["local-hive"] } else { &[] };
