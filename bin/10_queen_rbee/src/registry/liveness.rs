//! Whether somebody who reports at an interval is still there. Pure.

use std::time::{Duration, Instant};

use serde::Serialize;

/// Silent for this many intervals is suspect.
const SUSPECT_AFTER: u32 = 3;
/// Silent for this many intervals is gone.
const GONE_AFTER: u32 = 5;
/// A shorter interval makes reports fresher, not patience shorter: a busy machine stalls for a moment.
const SHORTEST: Duration = Duration::from_secs(1);

/// Whether somebody who reports at an interval is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Liveness {
    /// It reports on time.
    Alive,
    /// It is late, or a connection to it has just failed.
    Suspect,
    /// It has been silent for so long that nothing is expected of it.
    Gone,
}

/// After which moments somebody must have reported: worked out once, since there may be a thousand to look at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    /// To be alive. `None` where the clock does not reach back so far.
    alive: Option<Instant>,
    /// To be there at all.
    there: Option<Instant>,
}

impl Due {
    /// For those who report at an interval.
    pub(super) fn at(now: Instant, interval: Duration) -> Self {
        let interval = interval.max(SHORTEST);
        let before = |intervals: u32| now.checked_sub(interval * intervals);
        Self { alive: before(SUSPECT_AFTER), there: before(GONE_AFTER) }
    }

    /// The liveness of somebody by the time of the last report; `has_failed` says that a connection has
    /// failed since then.
    #[inline]
    pub(super) fn liveness(self, heard_at: Instant, has_failed: bool) -> Liveness {
        let is_late = |due: Option<Instant>| due.is_some_and(|due| heard_at <= due);
        // Who is on time is told by one look.
        if !has_failed && !is_late(self.alive) {
            Liveness::Alive
        } else if is_late(self.there) {
            Liveness::Gone
        } else {
            Liveness::Suspect
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_intervals_of_silence_are_suspect_and_five_are_the_end() {
        let rows = [
            (0, 2000, false, Liveness::Alive),
            (5_999, 2000, false, Liveness::Alive),
            (6_000, 2000, false, Liveness::Suspect),
            (9_999, 2000, false, Liveness::Suspect),
            (10_000, 2000, false, Liveness::Gone),
            (0, 2000, true, Liveness::Suspect),
            (10_000, 2000, true, Liveness::Gone),
            (2_999, 50, false, Liveness::Alive),
            (5_000, 50, false, Liveness::Gone),
            (50_000, 20_000, false, Liveness::Alive),
        ];
        for (silent, interval, has_failed, expected) in rows {
            let (silent, interval) =
                (Duration::from_millis(silent), Duration::from_millis(interval));
            let heard_at = Instant::now();
            let due = Due::at(heard_at + silent, interval);
            assert_eq!(
                due.liveness(heard_at, has_failed),
                expected,
                "{silent:?} {interval:?} {has_failed}"
            );
        }
    }

    #[test]
    fn an_interval_beyond_all_clocks_makes_nobody_late() {
        let now = Instant::now();
        let due = Due::at(now, Duration::from_secs(u64::MAX / 5));
        assert_eq!(due.liveness(now, false), Liveness::Alive);
    }
}
