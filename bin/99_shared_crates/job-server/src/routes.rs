//! Jobs over HTTP. Checks and converts; the registry decides.

mod extract;

use std::sync::Arc;

use access_tokens::{Authenticator, Caller};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use daemon_http::{ApiError, ApiJson, CallerExt, Right, apart};
use rbee_operations::{JobCreated, JobSummary, SubmitJob};
use worker_contract::JobId;

use self::extract::{JobPath, LastEventId, Listed};
use crate::stream_body::{Admitted, KEEP_ALIVE, Reader, stream_body};
use crate::{Executor, JobRegistry, SubmitError, UnknownJob};

/// All routes of jobs: `POST` and `GET /v1/jobs`, `GET` and `DELETE /v1/jobs/{id}`,
/// `GET /v1/jobs/{id}/stream`.
///
/// `auth` is that of the edge before them: a stream ends when what its reader came in with does not count any more.
pub fn routes(registry: JobRegistry, executor: Arc<dyn Executor>, auth: Authenticator) -> Router {
    Router::new()
        .route("/v1/jobs", post(submit).get(list))
        .route("/v1/jobs/{job_id}", get(show).delete(cancel))
        .route("/v1/jobs/{job_id}/stream", get(follow))
        .with_state(Jobs { registry, executor, auth })
}

#[derive(Clone)]
struct Jobs {
    registry: JobRegistry,
    executor: Arc<dyn Executor>,
    auth: Authenticator,
}

/// Who asks for jobs: the holder of a token sees its own, whoever is at home here all.
struct Asker {
    name: String,
    sees_all: bool,
}

impl Asker {
    fn of(caller: Option<Extension<CallerExt>>) -> Self {
        let caller = caller.map_or(Caller::Local, |Extension(CallerExt(caller))| caller);
        Self { name: caller.to_string(), sees_all: caller == Caller::Local }
    }

    fn may_see(&self, job: &JobSummary) -> bool {
        self.sees_all || job.caller == self.name
    }
}

impl Jobs {
    /// A job that the caller may see. Whoever guesses an id does not learn that it is one.
    fn seen_by(
        &self,
        caller: Option<Extension<CallerExt>>,
        id: &JobId,
    ) -> Result<JobSummary, ApiError> {
        let asker = Asker::of(caller);
        let job = self.registry.get(id).filter(|job| asker.may_see(job));
        job.ok_or_else(|| unknown(&UnknownJob(id.clone())))
    }
}

/// Answers when the job is recorded, so that an id that a client holds survives a restart; that of a look does not.
async fn submit(
    State(jobs): State<Jobs>,
    caller: Option<Extension<CallerExt>>,
    ApiJson(SubmitJob { operation }): ApiJson<SubmitJob>,
) -> Result<(StatusCode, Json<JobCreated>), ApiError> {
    let caller = Asker::of(caller);
    let job_id =
        jobs.registry.submit(&operation, &caller.name, &jobs.executor).map_err(|e| refusal(&e))?;
    if !jobs.executor.only_looks(&operation) {
        jobs.registry.recorded().await;
    }
    Ok((StatusCode::ACCEPTED, Json(JobCreated { job_id })))
}

async fn list(
    State(jobs): State<Jobs>,
    caller: Option<Extension<CallerExt>>,
    Listed { most, with_looks }: Listed,
) -> Result<Response, ApiError> {
    let asker = Asker::of(caller);
    // There may be a hundred thousand.
    let listed = move || {
        let list =
            jobs.registry.latest(most, with_looks, |caller| asker.sees_all || caller == asker.name);
        Json(list).into_response()
    };
    apart(listed).await
}

async fn show(
    State(jobs): State<Jobs>,
    caller: Option<Extension<CallerExt>>,
    JobPath(id): JobPath,
) -> Result<Json<JobSummary>, ApiError> {
    jobs.seen_by(caller, &id).map(Json)
}

/// 202 while the job still has to end, 200 if it has ended.
async fn cancel(
    State(jobs): State<Jobs>,
    caller: Option<Extension<CallerExt>>,
    JobPath(id): JobPath,
) -> Result<(StatusCode, Json<JobSummary>), ApiError> {
    jobs.seen_by(caller, &id)?;
    let summary = jobs.registry.cancel(&id).map_err(|e| unknown(&e))?;
    let status = if summary.state.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(summary)))
}

async fn follow(
    State(jobs): State<Jobs>,
    caller: Option<Extension<CallerExt>>,
    JobPath(id): JobPath,
    LastEventId(after): LastEventId,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    jobs.seen_by(caller, &id)?;
    let latest = jobs.registry.last_event_id(&id).map_err(|e| unknown(&e))?;
    // A reader that waits behind an id that the job has not given yet would lose events.
    if after > latest {
        let reason = format!("{after} is no event of this job, whose latest is {latest}");
        return Err(LastEventId::refused(reason));
    }
    let cursor = jobs.registry.cursor(&id, after).map_err(|e| unknown(&e))?;
    // An answer that was let in is read to its end, as it is over HTTP: it ends before long, and would be lost.
    let admitted = (!jobs.registry.drains(&id)).then(|| {
        let right = Right::new(jobs.auth, &headers);
        Admitted { right, jobs: jobs.registry, job: id }
    });
    let head = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // Tells a proxy in front not to collect events before it passes them on.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    let body = stream_body(Reader { cursor, admitted }, KEEP_ALIVE);
    Ok((head, Body::from_stream(body)).into_response())
}

fn refusal(error: &SubmitError) -> ApiError {
    match error {
        SubmitError::TooManyRunning { .. } => {
            ApiError::too_many_requests("too_many_jobs", error.to_string(), 5)
                .hint("wait for one to end, or cancel one: `rbee-keeper job list --all`")
        }
        SubmitError::StoreBusy => {
            ApiError::too_many_requests("job_store_busy", error.to_string(), 1)
        }
        SubmitError::ShuttingDown => ApiError::unavailable("shutting_down", error.to_string(), 5),
    }
}

fn unknown(error: &UnknownJob) -> ApiError {
    ApiError::not_found("job_not_found", error.to_string())
        .param("job_id")
        .hint("`rbee-keeper job list --all` shows the jobs that are kept")
}
