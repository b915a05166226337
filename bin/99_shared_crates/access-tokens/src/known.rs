//! The secrets of a folder as they are at present, read again when a file changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::digest::SecretDigest;
use crate::secret::{LOCAL_FILE, existing_local_secret};
use crate::store::StoredToken;
use crate::{Caller, TokenError, TokenStore, local_secret};

/// For how long it is believed that a file is as it was: a look is a call of the system, and there may
/// be thousands of requests a second.
pub(crate) const FRESH: Duration = Duration::from_millis(20);

/// How long a file rests that could not be read, for want of file descriptors, say.
const REST: Duration = Duration::from_millis(500);

/// The tokens and the local secret of one folder.
///
/// A file that cannot be read, or makes no sense, counts as one that holds no valid secret, and
/// one is needed then: damage never opens access. One that the system could not read is looked at
/// again before long, whether it changes or not.
#[derive(Debug)]
pub(crate) struct KnownSecrets {
    store: TokenStore,
    /// Once true, always true.
    were_needed: AtomicBool,
    /// `None` if the file is damaged.
    tokens: Followed<Option<Tokens>>,
    local: Followed<Option<SecretDigest>>,
}

/// What some files hold. They are looked at only by who needs them.
#[derive(Debug)]
struct Followed<T> {
    files: Vec<PathBuf>,
    read: Mutex<Read<T>>,
}

/// The tokens that there are, and whether there ever was one: the file stays when the last is revoked.
#[derive(Debug, Clone)]
struct Tokens {
    all: Arc<[StoredToken]>,
    has_file: bool,
}

#[derive(Debug)]
struct Read<T> {
    stamps: Vec<Stamp>,
    value: T,
    /// When the files were last looked at.
    looked: Option<Instant>,
    /// When they are read again though they are as they were: the system could not do it.
    again: Option<Instant>,
}

/// Length, time of change and file number. The number tells apart two replacements within one tick
/// of the file system's clock.
type Stamp = Option<(u64, Option<SystemTime>, u64)>;

impl KnownSecrets {
    /// Reads a folder, and makes the local secret if there is none.
    pub(crate) fn read(folder: &Path) -> Result<Self, TokenError> {
        local_secret(folder)?;
        let store = TokenStore::open(folder);
        let (tokens, local) = (read_tokens(&store)?, read_local(&folder.join(LOCAL_FILE))?);
        if let Err(error) = store.take_over() {
            let reason = with_cause(&error);
            tracing::warn!(reason, "the tokens of an earlier rbee count, but cannot be taken over");
        }
        let known = Self {
            were_needed: AtomicBool::new(false),
            tokens: Followed::new(store.files(), Some(tokens)),
            local: Followed::new(vec![folder.join(LOCAL_FILE)], local),
            store,
        };
        known.are_needed();
        Ok(known)
    }

    /// Whether a request needs a token.
    pub(crate) fn are_needed(&self) -> bool {
        let are_needed = self.tokens().is_none_or(|tokens| tokens.has_file);
        // Whoever revokes the last token wants nobody in, and not everybody.
        self.were_needed.fetch_or(are_needed, Ordering::Relaxed) || are_needed
    }

    /// Who holds the secret with this digest.
    pub(crate) fn holder(&self, digest: &SecretDigest) -> Option<Caller> {
        let local =
            self.local.current(|files| files.first().map_or(Ok(None), |file| read_local(file)));
        let mut holder = local.is_some_and(|local| local.matches(digest)).then_some(Caller::Local);
        // Every token is compared, so that the time does not tell which one matched.
        for token in self.tokens().iter().flat_map(|tokens| &*tokens.all) {
            if token.sha256.matches(digest) {
                let (id, fingerprint) = (token.info.id.clone(), token.info.fingerprint.clone());
                holder = Some(Caller::Token { id, fingerprint });
            }
        }
        holder
    }

    /// The name of the token with a fingerprint.
    pub(crate) fn name(&self, fingerprint: &str) -> Option<String> {
        let tokens = self.tokens()?;
        let token = tokens.all.iter().find(|token| token.info.fingerprint == fingerprint)?;
        Some(token.info.name.clone())
    }

    fn tokens(&self) -> Option<Tokens> {
        self.tokens.current(|_| read_tokens(&self.store).map(Some))
    }
}

impl<T: Clone + Default> Followed<T> {
    fn new(files: Vec<PathBuf>, value: T) -> Self {
        // These stamps are those of no file, so that what is there is read again at its first use.
        let stamps = Vec::new();
        let read = Read { stamps, value, looked: None, again: None };
        Self { files, read: Mutex::new(read) }
    }

    /// What the files hold, or held a moment ago; they are read if one has changed. Nothing, as long as
    /// they cannot be read.
    fn current(&self, read: impl FnOnce(&[PathBuf]) -> Result<T, TokenError>) -> T {
        let mut known = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_fresh = |looked| now.saturating_duration_since(looked) < FRESH;
        if !known.looked.is_some_and(is_fresh) {
            known.looked = Some(now);
            // Before the files are read: a change in between is then read again.
            let stamps: Vec<Stamp> = self.files.iter().map(|file| stamp(file)).collect();
            if known.stamps != stamps || known.again.is_some_and(|again| again <= now) {
                known.take(stamps, read(&self.files));
            }
        }
        known.value.clone()
    }
}

impl<T: Default> Read<T> {
    fn take(&mut self, stamps: Vec<Stamp>, read: Result<T, TokenError>) {
        let was_stuck = self.again.is_some();
        let is_stuck = read.as_ref().is_err_and(TokenError::is_passing);
        // From now on: the read may have waited for somebody who has the file.
        self.again = is_stuck.then(|| Instant::now() + REST);
        self.stamps = stamps;
        self.value = read.unwrap_or_else(|error| {
            // Once in a row.
            if !(was_stuck && is_stuck) {
                tell(&error);
            }
            T::default()
        });
    }
}

fn read_tokens(store: &TokenStore) -> Result<Tokens, TokenError> {
    let read = store.read_file()?;
    Ok(Tokens { has_file: read.is_some(), all: read.unwrap_or_default().into() })
}

fn read_local(file: &Path) -> Result<Option<SecretDigest>, TokenError> {
    Ok(existing_local_secret(file)?.map(|local| SecretDigest::of(local.expose())))
}

fn tell(error: &TokenError) {
    let reason = with_cause(error);
    tracing::error!(reason, "secrets cannot be read; nobody gets in by them");
}

fn with_cause(error: &TokenError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn stamp(path: &Path) -> Stamp {
    let metadata = fs::metadata(path).ok()?;
    #[cfg(unix)]
    let number = std::os::unix::fs::MetadataExt::ino(&metadata);
    #[cfg(not(unix))]
    let number = 0;
    Some((metadata.len(), metadata.modified().ok(), number))
}
