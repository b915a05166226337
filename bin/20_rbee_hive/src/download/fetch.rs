//! One file from a server to the disk: several connections, each as often as it takes.
//!
//! Any HTTP server will do whose file has an address: a hub, a web server, another hive. What is known
//! of the file beforehand, size or digest, is held against what the server says and against what comes.

use std::convert::Infallible;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use access_tokens::Secret;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use narration::with_causes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use url::Url;
use worker_contract::Sha256Digest;

use super::answer::{Hitch, Inlet, answer};
use super::client::{Client, host};
use super::error::DownloadError;
use super::holds::Hold;
use super::part_file::{Note, PartFile};
use super::plan::{at_once, is_slow};
use super::probe::{Facts, probe};
use super::retry::Attempts;
use super::verify::Landing;
use crate::catalog::{free_space, hex_digest_of};

/// When it is known whether one connection is enough.
const FIRST_LOOK: Duration = Duration::from_millis(300);
/// How often progress is told, and how many times rarer the note beside the file is written.
const TELL_EVERY: Duration = Duration::from_millis(100);
const SAVE_EVERY: u64 = 10;
/// How often a file that changes on the server is begun anew.
const MAX_BEGINNINGS: u32 = 4;
/// How often a server is asked again about a file of which nothing has come.
const PROBES: u32 = 4;
/// How many arrived chunks of a connection wait for the disk.
const WAITING_CHUNKS: usize = 8;

/// What fetches files.
#[derive(Debug)]
pub(crate) struct Fetcher {
    pub(crate) client: Client,
    /// Where unfinished files lie.
    pub(crate) folder: PathBuf,
    /// How many connections fetch one file.
    pub(crate) connections: u64,
    /// How often a connection tries again without having got anything.
    pub(crate) retries: u32,
    /// All bytes that ever came.
    pub(crate) received: Arc<AtomicU64>,
}

/// A file on a server.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    pub(crate) url: Url,
    /// For the origin of the address, and no other.
    pub(crate) token: Option<Secret>,
    /// The file, for people.
    pub(crate) what: String,
    pub(crate) size: Option<u64>,
    pub(crate) sha256: Option<Sha256Digest>,
}

/// A file that is whole and on the disk.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub(crate) path: PathBuf,
    pub(crate) sha256: Sha256Digest,
    pub(crate) bytes: u64,
    /// It stays there while this exists, unless whoever fetched it as well puts it into the catalog.
    pub(crate) held: Arc<Hold>,
}

/// How far a download is, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    /// So many are there,
    pub(crate) done: u64,
    /// of which so many were there before.
    pub(crate) found: u64,
    /// So many there will be.
    pub(crate) total: Option<u64>,
}

/// Who hears how a download goes.
pub(crate) trait Hears: Send + Sync {
    /// How far it is.
    fn reached(&self, reached: Reached);
    /// Something that a person may want to know.
    fn note(&self, words: String);
}

impl Remote {
    /// The name of the unfinished file: the same for the same file, wherever it comes from.
    pub(crate) fn key(&self) -> String {
        self.sha256.as_ref().map_or_else(
            || format!("url-{}", hex_digest_of(self.url.as_str().as_bytes())),
            |digest| digest.as_hex().to_owned(),
        )
    }
}

impl Fetcher {
    /// Fetches a file, or what is missing of it. What arrived is kept if it fails or is cancelled.
    pub(crate) async fn fetch(
        &self,
        remote: &Remote,
        held: Arc<Hold>,
        hears: &dyn Hears,
        cancel: &CancellationToken,
    ) -> Result<Fetched, DownloadError> {
        let part = PartFile::new(&self.folder, &remote.key());
        Order { fetcher: self, remote, held, hears, cancel, part }.carry_out().await
    }
}

/// One file that somebody wants.
struct Order<'a> {
    fetcher: &'a Fetcher,
    remote: &'a Remote,
    held: Arc<Hold>,
    hears: &'a dyn Hears,
    cancel: &'a CancellationToken,
    part: PartFile,
}

impl Order<'_> {
    async fn carry_out(&self) -> Result<Fetched, DownloadError> {
        let host = host(&self.remote.url);
        let what = &self.remote.what;
        let mut ranges = true;
        for _ in 0..MAX_BEGINNINGS {
            let facts = self.probe().await?;
            ranges &= facts.ranges && facts.size.is_some();
            let result =
                if ranges { self.land(&facts, true).await } else { self.whole(&facts).await };
            match result {
                Ok(fetched) => return Ok(fetched),
                Err(Hitch::Failed(error)) => {
                    if error.means_another_file() {
                        self.part.discard();
                    }
                    return Err(error);
                }
                Err(Hitch::NoRanges) => {
                    self.hears.note(format!("{host} sends whole files only"));
                    ranges = false;
                }
                Err(Hitch::Changed) => {
                    self.hears.note(format!("{what} changed on the server: beginning anew"));
                    self.part.discard();
                }
            }
        }
        Err(DownloadError::KeepsChanging { host, what: what.clone() })
    }

    /// Asks the server about the file, as often as the attempts allow.
    async fn probe(&self) -> Result<Facts, DownloadError> {
        // Who was never reached is given up sooner than who was lost.
        let mut attempts = Attempts::new(self.fetcher.retries.min(PROBES));
        loop {
            let asked = probe(&self.fetcher.client, self.remote);
            let asked = self.cancel.run_until_cancelled(asked).await;
            let error = match asked.ok_or(DownloadError::Cancelled)? {
                Ok(facts) => return Ok(facts),
                Err(error) => error,
            };
            let Some(pause) = attempts.pause_after(&error) else { return Err(error) };
            self.pause(&error, pause, self.cancel).await?;
        }
    }

    /// Fetches a file that can only be had as a whole: each attempt begins anew.
    async fn whole(&self, facts: &Facts) -> Result<Fetched, Hitch> {
        let mut attempts = Attempts::new(self.fetcher.retries);
        loop {
            self.part.discard();
            let error = match self.land(facts, false).await {
                Err(Hitch::Failed(error)) => error,
                other => return other,
            };
            let Some(pause) = attempts.pause_after(&error) else { return Err(error.into()) };
            self.pause(&error, pause, self.cancel).await?;
        }
    }

    /// Opens the file and has connections fill it, while the digest follows.
    async fn land(&self, facts: &Facts, ranges: bool) -> Result<Fetched, Hitch> {
        let note = Note::of(&self.remote.what, facts);
        let (file, done) = self.part.open(&note)?;
        let missing = facts.size.map(|size| size.saturating_sub(done.total()));
        ensure_space(missing, &self.fetcher.folder)?;
        let found = done.total();
        let landing = Arc::new(Landing::new(file, facts.size, done));
        let _end_the_follower = CloseOnDrop(Arc::clone(&landing));
        let follower = blocking(&landing, Landing::digest);
        let keeper = blocking(&landing, Landing::keep_synced);
        let filled = tokio::select! {
            filled = self.fill(facts, &landing, ranges) => filled,
            never = self.watch(&landing, &note, found) => match never {},
        };
        let done = landing.plan(|plan| plan.done().clone());
        let total = landing.plan(|plan| plan.size());
        self.hears.reached(Reached { done: done.total(), found, total });
        if let Err(hitch) = filled {
            landing.close();
            let _ = tokio::join!(follower, keeper);
            if ranges {
                self.part.save(&note, &done).map_err(DownloadError::of_write)?;
            }
            return Err(hitch);
        }
        let rest = blocking(&landing, Landing::sync);
        let (digest, kept, rest) = tokio::join!(follower, keeper, rest);
        kept.and(rest).map_err(DownloadError::of_write)?;
        let actual = digest.map_err(DownloadError::of_read)?.ok_or(DownloadError::Cancelled)?;
        if let Some(expected) = facts.sha256.clone().filter(|expected| *expected != actual) {
            let (host, what) = (host(&self.remote.url), self.remote.what.clone());
            return Err(DownloadError::WrongDigest { host, what, expected, actual }.into());
        }
        // Whoever takes the file away removes the note; until then it says that nothing is missing.
        self.part.save(&note, &done).map_err(DownloadError::of_write)?;
        Ok(Fetched {
            path: self.part.path.clone(),
            sha256: actual,
            bytes: done.total(),
            held: Arc::clone(&self.held),
        })
    }

    /// Runs connections until all is there or one gives up: a second and further ones where the first
    /// is slow and there is work for them.
    async fn fill(&self, facts: &Facts, landing: &Arc<Landing>, ranges: bool) -> Result<(), Hitch> {
        let stop = self.cancel.child_token();
        if !ranges {
            return self.stream(facts, landing, None, &stop).await.1;
        }
        let before = landing.plan(|plan| plan.present());
        let mut running = FuturesUnordered::new();
        running.push(self.connection(facts, landing, &stop));
        let mut first_look = std::pin::pin!(tokio::time::sleep(FIRST_LOOK));
        let (mut looked, mut result) = (false, Ok(()));
        loop {
            tokio::select! {
                ended = running.next() => match ended {
                    Some(Err(hitch)) if result.is_ok() => {
                        result = Err(hitch);
                        stop.cancel();
                    }
                    Some(_) => {}
                    None => return result,
                },
                () = &mut first_look, if !looked => {
                    looked = true;
                    let (present, pieces) = landing.plan(|plan| (plan.present(), plan.pieces()));
                    if result.is_ok() && is_slow(present - before, FIRST_LOOK) {
                        let further = pieces.min(self.fetcher.connections).saturating_sub(1);
                        for _ in 0..further {
                            running.push(self.connection(facts, landing, &stop));
                        }
                    }
                }
            }
        }
    }

    /// Fetches piece after piece.
    async fn connection(
        &self,
        facts: &Facts,
        landing: &Arc<Landing>,
        stop: &CancellationToken,
    ) -> Result<(), Hitch> {
        let mut attempts = Attempts::new(self.fetcher.retries);
        let mut pieces = 1;
        while let Some(claim) = landing.plan(|plan| plan.claim(pieces)) {
            let begun = Instant::now();
            let (got, ended) = self.stream(facts, landing, Some(&claim), stop).await;
            landing.plan(|plan| plan.release(&claim));
            if got > 0 {
                attempts.reset();
            }
            let error = match ended {
                Ok(()) => {
                    pieces = at_once(pieces, begun.elapsed());
                    continue;
                }
                Err(Hitch::Failed(error)) => error,
                Err(other) => return Err(other),
            };
            let Some(pause) = attempts.pause_after(&error) else { return Err(error.into()) };
            self.pause(&error, pause, stop).await?;
            pieces = 1;
        }
        Ok(())
    }

    /// Has one answer written to its place; says how much came.
    async fn stream(
        &self,
        facts: &Facts,
        landing: &Arc<Landing>,
        claim: Option<&Range<u64>>,
        stop: &CancellationToken,
    ) -> (u64, Result<(), Hitch>) {
        let (writer, mut receiver) = mpsc::channel::<Bytes>(WAITING_CHUNKS);
        let from = claim.map_or(0, |claim| claim.start);
        // A thread of its own, so that a slow disk holds up neither the other connections nor the hive.
        let writing = blocking(landing, move |landing| {
            let mut at = from;
            while let Some(bytes) = receiver.blocking_recv() {
                landing.write(at, &bytes)?;
                at += bytes.len() as u64;
            }
            Ok(())
        });
        let inlet = Inlet { writer, got: AtomicU64::new(0), received: &self.fetcher.received };
        let answered = answer(&self.fetcher.client, self.remote, facts, claim, &inlet);
        let ended = stop.run_until_cancelled(answered).await;
        let got = inlet.got.into_inner();
        drop(inlet.writer);
        let ended = match writing.await {
            Err(error) => Err(DownloadError::of_write(error).into()),
            Ok(()) => ended.unwrap_or(Err(DownloadError::Cancelled.into())),
        };
        if ended.is_ok() && claim.is_none() {
            landing.end_here();
        }
        (got, ended)
    }

    /// Waits before another attempt, and says so.
    async fn pause(
        &self,
        error: &DownloadError,
        pause: Duration,
        stop: &CancellationToken,
    ) -> Result<(), DownloadError> {
        let error = with_causes(error);
        self.hears.note(format!("{error}; trying again in {:.1} s", pause.as_secs_f32()));
        let slept = stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        slept.ok_or(DownloadError::Cancelled)
    }

    /// Tells how far it is, and keeps the note beside the file up to date.
    async fn watch(&self, landing: &Landing, note: &Note, found: u64) -> Infallible {
        for tick in 0_u64.. {
            let (done, size) = landing.plan(|plan| (plan.done().clone(), plan.size()));
            self.hears.reached(Reached { done: done.total(), found, total: size });
            if tick.is_multiple_of(SAVE_EVERY) && size.is_some() {
                // A note that cannot be written costs what arrived since the last one, no more.
                let _ = self.part.save(note, &done);
            }
            tokio::time::sleep(TELL_EVERY).await;
        }
        std::future::pending().await
    }
}

/// Runs a step on a thread that may wait for the disk.
fn blocking<T: Send + 'static>(
    landing: &Arc<Landing>,
    step: impl FnOnce(&Landing) -> io::Result<T> + Send + 'static,
) -> impl Future<Output = io::Result<T>> {
    let landing = Arc::clone(landing);
    // Begun here and not at the first look at its end.
    let running = tokio::task::spawn_blocking(move || step(&landing));
    async { running.await.unwrap_or_else(|panic| Err(io::Error::other(panic))) }
}
fn ensure_space(needed: Option<u64>, folder: &Path) -> Result<(), DownloadError> {
    let free = free_space(folder).map_err(DownloadError::of_write)?;
    match needed {
        Some(needed) if needed > free => Err(DownloadError::NoSpace { needed, free }),
        _ => Ok(()),
    }
}

/// A download that nobody waits for any more ends its thread.
struct CloseOnDrop(Arc<Landing>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if !self.0.plan(|plan| plan.is_complete()) {
            self.0.close();
        }
    }
}
