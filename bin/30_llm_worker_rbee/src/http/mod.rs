//! The worker's HTTP: verify, convert, hand over.

mod health;
mod inference;
mod metrics;
mod router;
mod vectors;

pub use router::router;
