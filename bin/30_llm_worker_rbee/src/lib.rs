//! `llm-worker-rbee`: one process, one model.
//!
//! It loads a GGUF file with llama.cpp, runs requests side by side in one context, and streams
//! tokens. It promises that a closed connection frees its slot within one step, and that text is
//! whole characters only. It knows no other worker, and what it keeps between requests saves only
//! work: it can be killed at any instant.

pub mod batch;
pub mod embedding;
#[expect(unsafe_code, reason = "llama.cpp is C++: what has no safe binding is wrapped here")]
pub mod engine;
pub mod gguf;
pub mod heartbeat;
pub mod http;
pub mod images;
pub mod media;
pub mod metrics;
pub mod preparations;
pub mod prepare;
pub mod sampling;
pub mod sandbox;
pub mod text;
pub mod worker;
