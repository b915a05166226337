//! The hive with real processes: as a library in this process, and as a daemon.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod daemon;
mod downloads;
mod misbehaving_workers;
mod models;
mod supervision;
mod support;
mod workers;
