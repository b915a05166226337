//! When a worker that is busy says to be asked again. Pure.

use jiff::fmt::rfc2822;

/// The seconds in a header `Retry-After` at a time, in seconds since 1970; at least one. It names a number of
/// them, or a date. `None` where it is neither.
pub(crate) fn seconds(header: &str, now: u64) -> Option<u32> {
    let header = header.trim();
    let is_number = !header.is_empty() && header.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = if is_number {
        // One that is too long for a number is as long as can be.
        header.parse().unwrap_or(u32::MAX)
    } else {
        let at = rfc2822::parse(header).ok()?.timestamp().as_second();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        u32::try_from(at.saturating_sub(now).max(0)).unwrap_or(u32::MAX)
    };
    Some(seconds.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_understood_and_none_means_at_once() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        let now = 784_111_777;
        for (header, expected) in [
            ("1", Some(1)),
            (" 3600 ", Some(3600)),
            ("0", Some(1)),
            ("99999999999999999999", Some(u32::MAX)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(1)),
            ("Sat, 05 Nov 1994 08:49:37 GMT", Some(1)),
            ("Wed, 06 Nov 2999 08:49:37 GMT", Some(u32::MAX)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(seconds(header, now), expected, "{header:?}");
        }
    }
}
