//! Why a worker failed, in words: its exit status, its own last error, its last log lines. Pure.

use std::fmt;
use std::time::Duration;

/// How many of the last log lines are shown.
const SHOWN_LINES: usize = 8;
/// The longest line that is shown, in characters.
const SHOWN_LINE_CHARS: usize = 300;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// With this exit status.
    Status(i32),
    /// By this signal.
    Signal(i32),
    /// Nobody can tell: the process was not a child of this one.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exit status {status}"),
            Self::Signal(6) => f.write_str("signal 6, SIGABRT: a crash"),
            Self::Signal(9) => {
                f.write_str("signal 9, SIGKILL: ended by hand, or by the system for want of memory")
            }
            Self::Signal(11) => f.write_str("signal 11, SIGSEGV: a crash"),
            Self::Signal(15) => f.write_str("signal 15, SIGTERM: ended by another program"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("exit status unknown: an earlier hive process started it"),
        }
    }
}

/// One text for a person: the worker's own `error: ` line if it wrote one, how it ended, and the
/// last lines of its log.
pub(super) fn explain(exit: Exit, log: &str) -> String {
    let mut text = match own_words(log) {
        Some(words) => format!("{} ({exit})", cut(words)),
        None => format!("the worker ended without being told to ({exit})"),
    };
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    if !lines.is_empty() {
        text.push_str("; its last log lines:");
        for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
            text.push_str("\n  ");
            text.push_str(&cut(line));
        }
    }
    text
}

/// What is said of a worker that failed too often: the first line tells that, the rest why.
pub(super) fn given_up(failures: usize, window: Duration, last: &str) -> String {
    let time = match window.as_secs() {
        seconds if seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    };
    match failures {
        1 => last.to_owned(),
        _ => format!("{failures} failures within {time}, the last one: {last}"),
    }
}

/// Whether the worker's own words say that it could not listen on its port.
pub(super) fn says_port_taken(log: &str) -> bool {
    own_words(log).is_some_and(|words| {
        let words = words.to_ascii_lowercase();
        words.contains("address already in use")
            || words.contains("port") && words.contains("in use")
    })
}

fn own_words(log: &str) -> Option<&str> {
    log.lines().rev().find_map(|line| line.strip_prefix("error: ")).map(str::trim)
}

fn cut(line: &str) -> String {
    line.chars().filter(|c| !c.is_control() || *c == '\t').take(SHOWN_LINE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workers_own_error_comes_first() {
        let log = "loading\nerror: the file is truncated\n";
        let text = explain(Exit::Status(1), log);
        assert!(text.starts_with("the file is truncated (exit status 1)"), "{text}");
    }

    #[test]
    fn without_words_of_its_own_the_signal_tells() {
        let text = explain(Exit::Signal(9), "");
        assert!(text.contains("SIGKILL"), "{text}");
        assert!(!text.contains("log lines"), "{text}");
    }

    #[test]
    fn a_long_log_is_cut() {
        let log = "x".repeat(5000) + "\n" + &"line\n".repeat(500);
        assert!(explain(Exit::Status(1), &log).len() < 4000);
    }

    #[test]
    fn a_worker_that_was_given_up_says_how_often_it_failed_and_why_the_last_time() {
        let ten_minutes = Duration::from_mins(10);
        let text = given_up(5, ten_minutes, "signal 9\n  a line");
        assert_eq!(text, "5 failures within 10 min, the last one: signal 9\n  a line");
        assert_eq!(given_up(1, ten_minutes, "signal 9"), "signal 9");
        assert!(given_up(2, Duration::from_secs(5), "x").contains("within 5 s"));
    }

    #[test]
    fn a_taken_port_is_told_from_other_errors() {
        for (log, expected) in [
            (
                "error: cannot listen on 127.0.0.1:9300: Address already in use (os error 98)\n",
                true,
            ),
            ("error: port 9300 is in use by another program\n", true),
            ("error: the file is truncated\n", false),
            ("warn: address already in use\n", false),
        ] {
            assert_eq!(says_port_taken(log), expected, "{log}");
        }
    }
}
