//! What follows the bytes of a file while they arrive: a thread that computes their digest, and one that has
//! them on the disk for good, so that neither is left to do when the last have come.
//!
//! Bytes that come in their order are handed to it as they are. What came before its turn, from another
//! connection or another day, it reads from the file, which the system mostly has in memory.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use worker_contract::Sha256Digest;

use super::plan::{Plan, Ranges};
use crate::catalog::hex_digest;

/// How much is read at once, in bytes: as much as stays in a processor's cache.
const CHUNK: usize = 256 << 10;
/// How many bytes may wait to be hashed, where the network is faster.
const MOST_WAITING: usize = 8 << 20;
/// How much is read from the file before it is looked whether bytes come in their order again.
const READ_AHEAD: u64 = 4 << 20;
/// After how many bytes the disk is told to keep what it has got.
const SYNC_EVERY: u64 = 64 << 20;

/// A file that bytes arrive in, and who waits for them.
#[derive(Debug)]
pub(super) struct Landing {
    file: File,
    state: Mutex<State>,
    moved: Condvar,
    /// The next sync is worth it, or the last bytes are there.
    due: Condvar,
}

#[derive(Debug)]
struct State {
    plan: Plan,
    /// What arrived in its order and is to be hashed.
    fresh: VecDeque<Bytes>,
    waiting: usize,
    /// The place of the first byte that nobody has been given to hash.
    next: u64,
    /// How many bytes were there when the disk was last told to keep them.
    synced: u64,
    /// Nothing will arrive any more, or nobody hashes.
    closed: bool,
}

/// What is to be hashed next.
enum Piece {
    Fresh(Bytes),
    Written(Range<u64>),
}

impl State {
    /// Whether who keeps the file synced has something to do, or nothing ever more.
    fn is_sync_due(&self) -> bool {
        let is_over = self.closed || self.plan.is_complete();
        is_over || self.plan.present() >= self.synced.saturating_add(SYNC_EVERY)
    }
}

impl Landing {
    pub(super) fn new(file: File, size: Option<u64>, done: Ranges) -> Self {
        let synced = done.total();
        let plan = Plan::new(size, done);
        let (fresh, waiting, next) = (VecDeque::new(), 0, 0);
        let state = State { plan, fresh, waiting, next, synced, closed: false };
        Self { file, state: Mutex::new(state), moved: Condvar::new(), due: Condvar::new() }
    }

    /// Looks at the plan, or changes it.
    pub(super) fn plan<T>(&self, look: impl FnOnce(&mut Plan) -> T) -> T {
        look(&mut self.state().plan)
    }

    /// Writes bytes at their place. Blocking, also while too many wait to be hashed.
    pub(super) fn write(&self, at: u64, bytes: &Bytes) -> io::Result<()> {
        self.file.write_all_at(bytes, at)?;
        let mut state = self.state();
        state.plan.wrote(at..at + bytes.len() as u64);
        while state.next == at && state.waiting >= MOST_WAITING && !state.closed {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.next == at && !state.closed {
            state.fresh.push_back(bytes.clone());
            state.waiting += bytes.len();
            state.next += bytes.len() as u64;
        }
        let is_due = state.is_sync_due();
        drop(state);
        self.moved.notify_all();
        if is_due {
            self.due.notify_all();
        }
        Ok(())
    }

    /// The stream of a file of unknown size ended well.
    pub(super) fn end_here(&self) {
        self.state().plan.end_here();
        self.moved.notify_all();
        self.due.notify_all();
    }

    /// Nothing will arrive any more.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.moved.notify_all();
        self.due.notify_all();
    }

    /// Has what is written on the disk, again and again, until nothing more comes. Blocking.
    pub(super) fn keep_synced(&self) -> io::Result<()> {
        while self.sync_is_worth_it() {
            self.file.sync_data()?;
        }
        Ok(())
    }

    /// Waits until the next sync is worth it; it is not where no more comes.
    fn sync_is_worth_it(&self) -> bool {
        let mut state = self.state();
        while !state.is_sync_due() {
            state = self.due.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.synced = state.plan.present();
        !state.closed && !state.plan.is_complete()
    }

    /// Has all that was written on the disk. Blocking.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// The digest of the whole file; `None` if it was closed before it was whole. Blocking.
    pub(super) fn digest(&self) -> io::Result<Option<Sha256Digest>> {
        let digest = self.hash();
        if digest.is_err() {
            // Who writes must not wait for somebody who is gone.
            self.close();
        }
        digest
    }

    fn hash(&self) -> io::Result<Option<Sha256Digest>> {
        let mut sha256 = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        while let Some(piece) = self.next() {
            let mut range = match piece {
                Piece::Fresh(bytes) => {
                    sha256.update(&bytes);
                    continue;
                }
                Piece::Written(range) => range,
            };
            while range.start < range.end {
                let most = usize::try_from(range.end - range.start).unwrap_or(CHUNK).min(CHUNK);
                let read = self.file.read_at(&mut chunk[..most], range.start)?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                sha256.update(&chunk[..read]);
                range.start += read as u64;
                if self.state().closed {
                    return Ok(None);
                }
            }
        }
        let state = self.state();
        let whole = !state.closed && state.plan.size() == Some(state.next);
        drop(state);
        Ok(whole.then(|| hex_digest(sha256)))
    }

    /// Waits for what is to be hashed next; `None` at the end.
    fn next(&self) -> Option<Piece> {
        let mut state = self.state();
        loop {
            if state.closed {
                return None;
            }
            if let Some(bytes) = state.fresh.pop_front() {
                state.waiting -= bytes.len();
                drop(state);
                self.moved.notify_all();
                return Some(Piece::Fresh(bytes));
            }
            let (next, frontier) = (state.next, state.plan.frontier());
            if frontier > next {
                let range = next..frontier.min(next + READ_AHEAD);
                state.next = range.end;
                return Some(Piece::Written(range));
            }
            if state.plan.is_complete() {
                return None;
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
                    landing.write(at.into(), &Bytes::from(vec![b'a' + at])).unwrap();
                }
                following.join().unwrap()
            });
            assert_eq!(digest.unwrap().as_hex(), ABC);
        }
    }

    #[test]
    fn a_network_that_is_faster_than_the_digest_waits_for_it_and_not_for_one_that_is_given_up() {
        let size = 5 * MOST_WAITING as u64;
        let piece = Bytes::from(vec![7; MOST_WAITING / 2]);
        for is_hashed in [true, false] {
            let landing = landing(Some(size), Ranges::default());
            let digest = std::thread::scope(|scope| {
                let writing = scope.spawn(|| {
                    for at in (0..size).step_by(piece.len()) {
                        landing.write(at, &piece).unwrap();
                        assert!(landing.state().waiting < MOST_WAITING + piece.len());
                    }
                });
                let digest = if is_hashed { landing.digest().unwrap() } else { None };
                if !is_hashed {
                    landing.close();
                }
                writing.join().unwrap();
                digest
            });
            let expected = is_hashed.then(|| {
                let all = vec![7; usize::try_from(size).unwrap()];
                hex_digest(Sha256::new_with_prefix(all))
            });
            assert_eq!(digest, expected);
        }
    }

    #[test]
    fn the_disk_is_told_to_keep_what_arrives_until_all_is_there_or_it_is_given_up() {
        for is_given_up in [false, true] {
            let landing = landing(Some(2 * SYNC_EVERY), Ranges::default());
            let piece = Bytes::from(vec![7; 1 << 20]);
            std::thread::scope(|scope| {
                let following = scope.spawn(|| landing.digest());
                let syncing = scope.spawn(|| landing.keep_synced());
                for at in (0..SYNC_EVERY).step_by(piece.len()) {
                    landing.write(at, &piece).unwrap();
                }
                while landing.state().synced < SYNC_EVERY {
                    std::thread::yield_now();
                }
                assert!(!syncing.is_finished());
                if is_given_up {
                    landing.close();
                } else {
                    for at in (SYNC_EVERY..2 * SYNC_EVERY).step_by(piece.len()) {
                        landing.write(at, &piece).unwrap();
                    }
                }
                syncing.join().unwrap().unwrap();
                assert_eq!(following.join().unwrap().unwrap().is_none(), is_given_up);
            });
        }
    }

    #[test]
    fn what_was_there_before_is_part_of_the_digest() {
        let landing = landing(Some(3), Ranges::one(0..2));
        landing.file.write_all_at(b"ab", 0).unwrap();
        landing.write(2, &Bytes::from("c")).unwrap();
        assert_eq!(landing.digest().unwrap().unwrap().as_hex(), ABC);
    }

    #[test]
    fn a_file_that_is_given_up_has_no_digest_and_one_of_unknown_size_ends_where_it_ends() {
        let given_up = landing(Some(3), Ranges::default());
        given_up.write(0, &Bytes::from("ab")).unwrap();
        given_up.close();
        assert_eq!(given_up.digest().unwrap(), None);
        let unknown = landing(None, Ranges::default());
        unknown.write(0, &Bytes::from("abc")).unwrap();
        unknown.end_here();
        assert_eq!(unknown.digest().unwrap().unwrap().as_hex(), ABC);
    }
}
