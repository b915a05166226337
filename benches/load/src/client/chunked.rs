//! A body's bytes out of `transfer-encoding: chunked`, as they come in. Pure.

use anyhow::{Result, bail};
use httparse::{Status, parse_chunk_size};

/// The longest line with a chunk's size, in bytes.
const MAX_SIZE_LINE: usize = 256;

/// Where the decoder is.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    state: State,
    /// The beginning of a line whose end is not there yet.
    line: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A line with a size.
    #[default]
    Size,
    /// So many bytes of a chunk, and two that end it.
    Data(u64),
    /// The line after the last chunk.
    Trailer,
    Ended,
}

impl Chunked {
    /// Appends the body's bytes among `bytes` to `body`.
    pub(super) fn decode(&mut self, mut bytes: &[u8], body: &mut Vec<u8>) -> Result<()> {
        while !bytes.is_empty() {
            match self.state {
                State::Size => {
                    let Some(rest) = self.take_line(bytes)? else { return Ok(()) };
                    bytes = rest;
                    let Ok(Status::Complete((_, size))) = parse_chunk_size(&self.line) else {
                        bail!("the size of a chunk cannot be read");
                    };
                    self.line.clear();
                    self.state = if size == 0 { State::Trailer } else { State::Data(size + 2) };
                }
                State::Data(left) => {
                    let take = usize::try_from(left)?.min(bytes.len());
                    let after = left - take as u64;
                    // The last two bytes end the chunk.
                    let ours = take.min(usize::try_from(left.saturating_sub(2))?);
                    body.extend_from_slice(&bytes[..ours]);
                    bytes = &bytes[take..];
                    self.state = if after == 0 { State::Size } else { State::Data(after) };
                }
                State::Trailer => {
                    let Some(rest) = self.take_line(bytes)? else { return Ok(()) };
                    bytes = rest;
                    if self.line == b"\r\n" {
                        self.state = State::Ended;
                    }
                    self.line.clear();
                }
                State::Ended => bail!("something comes after the end"),
            }
        }
        Ok(())
    }

    /// Whether the body is whole.
    pub(super) fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Completes `line`; gives the bytes after it, or nothing while its end is missing.
    fn take_line<'b>(&mut self, bytes: &'b [u8]) -> Result<Option<&'b [u8]>> {
        let end = memchr::memchr(b'\n', bytes);
        let length = end.map_or(bytes.len(), |end| end + 1);
        self.line.extend_from_slice(&bytes[..length]);
        if self.line.len() > MAX_SIZE_LINE {
            bail!("the line with a chunk's size is too long");
        }
        Ok(end.map(|_| &bytes[length..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_the_same_however_its_bytes_are_cut() {
        let wire = b"5\r\nhello\r\n1;x=y\r\n \r\nA\r\n0123456789\r\n0\r\n\r\n";
        for length in 1..=wire.len() {
            let (mut chunked, mut body) = (Chunked::default(), Vec::new());
            for piece in wire.chunks(length) {
                assert!(!chunked.is_ended());
                chunked.decode(piece, &mut body).unwrap();
            }
            assert_eq!(body, b"hello 0123456789", "pieces of {length}");
            assert!(chunked.is_ended());
        }
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for wrong in ["x\r\n", "0\r\n\r\n1", &"0".repeat(1000)] {
            let mut chunked = Chunked::default();
            assert!(chunked.decode(wrong.as_bytes(), &mut Vec::new()).is_err(), "{wrong:?}");
        }
    }
}
