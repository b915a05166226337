//! Vectors and scores of whole texts: what an embedding or reranking model serves.
//!
//! `plan` decides, purely, which texts share the next batch; `request` is one request's state;
//! `scheduler` is the loop that owns the engine and runs the decisions on a thread of its own;
//! `prepare` checks and tokenizes. A text is computed in one piece and nothing of it is kept.

mod load;
mod plan;
mod prepare;
mod request;
mod scheduler;
#[cfg(test)]
mod scheduler_tests;
mod vector;

pub use load::Submitter;
pub use prepare::{EmbeddingPreparer, RefusedEmbedding};
pub use request::{EmbeddingRequest, Wanted};
pub use scheduler::EmbeddingScheduler;
