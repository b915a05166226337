//! `GET /v1/models[/{id}]`.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use daemon_http::ApiError;
use worker_contract::ModelAlias;

use super::router::Facts;
use crate::dialect::openai::{Model, ModelList, unknown_model};
use crate::registry::Registry;

/// All models that a catalog has or a worker runs.
pub(super) async fn list(
    State(registry): State<Registry>,
    State(facts): State<Arc<Facts>>,
) -> Json<ModelList> {
    let models = registry.models(Instant::now()).into_iter();
    let shown = models.map(|(id, model)| Model::new(id, model.added_at.unwrap_or(facts.began_at)));
    Json(ModelList::new(shown.collect()))
}

pub(super) async fn get(
    State(registry): State<Registry>,
    State(facts): State<Arc<Facts>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Model>, ApiError> {
    let models = registry.models(Instant::now());
    // What is no text is no name of a model either.
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    let found = id.parse::<ModelAlias>().ok().and_then(|id| models.get_key_value(&id));
    match found {
        Some((id, model)) => {
            Ok(Json(Model::new(id.clone(), model.added_at.unwrap_or(facts.began_at))))
        }
        None => Err(unknown_model(&id, models.keys())),
    }
}
