//! Numbers as people read them.

use std::time::Duration;

use bytesize::ByteSize;

/// The size of a file: `98.4 MB`.
pub(crate) fn file_size(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}

/// An amount of memory: `15.6 GiB`.
pub(crate) fn memory(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// A number of weights as model names write it: `135M`, `7.2B`.
pub(crate) fn parameters(count: u64) -> String {
    let (value, unit) = match count {
        0..1_000_000 => return count.to_string(),
        1_000_000..1_000_000_000 => (count as f64 / 1e6, "M"),
        _ => (count as f64 / 1e9, "B"),
    };
    if value < 10.0 { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") }
}

/// A span of time by its largest unit or two: `5s`, `3m`, `2h10m`, `4d`.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m"),
        3600..36_000 if minutes % 60 != 0 => format!("{hours}h{}m", minutes % 60),
        3600..86_400 => format!("{hours}h"),
        _ => format!("{days}d"),
    }
}

/// How long ago something was; both in seconds since the Unix epoch.
pub(crate) fn age(then: u64, now: u64) -> String {
    span(Duration::from_secs(now.saturating_sub(then)))
}

/// `1 worker`, `2 workers`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_keep_their_meaning() {
        assert_eq!(file_size(98_362_432), "98.4 MB");
        assert_eq!(memory(16_777_216_000), "15.6 GiB");
        assert_eq!(parameters(134_515_008), "135M");
        assert_eq!(parameters(7_241_732_096), "7.2B");
        assert_eq!(parameters(999), "999");
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (61, "1m"), (3600, "1h"), (7860, "2h11m"), (90_000, "1d")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
        assert_eq!(age(100, 40), "0s", "a clock that went back is no reason to fail");
        assert_eq!(count(1, "worker"), "1 worker");
        assert_eq!(count(0, "worker"), "0 workers");
    }
}
