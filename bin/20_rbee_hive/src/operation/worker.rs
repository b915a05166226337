//! Operations on workers.

use std::ops::RangeInclusive;

use job_server::{JobContext, JobError, Outcome};
use rbee_operations::{Progress, WorkerSpawn};
use serde_json::json;
use worker_contract::{ModelAlias, WorkerId};

use super::model::{blocking, unknown_or_being_removed};
use super::{outcome, unless_cancelled};
use crate::hive::Parts;
use crate::supervisor::{Stage, Started, WorkerPlan};

/// Starts a worker and waits until it is ready. Cancelling stops it; one that fails stays listed.
pub(super) async fn spawn(
    parts: &Parts,
    request: WorkerSpawn,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    let slots = request.slots.unwrap_or(parts.worker.slots);
    let ctx_size = request.ctx_size.unwrap_or(parts.worker.ctx_size);
    ensure_within("slots", slots, 1..=256)?;
    ensure_within("ctx_size", ctx_size, 256..=16_777_216)?;
    let model = request.model;
    // Held from the first look at the catalog, so that a delete cannot come between.
    let model_in_use =
        parts.usage.share(&model).ok_or_else(|| unknown_or_being_removed(parts, &model))?;
    let entry = parts.catalog.get(&model)?;
    let device = unless_cancelled(job, parts.devices.choose(request.device)).await??;
    let binary = parts.binary.path()?;
    let (catalog, alias) = (parts.catalog.clone(), model.clone());
    let checking = format!("Checking the file of {model}");
    let model_file = blocking(job, &checking, entry.gguf.size_bytes, move |watcher| {
        catalog.checked_file(&alias, watcher)
    })
    .await?;
    let plan = WorkerPlan {
        binary,
        model: model.clone(),
        model_file,
        digest: entry.sha256,
        device,
        slots,
        ctx_size,
    };
    job.say(format!("Starting worker for {model} on {device}"));
    let started = parts.supervisor.spawn(plan, model_in_use)?;
    until_ready(started, &model, job).await
}

async fn until_ready(
    mut started: Started,
    model: &ModelAlias,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    let id = started.worker_id();
    let mut told = 0;
    loop {
        match started.stage() {
            Stage::Loading(part) => {
                let percent = percent(part);
                if percent > told {
                    told = percent;
                    let progress =
                        Progress { done: percent, total: Some(100), unit: "percent".into() };
                    job.progress(format!("Loading {model}"), progress);
                }
            }
            Stage::Ready(worker) => {
                started.keep();
                return Ok(outcome(format!("Worker {id} is ready"), &worker));
            }
            Stage::Failed(reason) => {
                started.keep();
                return Err(JobError::new(
                    "worker_failed",
                    format!("worker {id} failed: {reason}"),
                )
                .hint(format!("take it off the list: rbee-keeper worker delete {id}")));
            }
            Stage::Stopped => {
                let message = format!("worker {id} was stopped before it was ready");
                return Err(JobError::new("worker_stopped", message));
            }
        }
        tokio::select! {
            () = started.changed() => {}
            () = job.cancelled().cancelled() => {
                started.abandon().await;
                return Err(JobError::cancelled());
            }
        }
    }
}

pub(super) fn list(parts: &Parts) -> Outcome {
    let workers = parts.supervisor.list();
    let message = match workers.len() {
        1 => "1 worker".to_owned(),
        n => format!("{n} workers"),
    };
    outcome(message, &json!({ "workers": workers }))
}

pub(super) fn get(parts: &Parts, id: &WorkerId) -> Result<Outcome, JobError> {
    let worker = parts.supervisor.get(id)?;
    Ok(outcome(format!("Worker {id} runs {} on {}", worker.model, worker.device), &worker))
}

/// Stops a worker. Once begun it is seen through, also when the job is cancelled.
pub(super) async fn delete(
    parts: &Parts,
    id: &WorkerId,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    parts.supervisor.get(id)?;
    job.say(format!("Stopping worker {id}"));
    parts.supervisor.delete(id).await?;
    Ok(outcome(format!("Worker {id} is gone"), &json!({ "worker_id": id })))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a part of 0 to 1 makes a percentage of 0 to 100"
)]
fn percent(part: f32) -> u64 {
    (part.clamp(0.0, 1.0) * 100.0) as u64
}

/// The worker takes the same ranges.
fn ensure_within(field: &str, value: u32, range: RangeInclusive<u32>) -> Result<(), JobError> {
    if range.contains(&value) {
        return Ok(());
    }
    let message = format!("{field} must be {} to {}, not {value}", range.start(), range.end());
    Err(JobError::new("invalid_value", message))
}
