//! The file of tokens: `tokens.json`, mode 0600.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use serde::{Deserialize, Serialize};

use crate::Secret;
use crate::digest::SecretDigest;
use crate::file::{self, create_folder, lock, replace};
use crate::known::FRESH;

/// The most tokens at once.
const MAX_TOKENS: usize = 1000;

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
}

/// Tokens cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file of tokens is damaged.
    #[error(
        "{path} is damaged, so nobody gets in; repair it, or remove it and make the tokens anew"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
    /// The file of the local secret is damaged.
    #[error("{path} holds no secret; remove it, so that another one is made, and restart rbee")]
    DamagedSecret {
        /// The file.
        path: PathBuf,
    },
    /// What should be a secret is none.
    #[error("a secret is one word of at least 32 printable characters")]
    NoSecret,
    /// The operating system gave no randomness.
    #[error("the operating system gave no random numbers")]
    NoRandomness,
    /// There is no such token.
    #[error("there is no token with the id or name {0:?}")]
    Unknown(String),
    /// The name is taken.
    #[error("there is a token named {0:?} already; revoke it or choose another name")]
    NameTaken(String),
    /// The name cannot be used.
    #[error("a token's name has 1 to 64 letters, digits, spaces or ._-@")]
    BadName,
    /// There are too many.
    #[error("there are {MAX_TOKENS} tokens already; revoke some")]
    TooMany,
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
        self.change(|tokens| {
            if tokens.iter().any(|t| t.info.name == name) {
                return Err(TokenError::NameTaken(name.to_owned()));
            }
            if tokens.len() >= MAX_TOKENS {
                return Err(TokenError::TooMany);
            }
            tokens.push(stored);
            Ok(())
        })?;
        Ok(NewToken { info, secret })
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
    pub fn revoke(&self, id_or_name: &str) -> Result<TokenInfo, TokenError> {
        self.change(|tokens| {
            let matches = |t: &StoredToken| t.info.id == id_or_name || t.info.name == id_or_name;
            let at = tokens.iter().position(matches);
            let at = at.ok_or_else(|| TokenError::Unknown(id_or_name.to_owned()))?;
            Ok(tokens.remove(at).info)
        })
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join("tokens.json")
    }

    pub(crate) fn read(&self) -> Result<Vec<StoredToken>, TokenError> {
        self.read_file().map(Option::unwrap_or_default)
    }

    /// What the file holds; `None` where there never was a token.
    pub(crate) fn read_file(&self) -> Result<Option<Vec<StoredToken>>, TokenError> {
        let path = self.path();
        let text = match file::read(&path) {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(None),
            Err(source) => return Err(TokenError::File { path, source }),
        };
        let tokens = serde_json::from_str(&text);
        tokens.map(Some).map_err(|source| TokenError::Damaged { path, source })
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut Vec<StoredToken>) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let path = self.path();
        let unusable = |source| TokenError::File { path: path.clone(), source };
        create_folder(&self.folder).map_err(unusable)?;
        let _lock = lock(&self.folder).map_err(unusable)?;
        let mut tokens = self.read()?;
        let outcome = change(&mut tokens)?;
        replace(&path, |file| Ok(serde_json::to_writer_pretty(file, &tokens)?))
            .map_err(unusable)?;
        wait_until_seen();
        Ok(outcome)
    }
}

/// Waits until everybody who follows the file has to look at it again: what was done counts by the
/// time that the caller is told so.
#[expect(clippy::disallowed_methods, reason = "what is waited for is that the time is over")]
fn wait_until_seen() {
    thread::sleep(FRESH);
}
