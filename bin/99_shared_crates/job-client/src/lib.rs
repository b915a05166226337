//! Jobs with replayable event streams, as a client.
//!
//! [`JobClient`] submits operations to a daemon that serves jobs (crate `job-server`), and follows
//! them. A stream that breaks is opened again behind the last event that arrived, with a bounded
//! number of retries, so that each event arrives once. Every answer is bounded.
#![warn(missing_docs)]

mod answer;
mod client;
mod error;
mod follow;
mod run;
mod stream;

pub use client::JobClient;
pub use error::ClientError;
pub use follow::FollowedEvent;
pub use run::JobEnd;
