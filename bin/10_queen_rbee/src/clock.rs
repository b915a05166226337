//! The time, as the runtime has it: where a test or a simulation moves the runtime's clock, it moves.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What time it is.
#[must_use]
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Seconds since the Unix epoch, by the clock of the machine.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
