//! Failures of an answer as HTTP errors.

use std::time::Instant;

use axum::http::StatusCode;
use daemon_http::ApiError;
use rbee_operations::LARGER_THAN_DEVICE;
use worker_contract::HiveAlias;

use crate::dialect::openai::unknown_model;
use crate::dispatch::NoPlace;
use crate::registry::{Registry, Resting};
use crate::relay::{Failure, longer_context};

/// Why no worker starts until somebody has repaired it: there is no time to tell after which it is worth
/// trying again.
const LASTING: [&str; 6] = [
    "model_changed",
    "model_file_gone",
    "worker_given_up",
    "worker_binary_unusable",
    "log_not_writable",
    LARGER_THAN_DEVICE,
];

/// When to try again where the queen's own hive could not be started, in seconds: as often she tries it.
const RETRY_MISSING_HIVE_S: u64 = 5;

/// What a client is told about a failure. The registry knows the models that there are instead of an
/// unknown one.
pub(crate) fn describe(failure: Failure, registry: &Registry) -> ApiError {
    let message = failure.to_string();
    match failure {
        Failure::Refused { status, detail } => ApiError { status, detail, retry_after_s: None },
        Failure::Busy { status, detail, retry_after_s } => {
            ApiError { status, detail, retry_after_s }
        }
        Failure::OwnLimit(_) => ApiError::unavailable("too_many_connections", message, 1)
            .hint("raise the queen's limit of open files: ulimit -n, or LimitNOFILE of her unit"),
        Failure::WorkerFailed { is_given_up, .. } => {
            let hint = if is_given_up {
                "workers have failed it again and again, and may do so as often if it is sent again; their logs say how: rbee-keeper worker logs ID"
            } else {
                "send the request again: it goes to another worker, if there is one"
            };
            ApiError::new(StatusCode::BAD_GATEWAY, "worker_failed", message).hint(hint)
        }
        Failure::Quarantined { .. } => {
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "request_quarantined", message)
                .hint("the workers' logs say how they ended: rbee-keeper worker logs ID; the same request is taken again after ten minutes")
        }
        Failure::Deadline { .. } => timeout(message),
        // More time would not help.
        Failure::Late { why, .. } => ApiError::new(
            StatusCode::GATEWAY_TIMEOUT,
            "deadline_exceeded",
            format!("{message}: {why}"),
        ),
        Failure::NoPlace(no_place) => not_placed(no_place, registry),
    }
}

fn not_placed(no_place: NoPlace, registry: &Registry) -> ApiError {
    let message = no_place.for_clients();
    match no_place {
        NoPlace::QueueFull { retry_after_s, .. } => {
            ApiError::too_many_requests("queue_full", message, retry_after_s)
                .hint("more may wait where the queen's configuration says so: [queen] max_queue_per_model")
        }
        NoPlace::Deadline { .. } => timeout(message),
        NoPlace::UnknownModel { model } => {
            unknown_model(model.as_str(), registry.models(Instant::now()).keys())
        }
        NoPlace::HiveGone { hive, retry_after_s, .. } => {
            ApiError::unavailable("hive_gone", message, retry_after_s)
                .hint(how_to_start(&hive))
        }
        NoPlace::HiveMissing { .. } => {
            ApiError::unavailable("hive_not_running", message, RETRY_MISSING_HIVE_S).hint(
                "the queen tries again every few seconds: rbee-keeper status tells whether it runs",
            )
        }
        NoPlace::NoWorkerLeft { server: Some((server, _)), retry_after_s, .. } => {
            ApiError::unavailable("no_worker", message, retry_after_s).hint(format!(
                "see to {server}, which is somebody else's server: rbee-keeper worker list tells what looks find there"
            ))
        }
        NoPlace::NoWorkerLeft { retry_after_s, .. }
        | NoPlace::NowhereToStart { retry_after_s, .. } => {
            ApiError::unavailable("no_worker", message, retry_after_s)
        }
        // As the server itself would be answered for.
        NoPlace::Resting(Resting { status, code, left_s, .. }) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            let mut error = ApiError::new(status, "", message).retry_after(left_s.into());
            error.detail.code = code;
            error
        }
        NoPlace::OtherFile { .. } => ApiError::unavailable("no_worker", message, 1)
            .hint("send the request again: it is answered with the file that there is"),
        NoPlace::TooShort { model, tokens } => {
            let trained = registry.trained_context(&model).unwrap_or(0);
            ApiError::bad_request("context_length_exceeded", message)
                .hint(longer_context(&model, tokens, trained))
        }
        NoPlace::Unable { .. } => ApiError::bad_request("unsupported_by_model", message).hint(
            "its workers are servers of others, which promise neither grammars nor answers that can be repeated, and not all of them forms in completions or the call of a function ('tool_choice'); leave 'deterministic', grammars and such forms and demands out, or run the model on a hive",
        ),
        NoPlace::Rules { .. } => {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "refused_by_rules", message).hint(
                "scheduler.rhai beside the queen's configuration has them: rbee-keeper policy test FILE",
            )
        }
        NoPlace::Stopping => ApiError::unavailable("stopping", message, 5),
        NoPlace::SpawnFailed { source, retry_after_s, .. } => {
            let mut error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, &source.code, message);
            if !LASTING.contains(&source.code.as_str()) {
                error = error.retry_after(retry_after_s);
            }
            match source.hint {
                Some(hint) => error.hint(hint),
                None => error,
            }
        }
    }
}

fn how_to_start(hive: &HiveAlias) -> String {
    let here = format!("start it: rbee-keeper hive start {hive}");
    if hive.is_localhost() {
        return here;
    }
    format!("{here}; one that was not added by SSH is started on its own machine")
}

fn timeout(message: String) -> ApiError {
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", message)
        .hint("allow more time: the header x-rbee-deadline-ms, up to [queen] request_timeout_s, which is what a request has without it")
}

#[cfg(test)]
mod tests {
    use job_server::JobError;

    use super::*;

    #[test]
    fn the_queens_own_limit_is_told_as_hers() {
        let registry = Registry::new(std::time::Duration::ZERO, Vec::new(), Instant::now());
        let shown = describe(Failure::OwnLimit("too many files".into()), &registry);
        assert_eq!((shown.status.as_u16(), shown.retry_after_s), (503, Some(1)));
        assert_eq!(shown.detail.message, "too many files");
    }

    #[test]
    fn who_was_failed_as_often_as_it_is_tried_is_not_told_to_try_it_again() {
        let registry = Registry::new(std::time::Duration::ZERO, Vec::new(), Instant::now());
        for (is_given_up, hint) in [(true, "workers have failed it again"), (false, "send the")] {
            let (worker_id, reason) = ("w-1".parse().unwrap(), "it was silent for 30 s".into());
            let failure = Failure::WorkerFailed { worker_id, reason, is_given_up };
            let shown = describe(failure, &registry).detail;
            assert_eq!(shown.message, "worker w-1 failed: it was silent for 30 s");
            assert!(shown.hint.as_deref().is_some_and(|it| it.starts_with(hint)), "{shown:?}");
        }
    }

    #[test]
    fn a_model_that_a_hive_may_have_which_could_not_be_started_is_no_unknown_one() {
        let why = "the hive of this machine could not be started: the model catalog /data/hive.db \
                   cannot be opened: database or disk is full";
        let missing = NoPlace::HiveMissing { model: "m".parse().unwrap(), why: why.into() };
        let registry = Registry::new(std::time::Duration::ZERO, Vec::new(), Instant::now());
        let shown = describe(Failure::NoPlace(missing), &registry);
        assert_eq!((shown.status.as_u16(), shown.retry_after_s), (503, Some(5)));
        assert_eq!(shown.detail.code.as_deref(), Some("hive_not_running"));
        assert_eq!(
            shown.detail.message,
            "nobody has the model m at present, and the hive of this machine could not be started: the \
             model catalog … cannot be opened: database or disk is full"
        );
    }

    #[test]
    fn clients_are_told_why_no_worker_starts_but_neither_its_log_nor_when_where_nobody_knows() {
        let rows = [
            (
                "worker_given_up",
                "c2 on CPU-0 is not started again: worker w-1 failed, 5 failures within 10 min, the \
                 last one: out of memory (signal 9); its last log lines:\n  secret",
                "c2 on CPU-0 is not started again: worker w-1 failed, 5 failures within 10 min, the \
                 last one: out of memory (signal 9)",
                None,
            ),
            (
                "worker_failed",
                "worker w-1 failed: cannot read \"/srv/x.gguf\": it is truncated",
                "worker w-1 failed: cannot read … it is truncated",
                Some(5),
            ),
            (
                "model_changed",
                "the file of model c2 changed on disk: its pinned SHA-256 is 1, it has 2",
                "the file of model c2 changed on disk: its pinned SHA-256 is 1, it has 2",
                None,
            ),
            (
                "worker_binary_unusable",
                "the worker's binary is missing (looked in /home/x, the PATH)",
                "the worker's binary is missing (looked in … the PATH)",
                None,
            ),
            ("no_free_port", "no port is free", "no port is free", Some(5)),
            ("not_enough_memory", "CPU-0 is full", "CPU-0 is full", Some(5)),
            (
                "larger_than_device",
                "CPU-0 is full; it would have no room there without other workers either",
                "CPU-0 is full; it would have no room there without other workers either",
                None,
            ),
        ];
        for (code, message, told, retry_after_s) in rows {
            let source = JobError::new(code, message).hint("rbee-keeper worker logs w-1");
            let model = "c2".parse().unwrap();
            let failed = NoPlace::SpawnFailed { model, source, retry_after_s: 5 };
            let registry = Registry::new(std::time::Duration::ZERO, Vec::new(), Instant::now());
            let shown = describe(Failure::NoPlace(failed), &registry);
            let expected = format!("no worker could be started for c2: {told}");
            assert_eq!((shown.detail.message, shown.retry_after_s), (expected, retry_after_s));
            assert_eq!(shown.detail.hint.as_deref(), Some("rbee-keeper worker logs w-1"));
        }
    }
}
