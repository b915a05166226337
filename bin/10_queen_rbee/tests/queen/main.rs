//! The queen's router on a free port, with scripted doubles of workers and hives that speak the real
//! contracts over real connections.
#![expect(clippy::unwrap_used, reason = "what cannot be unwrapped fails the test")]

mod abilities;
mod answers;
mod attached;
mod attached_continued;
mod attached_failover;
mod attached_kinds;
mod attached_odd;
mod attached_reach;
mod attached_refused;
mod attached_silent;
mod attached_tls;
mod attached_unwilling;
mod beginning;
mod decisions;
mod demand;
mod disconnect;
mod events;
mod expected;
mod failover;
mod failures;
mod fairness;
mod full_disk;
mod jobs;
mod memory;
mod metrics;
mod pages;
mod policies;
mod prompts;
mod removed;
mod reports;
mod requests;
mod routing;
mod rules;
mod stopping;
mod support;
mod unread;
mod vectors;
