//! `model policy`

use rbee_operations::{ModelPolicy, ModelPolicySet, Operation};
use worker_contract::ModelAlias;

use super::{data, list, read, run};
use crate::cli::PolicyArgs;
use crate::failure::Failure;
use crate::render::table;
use crate::session::Session;
use crate::view::Policy;

/// Shows policies, or sets some fields of one.
pub(super) async fn policy(session: &Session, args: PolicyArgs) -> Result<(), Failure> {
    if let (Some(min), Some(max)) = (args.min, args.max)
        && min > max
    {
        return Err(Failure::usage(format!("--min {min} is more than --max {max}")));
    }
    let set = args.model.as_ref().and_then(|model| change(model, &args));
    let policies = if let Some(change) = set {
        data(run(session, Operation::ModelPolicySet(change)).await?)
    } else {
        let all = list(run(session, Operation::ModelPolicyList {}).await?, "policies")?;
        args.model.as_ref().map_or_else(|| all.clone(), |model| of_model(all.clone(), model))
    };
    session
        .output
        .result(&policies, |style| {
            let policies: Vec<Policy> = match &policies {
                serde_json::Value::Array(_) => read(&policies)?,
                one => vec![read(one)?],
            };
            Ok(if policies.is_empty() {
                "no policies: set one with `rbee-keeper model policy MODEL --min 1`\n".to_owned()
            } else {
                table::policies(&policies, style)
            })
        })
        .await
}

/// What is to be set; `None` where nothing is.
fn change(model: &ModelAlias, args: &PolicyArgs) -> Option<ModelPolicySet> {
    let policy = ModelPolicy {
        min: args.min,
        max: args.max,
        pin: args.pin,
        idle_ttl_s: args.idle,
        hive: args.hive.clone(),
        device: args.device,
        ctx_size: args.ctx_size,
        slots: args.slots,
    };
    let is_change = args.reset || policy != ModelPolicy::default();
    is_change.then(|| ModelPolicySet { model: model.clone(), reset: args.reset, policy })
}

fn of_model(all: serde_json::Value, model: &ModelAlias) -> serde_json::Value {
    match all {
        serde_json::Value::Array(all) => {
            let is_it = |policy: &serde_json::Value| policy["model"] == model.as_str();
            all.into_iter().filter(is_it).collect()
        }
        other => other,
    }
}
