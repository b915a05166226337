//! The file of tokens: `tokens.json`, mode 0600.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::Secret;
use crate::file::{create_folder, lock, replace};

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
    Unreadable {
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
    sha256: String,
}

impl StoredToken {
    /// The digest; a malformed one matches nothing.
    pub(crate) fn digest(&self) -> Option<[u8; 32]> {
        let mut digest = [0; 32];
        if self.sha256.len() != 64 || !self.sha256.is_ascii() {
            return None;
        }
        for (n, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&self.sha256[2 * n..2 * n + 2], 16).ok()?;
        }
        Some(digest)
    }
}

pub(crate) fn sha256(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
        let digest = hex(&sha256(secret.expose()));
        let info = TokenInfo {
            id: format!("t-{}", &hex(&sha256(&digest))[..8]),
            name: name.to_owned(),
            fingerprint: digest[..8].to_owned(),
            created_at: jiff::Timestamp::now().to_string(),
        };
        let stored = StoredToken { info: info.clone(), sha256: digest };
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
        let path = self.path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(TokenError::Unreadable { path, source }),
        };
        serde_json::from_str(&text).map_err(|source| TokenError::Damaged { path, source })
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut Vec<StoredToken>) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let path = self.path();
        let unreadable = |source| TokenError::Unreadable { path: path.clone(), source };
        create_folder(&self.folder).map_err(unreadable)?;
        let _lock = lock(&self.folder).map_err(unreadable)?;
        let mut tokens = self.read()?;
        let outcome = change(&mut tokens)?;
        replace(&path, |file| Ok(serde_json::to_writer_pretty(file, &tokens)?))
            .map_err(unreadable)?;
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_listed_without_its_secret_until_it_is_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let store = TokenStore::open(folder.path());
        let token = store.create("laptop").unwrap();
        assert_eq!(store.list().unwrap(), [token.info.clone()]);
        let kept = fs::read_to_string(store.path()).unwrap();
        assert!(!kept.contains(token.secret.expose()));
        assert!(matches!(store.create("laptop"), Err(TokenError::NameTaken(_))));
        assert_eq!(store.revoke("laptop").unwrap(), token.info);
        assert!(store.list().unwrap().is_empty());
        assert!(matches!(store.revoke("laptop"), Err(TokenError::Unknown(_))));
    }

    #[test]
    fn tokens_made_at_once_are_all_kept() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for n in 0..8 {
                let store = TokenStore::open(folder.path());
                scope.spawn(move || store.create(&format!("token-{n}")).unwrap());
            }
        });
        assert_eq!(TokenStore::open(folder.path()).list().unwrap().len(), 8);
    }

    #[test]
    fn a_bad_name_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let long = "x".repeat(65);
        for name in ["", "a\nb", "a/b", long.as_str()] {
            let made = TokenStore::open(folder.path()).create(name);
            assert!(matches!(made, Err(TokenError::BadName)), "{name:?}");
        }
    }
}
