//! When a failed request is made again. Pure.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

use super::error::DownloadError;

/// The first and the longest pause between two attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(300);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// The longest pause that a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// The same between two attempts of a download that an earlier hive began: nobody waits for it, and
/// after the start of a machine its network may be up last.
const LONGEST_UNATTENDED_PAUSE: Duration = Duration::from_secs(120);
/// For about a day.
const UNATTENDED_ATTEMPTS: usize = 720;

/// The attempts of one connection since it last got something.
#[derive(Debug)]
pub(super) struct Attempts {
    most: u32,
    pauses: ExponentialBackoff,
}

impl Attempts {
    pub(super) fn new(most: u32) -> Self {
        Self { most, pauses: pauses(most) }
    }

    /// Something arrived: the count begins anew.
    pub(super) fn reset(&mut self) {
        self.pauses = pauses(self.most);
    }

    /// How long to wait before the next attempt; `None` if there is none.
    pub(super) fn pause_after(&mut self, error: &DownloadError) -> Option<Duration> {
        if !error.is_transient() {
            return None;
        }
        let pause = self.pauses.next()?;
        match error {
            DownloadError::Status { wait: Some(wait), .. } if *wait > LONGEST_WAIT => None,
            DownloadError::Status { wait: Some(wait), .. } => Some(pause.max(*wait)),
            _ => Some(pause),
        }
    }
}

/// The pauses between the attempts of a download that nobody waits for.
pub(crate) fn unattended_pauses() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_secs(1))
        .with_max_delay(LONGEST_UNATTENDED_PAUSE)
        .with_max_times(UNATTENDED_ATTEMPTS)
        .with_jitter()
        .build()
}

fn pauses(most: u32) -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .with_max_times(most as usize)
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, wait: Option<u64>) -> DownloadError {
        let wait = wait.map(Duration::from_secs);
        DownloadError::Status { host: "h".into(), status, what: "f".into(), wait }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for (code, again) in [
            (404, false),
            (401, false),
            (403, false),
            (416, false),
            (429, true),
            (500, true),
            (503, true),
        ] {
            let pause = Attempts::new(3).pause_after(&status(code, None));
            assert_eq!(pause.is_some(), again, "{code}");
        }
    }

    #[test]
    fn pauses_grow_and_end_unless_something_arrives() {
        let mut attempts = Attempts::new(4);
        let stalled = DownloadError::Stalled { host: "h".into(), after: Duration::ZERO };
        let pauses: Vec<_> = std::iter::from_fn(|| attempts.pause_after(&stalled)).collect();
        assert_eq!(pauses.len(), 4);
        assert!(pauses[3] > pauses[0] && pauses[0] >= FIRST_PAUSE, "{pauses:?}");
        attempts.reset();
        assert!(attempts.pause_after(&stalled).is_some());
    }

    #[test]
    fn a_download_that_nobody_waits_for_is_tried_for_about_a_day() {
        let pauses: Vec<Duration> = unattended_pauses().collect();
        assert!(pauses[0] <= Duration::from_secs(2));
        let hours = pauses.iter().sum::<Duration>().as_secs() / 3600;
        assert!((20..60).contains(&hours), "{hours}");
    }

    #[test]
    fn a_server_that_names_a_time_is_given_it_within_reason() {
        let mut attempts = Attempts::new(8);
        assert!(attempts.pause_after(&status(429, Some(7))).unwrap() >= Duration::from_secs(7));
        assert_eq!(attempts.pause_after(&status(429, Some(86_400))), None);
    }
}
