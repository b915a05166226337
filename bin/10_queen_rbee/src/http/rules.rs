//! `POST /v1/policy/test`: what a script of rules would make of the present workers and places.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use daemon_http::{ApiError, ApiJson, apart};
use serde::{Deserialize, Serialize};
use worker_contract::{ModelAlias, cut_visibly};

use crate::admission::Priority;
use crate::prompt::PromptChain;
use crate::registry::{Ask, Registry, RulesReport};
use crate::rules::Script;
use crate::scheduler::Demand;

/// How many models are tried where none is named.
const MAX_MODELS: usize = 50;

/// The longest caller that an error repeats, in bytes.
const MAX_ECHO: usize = 200;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trial {
    script: String,
    #[serde(default)]
    model: Option<ModelAlias>,
    #[serde(default)]
    priority: Priority,
    #[serde(default = "local")]
    caller: String,
    #[serde(default)]
    prompt_bytes: u32,
}

#[derive(Serialize)]
pub(super) struct Tried {
    models: Vec<RulesReport>,
}

pub(super) async fn test(
    State(registry): State<Registry>,
    ApiJson(trial): ApiJson<Trial>,
) -> Result<Json<Tried>, ApiError> {
    apart(move || try_all(&registry, trial)).await?.map(Json)
}

/// What the script says of requests for one model, or for all.
fn try_all(registry: &Registry, trial: Trial) -> Result<Tried, ApiError> {
    let script = Script::compile(&trial.script).map(Arc::new).map_err(|error| {
        ApiError::bad_request("invalid_script", format!("the script cannot be used: {error}"))
            .param("script")
    })?;
    if !registry.knows_caller(&trial.caller) {
        let caller = cut_visibly(trial.caller, MAX_ECHO);
        let message = format!("no token has the fingerprint {caller:?}");
        return Err(ApiError::bad_request("unknown_caller", message).param("caller").hint(
            "`rbee-keeper token list` shows the fingerprints; `local` is who needs no token",
        ));
    }
    let now = Instant::now();
    let models = match trial.model {
        Some(model) => vec![registry.meant(&model)],
        None => registry.models(now).into_keys().take(MAX_MODELS).collect(),
    };
    let prompt = PromptChain::of_length(trial.prompt_bytes);
    let report = |model: &ModelAlias| {
        let ask = Ask {
            demand: Demand::of(model),
            prompt: &prompt,
            session: None,
            caller: &trial.caller,
            priority: trial.priority,
            answers: 1,
        };
        registry.try_rules(&script, &ask, now)
    };
    Ok(Tried { models: models.iter().map(report).collect() })
}

fn local() -> String {
    "local".to_owned()
}
