//! The secrets of a folder as they are at present, read again when a file changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::digest::SecretDigest;
use crate::secret::{LOCAL_FILE, existing_local_secret};
use crate::store::StoredToken;
use crate::{Caller, TokenError, TokenStore, local_secret};

/// The tokens and the local secret of one folder.
///
/// A file that cannot be read, or makes no sense, counts as one that holds no valid secret, and
/// one is needed then: damage never opens access.
#[derive(Debug)]
pub(crate) struct KnownSecrets {
    folder: PathBuf,
    tokens: TokenStore,
    /// Once true, always true.
    were_needed: AtomicBool,
    read: Mutex<(Stamps, Arc<Secrets>)>,
}

#[derive(Debug)]
struct Secrets {
    local: Option<SecretDigest>,
    /// `None` if the file is damaged.
    tokens: Option<Vec<StoredToken>>,
}

/// Which state of the two files was read.
type Stamps = [Stamp; 2];

/// Length, time of change and file number. The number tells apart two replacements within one tick
/// of the file system's clock.
type Stamp = Option<(u64, Option<SystemTime>, u64)>;

impl KnownSecrets {
    /// Reads a folder, and makes the local secret if there is none.
    pub(crate) fn read(folder: &Path) -> Result<Self, TokenError> {
        local_secret(folder)?;
        let tokens = TokenStore::open(folder);
        tokens.read()?;
        let nothing = Secrets { local: None, tokens: None };
        let known = Self {
            folder: folder.to_owned(),
            tokens,
            were_needed: AtomicBool::new(false),
            read: Mutex::new(([None; 2], Arc::new(nothing))),
        };
        known.are_needed();
        Ok(known)
    }

    /// Whether a request needs a token.
    pub(crate) fn are_needed(&self) -> bool {
        let are_needed = self.current().tokens.as_ref().is_none_or(|tokens| !tokens.is_empty());
        // Whoever revokes the last token wants nobody in, and not everybody.
        self.were_needed.fetch_or(are_needed, Ordering::Relaxed) || are_needed
    }

    /// Who holds the secret with this digest.
    pub(crate) fn holder(&self, digest: &SecretDigest) -> Option<Caller> {
        let secrets = self.current();
        let mut holder =
            secrets.local.is_some_and(|local| local.matches(digest)).then_some(Caller::Local);
        // Every token is compared, so that the time does not tell which one matched.
        for token in secrets.tokens.iter().flatten() {
            if token.sha256.matches(digest) {
                let (id, fingerprint) = (token.info.id.clone(), token.info.fingerprint.clone());
                holder = Some(Caller::Token { id, fingerprint });
            }
        }
        holder
    }

    fn current(&self) -> Arc<Secrets> {
        let local_file = self.folder.join(LOCAL_FILE);
        // Before the files are read: a change in between is then read again.
        let stamps = [stamp(&self.tokens.path()), stamp(&local_file)];
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.0 != stamps {
            *read = (stamps, Arc::new(self.read_now()));
        }
        Arc::clone(&read.1)
    }

    fn read_now(&self) -> Secrets {
        let unread = |error: TokenError| {
            let reason = match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
            tracing::error!(reason, "secrets cannot be read; nobody gets in by them");
        };
        let local = existing_local_secret(&self.folder.join(LOCAL_FILE)).map_err(unread);
        let local = local.ok().flatten().map(|local| SecretDigest::of(local.expose()));
        Secrets { local, tokens: self.tokens.read().map_err(unread).ok() }
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
