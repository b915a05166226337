//! Hives on other machines, over real SSH and real networks.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod discovery;
mod faults;
mod hops;
mod install;
mod links;
mod models;
mod secrets;
