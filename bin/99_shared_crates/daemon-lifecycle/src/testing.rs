//! What the tests of this crate share.

use std::time::{Duration, Instant};

/// Waits until `is_so`; panics with `what` at the deadline.
#[expect(clippy::disallowed_methods, reason = "there is nothing to be woken by")]
pub(crate) fn until(what: &str, deadline: Duration, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
