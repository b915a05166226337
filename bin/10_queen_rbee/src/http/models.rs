//! `GET /v1/models[/{id}]`.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use daemon_http::ApiError;
use worker_contract::ModelAlias;

use super::error::describe;
use super::router::Facts;
use crate::attached::VIA;
use crate::dialect::openai::{Model, ModelList, unknown_model};
use crate::dispatch::NoPlace;
use crate::hive_client::HiveClients;
use crate::registry::Registry;
use crate::relay::{Failure, Relay};

/// All models that a catalog has or a worker runs. To another queen, none that only queens beyond this one have.
pub(super) async fn list(
    State(registry): State<Registry>,
    State(relay): State<Relay>,
    State(facts): State<Arc<Facts>>,
    headers: HeaderMap,
) -> Result<Json<ModelList>, ApiError> {
    let via = headers.get(VIA).map(|via| via.to_str().unwrap_or_default());
    if via.is_some_and(|via| relay.was_here(via)) {
        let message = "this queen asks herself for her models";
        return Err(ApiError::new(StatusCode::LOOP_DETECTED, "loop_detected", message));
    }
    // Two queens that ask each other do not wait for each other.
    registry.warmed_up(via.is_none()).await;
    let now = Instant::now();
    let models = if via.is_some() { registry.own_models(now) } else { registry.models(now) };
    let models = models.into_iter();
    let shown = models.map(|(id, model)| Model::new(id, model.added_at.unwrap_or(facts.began_at)));
    Ok(Json(ModelList::new(shown.collect())))
}

pub(super) async fn get(
    State(registry): State<Registry>,
    State(facts): State<Arc<Facts>>,
    State(hives): State<HiveClients>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Model>, ApiError> {
    registry.warmed_up(true).await;
    let models = registry.models(Instant::now());
    // What is no text is no name of a model either.
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    let named = id.parse::<ModelAlias>().ok();
    let alias = named.as_ref().map(|name| registry.meant(name));
    let alias = alias.or_else(|| registry.alias_of(&id));
    let found = alias.and_then(|alias| models.get_key_value(&alias));
    match found {
        Some((id, model)) => {
            Ok(Json(Model::new(id.clone(), model.added_at.unwrap_or(facts.began_at))))
        }
        None => Err(match named.zip(hives.missing_here()) {
            Some((model, why)) => {
                describe(Failure::NoPlace(NoPlace::HiveMissing { model, why }), &registry)
            }
            None => unknown_model(&id, models.keys()),
        }),
    }
}
