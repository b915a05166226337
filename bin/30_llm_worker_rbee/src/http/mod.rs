//! The worker's HTTP: verify, convert, hand over.

mod health;
mod inference;
mod router;

pub use router::router;
