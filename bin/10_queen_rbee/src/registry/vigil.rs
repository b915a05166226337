//! Whether the queen was there all the time: after a pause of her process or machine nobody has been
//! silent who could not be heard. Pure: `now` is passed in.

use std::time::{Duration, Instant};

/// She looks several times a second. So long without a look, and she has stood still.
pub(crate) const STILL: Duration = Duration::from_secs(2);

/// A moment of a report, moved by a pause in which nobody was heard: never beyond the present, or a silence
/// that comes after it would be excused as well, and never back.
pub(super) fn excused(at: Instant, pause: Duration, now: Instant) -> Instant {
    (at + pause).min(now.max(at))
}

/// When the queen looked last.
#[derive(Debug)]
pub(super) struct Vigil {
    looked_at: Instant,
    swept_at: Instant,
    /// For how long she has stood still since then.
    told: Duration,
    is_deaf: bool,
}

impl Vigil {
    pub(super) fn new(now: Instant) -> Self {
        Self { looked_at: now, swept_at: now, told: Duration::ZERO, is_deaf: false }
    }

    /// She has closed her door, and looks more rarely: her pauses are meant, though nobody is heard in them.
    pub(super) fn goes_deaf(&mut self) {
        self.is_deaf = true;
    }

    /// Whether her pauses are no news for an operator.
    pub(super) fn is_meant(&self) -> bool {
        self.is_deaf
    }

    /// She looks. Where she has stood still: for how long.
    pub(super) fn look(&mut self, now: Instant) -> Option<Duration> {
        let since = now.saturating_duration_since(self.looked_at);
        self.looked_at = self.looked_at.max(now);
        let stood = (since >= STILL).then_some(since);
        self.told += stood.unwrap_or_default();
        stood
    }

    /// She sweeps, on one of the threads that take reports. Where these have stood still while others looked:
    /// for how long, without what a look has told.
    pub(super) fn sweep(&mut self, now: Instant) -> Option<Duration> {
        let since = now.saturating_duration_since(self.swept_at);
        self.swept_at = self.swept_at.max(now);
        let unheard = since.saturating_sub(std::mem::take(&mut self.told));
        (unheard >= STILL).then_some(unheard)
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

    #[test]
    fn a_queen_with_a_closed_door_pauses_on_purpose_and_excuses_all_the_same() {
        let start = Instant::now();
        let mut vigil = Vigil::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(vigil.look(at(3)), Some(Duration::from_secs(3)));
        assert!(!vigil.is_meant());
        vigil.goes_deaf();
        assert_eq!(vigil.look(at(6)), Some(Duration::from_secs(3)));
        assert!(vigil.is_meant());
    }

    #[test]
    fn an_excuse_reaches_to_the_present_and_no_further() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        // When it was heard, the pause, the present, and when it counts as heard.
        let rows = [(0, 8, 9, 8), (0, 9, 9, 9), (8, 8, 9, 9), (9, 8, 9, 9), (10, 8, 9, 10)];
        for (heard, pause, now, expected) in rows {
            let moved = excused(at(heard), Duration::from_secs(pause), at(now));
            assert_eq!(moved, at(expected), "heard at {heard}, a pause of {pause}, now {now}");
        }
    }

    #[test]
    fn a_sweep_that_comes_late_tells_what_no_look_has_told() {
        let start = Instant::now();
        let mut vigil = Vigil::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!((vigil.look(at(1)), vigil.sweep(at(1))), (None, None));
        for second in 2..9 {
            assert_eq!(vigil.look(at(second)), None);
        }
        assert_eq!(vigil.sweep(at(9)), Some(Duration::from_secs(8)), "others looked");
        assert_eq!(vigil.sweep(at(9)), None);
        assert_eq!(vigil.look(at(20)), Some(Duration::from_secs(12)));
        assert_eq!(vigil.sweep(at(20)), None, "it is told");
    }
}
