//! The queen's HTTP API: verify, convert, hand over. All routes are on one page, in `router`.

mod decisions;
mod error;
mod events;
mod health;
mod heartbeat;
mod inference;
#[cfg(feature = "local-hive")]
mod local_files;
mod metrics;
mod models;
mod router;
mod rules;
mod several;
mod status;
mod stream_body;
mod vectors;

#[cfg(feature = "local-hive")]
pub(crate) use self::local_files::local_files;
pub(crate) use error::describe;
pub use router::REPORTS;
pub(crate) use router::{Facts, HandlerParts, Handlers, router};
