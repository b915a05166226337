//! Bytes, one after the other, never past the end of the file or the limit for headers.

use std::io::{self, BufRead};

use super::error::{GgufError, Place};
use super::limits::MAX_HEADER_BYTES;

/// Reads a header.
pub(super) struct Cursor<R> {
    input: R,
    position: u64,
    /// The file's size, in bytes.
    size: u64,
}

impl<R: BufRead> Cursor<R> {
    pub(super) fn new(input: R, size: u64) -> Self {
        Self { input, position: 0, size }
    }

    /// How many bytes are read.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn place(&self) -> Place {
        Place::Byte(self.position)
    }

    pub(super) fn bytes<const N: usize>(&mut self, of: &'static str) -> Result<[u8; N], GgufError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, of)?;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, of: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.bytes(of)?))
    }

    pub(super) fn u64(&mut self, of: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.bytes(of)?))
    }

    /// The length of a text, which is checked before anything is done with it.
    pub(super) fn text_length(&mut self, of: &'static str, limit: u64) -> Result<u64, GgufError> {
        let place = self.place();
        let length = self.u64(of)?;
        place.check_limit("a text's length", length, limit)?;
        self.require(length, of)?;
        Ok(length)
    }

    /// A text, as bytes: tokens are not always whole characters.
    pub(super) fn text(&mut self, of: &'static str, limit: u64) -> Result<Vec<u8>, GgufError> {
        let length = self.text_length(of, limit)?;
        self.take(length, of)
    }

    /// So many bytes: no more memory than the file has bytes, as they are known to be there.
    pub(super) fn take(&mut self, length: u64, of: &'static str) -> Result<Vec<u8>, GgufError> {
        self.require(length, of)?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.fill(&mut bytes, of)?;
        Ok(bytes)
    }

    /// Reads past so many bytes.
    pub(super) fn skip(&mut self, length: u64, of: &'static str) -> Result<(), GgufError> {
        self.require(length, of)?;
        let mut left = length;
        while left > 0 {
            let read = self.input.fill_buf().map(<[u8]>::len);
            let read = read.map_err(|source| self.failed(source, of))?;
            if read == 0 {
                return Err(self.failed(io::ErrorKind::UnexpectedEof.into(), of));
            }
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(read);
            self.input.consume(part);
            self.position += part as u64;
            left -= part as u64;
        }
        Ok(())
    }

    /// Refuses what would end after the file or after the limit for headers.
    pub(super) fn require(&self, length: u64, of: &'static str) -> Result<(), GgufError> {
        let end = self.position.saturating_add(length);
        if end > self.size {
            let (position, size) = (self.position, self.size);
            return Err(GgufError::EndsEarly { inside: of, position, size });
        }
        self.place().check_limit("the header's length in bytes", end, MAX_HEADER_BYTES)
    }

    fn fill(&mut self, bytes: &mut [u8], of: &'static str) -> Result<(), GgufError> {
        self.require(bytes.len() as u64, of)?;
        self.input.read_exact(bytes).map_err(|source| self.failed(source, of))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn failed(&self, source: io::Error, of: &'static str) -> GgufError {
        let position = self.position;
        match source.kind() {
            // It has become shorter while it is read.
            io::ErrorKind::UnexpectedEof => {
                GgufError::EndsEarly { inside: of, position, size: self.size }
            }
            _ => GgufError::Unreadable { position, source },
        }
    }
}
