//! `GET /metrics`.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use crate::metrics::Sample;
use crate::relay::Relay;

/// What Prometheus reads.
pub(super) async fn metrics(State(relay): State<Relay>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], Sample::of(relay.metrics(), relay.dispatcher()).text())
}
