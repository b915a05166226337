//! How fast a download is, and how long it will take. Pure.

use std::collections::VecDeque;
use std::time::Duration;

/// Over how long the rate is taken.
const WINDOW: Duration = Duration::from_secs(5);
/// A shorter time says nothing yet.
const LEAST: Duration = Duration::from_millis(200);

/// The rate over the last seconds.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    samples: VecDeque<(Duration, u64)>,
}

impl Rate {
    /// Notes how many bytes have come, at a time since some fixed moment, and gives bytes per second.
    pub(crate) fn note(&mut self, now: Duration, came: u64) -> Option<u64> {
        // A download that began anew, or goes on with what came before, counts from zero.
        if self.samples.back().is_some_and(|(_, before)| *before > came) {
            self.samples.clear();
        }
        self.samples.push_back((now, came));
        while self.samples.len() > 2 && now.saturating_sub(self.samples[1].0) >= WINDOW {
            self.samples.pop_front();
        }
        let (since, before) = *self.samples.front()?;
        let time = now.saturating_sub(since);
        if time < LEAST {
            return None;
        }
        let per_second = u128::from(came - before) * 1000 / time.as_millis().max(1);
        u64::try_from(per_second).ok()
    }
}

/// How long the rest takes at a rate.
pub(crate) fn eta(done: u64, total: Option<u64>, per_second: Option<u64>) -> Option<u64> {
    let per_second = per_second.filter(|rate| *rate > 0)?;
    Some(total?.saturating_sub(done).div_ceil(per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut rate = Rate::default();
        let second = |n| Duration::from_secs(n);
        assert_eq!(rate.note(second(0), 0), None);
        assert_eq!(rate.note(second(1), 1000), Some(1000));
        for n in 2..=20 {
            rate.note(second(n), 1000 + (n - 1) * 50);
        }
        assert_eq!(rate.note(second(21), 2000), Some(50));
        assert_eq!(eta(2000, Some(3000), Some(50)), Some(20));
        assert_eq!(eta(2000, Some(3000), Some(0)), None);
        assert_eq!(eta(2000, None, Some(50)), None);
    }

    #[test]
    fn a_download_that_begins_anew_has_no_negative_rate() {
        let mut rate = Rate::default();
        rate.note(Duration::from_secs(1), 5000);
        assert_eq!(rate.note(Duration::from_secs(2), 100), None);
        assert_eq!(rate.note(Duration::from_secs(3), 300), Some(200));
    }
}
