//! The operations on models' policies.

use job_server::{JobError, Outcome};
use rbee_operations::ModelPolicySet;
use serde_json::{Value, json};
use worker_contract::ModelAlias;

use super::{Operations, outcome};
use crate::policy::{Policy, PolicyError};

impl Operations {
    /// Sets some fields of a model's policy.
    pub(super) async fn model_policy_set(
        &self,
        change: ModelPolicySet,
    ) -> Result<Outcome, JobError> {
        let (policies, model) = (self.policies.clone(), change.model.clone());
        let set = tokio::task::spawn_blocking(move || policies.set_fields(&change)).await;
        let set = set.map_err(|error| JobError::new("internal", error.to_string()))?;
        set.map_err(|error| match &error {
            PolicyError::Contradiction(_) => JobError::new("invalid_value", error.to_string()),
            PolicyError::File { source, .. } => {
                JobError::new("disk_failed", format!("{error}: {source}"))
            }
            PolicyError::TooNew { .. } => JobError::new("disk_failed", error.to_string()),
        })?;
        // A hive that is preferred now may be waited for.
        self.registry.touch();
        let policy = self.policies.of(&model);
        Ok(outcome(format!("Policy of {model} set"), &shown(&model, &policy)))
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

fn shown(model: &ModelAlias, policy: &Policy) -> Value {
    let mut value = serde_json::to_value(policy).unwrap_or_default();
    value["model"] = model.as_str().into();
    value
}
