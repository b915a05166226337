//! The bytes of a body out of `transfer-encoding: chunked`, as they come in.

use httparse::{Status, parse_chunk_size};
use memchr::memchr;

use crate::Malformed;

/// The longest line with the size of a chunk, or of a trailer, in bytes.
const MAX_LINE: usize = 4096;
/// The most bytes of all trailers.
const MAX_TRAILERS: usize = 64 * 1024;

/// Where the decoder is.
#[derive(Debug, Default)]
pub(crate) struct Chunked {
    state: State,
    /// The beginning of a line whose end is not there yet.
    line: Vec<u8>,
    /// The bytes of the trailers before that line.
    trailers: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A line with a size.
    #[default]
    Size,
    /// So many bytes of a chunk.
    Data(u64),
    /// The end of the line of a chunk's data.
    DataEnd,
    /// A line after the last chunk.
    Trailer,
    Ended,
}

impl Chunked {
    /// Gives the body's bytes among `bytes` to `body`; gives what comes after the end.
    pub(crate) fn decode<'b>(
        &mut self,
        mut bytes: &'b [u8],
        body: &mut impl FnMut(&[u8]),
    ) -> Result<&'b [u8], Malformed> {
        while !bytes.is_empty() && self.state != State::Ended {
            bytes = match self.state {
                State::Size => self.on_line(bytes, |line, _| size(line))?,
                State::Data(left) => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    body(&bytes[..take]);
                    self.state = match left - take as u64 {
                        0 => State::DataEnd,
                        left => State::Data(left),
                    };
                    &bytes[take..]
                }
                State::DataEnd => self.on_line(bytes, |line, _| match line {
                    b"" => Ok(State::Size),
                    _ => Err(Malformed::Chunk),
                })?,
                State::Trailer => self.on_line(bytes, |line, trailers| match line {
                    b"" => Ok(State::Ended),
                    _ if *trailers > MAX_TRAILERS => Err(Malformed::Chunk),
                    _ => {
                        *trailers += line.len();
                        Ok(State::Trailer)
                    }
                })?,
                State::Ended => bytes,
            };
        }
        Ok(bytes)
    }

    /// Whether the body is whole.
    pub(crate) fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Goes on to the state that a line leads to, once it is whole; gives the bytes after it.
    fn on_line<'b>(
        &mut self,
        bytes: &'b [u8],
        then: impl FnOnce(&[u8], &mut usize) -> Result<State, Malformed>,
    ) -> Result<&'b [u8], Malformed> {
        let end = memchr(b'\n', bytes);
        let length = end.map_or(bytes.len(), |end| end + 1);
        if self.line.len() + length > MAX_LINE {
            return Err(Malformed::Chunk);
        }
        if end.is_none() {
            self.line.extend_from_slice(bytes);
            return Ok(&[]);
        }
        let (line, rest) = bytes.split_at(length);
        let whole = if self.line.is_empty() {
            line
        } else {
            self.line.extend_from_slice(line);
            &self.line
        };
        let line = whole.strip_suffix(b"\r\n").ok_or(Malformed::Chunk)?;
        self.state = then(line, &mut self.trailers)?;
        self.line.clear();
        Ok(rest)
    }
}

fn size(line: &[u8]) -> Result<State, Malformed> {
    // Whoever parses it wants to see the end of the line, which is short as a rule.
    let mut whole = [0; 64];
    let digits = line.split(|byte| matches!(byte, b';' | b' ' | b'\t')).next().unwrap_or_default();
    // An empty line would be read as the last chunk.
    if digits.is_empty() {
        return Err(Malformed::Chunk);
    }
    let room = whole.get_mut(..digits.len() + 2).ok_or(Malformed::Chunk)?;
    room[..digits.len()].copy_from_slice(digits);
    room[digits.len()..].copy_from_slice(b"\r\n");
    match parse_chunk_size(room) {
        Ok(Status::Complete((_, 0))) => Ok(State::Trailer),
        Ok(Status::Complete((_, size))) => Ok(State::Data(size)),
        _ => Err(Malformed::Chunk),
    }
}
