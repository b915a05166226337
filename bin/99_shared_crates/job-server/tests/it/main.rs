//! Jobs as their users meet them: in the process, on disk, over HTTP.
#![expect(clippy::unwrap_used, reason = "in a test, what is missing fails the test")]

mod http;
mod jobs;
mod store;
mod support;
