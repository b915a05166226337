//! Reports of workers and hives.

use std::time::Instant;

use access_tokens::{Caller, HiveSecrets};
use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use daemon_http::{ApiError, CallerExt, SmallJson, bearer};
use worker_contract::{HiveAlias, HiveHeartbeat, WorkerHeartbeat};

use crate::registry::{Registry, ReportError, Sender, ShownSecret};

/// The largest report of a worker, in bytes,
const MAX_WORKER_REPORT: u64 = 64 * 1024;
/// and of a hive: each of a thousand models may have 4 KiB.
const MAX_HIVE_REPORT: u64 = 4 * 1024 * 1024;

pub(super) async fn worker(
    State(registry): State<Registry>,
    State(secrets): State<HiveSecrets>,
    Extension(caller): Extension<CallerExt>,
    headers: HeaderMap,
    SmallJson(beat): SmallJson<WorkerHeartbeat, MAX_WORKER_REPORT>,
) -> Result<StatusCode, ApiError> {
    ensure_own(&caller, &beat.hive_id)?;
    let counts = || still_counts(&caller, &headers, &secrets);
    let sender = Sender::new(shown_by(&caller), &counts);
    registry.worker_beat_by(beat, sender, Instant::now()).map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn hive(
    State(registry): State<Registry>,
    State(secrets): State<HiveSecrets>,
    Extension(caller): Extension<CallerExt>,
    headers: HeaderMap,
    SmallJson(beat): SmallJson<HiveHeartbeat, MAX_HIVE_REPORT>,
) -> Result<StatusCode, ApiError> {
    ensure_own(&caller, &beat.hive_id)?;
    ensure_no_worker(&caller)?;
    let counts = || still_counts(&caller, &headers, &secrets);
    let sender = Sender::new(shown_by(&caller), &counts);
    registry.hive_beat_by(beat, sender, Instant::now()).map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}

fn shown_by(CallerExt(caller): &CallerExt) -> ShownSecret {
    match caller {
        Caller::Hive(_) => ShownSecret::OfHive,
        Caller::Local | Caller::Token { .. } => ShownSecret::Own,
    }
}

/// Whether the secret that was looked at when the report began is its hive's still, now that it has come.
fn still_counts(CallerExt(caller): &CallerExt, headers: &HeaderMap, secrets: &HiveSecrets) -> bool {
    match caller {
        Caller::Hive(hive) => {
            bearer(headers).is_some_and(|secret| secrets.is_secret_of(hive, secret))
        }
        Caller::Local | Caller::Token { .. } => true,
    }
}

/// A hive's secret speaks for that hive and its workers only.
fn ensure_own(CallerExt(caller): &CallerExt, reported: &HiveAlias) -> Result<(), ApiError> {
    match caller {
        Caller::Hive(hive) if hive != reported => {
            let message = format!("this secret is that of hive {hive}, not of {reported}");
            Err(ApiError::forbidden("other_hive", message).hint(format!(
                "the hive's name must be the one it was added by: [hive] alias = \"{hive}\""
            )))
        }
        _ => Ok(()),
    }
}

/// On the queen's machine only workers have the hive's secret; the hive itself has the queen's.
fn ensure_no_worker(CallerExt(caller): &CallerExt) -> Result<(), ApiError> {
    match caller {
        Caller::Hive(hive) if hive.is_localhost() => {
            let message = "this secret is for the reports of this machine's workers only";
            Err(ApiError::forbidden("workers_secret", message))
        }
        _ => Ok(()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is the end of the error")]
fn refused(error: ReportError) -> ApiError {
    let message = error.to_string();
    match error {
        ReportError::Address { .. } => {
            ApiError::bad_request("invalid_value", message).param("address")
        }
        ReportError::Taken { .. } => ApiError::conflict("name_taken", message),
        ReportError::Twice { .. } => ApiError::conflict("name_taken", message)
            .hint("end one of them, or start it with another --worker-id"),
        ReportError::NameTaken { .. } => ApiError::conflict("hive_name_taken", message)
            .hint("start it with --alias NAME, or set [hive] alias = \"NAME\" on its machine"),
        ReportError::Forgotten { .. } => ApiError::unauthorized(message)
            .hint("if it is to come back, add it on the queen's side: rbee-keeper hive add NAME"),
        ReportError::TooMany { .. } | ReportError::TooManyOfHive { .. } => {
            ApiError::unavailable("too_many", message, 60)
        }
    }
}
