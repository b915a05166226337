//! The time, as the runtime has it: where a test or a simulation moves the runtime's clock, it moves.

use std::time::Instant;

/// What time it is.
#[must_use]
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
