//! Whether somebody who reports at an interval is still there. Pure.

use std::time::Duration;

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

/// The liveness of somebody who has been silent for a time; `has_failed` says that a connection has
/// failed since the last report.
#[must_use]
pub fn liveness(silent: Duration, interval: Duration, has_failed: bool) -> Liveness {
    let interval = interval.max(SHORTEST);
    if silent >= interval * GONE_AFTER {
        Liveness::Gone
    } else if has_failed || silent >= interval * SUSPECT_AFTER {
        Liveness::Suspect
    } else {
        Liveness::Alive
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
            assert_eq!(
                liveness(silent, interval, has_failed),
                expected,
                "{silent:?} {interval:?} {has_failed}"
            );
        }
    }
}
