//! Which secret the queen shows to whom: to each hive and its workers that of the hive, so that no
//! machine learns another one's. On her own machine the hive has her secret, and its workers, in their
//! sandbox, one for reports only. Her own secret opens everything: but for her machine only hives of the
//! configuration get it, and whoever has shown it. Anybody else without a secret is sent nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use access_tokens::{HiveSecrets, Secret};
use axum::http::HeaderValue;
use job_server::JobError;
use worker_contract::HiveAlias;

use crate::registry::{ShownSecret, Target};

/// The secrets that the queen has. A clone has the same ones.
#[derive(Debug, Clone)]
pub struct Keyring {
    /// Of her own user's processes.
    own: Secret,
    /// The header with it.
    own_header: HeaderValue,
    hives: HiveSecrets,
    /// The hives of the configuration, which have her own secret where they have none of their own.
    configured: Arc<BTreeSet<HiveAlias>>,
    /// The tokens of servers of others.
    servers: Arc<RwLock<BTreeMap<HiveAlias, HeaderValue>>>,
    own_id: Arc<str>,
}

/// A hive has no secret, so that nothing can be sent to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no secret is kept for hive {hive}, so it is sent nothing")]
pub struct NoSecret {
    hive: HiveAlias,
}

impl NoSecret {
    /// What gives it one.
    #[must_use]
    pub fn hint(&self) -> String {
        let hive = &self.hive;
        format!(
            "give it one: `rbee-keeper hive install {hive}` where SSH leads there, else `rbee-keeper hive add {hive} \
             --url URL --secret-file FILE`; for a hive of config.toml write it to secrets/hives/{hive}.token, or \
             remove that file, and restart the queen"
        )
    }
}

impl From<NoSecret> for JobError {
    fn from(missing: NoSecret) -> Self {
        Self::new("secret_missing", missing.to_string()).hint(missing.hint())
    }
}

impl Keyring {
    /// The queen's own secret, and those of hives that have one.
    #[must_use]
    pub fn new(own: Secret, hives: HiveSecrets) -> Self {
        let own_id = uuid::Uuid::new_v4().simple().to_string().into();
        let (own_header, configured, servers) = (bearer(&own), Arc::default(), Arc::default());
        Self { own, own_header, hives, configured, servers, own_id }
    }

    /// The same of a queen whose configuration names hives. One whose own secret is lost is not given hers.
    #[must_use]
    pub fn with_configured(self, hives: impl IntoIterator<Item = HiveAlias>) -> Self {
        let has_hers = |hive: &HiveAlias| !self.hives.was_lost(hive);
        let configured = hives.into_iter().filter(has_hers).collect();
        Self { configured: Arc::new(configured), ..self }
    }

    /// The name by which this queen knows what has come from herself, by way of other queens. No secret.
    #[must_use]
    pub fn own_id(&self) -> &str {
        &self.own_id
    }

    /// The secret for a hive, which has shown one.
    pub fn secret(&self, hive: &HiveAlias, shown: ShownSecret) -> Result<Secret, NoSecret> {
        match self.hives.get(hive).filter(|_| !hive.is_localhost()) {
            Some(its) => Ok(its),
            None if self.may_have_hers(hive, shown) => Ok(self.own.clone()),
            None => Err(NoSecret { hive: hive.clone() }),
        }
    }

    /// The header `authorization` for a worker: of the secret that it has.
    pub fn authorization(&self, worker: &Target) -> Result<HeaderValue, NoSecret> {
        let shown = worker.shown();
        let of_hive = match shown {
            ShownSecret::OfHive => self.hives.get(&worker.hive_id),
            ShownSecret::Own => None,
        };
        match of_hive {
            Some(secret) => Ok(bearer(&secret)),
            None if self.may_have_hers(&worker.hive_id, shown) => Ok(self.own_header.clone()),
            None => Err(NoSecret { hive: worker.hive_id.clone() }),
        }
    }

    /// Whether this is the queen's own secret.
    #[must_use]
    pub fn is_own(&self, secret: &Secret) -> bool {
        self.own == *secret
    }

    /// Whether the queen's own secret may be shown to a hive that has none of its own.
    fn may_have_hers(&self, hive: &HiveAlias, shown: ShownSecret) -> bool {
        hive.is_localhost() || shown == ShownSecret::Own || self.configured.contains(hive)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use worker_contract::ModelAlias;

    use super::*;
    use crate::clock;
    use crate::prompt::PromptChain;
    use crate::registry::{Ask, Place, Placed, Registry};
    use crate::scheduler::Demand;

    const OWN: &str = "the queen's own";

    #[test]
    fn the_queens_own_secret_goes_to_her_machine_to_hives_of_her_configuration_and_to_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = folder.path().join("hives");
        std::fs::create_dir(&secrets).unwrap();
        for broken in ["nas-lost", "gpu-lost"] {
            std::fs::write(secrets.join(format!("{broken}.token")), "").unwrap();
        }
        let hives = HiveSecrets::open(folder.path()).unwrap();
        let its = hives.get_or_make(&name("gpu-1")).unwrap();
        let configured = ["nas", "nas-lost"].map(name);
        let keyring = Keyring::new(Secret::from(OWN.to_owned()), hives).with_configured(configured);
        let (own, its) = (Some(OWN), Some(its.expose()));
        for (hive, if_none_was_shown, if_hers_was_shown) in [
            ("localhost", own, own),
            ("gpu-1", its, its),
            ("nas", own, own),
            ("nas-lost", None, own),
            ("gpu-lost", None, own),
            ("never-added", None, own),
        ] {
            for (shown, expected) in
                [(ShownSecret::OfHive, if_none_was_shown), (ShownSecret::Own, if_hers_was_shown)]
            {
                let secret = keyring.secret(&name(hive), shown);
                let secret = secret.as_ref().ok().map(Secret::expose);
                assert_eq!(secret, expected, "{hive}, which has shown {shown:?}");
            }
        }
        let missing = keyring.secret(&name("gpu-lost"), ShownSecret::OfHive).unwrap_err();
        assert!(missing.hint().contains("rbee-keeper hive install gpu-lost"), "{missing}");
    }

    #[test]
    fn a_secret_that_is_removed_is_shown_no_longer_and_no_other_one_instead() {
        let folder = tempfile::tempdir().unwrap();
        let hives = HiveSecrets::open(folder.path()).unwrap();
        hives.get_or_make(&name("gpu-1")).unwrap();
        let keyring = Keyring::new(Secret::from(OWN.to_owned()), hives);
        let place = place_at("gpu-1");
        assert!(keyring.authorization(&place.target).is_ok());
        keyring.hives().remove(&name("gpu-1")).unwrap();
        assert_eq!(keyring.authorization(&place.target), Err(NoSecret { hive: name("gpu-1") }));
    }

    /// A place at a worker that has reported with the secret of its hive.
    fn place_at(hive: &str) -> Place {
        let registry = Registry::new(Duration::from_secs(2), Vec::new(), clock::now());
        let beat = json!({
            "worker_id": "w-1", "hive_id": hive, "address": "http://127.0.0.1:1",
            "model": {"name": "m", "digest": "0".repeat(64), "context_length": 1},
            "device": "CPU-0", "state": "ready", "slots": {"total": 1, "busy": 0}, "queued": 0,
            "kv_cache": {"used_tokens": 0, "capacity_tokens": 1}, "tokens_per_second": 0.0,
            "engine_build": "x", "pid": 1,
        });
        registry.worker_beat(serde_json::from_value(beat).unwrap(), clock::now()).unwrap();
        let (model, prompt) = ("m".parse::<ModelAlias>().unwrap(), PromptChain::default());
        match registry.place(&Ask::of(Demand::of(&model), &prompt), clock::now()) {
            Placed::At(place) => place,
            refused @ Placed::Not(_) => panic!("{refused:?}"),
        }
    }

    fn name(text: &str) -> HiveAlias {
        text.parse().unwrap()
    }
}
