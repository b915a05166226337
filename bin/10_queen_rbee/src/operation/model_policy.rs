//! The operations on models' policies.

use std::time::Instant;

use job_server::{JobContext, JobError, Outcome};
use narration::with_causes;
use rbee_operations::{ModelPolicy, ModelPolicySet, Wished};
use serde_json::{Value, json};
use worker_contract::{HiveAlias, ModelAlias};

use super::{Operations, outcome};
use crate::policy::{Policy, PolicyError};
use crate::registry::HiveReport;

impl Operations {
    /// Sets some fields of a model's policy. What nobody knows of it is told: it counts once somebody does.
    pub(super) async fn model_policy_set(
        &self,
        change: ModelPolicySet,
        job: &JobContext,
    ) -> Result<Outcome, JobError> {
        let (policies, model) = (self.policies.clone(), change.model.clone());
        let mut notes = self.unknown_in(&change);
        let wanted = change.clone();
        let set = tokio::task::spawn_blocking(move || policies.set_fields(&change)).await;
        let set = set.map_err(|error| JobError::new("internal", error.to_string()))?;
        set.map_err(|error| refused(&model, &error))?;
        notes.extend(self.unlike_running(&wanted));
        // A hive that is preferred now may be waited for.
        self.registry.touch();
        let mut data = shown(&model, &self.policies.of(&model));
        for note in &notes {
            job.warn(note.clone());
        }
        if !notes.is_empty() {
            data["notes"] = notes.into();
        }
        Ok(outcome(format!("Policy of {model} set"), &data))
    }

    /// What of a change is about a model, hive or device that nobody knows.
    fn unknown_in(&self, change: &ModelPolicySet) -> Vec<String> {
        let ModelPolicySet { model, policy, .. } = change;
        if *policy == ModelPolicy::default() {
            return Vec::new();
        }
        let hives = self.registry.hives(Instant::now());
        let mut notes = Vec::new();
        if !self.registry.knows_model(model) {
            let meant = self.registry.meant(model);
            notes.push(unknown_model(model, &meant, self.hives.missing_here()));
        }
        let wished = policy.hive.as_ref().and_then(Wished::as_one);
        let found = |name: &HiveAlias| hives.iter().find(|hive| hive.said.hive_id == *name);
        if let Some(name) = wished.filter(|name| found(name).is_none())
            && !self.inventory.names().contains(name)
        {
            notes.push(format!("no hive {name} is known yet: workers go elsewhere until one is"));
        }
        if let Some(device) = policy.device.and_then(Wished::one) {
            let has_it = |hive: &HiveReport| hive.said.devices.iter().any(|it| it.id == device);
            match wished {
                Some(name) if found(name).is_some_and(|hive| !has_it(hive)) => {
                    notes.push(format!("{name} has no {device}: workers go elsewhere"));
                }
                None if !hives.iter().any(has_it) => {
                    notes.push(format!("no hive has a {device} yet: workers go elsewhere"));
                }
                _ => {}
            }
        }
        notes
    }

    /// The policies of all models that have one.
    pub(super) fn model_policy_list(&self) -> Outcome {
        let all = self.policies.all();
        let policies: Vec<_> = all.iter().map(|(model, policy)| shown(model, policy)).collect();
        let count = policies.len();
        let message = format!("{count} {}", if count == 1 { "policy" } else { "policies" });
        outcome(message, &json!({ "policies": policies }))
    }
}

/// Why a policy is not set. Where its file is stays in the log: anybody may look at the job.
fn refused(model: &ModelAlias, error: &PolicyError) -> JobError {
    let code = match error {
        PolicyError::Contradiction(_) => "invalid_value",
        PolicyError::TooMany { .. } => "too_many_policies",
        PolicyError::File { .. } | PolicyError::TooNew { .. } => {
            tracing::error!(%model, reason = with_causes(error), "a policy cannot be kept");
            "disk_failed"
        }
    };
    JobError::new(code, error.for_clients())
}

/// What is told of a model that nobody knows. `missing` is why the queen's own hive is, which may have it.
fn unknown_model(model: &ModelAlias, meant: &ModelAlias, missing: Option<String>) -> String {
    if meant != model {
        return format!(
            "no hive has a model {model}; there is {meant}, which has a policy of its own"
        );
    }
    match missing {
        Some(why) => format!("no hive that runs has a model {model}, and {why}"),
        None => format!("no hive has a model {model} yet: the policy counts once one has"),
    }
}

fn shown(model: &ModelAlias, policy: &Policy) -> Value {
    let mut value = serde_json::to_value(policy).unwrap_or_default();
    value["model"] = model.as_str().into();
    value
}

#[cfg(test)]
mod tests {
    use rusqlite::{Error, ffi};

    use super::*;

    #[test]
    fn a_job_does_not_tell_where_the_file_of_policies_is() {
        let path = std::path::PathBuf::from("/home/My Name/data/policies.db");
        let failed = |code, said: Option<String>| {
            let source = Error::SqliteFailure(ffi::Error::new(code), said);
            PolicyError::File { path: path.clone(), source }
        };
        let full = failed(ffi::SQLITE_FULL, Some("database or disk is full".into()));
        let said = format!("unable to open database file: {}", path.display());
        let closed = failed(ffi::SQLITE_CANTOPEN, Some(said));
        let later = PolicyError::TooNew { path: path.clone(), found: 9 };
        for (error, told) in [
            (
                full,
                "cannot use the policies in …; free some space on its disk: database or disk is full",
            ),
            (closed, "unable to open database file: …"),
            (later, "the policies in … have version 9"),
        ] {
            let refusal = refused(&"m".parse().unwrap(), &error);
            assert_eq!(refusal.code, "disk_failed");
            assert!(refusal.message.contains(told), "{}", refusal.message);
            assert!(!refusal.message.contains("Name"), "{}", refusal.message);
        }
    }

    #[test]
    fn whoever_sets_a_policy_is_told_why_nobody_knows_its_model() {
        let why = "the hive of this machine could not be started: full";
        for (meant, missing, expected) in [
            ("m", None, "no hive has a model m yet: the policy counts once one has"),
            (
                "m-q8",
                Some(why),
                "no hive has a model m; there is m-q8, which has a policy of its own",
            ),
            (
                "m",
                Some(why),
                "no hive that runs has a model m, and the hive of this machine could not be started: full",
            ),
        ] {
            let (model, meant) = ("m".parse().unwrap(), meant.parse().unwrap());
            assert_eq!(unknown_model(&model, &meant, missing.map(str::to_owned)), expected);
        }
    }
}
