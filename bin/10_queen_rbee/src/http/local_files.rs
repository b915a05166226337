//! The model files of the hive in this process, for other hives.

use access_tokens::Secret;
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::get;
use daemon_http::ApiError;
use rbee_hive::{MODEL_FILE_ROUTE, model_file};

use crate::hive_client::LocalHive;

/// The route of the files. It looks itself at who comes in: a ticket is no token.
pub(crate) fn local_files(local: LocalHive, secret: Secret) -> Router {
    Router::new().route(MODEL_FILE_ROUTE, get(file)).with_state((local, secret))
}

async fn file(
    State((local, secret)): State<(LocalHive, Secret)>,
    Path(sha256): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let hive = local.running().ok_or_else(|| {
        ApiError::unavailable("hive_not_running", "the hive of this machine is not running", 5)
    })?;
    model_file(&hive, &secret, &sha256, request).await
}
