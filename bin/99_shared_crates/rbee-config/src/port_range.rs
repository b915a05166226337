//! Ranges of ports.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de};

/// Ports from `start` to `end`, both included: `9300-9399`, or one port: `9300`.
///
/// `0` alone means any free port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct PortRange {
    /// The lowest port.
    pub start: u16,
    /// The highest port; not below `start`.
    pub end: u16,
}

/// A text is not a range of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid ports {0:?}: write the first and the last, such as 9300-9399, or one port, or 0 for any free one"
)]
pub struct InvalidPortRange(pub String);

impl PortRange {
    /// Whether any free port will do.
    pub fn is_any(self) -> bool {
        self.end == 0
    }

    /// The ports, the lowest first. Of "any free port" it is 0 alone.
    pub fn ports(self) -> RangeInclusive<u16> {
        self.start..=self.end
    }
}

impl FromStr for PortRange {
    type Err = InvalidPortRange;

    fn from_str(text: &str) -> Result<Self, InvalidPortRange> {
        let refused = || InvalidPortRange(text.chars().take(40).collect());
        let (start, end) = text.split_once('-').unwrap_or((text, text));
        let start = port(start).ok_or_else(refused)?;
        let end = port(end).ok_or_else(refused)?;
        let is_any = start == 0 && end == 0;
        if start > end || (start == 0 && !is_any) {
            return Err(refused());
        }
        Ok(Self { start, end })
    }
}

fn port(text: &str) -> Option<u16> {
    let text = text.trim();
    // `parse` would take a sign.
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.start == self.end {
            return write!(f, "{}", self.start);
        }
        write!(f, "{}-{}", self.start, self.end)
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RangeText)
    }
}

/// One port may be written as a number.
struct RangeText;

impl de::Visitor<'_> for RangeText {
    type Value = PortRange;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ports such as \"9300-9399\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<PortRange, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<PortRange, E> {
        number.to_string().parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_reads_back_as_it_is_written() {
        for (text, first, last) in
            [("9300-9399", 9300, 9399), ("9300", 9300, 9300), ("0", 0, 0), ("1-65535", 1, 65535)]
        {
            let range: PortRange = text.parse().unwrap();
            assert_eq!(range.to_string(), text);
            let ports: Vec<u16> = range.ports().collect();
            assert_eq!((ports[0], ports[ports.len() - 1]), (first, last));
        }
        assert_eq!("9300 - 9301".parse(), Ok(PortRange { start: 9300, end: 9301 }));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for bad in
            ["", "-", "9399-9300", "0-10", "65536", "9300-", "-9300", "1-2-3", "+1", "a", "1.5"]
        {
            let error = bad.parse::<PortRange>().unwrap_err().to_string();
            assert!(error.contains("9300-9399"), "{bad:?}: {error}");
        }
    }
}
