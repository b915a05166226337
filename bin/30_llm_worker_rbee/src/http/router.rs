//! Every route of the worker.

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use super::{health, inference, metrics};
use crate::worker::Worker;

/// The routes, without the edge that every daemon has.
pub fn router(worker: Arc<Worker>) -> Router {
    Router::new()
        .route("/health", get(health::health))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/inference", post(inference::inference))
        .with_state(worker)
}
