//! How many workers each model has, where, and for how long.
//!
//! What the configuration says counts, and on top of it what was set by command, field by field; that
//! is kept in SQLite. `plan` decides, pure, what follows from it for the workers that there are;
//! `steward` carries it out, once a second.

mod plan;
mod steward;
mod store;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rbee_operations::{ModelPolicy, ModelPolicySet, Wished};
use serde::Serialize;
use worker_contract::{DeviceId, HiveAlias, ModelAlias};

pub use self::steward::Steward;
pub use self::store::PolicyError;
use self::store::Store;

/// How many workers a model has at most, where nothing is said.
const USUAL_MAX: u32 = 4;

/// The most models whose policy was set by command.
const MOST: usize = 1024;

/// The policies of all models. A clone shares them.
#[derive(Debug, Clone)]
pub struct Policies {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    usual_idle_s: u64,
    configured: BTreeMap<ModelAlias, ModelPolicy>,
    /// What was set by command. Never locked while the disk works.
    set: Mutex<BTreeMap<ModelAlias, ModelPolicy>>,
    /// Locked for the whole of a change, and before `set`.
    store: Mutex<Store>,
}

/// What holds for a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// The fewest workers.
    pub min: u32,
    /// The most workers that the queen starts.
    pub max: u32,
    /// Whether its workers stay: as many as `min` says, one at least.
    pub pin: bool,
    /// After how long without a request a worker is ended, in seconds; `None` for never.
    pub idle_ttl_s: Option<u64>,
    /// Where it is preferred to run.
    pub hive: Option<Wished<HiveAlias>>,
    /// On what it is preferred to run.
    pub device: Option<Wished<DeviceId>>,
    /// The KV cache of a worker, in tokens; `None` for the hive's setting.
    pub ctx_size: Option<u32>,
    /// The slots of a worker; `None` for the hive's setting.
    pub slots: Option<u32>,
}

impl Policy {
    /// How many workers stay whatever comes: of a pinned model one at least. Those that a crowd got beside them go again.
    #[must_use]
    pub fn kept(&self) -> u32 {
        if self.pin { self.min.max(1) } else { self.min }
    }
}

impl Policies {
    /// The policies of the configuration, and those that were set and are kept in `file`.
    pub fn open(
        file: &std::path::Path,
        configured: BTreeMap<ModelAlias, ModelPolicy>,
        usual_idle_s: u64,
    ) -> Result<Self, PolicyError> {
        let (store, policies) = Store::open(file)?;
        let (set, store) = (Mutex::new(policies), Mutex::new(store));
        Ok(Self { shared: Arc::new(Shared { usual_idle_s, configured, set, store }) })
    }

    /// What holds for a model.
    #[must_use]
    pub fn of(&self, model: &ModelAlias) -> Policy {
        let set = self.set();
        let none = ModelPolicy::default();
        let configured = self.shared.configured.get(model).unwrap_or(&none);
        let policy = configured.with(set.get(model).unwrap_or(&none));
        drop(set);
        let min = policy.min.unwrap_or(0);
        let idle = policy.idle_ttl_s.unwrap_or(self.shared.usual_idle_s);
        Policy {
            min,
            max: policy.max.unwrap_or(USUAL_MAX).max(min),
            pin: policy.pin.unwrap_or(false),
            idle_ttl_s: (idle > 0).then_some(idle),
            hive: policy.hive,
            device: policy.device,
            ctx_size: policy.ctx_size,
            slots: policy.slots,
        }
    }

    /// The models that something was said about, and what holds for them.
    #[must_use]
    pub fn all(&self) -> BTreeMap<ModelAlias, Policy> {
        let mut names: Vec<ModelAlias> = self.shared.configured.keys().cloned().collect();
        names.extend(self.set().keys().cloned());
        names.into_iter().map(|name| (name.clone(), self.of(&name))).collect()
    }

    /// Whether something was said about a model.
    #[must_use]
    pub fn speak_of(&self, model: &ModelAlias) -> bool {
        self.shared.configured.contains_key(model) || self.set().contains_key(model)
    }

    /// Sets some fields of a model's policy, and keeps them. Writes to the disk: not for an async task.
    pub fn set_fields(&self, change: &ModelPolicySet) -> Result<(), PolicyError> {
        let mut store = self.shared.store.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.set().get(&change.model).cloned().unwrap_or_default();
        let before = if change.reset { ModelPolicy::default() } else { before };
        let policy = before.with(&change.policy);
        let configured = self.shared.configured.get(&change.model).cloned().unwrap_or_default();
        configured.with(&policy).check().map_err(|reason| {
            let theirs = of_configuration(&policy, &change.model).unwrap_or_default();
            PolicyError::Contradiction(format!("{reason}{theirs}"))
        })?;
        if policy == ModelPolicy::default() {
            store.remove(&change.model)?;
            self.set().remove(&change.model);
        } else {
            let is_full = {
                let set = self.set();
                set.len() >= MOST && !set.contains_key(&change.model)
            };
            if is_full {
                return Err(PolicyError::TooMany { most: MOST });
            }
            store.put(&change.model, &policy)?;
            self.set().insert(change.model.clone(), policy);
        }
        Ok(())
    }

    fn set(&self) -> MutexGuard<'_, BTreeMap<ModelAlias, ModelPolicy>> {
        // Nothing panics under this lock halfway through a change.
        self.shared.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which of a model's bounds is that of the configuration, where the other one was set.
fn of_configuration(set: &ModelPolicy, model: &ModelAlias) -> Option<String> {
    let field = match (set.min, set.max) {
        (Some(_), None) => "max",
        (None, Some(_)) => "min",
        _ => return None,
    };
    Some(format!("; {field} is that of [models.{model}] in the configuration"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(json: &str) -> ModelPolicySet {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_is_set_counts_over_the_configuration_and_lasts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policies.db");
        let m: ModelAlias = "m".parse().unwrap();
        let configured = BTreeMap::from([(
            m.clone(),
            ModelPolicy { min: Some(1), slots: Some(8), ..ModelPolicy::default() },
        )]);
        let open = || Policies::open(&file, configured.clone(), 900).unwrap();
        let policies = open();
        let usual = policies.of(&"other".parse().unwrap());
        assert_eq!((usual.min, usual.max, usual.pin, usual.idle_ttl_s), (0, 4, false, Some(900)));
        policies.set_fields(&change(r#"{"model":"m","policy":{"min":2,"pin":true}}"#)).unwrap();
        policies.set_fields(&change(r#"{"model":"m","policy":{"idle_ttl_s":0}}"#)).unwrap();
        drop(policies);
        let policies = open();
        let policy = policies.of(&m);
        assert_eq!((policy.min, policy.pin, policy.slots), (2, true, Some(8)));
        assert_eq!(policy.idle_ttl_s, None);
        assert_eq!(policies.all().len(), 1);

        let refused = policies.set_fields(&change(r#"{"model":"m","policy":{"max":1}}"#));
        let told = "min is 2 and max is 1: at most as many as max";
        assert_eq!(refused.unwrap_err().to_string(), told);
        policies.set_fields(&change(r#"{"model":"m","reset":true}"#)).unwrap();
        assert_eq!((policies.of(&m).min, policies.of(&m).pin), (1, false));
        drop(policies);
        assert_eq!(open().of(&m).min, 1);
    }

    #[test]
    fn a_contradiction_says_which_bound_is_that_of_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        for (configured, set, bounds) in
            [(r#"{"max":1}"#, r#"{"min":2}"#, "max"), (r#"{"min":2}"#, r#"{"max":1}"#, "min")]
        {
            let configured =
                BTreeMap::from([("m".parse().unwrap(), serde_json::from_str(configured).unwrap())]);
            let policies = Policies::open(&folder.path().join("p.db"), configured, 0).unwrap();
            let refused =
                policies.set_fields(&change(&format!(r#"{{"model":"m","policy":{set}}}"#)));
            let told = format!(
                "min is 2 and max is 1: at most as many as max; {bounds} is that of [models.m] in the configuration"
            );
            assert_eq!(refused.unwrap_err().to_string(), told);
        }
    }

    #[test]
    fn a_configured_place_is_taken_back_by_a_command_that_lasts_until_it_is_reset() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policies.db");
        let m: ModelAlias = "m".parse().unwrap();
        let json = r#"{"hive":"two","device":"GPU-1"}"#;
        let configured: ModelPolicy = serde_json::from_str(json).unwrap();
        let configured = BTreeMap::from([(m.clone(), configured)]);
        let open = || Policies::open(&file, configured.clone(), 900).unwrap();
        let placed = |policies: &Policies| {
            let Policy { hive, device, .. } = policies.of(&m);
            let (hive, device) = (hive.unwrap(), device.unwrap());
            (hive.to_string(), device.to_string())
        };
        let both = |hive: &str, device: &str| (hive.to_owned(), device.to_owned());
        let mut policies = open();
        for (set, expected) in [
            (r#"{"hive":"any"}"#, both("any", "GPU-1")),
            (r#"{"device":"any"}"#, both("any", "any")),
            (r#"{"hive":"three"}"#, both("three", "any")),
        ] {
            policies.set_fields(&change(&format!(r#"{{"model":"m","policy":{set}}}"#))).unwrap();
            assert_eq!(placed(&policies), expected, "{set}");
            drop(policies);
            policies = open();
            assert_eq!(placed(&policies), expected, "{set}, after a restart");
        }
        policies.set_fields(&change(r#"{"model":"m","reset":true}"#)).unwrap();
        assert_eq!(placed(&policies), both("two", "GPU-1"));
    }

    #[test]
    fn there_are_only_so_many_and_those_that_are_there_can_be_changed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policies.db");
        let policies = Policies::open(&file, BTreeMap::new(), 900).unwrap();
        drop(policies);
        let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1024)
            INSERT INTO model_policies (model, policy) SELECT 'm-' || i, '{\"min\":0}' FROM n";
        rusqlite::Connection::open(&file).unwrap().execute_batch(rows).unwrap();
        let policies = Policies::open(&file, BTreeMap::new(), 900).unwrap();
        let one_more = change(r#"{"model":"x","policy":{"pin":true}}"#);
        let refused = policies.set_fields(&one_more).unwrap_err();
        assert!(matches!(refused, PolicyError::TooMany { most: 1024 }), "{refused}");
        assert_eq!(policies.all().len(), 1024);
        policies.set_fields(&change(r#"{"model":"m-7","policy":{"pin":true}}"#)).unwrap();
        policies.set_fields(&change(r#"{"model":"m-8","reset":true}"#)).unwrap();
        policies.set_fields(&one_more).unwrap();
    }

    #[test]
    fn a_file_that_is_no_database_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policies.db");
        std::fs::write(&file, "no database at all, but a text that is long enough").unwrap();
        let error = Policies::open(&file, BTreeMap::new(), 900).unwrap_err();
        assert!(error.to_string().contains("policies.db"), "{error}");
    }
}
