//! Which secret the queen shows to whom: to each hive and its workers that of the hive, so that no
//! machine learns another one's. On her own machine the hive has her secret, and its workers, in their
//! sandbox, one for reports only.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use access_tokens::{HiveSecrets, Secret};
use axum::http::HeaderValue;
use worker_contract::HiveAlias;

use crate::registry::{ShownSecret, Target};

/// The secrets that the queen has. A clone has the same ones.
#[derive(Debug, Clone)]
pub struct Keyring {
    /// Of her own user's processes.
    own: Secret,
    hives: HiveSecrets,
    /// The tokens of servers of others.
    servers: Arc<RwLock<BTreeMap<HiveAlias, HeaderValue>>>,
    own_id: Arc<str>,
}

impl Keyring {
    /// The queen's own secret, and those of hives that have one.
    #[must_use]
    pub fn new(own: Secret, hives: HiveSecrets) -> Self {
        let own_id = uuid::Uuid::new_v4().simple().to_string().into();
        Self { own, hives, servers: Arc::default(), own_id }
    }

    /// The name by which this queen knows what has come from herself, by way of other queens. No secret.
    #[must_use]
    pub fn own_id(&self) -> &str {
        &self.own_id
    }

    /// The secret for a hive. One that was given none of its own is of this user.
    #[must_use]
    pub fn secret(&self, hive: &HiveAlias) -> Secret {
        let others = self.hives.get(hive).filter(|_| !hive.is_localhost());
        others.unwrap_or_else(|| self.own.clone())
    }

    /// The header `authorization` for a worker: of the secret that it has.
    #[must_use]
    pub fn authorization(&self, worker: &Target) -> HeaderValue {
        let of_hive = match worker.shown() {
            ShownSecret::OfHive => self.hives.get(&worker.hive_id),
            ShownSecret::Own => None,
        };
        bearer(&of_hive.unwrap_or_else(|| self.own.clone()))
    }

    /// The header `authorization` for a server of somebody else, where it demands a token.
    #[must_use]
    pub fn server_authorization(&self, server: &HiveAlias) -> Option<HeaderValue> {
        let servers = self.servers.read().unwrap_or_else(PoisonError::into_inner);
        servers.get(server).cloned()
    }

    /// Sets or removes the token of a server of somebody else.
    pub fn set_server(&self, server: &HiveAlias, token: Option<&Secret>) {
        let mut servers = self.servers.write().unwrap_or_else(PoisonError::into_inner);
        match token {
            Some(token) => servers.insert(server.clone(), bearer(token)),
            None => servers.remove(server),
        };
    }

    /// The secrets of hives, to make and remove some.
    #[must_use]
    pub fn hives(&self) -> &HiveSecrets {
        &self.hives
    }
}

/// The header `authorization` with a secret.
#[must_use]
pub fn bearer(secret: &Secret) -> HeaderValue {
    // A secret that fits no header is none that anybody could have been given.
    let mut value = HeaderValue::from_str(&format!("Bearer {}", secret.expose()))
        .unwrap_or_else(|_| HeaderValue::from_static("Bearer"));
    value.set_sensitive(true);
    value
}
