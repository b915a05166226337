//! Who may come in.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use subtle::ConstantTimeEq as _;

use crate::store::{StoredToken, sha256};
use crate::{Secret, TokenError, TokenStore, local_secret};

/// Verifies bearer secrets. Clones share what they have read.
#[derive(Debug, Clone)]
pub struct Authenticator(Arc<Rule>);

#[derive(Debug)]
enum Rule {
    /// Nobody needs a token.
    Open,
    /// Exactly this secret, as its digest.
    Fixed([u8; 32]),
    /// The tokens of a store, and the local secret.
    Store { store: TokenStore, local: [u8; 32], read: Mutex<Read> },
}

/// What was read of the store's file, and which state of the file that was.
#[derive(Debug)]
struct Read {
    stamp: Option<Stamp>,
    tokens: Result<Vec<StoredToken>, ()>,
}

type Stamp = (u64, Option<SystemTime>);

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// One of rbee's own processes, or anybody on this machine where no token is needed.
    Local,
    /// The holder of a token.
    Token {
        /// The token's id.
        id: String,
        /// Its fingerprint, which logs name it by.
        fingerprint: String,
    },
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Token { fingerprint, .. } => f.write_str(fingerprint),
        }
    }
}

/// A request may not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It has no token, and one is needed.
    #[error("an API token is needed")]
    Missing,
    /// Its token is unknown or revoked.
    #[error("the API token is not valid")]
    Wrong,
}

impl Authenticator {
    /// Nobody needs a token.
    #[must_use]
    pub fn open() -> Self {
        Self(Arc::new(Rule::Open))
    }

    /// Exactly one secret is accepted.
    #[must_use]
    pub fn fixed(secret: Secret) -> Self {
        Self(Arc::new(Rule::Fixed(sha256(secret.expose()))))
    }

    /// The tokens of a secrets folder and the local secret are accepted. As long as there is no
    /// token, nobody needs one. Tokens that are made or revoked later count at once.
    pub fn from_store(secrets_dir: &Path) -> Result<Self, TokenError> {
        let store = TokenStore::open(secrets_dir);
        store.read()?;
        let local = sha256(local_secret(secrets_dir)?.expose());
        let read = Mutex::new(Read { stamp: None, tokens: Err(()) });
        Ok(Self(Arc::new(Rule::Store { store, local, read })))
    }

    /// Whether a request without a token is refused.
    #[must_use]
    pub fn is_required(&self) -> bool {
        match &*self.0 {
            Rule::Open => false,
            Rule::Fixed(_) => true,
            Rule::Store { store, read, .. } => {
                refreshed(store, read, |tokens| tokens.is_none_or(|t| !t.is_empty()))
            }
        }
    }

    /// Who holds this bearer secret.
    pub fn verify(&self, bearer: Option<&str>) -> Result<Caller, Denied> {
        if !self.is_required() {
            return Ok(Caller::Local);
        }
        let digest = sha256(bearer.ok_or(Denied::Missing)?);
        let equals = |other: &[u8; 32]| bool::from(digest.ct_eq(other));
        match &*self.0 {
            Rule::Open => Ok(Caller::Local),
            Rule::Fixed(secret) if equals(secret) => Ok(Caller::Local),
            Rule::Fixed(_) => Err(Denied::Wrong),
            Rule::Store { local, .. } if equals(local) => Ok(Caller::Local),
            Rule::Store { store, read, .. } => refreshed(store, read, |tokens| {
                // Every token is compared, so that the time does not tell which one matched.
                let mut found = Err(Denied::Wrong);
                for token in tokens.unwrap_or_default() {
                    if token.digest().is_some_and(|d| equals(&d)) {
                        found = Ok(Caller::Token {
                            id: token.info.id.clone(),
                            fingerprint: token.info.fingerprint.clone(),
                        });
                    }
                }
                found
            }),
        }
    }
}

/// Looks at the tokens as the file has them; `None` when the file cannot be read, which opens
/// access to nobody.
fn refreshed<T>(
    store: &TokenStore,
    read: &Mutex<Read>,
    look: impl FnOnce(Option<&[StoredToken]>) -> T,
) -> T {
    let metadata = std::fs::metadata(store.path());
    let stamp = metadata.map_or((0, None), |m| (m.len(), m.modified().ok()));
    let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
    if read.stamp != Some(stamp) {
        *read = Read { stamp: Some(stamp), tokens: store.read().map_err(|_| ()) };
    }
    look(read.tokens.as_deref().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tokens_nobody_needs_one_and_with_one_everybody_does() {
        let folder = tempfile::tempdir().unwrap();
        let door = Authenticator::from_store(folder.path()).unwrap();
        assert_eq!(door.verify(None), Ok(Caller::Local));
        let store = TokenStore::open(folder.path());
        let token = store.create("laptop").unwrap();
        assert_eq!(door.verify(None), Err(Denied::Missing));
        assert_eq!(door.verify(Some("wrong")), Err(Denied::Wrong));
        let caller = door.verify(Some(token.secret.expose())).unwrap();
        assert_eq!(caller.to_string(), token.info.fingerprint);
        let local = local_secret(folder.path()).unwrap();
        assert_eq!(door.verify(Some(local.expose())), Ok(Caller::Local));
        store.create("desktop").unwrap();
        store.revoke("laptop").unwrap();
        assert_eq!(door.verify(Some(token.secret.expose())), Err(Denied::Wrong));
    }

    #[test]
    fn a_damaged_file_lets_nobody_in() {
        let folder = tempfile::tempdir().unwrap();
        let store = TokenStore::open(folder.path());
        store.create("laptop").unwrap();
        let door = Authenticator::from_store(folder.path()).unwrap();
        std::fs::write(store.path(), "[{").unwrap();
        assert_eq!(door.verify(None), Err(Denied::Missing));
        assert_eq!(door.verify(Some("x")), Err(Denied::Wrong));
        assert!(matches!(
            Authenticator::from_store(folder.path()),
            Err(TokenError::Damaged { .. })
        ));
    }

    #[test]
    fn a_fixed_secret_is_the_only_one() {
        let door = Authenticator::fixed(Secret::from("right".to_owned()));
        assert!(door.is_required());
        assert_eq!(door.verify(Some("right")), Ok(Caller::Local));
        assert_eq!(door.verify(Some("right ")), Err(Denied::Wrong));
        assert_eq!(door.verify(None), Err(Denied::Missing));
    }
}
