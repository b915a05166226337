//! Whether the queen was there all the time: after a pause of her process or machine nobody has been
//! silent who could not be heard. Pure: `now` is passed in.

use std::time::{Duration, Instant};

/// She looks several times a second. So long without a look, and she has stood still.
const STILL: Duration = Duration::from_secs(2);

/// When the queen looked last.
#[derive(Debug)]
pub(super) struct Vigil {
    looked_at: Instant,
}

impl Vigil {
    pub(super) fn new(now: Instant) -> Self {
        Self { looked_at: now }
    }

    /// She looks. Where she has stood still: for how long.
    pub(super) fn look(&mut self, now: Instant) -> Option<Duration> {
        let since = now.saturating_duration_since(self.looked_at);
        self.looked_at = self.looked_at.max(now);
        (since >= STILL).then_some(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_told_once_and_looks_on_time_are_none() {
        let start = Instant::now();
        let mut vigil = Vigil::new(start);
        let at = |millis| start + Duration::from_millis(millis);
        let rows = [
            (250, None),
            (2_249, None),
            (2_100, None),
            (9_249, Some(7_000)),
            (9_250, None),
            (9_000, None),
            (11_250, Some(2_000)),
        ];
        for (millis, expected) in rows {
            assert_eq!(vigil.look(at(millis)), expected.map(Duration::from_millis), "{millis}");
        }
    }
}
