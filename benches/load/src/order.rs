//! What the load asks of the stand-in, and what stands in each token.
//!
//! Both travel as plain text, as prompt and as answer, so that they pass through any gateway.

use std::fmt;
use std::io::Write as _;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::time::{ClockId, clock_gettime};

/// An order as a prompt: `load tag=7 tokens=100 pace_us=30000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Order {
    /// Stands in each token, so that answers cannot be mixed up unseen.
    pub(crate) tag: u64,
    /// How many tokens the answer has.
    pub(crate) tokens: u32,
    /// The time between two tokens; zero: as fast as they are taken.
    pub(crate) pace: Duration,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tag, tokens, pace } = self;
        write!(f, "load tag={tag} tokens={tokens} pace_us={}", pace.as_micros())
    }
}

impl FromStr for Order {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut words = text.split_ascii_whitespace();
        ensure!(words.next() == Some("load"), "an order begins with the word load");
        let mut number = |name: &str| -> anyhow::Result<u64> {
            let word = words.next().and_then(|word| word.strip_prefix(name)?.strip_prefix('='));
            word.with_context(|| format!("{name} is missing"))?.parse().context("a number")
        };
        Ok(Self {
            tag: number("tag")?,
            tokens: number("tokens")?.try_into()?,
            pace: Duration::from_micros(number("pace_us")?),
        })
    }
}

/// The text of one token: `7.3@1234567 `, the third of the answer with tag 7 and when it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) tag: u64,
    pub(crate) number: u32,
    /// By the clock of [`micros`].
    pub(crate) written: u64,
}

impl Token {
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        let Self { tag, number, written } = self;
        // Writing into memory does not fail.
        let _ = write!(out, "{tag}.{number}@{written} ");
    }

    /// Reads the token at the beginning of `text`; gives the rest too.
    pub(crate) fn read(text: &[u8]) -> Option<(Self, &[u8])> {
        let (tag, rest) = number_before(text, b'.')?;
        let (number, rest) = number_before(rest, b'@')?;
        let (written, rest) = number_before(rest, b' ')?;
        Some((Self { tag, number: number.try_into().ok()?, written }, rest))
    }
}

fn number_before(text: &[u8], end: u8) -> Option<(u64, &[u8])> {
    let mut number = 0_u64;
    for (index, byte) in text.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                number = number.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
            }
            byte if *byte == end && index > 0 => return Some((number, &text[index + 1..])),
            _ => return None,
        }
    }
    None
}

/// Microseconds on a clock that all processes of the machine share.
pub(crate) fn micros() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let (seconds, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    seconds * 1_000_000 + nanos / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_reads_back_as_it_is_written() {
        let order = Order { tag: 7, tokens: 100, pace: Duration::from_millis(30) };
        assert_eq!(order.to_string().parse::<Order>().unwrap(), order);
        for bad in ["", "load", "load tag=1", "load tokens=1 tag=1 pace_us=1", "Hello there"] {
            assert!(bad.parse::<Order>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_token_reads_back_as_it_is_written() {
        let token = Token { tag: 7, number: 3, written: 1_234_567 };
        let mut text = Vec::new();
        token.write(&mut text);
        Token { number: 4, ..token }.write(&mut text);
        let (first, rest) = Token::read(&text).unwrap();
        assert_eq!(first, token);
        assert_eq!(Token::read(rest).unwrap().0.number, 4);
        for bad in ["", "7", "7.3", "7.3@1", ".3@1 ", "7.x@1 ", "7.99999999999@1 "] {
            assert!(Token::read(bad.as_bytes()).is_none(), "{bad:?}");
        }
    }
}
