//! `GET /v1/decisions`: what was decided, for whom and why, the latest first.

use std::str::FromStr;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use daemon_http::ApiError;
use serde::{Deserialize, Serialize};

use crate::decisions::{Decisions, Entry, Filter};

/// How many are shown where nobody says how many.
const USUAL: usize = 100;
/// The most that are shown.
const MOST: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    request_id: Option<String>,
    model: Option<String>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct List<'a> {
    decisions: Vec<&'a Entry>,
}

pub(super) async fn list(
    State(decisions): State<Decisions>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(wanted) = wanted.map_err(|refused| {
        ApiError::bad_request("invalid_value", refused.body_text())
            .hint("the parameters are request_id, model and limit")
    })?;
    let limit = wanted.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        let message = format!("limit: expected 1 to {MOST}");
        return Err(ApiError::bad_request("invalid_value", message).param("limit"));
    }
    let filter = Filter {
        request_id: name("request_id", wanted.request_id)?,
        model: name("model", wanted.model)?,
        limit,
    };
    let found = decisions.find(filter).await;
    let list = List { decisions: found.iter().map(AsRef::as_ref).collect() };
    Ok(Json(list).into_response())
}

fn name<T: FromStr<Err: std::fmt::Display>>(
    param: &'static str,
    text: Option<String>,
) -> Result<Option<T>, ApiError> {
    let refused =
        |error: T::Err| ApiError::bad_request("invalid_value", error.to_string()).param(param);
    text.map(|text| text.parse()).transpose().map_err(refused)
}
