//! One answer out of bytes, as they come in.

use crate::Malformed;
use crate::chunked::Chunked;
use crate::head::{Facts, Head, Length, MAX_BYTES};

/// The most interim heads before the head of an answer.
const MAX_INTERIM: u32 = 16;

/// Reads one answer. It keeps the head, and of the body nothing but where it is in it.
#[derive(Debug, Default)]
pub struct AnswerReader {
    /// The beginning of a head that is not whole.
    begun: Vec<u8>,
    /// Interim heads that came.
    interim: u32,
    head: Option<Head>,
    body: Body,
    is_kept: bool,
    /// Something came after the end of the answer.
    has_more: bool,
}

#[derive(Debug)]
enum Body {
    Chunked(Chunked),
    /// So many bytes are missing.
    Bytes(u64),
    UntilClosed,
    Ended,
}

impl Default for Body {
    fn default() -> Self {
        Self::Bytes(0)
    }
}

impl AnswerReader {
    /// Takes bytes in; gives those of the body to `body`.
    ///
    /// # Errors
    /// When they are no answer of HTTP/1.1.
    pub fn feed(&mut self, bytes: &[u8], body: &mut impl FnMut(&[u8])) -> Result<(), Malformed> {
        if self.head.is_some() {
            return self.feed_body(bytes, body);
        }
        if self.begun.is_empty() {
            let rest = self.feed_head(bytes)?;
            if self.head.is_some() {
                return self.feed_body(rest, body);
            }
            self.begun.extend_from_slice(rest);
            return Ok(());
        }
        let mut begun = std::mem::take(&mut self.begun);
        begun.extend_from_slice(bytes);
        // A head ends with a line, so that one which comes byte by byte is not read again for each.
        if !bytes.contains(&b'\n') && begun.len() <= MAX_BYTES {
            self.begun = begun;
            return Ok(());
        }
        self.feed(&begun, body)
    }

    /// Whether any of the answer has come.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.head.is_some() || self.interim > 0 || !self.begun.is_empty()
    }

    /// The head, once it is whole.
    #[must_use]
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// Whether the answer is whole.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.head.is_some() && matches!(self.body, Body::Ended)
    }

    /// Whether the connection can take another request: the answer is whole, and its head allows it.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.is_ended() && self.is_kept && !self.has_more
    }

    /// Notes that the connection has ended, which is how some answers do.
    ///
    /// # Errors
    /// When the answer is not whole.
    pub fn closed(&mut self) -> Result<(), Malformed> {
        if self.head.is_some() && matches!(self.body, Body::UntilClosed | Body::Ended) {
            self.body = Body::Ended;
            return Ok(());
        }
        Err(if self.head.is_some() { Malformed::Incomplete } else { Malformed::NoAnswer })
    }

    /// Reads the head, past interim ones; gives what is not read.
    fn feed_head<'b>(&mut self, mut bytes: &'b [u8]) -> Result<&'b [u8], Malformed> {
        while let Some((head, facts, length)) = Head::parse(bytes)? {
            bytes = &bytes[length..];
            match head.status() {
                // What would come after it is no HTTP.
                101 => return Err(Malformed::Head),
                100..200 if self.interim == MAX_INTERIM => return Err(Malformed::LongHead),
                100..200 => self.interim += 1,
                _ => {
                    self.begin_body(facts);
                    self.head = Some(head);
                    break;
                }
            }
        }
        Ok(bytes)
    }

    fn begin_body(&mut self, facts: Facts) {
        self.is_kept = facts.is_kept;
        self.body = match facts.length {
            Length::Chunked => Body::Chunked(Chunked::default()),
            Length::Bytes(0) => Body::Ended,
            Length::Bytes(bytes) => Body::Bytes(bytes),
            Length::UntilClosed => Body::UntilClosed,
        };
    }

    fn feed_body(&mut self, bytes: &[u8], body: &mut impl FnMut(&[u8])) -> Result<(), Malformed> {
        let rest = match &mut self.body {
            Body::Chunked(chunked) => {
                let rest = chunked.decode(bytes, body)?;
                if chunked.is_ended() {
                    self.body = Body::Ended;
                }
                rest
            }
            Body::Bytes(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= take as u64;
                let is_whole = *left == 0;
                if take > 0 {
                    body(&bytes[..take]);
                }
                if is_whole {
                    self.body = Body::Ended;
                }
                &bytes[take..]
            }
            Body::UntilClosed => {
                body(bytes);
                &[]
            }
            Body::Ended => bytes,
        };
        self.has_more |= !rest.is_empty();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
