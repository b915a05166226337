//! Tests of the worker as a process, and of the whole chain in front of it, on the real model.
#![expect(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    unreachable_pub,
    reason = "a test ends by panicking, and its helpers are written for short calls"
)]

mod abuse;
mod arithmetic;
mod bare_loop;
mod conversations;
mod crafted_file;
mod determinism;
mod devices;
mod embedding;
mod fit;
mod forced;
mod formats;
mod gguf;
mod installed;
mod lora;
mod real_model;
mod reuse;
mod sandboxed;
mod seeing;
mod support;
mod tiny_bert;
mod tiny_vision;
mod tokenizing;
mod unread;
mod vulkan;
mod whole_chain;
