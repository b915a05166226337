//! Operations on workers.

mod fit;

use std::ops::RangeInclusive;

use job_server::{JobContext, JobError, Outcome};
use narration::with_causes;
use rbee_operations::{Progress, WorkerExcuse, WorkerSpawn};
use serde_json::json;
use worker_contract::{
    DeviceId, MemoryNeed, ModelAlias, SupervisedState, SupervisedWorker, WorkerId,
};

pub(super) use self::fit::fit;
use super::model::{blocking, unknown_or_being_removed};
use super::refusal::too_little_memory;
use super::{outcome, unless_cancelled};
use crate::device::TooLittleMemory;
use crate::hive::Parts;
use crate::supervisor::{Holdings, PlannedProjector, Stage, Started, WorkerPlan, first_line};
use crate::worker_binary::AskError;

/// What a worker is to be.
struct Wanted {
    model: ModelAlias,
    device: Option<DeviceId>,
    slots: u32,
    ctx_size: u32,
}

impl Wanted {
    /// What was asked for; what was not is as this hive has it.
    fn of(parts: &Parts, request: WorkerSpawn) -> Self {
        let WorkerSpawn { hive_id: _, model, device, slots, ctx_size } = request;
        let (slots, ctx_size) =
            (slots.unwrap_or(parts.worker.slots), ctx_size.unwrap_or(parts.worker.ctx_size));
        Self { model, device, slots, ctx_size }
    }
}

/// Starts a worker and waits until it is ready. Cancelling stops it; one that fails stays listed.
pub(super) async fn spawn(
    parts: &Parts,
    request: WorkerSpawn,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    let (plan, held) = plan(parts, Wanted::of(parts, request), job).await?;
    let (plan, held) = with_memory(parts, plan, held, job).await?;
    let model = plan.model.clone();
    job.say(format!("Starting worker for {model} on {}", plan.device));
    let started = parts.supervisor.spawn(plan, held)?;
    until_ready(started, &model, job).await
}

/// Stops a worker, if it runs, and starts it again with nothing held against it, however often it has
/// failed. It keeps its id.
pub(super) async fn restart(
    parts: &Parts,
    id: &WorkerId,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    let restarting = parts.supervisor.restarting(id)?;
    let before = &restarting.plan;
    let wanted = Wanted {
        model: before.model.clone(),
        device: Some(before.device),
        slots: before.slots,
        ctx_size: before.ctx_size,
    };
    // Before the worker is stopped: one whose model is gone or changed goes on running.
    let (mut plan, mut held) = plan(parts, wanted, job).await?;
    let model = plan.model.clone();
    let of_it = |worker: &SupervisedWorker| worker.worker_id == *id;
    let listed = parts.supervisor.list().into_iter().find(of_it);
    let has_failed =
        listed.is_some_and(|worker| matches!(worker.state, SupervisedState::Failed { .. }));
    if has_failed {
        // It has no memory any more, so that it stays in the list where there is too little.
        (plan, held) = with_memory(parts, plan, held, job).await?;
    }
    job.say(format!("Stopping worker {id}"));
    // Somebody may have taken it off the list meanwhile, which comes to the same.
    let _ = parts.supervisor.delete(id).await;
    if !has_failed {
        // Only then is the memory free that it had itself. It is not refused what it had a moment ago,
        // or there would be no worker any more: one that lacks memory fails, and stays in the list.
        (plan, held) = if let Ok(reserved) = reserve(parts, plan.clone(), held).await {
            reserved
        } else {
            let memory = before.memory.clone();
            let reserved = parts.reservations.adopt(&memory, &plan.digest);
            let held = Holdings::new(parts.usage.share(&model), Some(reserved));
            (WorkerPlan { memory, ..plan }, held)
        };
    }
    job.say(format!("Starting worker {id} for {model} on {}", plan.device));
    let started = parts.supervisor.start_again(&restarting, plan, held)?;
    until_ready(started, &model, job).await
}

/// Looks up and checks all that a worker needs, and takes what it is to hold but for the memory.
async fn plan(
    parts: &Parts,
    wanted: Wanted,
    job: &JobContext,
) -> Result<(WorkerPlan, Holdings), JobError> {
    let Wanted { model, device, slots, ctx_size } = wanted;
    ensure_within("slots", slots, 1..=256)?;
    ensure_within("ctx_size", ctx_size, 256..=16_777_216)?;
    // Held from the first look at the catalog, so that a delete cannot come between.
    let model_in_use =
        parts.usage.share(&model).ok_or_else(|| unknown_or_being_removed(parts, &model))?;
    let entry = parts.catalog.get(&model)?;
    let device = unless_cancelled(job, parts.devices.choose(device)).await??;
    let binary = parts.binary.path()?;
    let (catalog, alias) = (parts.catalog.clone(), model.clone());
    let checking = format!("Checking the file of {model}");
    let files = blocking(job, &checking, entry.bytes_on_disk(), move |watcher| {
        catalog.checked_files(&alias, watcher)
    })
    .await?;
    let projector = files.projector.zip(entry.projector);
    let projector =
        projector.map(|(file, pinned)| PlannedProjector { file, digest: pinned.sha256 });
    let (model_file, digest) = (files.model, entry.sha256);
    let memory = Vec::new();
    let plan = WorkerPlan {
        binary,
        model,
        model_file,
        digest,
        projector,
        device,
        slots,
        ctx_size,
        memory,
    };
    Ok((plan, Holdings::new(Some(model_in_use), None)))
}

/// Takes the memory, too.
async fn with_memory(
    parts: &Parts,
    plan: WorkerPlan,
    held: Holdings,
    job: &JobContext,
) -> Result<(WorkerPlan, Holdings), JobError> {
    let reserved = unless_cancelled(job, reserve(parts, plan, held)).await?;
    reserved.map_err(|error| refusal(parts, &error, &[]))
}

/// What is told of a lack of memory that is there also `without` some workers.
fn refusal(parts: &Parts, error: &TooLittleMemory, without: &[WorkerId]) -> JobError {
    let devices = parts.devices.list().into_iter().filter(|device| !device.is_gone);
    let devices: Vec<DeviceId> = devices.map(|device| device.id).collect();
    let mut holders = parts.supervisor.holders(error.device);
    holders.retain(|holder| !without.contains(&holder.worker));
    too_little_memory(error, holders, &devices)
}

/// What a worker would take of each device.
async fn needs(parts: &Parts, plan: &WorkerPlan) -> Result<Vec<MemoryNeed>, AskError> {
    let arguments = parts.supervisor.fit_arguments(plan);
    let needs = parts.fit.needs(plan, arguments).await?;
    Ok(parts.devices.with_own(needs))
}

/// Takes the memory that a worker needs; nothing where nobody knows how much that is. Then the worker
/// itself says whether it suffices.
async fn reserve(
    parts: &Parts,
    plan: WorkerPlan,
    held: Holdings,
) -> Result<(WorkerPlan, Holdings), TooLittleMemory> {
    let memory = match needs(parts, &plan).await {
        Ok(needs) => needs,
        Err(error) => {
            let reason = with_causes(&error);
            tracing::debug!(model = %plan.model, reason, "what a model needs is not known");
            return Ok((plan, held));
        }
    };
    let reading = parts.devices.reading().await;
    let reserved = parts.reservations.reserve(&memory, &plan.digest, &reading)?;
    Ok((WorkerPlan { memory, ..plan }, held.with_memory(reserved)))
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
                let (why, log) = first_line(&reason);
                if let Some(log) = log {
                    job.warn(log);
                }
                return Err(JobError::new("worker_failed", format!("worker {id} failed: {why}"))
                    .hint(format!(
                        "see its log: rbee-keeper worker logs {id}; take it off the list: \
                     rbee-keeper worker delete {id}"
                    )));
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

/// Does not count ends of a worker's processes towards giving it up. One that is given up stays so.
pub(super) fn excuse(parts: &Parts, request: &WorkerExcuse) -> Result<Outcome, JobError> {
    let (id, processes) = (&request.worker_id, &request.processes);
    parts.supervisor.excuse(id, processes)?;
    tracing::info!(worker = %id, ?processes, "requests have ended processes of a worker: they are not held against it");
    Ok(Outcome::said(format!("What requests have ended is not held against worker {id}")))
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
