//! The secrets that a queen shares with hives of other machines: one for each, `hives/NAME.token`.
//!
//! A hive's secret opens nothing but the reports of that hive and its workers, and the queen shows it
//! to nobody else. So a machine that falls into wrong hands gives away itself alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use worker_contract::HiveAlias;

use crate::digest::SecretDigest;
use crate::file::{create_folder, replace};
use crate::secret::existing_local_secret;
use crate::{Secret, TokenError};

/// The most hives with a secret of their own.
const MAX_HIVES: usize = 1024;

/// The secrets of one queen's hives. A clone is another handle to the same ones.
#[derive(Debug, Clone)]
pub struct HiveSecrets {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    /// Not held while a disk works: each request of a hive and to a worker looks here.
    known: Mutex<BTreeMap<HiveAlias, Known>>,
    /// Held by whoever changes a file.
    changing: Mutex<()>,
    /// Those whose files held no secret when they were read.
    lost: BTreeSet<HiveAlias>,
}

#[derive(Debug)]
struct Known {
    secret: Secret,
    digest: SecretDigest,
}

impl HiveSecrets {
    /// Reads the secrets of a folder, which need not exist. A file that holds no secret lets nobody in.
    pub fn open(secrets_dir: &Path) -> Result<Self, TokenError> {
        let folder = secrets_dir.join("hives");
        let unusable = |source| TokenError::File { path: folder.clone(), source };
        let (mut known, mut lost) = (BTreeMap::new(), BTreeSet::new());
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries.collect::<Result<Vec<_>, _>>().map_err(unusable)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(unusable(error)),
        };
        for path in entries.into_iter().map(|entry| entry.path()) {
            let name = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".token"));
            let Some(Ok(hive)) = name.map(str::parse::<HiveAlias>) else { continue };
            match existing_local_secret(&path) {
                Ok(Some(secret)) => {
                    known.insert(hive, Known::from(secret));
                }
                Ok(None) => {}
                Err(error) => {
                    tell_of_loss(&hive, &path, &error);
                    lost.insert(hive);
                }
            }
        }
        let (known, changing) = (Mutex::new(known), Mutex::new(()));
        Ok(Self { shared: Arc::new(Shared { folder, known, changing, lost }) })
    }

    /// Whether there was a file for a hive's own secret that held none when it was read.
    #[must_use]
    pub fn was_lost(&self, hive: &HiveAlias) -> bool {
        self.shared.lost.contains(hive)
    }

    /// Whether this is the secret of a hive at present.
    #[must_use]
    pub fn is_secret_of(&self, hive: &HiveAlias, secret: &str) -> bool {
        let digest = SecretDigest::of(secret);
        self.known().get(hive).is_some_and(|known| known.digest.matches(&digest))
    }

    /// The secret of a hive, where it has one of its own.
    #[must_use]
    pub fn get(&self, hive: &HiveAlias) -> Option<Secret> {
        self.known().get(hive).map(|known| known.secret.clone())
    }

    /// The secret of a hive, made at first use.
    pub fn get_or_make(&self, hive: &HiveAlias) -> Result<Secret, TokenError> {
        if let Some(secret) = self.get(hive) {
            return Ok(secret);
        }
        let _turn = self.turn();
        // Somebody else may have made it meanwhile.
        if let Some(secret) = self.get(hive) {
            return Ok(secret);
        }
        let secret = Secret::random()?;
        self.keep(hive, secret.clone())?;
        Ok(secret)
    }

    /// Keeps the secret that a hive was given otherwise.
    pub fn set(&self, hive: &HiveAlias, secret: Secret) -> Result<(), TokenError> {
        let _turn = self.turn();
        self.keep(hive, secret)
    }

    fn keep(&self, hive: &HiveAlias, secret: Secret) -> Result<(), TokenError> {
        if !secret.is_usable() {
            return Err(TokenError::NoSecret);
        }
        let has_room = |known: &BTreeMap<HiveAlias, Known>| {
            known.len() < MAX_HIVES || known.contains_key(hive)
        };
        if !has_room(&self.known()) {
            return Err(TokenError::TooMany);
        }
        let path = self.file(hive);
        create_folder(&self.shared.folder)
            .and_then(|()| replace(&path, |file| writeln!(file, "{}", secret.expose())))
            .map_err(|source| TokenError::File { path, source })?;
        self.known().insert(hive.clone(), Known::from(secret));
        Ok(())
    }

    /// Forgets a hive's secret: nothing that it says is heard from then on.
    pub fn remove(&self, hive: &HiveAlias) -> Result<(), TokenError> {
        let _turn = self.turn();
        let path = self.file(hive);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(TokenError::File { path, source: error });
            }
            _ => {}
        }
        self.known().remove(hive);
        Ok(())
    }

    /// The hive that has the secret with this digest.
    pub(crate) fn holder(&self, digest: &SecretDigest) -> Option<HiveAlias> {
        let mut holder = None;
        // Every secret is compared, so that the time does not tell which one matched.
        for (hive, known) in &*self.known() {
            if known.digest.matches(digest) {
                holder = Some(hive.clone());
            }
        }
        holder
    }

    fn file(&self, hive: &HiveAlias) -> PathBuf {
        self.shared.folder.join(format!("{hive}.token"))
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.shared.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<HiveAlias, Known>> {
        // Nothing panics under this lock halfway through a change.
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell_of_loss(hive: &HiveAlias, path: &Path, error: &TokenError) {
    let file = path.display();
    let reason = match error {
        TokenError::DamagedSecret { .. } => "it holds no secret".to_owned(),
        other => std::error::Error::source(other).unwrap_or(other).to_string(),
    };
    if hive.is_localhost() {
        tracing::warn!(%file, reason, "the secret of this machine's workers is lost; another one is made");
        return;
    }
    let remedy = remedy(hive);
    tracing::error!(
        %hive, %file, reason, remedy,
        "a hive's secret is lost, so that it is neither heard nor sent anything"
    );
}

/// What gives a hive a secret again.
fn remedy(hive: &HiveAlias) -> String {
    format!(
        "write the hive's secret into the file and restart the queen, or give the hive another one: \
         `rbee-keeper hive install {hive}` where SSH leads there, else `rbee-keeper hive add {hive} --url URL \
         --secret-file FILE`; a hive of config.toml has the queen's own again once the file is removed and the \
         queen restarted"
    )
}

impl From<Secret> for Known {
    fn from(secret: Secret) -> Self {
        let digest = SecretDigest::of(secret.expose());
        Self { secret, digest }
    }
}
