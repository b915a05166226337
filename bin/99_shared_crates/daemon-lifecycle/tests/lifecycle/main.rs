//! Real processes: started, found, told apart, stopped. Daemons are this test program again.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod running;
mod signals;
mod starting;
mod stopping;
mod support;
