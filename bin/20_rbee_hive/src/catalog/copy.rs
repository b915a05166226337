//! One pass over a model's bytes: copied and hashed together, reported, and stopped when asked.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use worker_contract::Sha256Digest;

/// How much is read at once, in bytes.
const CHUNK: usize = 1024 * 1024;

/// What watches a long pass: who may stop it, and who hears how far it is.
pub(crate) struct Watcher<'a> {
    /// Stops the pass.
    pub(crate) cancel: &'a CancellationToken,
    /// Hears the number of bytes done, after each chunk.
    pub(crate) progress: &'a mut dyn FnMut(u64),
}

impl Watcher<'_> {
    /// The same for the next of several files, when so many bytes are done.
    pub(super) fn after<R>(&mut self, before: u64, pass: impl FnOnce(&mut Watcher<'_>) -> R) -> R {
        let progress = &mut *self.progress;
        let mut onward = |done| progress(before + done);
        pass(&mut Watcher { cancel: self.cancel, progress: &mut onward })
    }
}

/// A pass did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    /// Somebody stopped it.
    #[error("cancelled")]
    Cancelled,
    /// The source cannot be read.
    #[error("the file cannot be read")]
    Read(#[source] io::Error),
    /// The copy cannot be written.
    #[error("the copy cannot be written")]
    Write(#[source] io::Error),
}

/// Copies all of `from` and says its digest.
pub(super) fn copy_and_hash(
    from: &mut impl Read,
    to: &mut impl Write,
    watcher: &mut Watcher<'_>,
) -> Result<Sha256Digest, CopyError> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut done = 0_u64;
    loop {
        if watcher.cancel.is_cancelled() {
            return Err(CopyError::Cancelled);
        }
        let read = match from.read(&mut chunk) {
            Ok(0) => return Ok(hex_digest(hasher)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Read(error)),
        };
        hasher.update(&chunk[..read]);
        to.write_all(&chunk[..read]).map_err(CopyError::Write)?;
        done += read as u64;
        (watcher.progress)(done);
    }
}

/// The digest of a text.
pub(crate) fn hex_digest_of(bytes: &[u8]) -> Sha256Digest {
    hex_digest(Sha256::new_with_prefix(bytes))
}

/// The digest of all of `from`.
pub(super) fn hash(
    from: &mut impl Read,
    watcher: &mut Watcher<'_>,
) -> Result<Sha256Digest, CopyError> {
    copy_and_hash(from, &mut io::sink(), watcher)
}

/// What a hasher came to.
pub(crate) fn hex_digest(hasher: Sha256) -> Sha256Digest {
    use std::fmt::Write as _;

    let mut hex = String::with_capacity(64);
    for byte in hasher.finalize() {
        let _ = write!(hex, "{byte:02x}");
    }
    hex.parse().expect("32 bytes are 64 hexadecimal digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_whole_and_the_digest_is_that_of_sha_256() {
        let (mut copy, mut steps) = (Vec::new(), Vec::new());
        let text = "abc".as_bytes();
        let cancel = CancellationToken::new();
        let mut watcher = Watcher { cancel: &cancel, progress: &mut |done| steps.push(done) };
        let digest = copy_and_hash(&mut &text[..], &mut copy, &mut watcher).unwrap();
        assert_eq!(copy, text);
        assert_eq!(steps, [3]);
        // FIPS 180-4, the one-block example.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.as_hex(), expected);
    }

    #[test]
    fn a_pass_that_is_cancelled_stops_before_the_next_chunk() {
        let cancel = CancellationToken::new();
        let mut progress = |_| cancel.cancel();
        let mut watcher = Watcher { cancel: &cancel, progress: &mut progress };
        let result = hash(&mut io::repeat(0), &mut watcher);
        assert!(matches!(result, Err(CopyError::Cancelled)), "{result:?}");
    }

    #[test]
    fn a_disk_that_becomes_full_is_told_from_a_source_that_cannot_be_read() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let cancel = CancellationToken::new();
        let mut watcher = Watcher { cancel: &cancel, progress: &mut |_| {} };
        let result = copy_and_hash(&mut &[0_u8; 8][..], &mut Full, &mut watcher);
        let Err(CopyError::Write(error)) = result else {
            panic!("{result:?}");
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
