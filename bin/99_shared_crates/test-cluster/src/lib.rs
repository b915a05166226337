//! Real daemons on free ports under a temporary home, for tests.
//!
//! A [`Cluster`] is a queen, with or without its own hive, that runs the binaries that were built:
//! nothing is simulated. Each cluster has its own `RBEE_HOME` and its own ports, so that tests run
//! side by side. When a cluster is dropped, every process that carries its `RBEE_HOME` is killed,
//! workers and detached daemons included, and the home is removed. What an aborted test run left
//! behind is removed by the next one.
//!
//! The crate speaks HTTP with a client of its own: a test that used rbee's client could not see
//! what that client does wrong. It reads `/proc`, so it works on Linux only.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use test_cluster::{Cluster, ask};
//!
//! let mut cluster = Cluster::builder().integrated().start().await?;
//! cluster.import_demo_model().await?;
//! let worker = cluster.spawn_worker().await?;
//! let answer = cluster.api()?.post("/v1/chat/completions", &ask("Hello")).await?;
//! assert_eq!(answer.status, 200);
//! cluster.queen()?.restart().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Environment: `RBEE_BIN_DIR` (or `RBEE_TEST_QUEEN_LOCAL`, `RBEE_TEST_QUEEN_PLAIN` for one binary
//! each) names the binaries under test, `RBEE_TEST_MODELS` the folder of test models,
//! `RBEE_TEST_SKIPS` the file that lists what was skipped, and `RBEE_TEST_KEEP=1` keeps the homes to look at.
#![warn(missing_docs)]

mod api;
mod binaries;
mod chat;
mod cluster;
mod daemon;
mod home;
mod hub;
mod jobs;
mod keeper;
mod model;
mod processes;
mod skip;
mod small_disk;
mod sse;
mod unread;
mod wait;

pub use api::{Answer, Api};
pub use binaries::Binaries;
pub use chat::{ChatStream, DEMO_ALIAS, Part, Transcript, ask};
pub use cluster::{Cluster, ClusterBuilder, Topology};
pub use daemon::StartedDaemon;
pub use home::Home;
pub use hub::{HubFaults, HubRequest, ModelHub, sha256_hex};
pub use jobs::JobRun;
pub use keeper::{KeeperRun, RunningKeeper};
pub use model::{
    demo_model, embedding_model, embedding_reference, write_broken_model, write_truncated_model,
};
pub use processes::{ProcessInfo, Signal, is_alive, send_signal};
pub use skip::{skip, skip_test};
pub use small_disk::SmallDisk;
pub use sse::{SseEvent, SseStream};
pub use unread::{EndedEarly, run_unread};
pub use wait::wait_until;
