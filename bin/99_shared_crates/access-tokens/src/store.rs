//! The tokens of one installation, in the SQLite file `tokens.db`, mode 0600.
//!
//! It is a file of its own beside the secrets: a hive of the same user and the keeper use it too, without any queen, and a
//! queen that sets her damaged past aside must not lose who may come in. The file `tokens.json` of an earlier rbee
//! counts until it is taken over, which happens once.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use serde::{Deserialize, Serialize};

use crate::digest::SecretDigest;
use crate::file::{create_folder, lock};
use crate::known::FRESH;
use crate::{Secret, TokenError, database, earlier};

/// The most tokens at once.
pub(crate) const MAX_TOKENS: usize = 1000;

/// The tokens of one installation.
#[derive(Debug, Clone)]
pub struct TokenStore {
    folder: PathBuf,
}

/// A token as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// Its id.
    pub id: String,
    /// The name that a person gave it.
    pub name: String,
    /// The first eight hexadecimal digits of its SHA-256, which logs name it by.
    pub fingerprint: String,
    /// When it was made, in RFC 3339.
    pub created_at: String,
}

/// A token that was just made.
#[derive(Debug)]
pub struct NewToken {
    /// As lists show it.
    pub info: TokenInfo,
    /// Shown once; the store keeps only its digest.
    pub secret: Secret,
    /// Why a power cut may undo it, if it may.
    pub unsynced: Option<io::Error>,
}

/// A token that was just revoked: whoever has it is refused.
#[derive(Debug)]
pub struct RevokedToken {
    /// As lists showed it.
    pub info: TokenInfo,
    /// Why a power cut may undo it, if it may.
    pub unsynced: Option<io::Error>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StoredToken {
    #[serde(flatten)]
    pub(crate) info: TokenInfo,
    pub(crate) sha256: SecretDigest,
}

impl TokenStore {
    /// The tokens of a secrets folder, which need not exist yet.
    #[must_use]
    pub fn open(secrets_dir: &Path) -> Self {
        Self { folder: secrets_dir.to_owned() }
    }

    /// Makes a token. Its secret is in the answer and nowhere else.
    pub fn create(&self, name: &str) -> Result<NewToken, TokenError> {
        let is_legal = |c: char| c.is_ascii_alphanumeric() || " ._-@".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_legal) {
            return Err(TokenError::BadName);
        }
        let secret = Secret::random()?;
        let sha256 = SecretDigest::of(secret.expose());
        let hex = sha256.to_hex();
        let info = TokenInfo {
            // Not a part of the secret's digest: that one is the fingerprint.
            id: format!("t-{}", &SecretDigest::of(&hex).to_hex()[..8]),
            name: name.to_owned(),
            fingerprint: hex[..8].to_owned(),
            created_at: jiff::Timestamp::now().to_string(),
        };
        let stored = StoredToken { info: info.clone(), sha256 };
        let ((), unsynced) = self.change(|tokens| {
            if tokens.iter().any(|t| t.info.name == name) {
                return Err(TokenError::NameTaken(name.to_owned()));
            }
            if tokens.len() >= MAX_TOKENS {
                return Err(TokenError::TooMany);
            }
            tokens.push(stored);
            Ok(())
        })?;
        Ok(NewToken { info, secret, unsynced })
    }

    /// Whether requests need a token: there is one, or there was one.
    pub fn are_needed(&self) -> Result<bool, TokenError> {
        Ok(self.read_file()?.is_some())
    }

    /// All tokens, the oldest first.
    pub fn list(&self) -> Result<Vec<TokenInfo>, TokenError> {
        Ok(self.read()?.into_iter().map(|token| token.info).collect())
    }

    /// Removes a token; whoever has it is refused from then on.
    pub fn revoke(&self, id_or_name: &str) -> Result<RevokedToken, TokenError> {
        let (info, unsynced) = self.change(|tokens| {
            let matches = |t: &StoredToken| t.info.id == id_or_name || t.info.name == id_or_name;
            let at = tokens.iter().position(matches);
            let at = at.ok_or_else(|| TokenError::Unknown(id_or_name.to_owned()))?;
            Ok(tokens.remove(at).info)
        })?;
        Ok(RevokedToken { info, unsynced })
    }

    /// The files that say which tokens there are.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        vec![database::file(&self.folder), earlier::file(&self.folder)]
    }

    pub(crate) fn read(&self) -> Result<Vec<StoredToken>, TokenError> {
        self.read_file().map(Option::unwrap_or_default)
    }

    /// What there is; `None` where there never was a token.
    pub(crate) fn read_file(&self) -> Result<Option<Vec<StoredToken>>, TokenError> {
        // In this order: when the earlier file is gone, its tokens are in the other one.
        let earlier = earlier::read(&self.folder)?;
        let stored = database::read(&self.folder)?;
        Ok(match (stored, earlier) {
            (Some(stored), Some(earlier)) => Some(merged(stored, earlier)),
            (stored, earlier) => stored.or(earlier),
        })
    }

    /// Takes over the file of an earlier rbee, if there is one.
    pub(crate) fn take_over(&self) -> Result<(), TokenError> {
        if earlier::read(&self.folder)?.is_none() {
            return Ok(());
        }
        let _lock = lock(&self.folder).map_err(|e| TokenError::file(&self.folder, e))?;
        self.take_over_locked()
    }

    fn take_over_locked(&self) -> Result<(), TokenError> {
        let Some(earlier) = earlier::read(&self.folder)? else { return Ok(()) };
        let stored = database::read(&self.folder)?.unwrap_or_default();
        // A crash before the last line leaves both, with the same tokens in them.
        if let Some(source) = database::write(&self.folder, &merged(stored, earlier))? {
            return Err(TokenError::file(&self.folder, source));
        }
        earlier::retire(&self.folder)
    }

    /// Gives, too, why a power cut may undo the change, if it may.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Vec<StoredToken>) -> Result<T, TokenError>,
    ) -> Result<(T, Option<io::Error>), TokenError> {
        let unusable = |source| TokenError::file(&self.folder, source);
        create_folder(&self.folder).map_err(unusable)?;
        let _lock = lock(&self.folder).map_err(unusable)?;
        // First: what is revoked must not be in the earlier file any more.
        self.take_over_locked()?;
        let mut tokens = database::read(&self.folder)?.unwrap_or_default();
        let outcome = change(&mut tokens)?;
        let unsynced = database::write(&self.folder, &tokens)?;
        wait_until_seen();
        Ok((outcome, unsynced))
    }
}

fn merged(mut stored: Vec<StoredToken>, earlier: Vec<StoredToken>) -> Vec<StoredToken> {
    for token in earlier {
        if !stored.iter().any(|kept| kept.sha256.matches(&token.sha256)) {
            stored.push(token);
        }
    }
    stored
}

/// Waits until everybody who follows the file has to look at it again: what was done counts by the
/// time that the caller is told so.
#[expect(clippy::disallowed_methods, reason = "what is waited for is that the time is over")]
fn wait_until_seen() {
    thread::sleep(FRESH);
}
