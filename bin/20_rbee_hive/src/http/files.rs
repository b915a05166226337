//! The files of models, for other hives: `GET /v1/models/{sha256}/file`, whole or in ranges.
//!
//! Who comes has a ticket of the queen for this one file. Neither hive learns the other's secret.

use std::time::SystemTime;

use access_tokens::{Secret, Ticket};
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use daemon_http::ApiError;
use tower_http::services::ServeFile;
use worker_contract::Sha256Digest;

use crate::Hive;

/// The route of a model's file.
pub const MODEL_FILE_ROUTE: &str = "/v1/models/{sha256}/file";

/// Whether a path is that of a model's file.
pub fn is_model_file(path: &str) -> bool {
    let digest = path.strip_prefix("/v1/models/").and_then(|rest| rest.strip_suffix("/file"));
    digest.is_some_and(|digest| !digest.is_empty() && !digest.contains('/'))
}

/// How much of a file is read at once, in bytes.
const PIECE: usize = 256 << 10;

#[derive(Debug, Clone)]
struct Shelf {
    hive: Hive,
    secret: Secret,
}

/// The route of the files. It looks itself at who comes in: a ticket is no token.
pub fn model_files(hive: &Hive, secret: Secret) -> Router {
    let shelf = Shelf { hive: hive.clone(), secret };
    Router::new().route(MODEL_FILE_ROUTE, get(file)).with_state(shelf)
}

async fn file(
    State(shelf): State<Shelf>,
    Path(sha256): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    model_file(&shelf.hive, &shelf.secret, &sha256, request).await
}

/// A model's file for whoever has a ticket that was made with this secret.
///
/// # Errors
/// When the ticket is not good, or there is no such file.
pub async fn model_file(
    hive: &Hive,
    secret: &Secret,
    sha256: &str,
    request: Request,
) -> Result<Response, ApiError> {
    let unknown =
        || ApiError::not_found("file_not_found", "no model here has a file of this SHA-256");
    let digest: Sha256Digest = sha256.parse().map_err(|_| unknown())?;
    let bearer = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let ticket = bearer.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    if !Ticket::is_valid(secret, digest.as_hex(), ticket, SystemTime::now()) {
        return Err(ApiError::unauthorized("a ticket of the queen for this file is needed")
            .hint("give the command again: a ticket is good for some hours"));
    }
    let path = hive.model_file(&digest).ok_or_else(unknown)?;
    match ServeFile::new(path).with_buf_chunk_size(PIECE).try_call(request).await {
        Ok(response) => Ok(response.into_response()),
        Err(error) => {
            tracing::warn!(%digest, %error, "a model's file cannot be given");
            Err(ApiError::internal("the file cannot be read"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_paths_of_the_route_are_those_of_files() {
        for (path, is_one) in [
            (MODEL_FILE_ROUTE, true),
            ("/v1/models/abc/file", true),
            ("/v1/models/a%2Fb/file", true),
            ("/v1/models/abc", false),
            ("/v1/models/abc/file/", false),
            ("/v1/models//file", false),
            ("/v1/models/file", false),
            ("/v1/models/a/b/file", false),
            ("/v1/status", false),
            ("", false),
        ] {
            assert_eq!(is_model_file(path), is_one, "{path}");
        }
    }
}
