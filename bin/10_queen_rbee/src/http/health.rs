//! Whether the queen is there, how she was built, and her end.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use daemon_lifecycle::BuildInfo;
use serde::Serialize;

use super::router::Facts;

#[derive(Serialize)]
pub(super) struct Health {
    status: &'static str,
    version: &'static str,
}

/// Needs no token and touches nothing.
pub(super) async fn health() -> Json<Health> {
    Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

pub(super) async fn build_info(State(facts): State<Arc<Facts>>) -> Json<BuildInfo> {
    Json(facts.build.clone())
}

#[derive(Serialize)]
pub(super) struct Stopping {
    state: &'static str,
}

pub(super) async fn shutdown(State(facts): State<Arc<Facts>>) -> (StatusCode, Json<Stopping>) {
    tracing::info!("asked to shut down");
    facts.stop.cancel();
    (StatusCode::ACCEPTED, Json(Stopping { state: "stopping" }))
}
