//! Why a worker failed, in words: its exit status, its own last error, its last log lines. Pure.

use std::fmt;
use std::time::Duration;

/// How many of the last log lines are shown.
const SHOWN_LINES: usize = 8;
/// The longest line that is shown, in characters.
const SHOWN_LINE_CHARS: usize = 300;

/// How a worker ends that does not understand its command line.
const MISUNDERSTOOD: Exit = Exit::Status(2);

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

/// Why a process ended, as far as it and its end tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Explanation {
    /// The worker's own `error: ` line if it wrote one, and how it ended: one line.
    pub(super) how: String,
    /// What follows it on lines of its own: the last ones of the log.
    pub(super) log: String,
}

impl Explanation {
    /// One text for a person, which begins with a line that may be of more than this tells.
    pub(super) fn after(&self, first_line: &str) -> String {
        format!("{first_line}{}", self.log)
    }

    /// One text for a person.
    pub(super) fn text(&self) -> String {
        self.after(&self.how)
    }
}

/// Puts together what a process that ended has left. Whether the operator has given it arguments of his own matters
/// where it did not understand them.
pub(super) fn explain(exit: Exit, log: &str, has_own_arguments: bool) -> Explanation {
    let mut how = match own_words(log) {
        Some(words) => format!("{} ({exit})", cut(words)),
        None => format!("the worker ended without being told to ({exit})"),
    };
    if exit == MISUNDERSTOOD && has_own_arguments {
        how.push_str("; it may come from worker.arguments of config.toml");
    }
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let mut log = String::new();
    if !lines.is_empty() {
        log.push_str("\nits last log lines:");
        for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
            log.push_str("\n  ");
            log.push_str(&cut(line));
        }
    }
    Explanation { how, log }
}

/// What a job's error says of a failure, and what is told beside it: a log is for the operator, and the error
/// may reach whoever asked for an answer.
pub(crate) fn first_line(reason: &str) -> (&str, Option<&str>) {
    match reason.split_once('\n') {
        Some((first, rest)) => (first, Some(rest)),
        None => (reason, None),
    }
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
        let text = explain(Exit::Status(1), log, true).text();
        assert!(text.starts_with("the file is truncated (exit status 1)\n"), "{text}");
        let (first, rest) = first_line(&text);
        assert_eq!(first, "the file is truncated (exit status 1)");
        assert!(
            rest.is_some_and(|rest| rest.ends_with("\n  error: the file is truncated")),
            "{text}"
        );
        assert_eq!(first_line("alone"), ("alone", None));
    }

    #[test]
    fn an_argument_that_a_worker_does_not_know_is_told_with_the_setting_that_it_may_come_from() {
        let log = "error: unexpected argument '--nope' found\n\nUsage: llm-worker-rbee\n";
        let told = "unexpected argument '--nope' found (exit status 2)";
        let named = format!("{told}; it may come from worker.arguments of config.toml");
        assert_eq!(explain(Exit::Status(2), log, true).how, named);
        assert_eq!(explain(Exit::Status(2), log, false).how, told);
    }

    #[test]
    fn without_words_of_its_own_the_signal_tells() {
        let text = explain(Exit::Signal(9), "", true).text();
        assert!(text.contains("SIGKILL"), "{text}");
        assert!(!text.contains("log lines"), "{text}");
    }

    #[test]
    fn a_long_log_is_cut() {
        let log = "x".repeat(5000) + "\n" + &"line\n".repeat(500);
        assert!(explain(Exit::Status(1), &log, true).text().len() < 4000);
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
