//! A job's events as lines, and the one line about an answer's speed.

use std::time::Duration;

use rbee_operations::{EventLevel, JobEvent, Pace, Progress};

use super::{error, printable, unit};
use crate::view::Answer;

/// An event as one line, with its line end.
pub(crate) fn line(event: &JobEvent, color: bool) -> String {
    match event.level {
        EventLevel::Info => format!("{}\n", printable(&event.message)),
        EventLevel::Warn | EventLevel::Error => error::warning(&event.message, color),
    }
}

/// How far a step is: `12.3 MB of 98.4 MB (12%)`.
pub(crate) fn amount(progress: &Progress) -> String {
    let in_unit = |value: u64| match progress.unit.as_str() {
        "bytes" => unit::file_size(value),
        "percent" => format!("{value}%"),
        other => format!("{value} {other}"),
    };
    match (percent(progress), progress.total) {
        (Some(percent), _) if progress.unit == "percent" => format!("{percent}%"),
        (Some(percent), Some(total)) => {
            format!("{} of {} ({percent}%)", in_unit(progress.done), in_unit(total))
        }
        _ => in_unit(progress.done),
    }
}

/// How fast it goes and how long it takes: `12.3 MB/s, 40s left`; nothing where that is not known.
pub(crate) fn pace(pace: &Pace) -> String {
    let rate = pace.per_second.map(|rate| format!("{}/s", unit::file_size(rate)));
    let rest = pace.eta_s.map(|eta| format!("{} left", unit::span(Duration::from_secs(eta))));
    rate.into_iter().chain(rest).collect::<Vec<_>>().join(", ")
}

/// The part that is done, 0 to 100, where the whole is known.
pub(crate) fn percent(progress: &Progress) -> Option<u64> {
    let total = progress.total.filter(|&total| total > 0)?;
    let percent = u128::from(progress.done) * 100 / u128::from(total);
    Some(u64::try_from(percent).unwrap_or(100).min(100))
}

/// Lets one progress event of each tenth through, for logs and pipes.
#[derive(Debug, Default)]
pub(crate) struct Tenths {
    shown: Option<(String, u64)>,
}

impl Tenths {
    /// Whether this event is to be shown.
    pub(crate) fn admits(&mut self, message: &str, progress: &Progress) -> bool {
        let tenth = percent(progress).map_or(0, |percent| percent / 10);
        let reached = Some((message.to_owned(), tenth));
        let admitted = self.shown != reached;
        self.shown = reached;
        admitted
    }
}

/// `42 tokens, 68.2 tokens/s, first token after 35 ms`.
pub(crate) fn speed(answer: &Answer) -> String {
    let tokens = answer.usage.completion_tokens;
    let mut parts = vec![unit::count(tokens as usize, "token")];
    // The decode time is from the first token to the last: one token fewer than the answer has.
    if tokens > 1 && answer.timings.decode_ms > 0.0 && answer.failovers == 0 {
        let rate = f64::from(tokens - 1) / (answer.timings.decode_ms / 1000.0);
        parts.push(format!("{rate:.1} tokens/s"));
    }
    let ttft_ms = answer.ttft_ms.unwrap_or(answer.timings.ttft_ms);
    if ttft_ms >= 1000.0 {
        parts.push(format!("first token after {:.1} s", ttft_ms / 1000.0));
    } else if ttft_ms > 0.0 {
        parts.push(format!("first token after {ttft_ms:.0} ms"));
    }
    if answer.finish_reason == "length" {
        parts.push("cut at the token limit".to_owned());
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use worker_contract::{Timings, Usage};

    use super::*;

    fn progress(done: u64, total: Option<u64>, unit: &str) -> Progress {
        Progress { done, total, unit: unit.to_owned() }
    }

    #[test]
    fn an_amount_is_in_the_unit_of_its_step() {
        for (given, text) in [
            (progress(12_300_000, Some(98_400_000), "bytes"), "12.3 MB of 98.4 MB (12%)"),
            (progress(12_300_000, None, "bytes"), "12.3 MB"),
            (progress(40, Some(100), "percent"), "40%"),
            (progress(3, Some(4), "files"), "3 files of 4 files (75%)"),
            (progress(0, Some(0), "bytes"), "0 B"),
            (progress(u64::MAX, Some(1), "percent"), "100%"),
        ] {
            assert_eq!(amount(&given), text);
        }
    }

    #[test]
    fn the_pace_says_what_is_known() {
        for (per_second, eta_s, text) in [
            (Some(12_300_000), Some(100), "12.3 MB/s, 1m left"),
            (Some(0), None, "0 B/s"),
            (None, None, ""),
        ] {
            assert_eq!(pace(&Pace { per_second, eta_s }), text);
        }
    }

    #[test]
    fn a_pipe_sees_each_tenth_once() {
        let mut tenths = Tenths::default();
        let shown = (0..=1000)
            .filter(|&done| tenths.admits("reading", &progress(done, Some(1000), "bytes")))
            .count();
        assert_eq!(shown, 11);
        assert!(tenths.admits("verifying", &progress(1000, Some(1000), "bytes")));
    }

    #[test]
    fn the_speed_counts_the_tokens_after_the_first() {
        let answer = Answer {
            finish_reason: "stop".to_owned(),
            usage: Usage { prompt_tokens: 9, completion_tokens: 42, cached_tokens: 0 },
            timings: Timings { ttft_ms: 35.4, decode_ms: 601.0, ..Timings::default() },
            ttft_ms: None,
            failovers: 0,
        };
        assert_eq!(speed(&answer), "42 tokens, 68.2 tokens/s, first token after 35 ms");
        let after_a_start = Answer { ttft_ms: Some(6632.0), ..answer };
        assert_eq!(
            speed(&after_a_start),
            "42 tokens, 68.2 tokens/s, first token after 6.6 s",
            "what the client waited for counts"
        );
        let by_two = Answer { failovers: 1, ..after_a_start };
        assert_eq!(speed(&by_two), "42 tokens, first token after 6.6 s", "nobody gave all of them");
        assert_eq!(speed(&Answer::default()), "0 tokens");
    }
}
