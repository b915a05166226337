//! The hive with real processes: as a library in this process, and as a daemon.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod clock;
mod daemon;
mod devices;
mod downloads;
#[expect(dead_code, unreachable_pub, reason = "the worker's tests use more of it")]
#[path = "../../../30_llm_worker_rbee/tests/worker/gguf.rs"]
mod gguf;
mod hub;
mod kinds;
mod limits;
mod memory;
mod misbehaving_workers;
mod models;
mod pins;
mod projectors;
mod resumed;
mod revisions;
mod seeing;
mod stores;
mod supervision;
mod support;
#[expect(dead_code, unreachable_pub, reason = "the worker's tests use more of it")]
#[path = "../../../30_llm_worker_rbee/tests/worker/tiny_vision.rs"]
mod tiny_vision;
mod workers;
