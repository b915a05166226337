//! The digest of a file while it arrives: a thread that follows the bytes that are written.
//!
//! It reads what was just written, which the system still has in memory, so that one way serves a
//! single connection, several at once, and a download that goes on after a pause.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};
use worker_contract::Sha256Digest;

use super::plan::{Plan, Ranges};
use crate::catalog::hex_digest;

/// How much is read at once, in bytes: as much as stays in a processor's cache.
const CHUNK: usize = 256 << 10;

/// A file that bytes arrive in, and who waits for them.
#[derive(Debug)]
pub(super) struct Landing {
    file: File,
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug)]
struct State {
    plan: Plan,
    /// Nothing will arrive any more.
    closed: bool,
}

impl Landing {
    pub(super) fn new(file: File, size: Option<u64>, done: Ranges) -> Self {
        let state = State { plan: Plan::new(size, done), closed: false };
        Self { file, state: Mutex::new(state), moved: Condvar::new() }
    }

    /// Looks at the plan, or changes it.
    pub(super) fn plan<T>(&self, look: impl FnOnce(&mut Plan) -> T) -> T {
        look(&mut self.state().plan)
    }

    /// Writes bytes at their place. Blocking.
    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)?;
        self.state().plan.wrote(at..at + bytes.len() as u64);
        self.moved.notify_all();
        Ok(())
    }

    /// The stream of a file of unknown size ended well.
    pub(super) fn end_here(&self) {
        self.state().plan.end_here();
        self.moved.notify_all();
    }

    /// Nothing will arrive any more.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.moved.notify_all();
    }

    /// Has all that was written on the disk. Blocking.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// The digest of the whole file; `None` if it was closed before it was whole. Blocking.
    pub(super) fn digest(&self) -> io::Result<Option<Sha256Digest>> {
        let mut sha256 = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        let mut hashed = 0;
        while let Some(mut next) = self.next(hashed) {
            while next.start < next.end {
                let most = usize::try_from(next.end - next.start).unwrap_or(CHUNK).min(CHUNK);
                let read = self.file.read_at(&mut chunk[..most], next.start)?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                sha256.update(&chunk[..read]);
                next.start += read as u64;
                if self.state().closed {
                    return Ok(None);
                }
            }
            hashed = next.end;
        }
        let whole = self.state().plan.size() == Some(hashed);
        Ok(whole.then(|| hex_digest(sha256)))
    }

    /// Waits for what comes after the first `hashed` bytes; `None` at the end.
    fn next(&self, hashed: u64) -> Option<Range<u64>> {
        let mut state = self.state();
        loop {
            let frontier = state.plan.frontier();
            if state.closed || (frontier == hashed && state.plan.is_complete()) {
                return None;
            }
            if frontier > hashed {
                return Some(hashed..frontier);
            }
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-4: `abc`.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn landing(size: Option<u64>, done: Ranges) -> Landing {
        Landing::new(tempfile::tempfile().unwrap(), size, done)
    }

    #[test]
    fn the_digest_is_that_of_the_whole_file_in_whatever_order_it_arrives() {
        for order in [[0_u8, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let landing = landing(Some(3), Ranges::default());
            let digest = std::thread::scope(|scope| {
                let following = scope.spawn(|| landing.digest().unwrap());
                for at in order {
                    landing.write(at.into(), &[b'a' + at]).unwrap();
                }
                following.join().unwrap()
            });
            assert_eq!(digest.unwrap().as_hex(), ABC);
        }
    }

    #[test]
    fn what_was_there_before_is_part_of_the_digest() {
        let landing = landing(Some(3), Ranges::one(0..2));
        landing.file.write_all_at(b"ab", 0).unwrap();
        landing.write(2, b"c").unwrap();
        assert_eq!(landing.digest().unwrap().unwrap().as_hex(), ABC);
    }

    #[test]
    fn a_file_that_is_given_up_has_no_digest_and_one_of_unknown_size_ends_where_it_ends() {
        let given_up = landing(Some(3), Ranges::default());
        given_up.write(0, b"ab").unwrap();
        given_up.close();
        assert_eq!(given_up.digest().unwrap(), None);
        let unknown = landing(None, Ranges::default());
        unknown.write(0, b"abc").unwrap();
        unknown.end_here();
        assert_eq!(unknown.digest().unwrap().unwrap().as_hex(), ABC);
    }
}
