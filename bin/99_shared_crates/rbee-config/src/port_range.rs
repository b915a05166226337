//! A range of ports.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Ports from `start` to `end`, both included: `9300-9399`, or one port: `9300`. `0` means any free
/// port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    /// The first port.
    pub start: u16,
    /// The last port.
    pub end: u16,
}

/// A text is no range of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no range of ports: write 9300-9399, one port, or 0 for any free one")]
pub struct InvalidPortRange(String);

impl PortRange {
    /// All ports of the range.
    #[must_use]
    pub fn ports(self) -> RangeInclusive<u16> {
        self.start..=self.end
    }

    /// Whether any free port will do.
    #[must_use]
    pub fn is_any(self) -> bool {
        self.start == 0
    }
}

impl FromStr for PortRange {
    type Err = InvalidPortRange;

    fn from_str(text: &str) -> Result<Self, InvalidPortRange> {
        let refused = || InvalidPortRange(text.chars().take(40).collect());
        let port = |text: &str| text.trim().parse::<u16>().map_err(|_| refused());
        let (start, end) = text.split_once('-').unwrap_or((text, text));
        let range = Self { start: port(start)?, end: port(end)? };
        let is_ordered = range.start <= range.end && (range.start > 0 || range.end == 0);
        if is_ordered { Ok(range) } else { Err(refused()) }
    }
}

impl TryFrom<String> for PortRange {
    type Error = InvalidPortRange;
    fn try_from(text: String) -> Result<Self, InvalidPortRange> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.start == self.end {
            write!(f, "{}", self.start)
        } else {
            write!(f, "{}-{}", self.start, self.end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_two_ports_in_order_or_one() {
        for good in ["9300-9399", "9300", "0"] {
            assert_eq!(String::from(good.parse::<PortRange>().unwrap()), good);
        }
        for bad in ["", "-", "9399-9300", "0-5", "9300-", "70000", "a-b", "1-2-3"] {
            assert!(bad.parse::<PortRange>().is_err(), "{bad:?}");
        }
    }
}
