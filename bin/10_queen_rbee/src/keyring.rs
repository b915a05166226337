//! Which secret the queen shows to whom: to each hive and its workers that of the hive, so that no
//! machine learns another one's.

use access_tokens::{HiveSecrets, Secret};
use axum::http::HeaderValue;
use worker_contract::HiveAlias;

/// The secrets that the queen has. A clone has the same ones.
#[derive(Debug, Clone)]
pub struct Keyring {
    /// Of her own user's processes.
    own: Secret,
    hives: HiveSecrets,
}

impl Keyring {
    /// The queen's own secret, and those of hives that have one.
    #[must_use]
    pub fn new(own: Secret, hives: HiveSecrets) -> Self {
        Self { own, hives }
    }

    /// The secret for a hive and its workers. One that was given none of its own is of this user.
    #[must_use]
    pub fn secret(&self, hive: &HiveAlias) -> Secret {
        self.hives.get(hive).unwrap_or_else(|| self.own.clone())
    }

    /// The same as the header `authorization`.
    #[must_use]
    pub fn authorization(&self, hive: &HiveAlias) -> HeaderValue {
        // A secret that fits no header is none that a worker could have been given.
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.secret(hive).expose()))
            .unwrap_or_else(|_| HeaderValue::from_static("Bearer"));
        value.set_sensitive(true);
        value
    }

    /// The secrets of hives, to make and remove some.
    #[must_use]
    pub fn hives(&self) -> &HiveSecrets {
        &self.hives
    }
}
