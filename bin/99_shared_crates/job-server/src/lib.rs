//! Jobs with replayable event streams, as a server.
//!
//! A job is one [`Operation`](rbee_operations::Operation) that an [`Executor`] carries out. Its events
//! are kept, bounded, under ids that count from 1, so that a stream can be opened late, twice, or again
//! after a given id: nothing is doubled, and what is no longer kept is reported as a gap. Readers pull
//! from the kept events; a slow or gone reader never slows the job. A job that ended says so with
//! `[DONE]` on each of its streams, also when its executor panicked or the daemon was restarted.
//!
//! What this crate leaves to others: what operations do (the [`Executor`]), and who may ask (the HTTP
//! edge of `daemon-http`).
#![warn(missing_docs)]

mod context;
mod event_log;
mod executor;
mod follow;
mod job;
mod kept;
mod limits;
mod registry;
mod routes;
mod store;
mod stream_body;

pub use context::JobContext;
pub use executor::{Executor, JobError, Outcome};
pub use follow::Replayed;
pub use limits::Limits;
pub use registry::{JobRegistry, SubmitError, UnknownJob};
pub use routes::routes;
pub use sqlite_file::StoreError;
