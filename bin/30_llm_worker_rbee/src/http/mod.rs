//! The worker's HTTP: verify, convert, hand over.

mod health;
mod inference;
mod metrics;
mod router;

pub use router::router;
