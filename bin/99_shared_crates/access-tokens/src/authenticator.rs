//! Who may come in.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use worker_contract::HiveAlias;

use crate::digest::SecretDigest;
use crate::known::KnownSecrets;
use crate::{HiveSecrets, Secret, TokenError};

/// Verifies bearer secrets. Clones share what they have read.
#[derive(Debug, Clone)]
pub struct Authenticator {
    rule: Arc<Rule>,
    hives: Option<HiveSecrets>,
    always: bool,
}

#[derive(Debug)]
enum Rule {
    /// Nobody needs a token.
    Open,
    /// Exactly this secret.
    Fixed(SecretDigest),
    /// The tokens of a store, and the local secret.
    Store(Box<KnownSecrets>),
}

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
    /// A hive of another machine, or one of its workers: it may report itself, and nothing else.
    Hive(HiveAlias),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Token { fingerprint, .. } => f.write_str(fingerprint),
            Self::Hive(hive) => write!(f, "hive {hive}"),
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
    /// It has no secret, and a worker takes that of its hive alone.
    #[error("the secret of this worker's hive is needed")]
    SecretMissing,
    /// It has another one.
    #[error("this is not the secret of this worker's hive")]
    SecretWrong,
}

impl Authenticator {
    /// Nobody needs a token.
    #[must_use]
    pub fn open() -> Self {
        Self::by(Rule::Open)
    }

    /// Exactly one secret is accepted: that of a worker's hive.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "it keeps no secret, so the caller need not")]
    pub fn fixed(secret: Secret) -> Self {
        Self::by(Rule::Fixed(SecretDigest::of(secret.expose())))
    }

    /// The tokens of a secrets folder and the local secret are accepted. As long as there was no
    /// token, nobody needs one. Tokens that are made or revoked later count at once; where one was
    /// needed once, one is needed until the process ends, also when the last one is revoked or the
    /// file is lost.
    ///
    /// # Errors
    /// When the file of tokens is damaged, or the folder cannot be used.
    pub fn from_store(secrets_dir: &Path) -> Result<Self, TokenError> {
        KnownSecrets::read(secrets_dir).map(|known| Self::by(Rule::Store(Box::new(known))))
    }

    /// Also accepts the secrets of hives, each as [`Caller::Hive`].
    #[must_use]
    pub fn with_hives(self, hives: HiveSecrets) -> Self {
        Self { hives: Some(hives), ..self }
    }

    /// Needs a secret of everybody, also while there is no token: for a daemon that only rbee's own
    /// processes talk to.
    #[must_use]
    pub fn demanding(self) -> Self {
        Self { always: true, ..self }
    }

    fn by(rule: Rule) -> Self {
        Self { rule: Arc::new(rule), hives: None, always: false }
    }

    /// Whether a request without a token is refused.
    #[must_use]
    pub fn is_required(&self) -> bool {
        let by_rule = match &*self.rule {
            Rule::Open => false,
            Rule::Fixed(_) => true,
            Rule::Store(known) => known.are_needed(),
        };
        by_rule || self.always
    }

    /// Who sends this bearer secret. Where no token is needed, anybody is [`Caller::Local`].
    ///
    /// # Errors
    /// When a token is needed and this is none.
    pub fn verify(&self, bearer: Option<&str>) -> Result<Caller, Denied> {
        match self.holder(bearer) {
            Some(caller) => Ok(caller),
            None if !self.is_required() => Ok(Caller::Local),
            None => Err(match (&*self.rule, bearer) {
                (Rule::Fixed(_), None) => Denied::SecretMissing,
                (Rule::Fixed(_), Some(_)) => Denied::SecretWrong,
                (_, None) => Denied::Missing,
                (_, Some(_)) => Denied::Wrong,
            }),
        }
    }

    /// The name that a person gave to the token with this fingerprint.
    #[must_use]
    pub fn token_name(&self, fingerprint: &str) -> Option<String> {
        match &*self.rule {
            Rule::Open | Rule::Fixed(_) => None,
            Rule::Store(known) => known.name(fingerprint),
        }
    }

    /// Who holds this secret, whether one is needed or not; `None` if it is not valid.
    #[must_use]
    pub fn holder(&self, bearer: Option<&str>) -> Option<Caller> {
        let digest = SecretDigest::of(bearer?);
        let holder = match &*self.rule {
            Rule::Open => None,
            Rule::Fixed(secret) => secret.matches(&digest).then_some(Caller::Local),
            Rule::Store(known) => known.holder(&digest),
        };
        holder.or_else(|| self.hives.as_ref()?.holder(&digest).map(Caller::Hive))
    }
}
