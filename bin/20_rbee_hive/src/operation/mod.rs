//! One operation, one function: what a job of this hive does.

mod failure;
mod model;
mod refusal;
mod worker;
mod worker_logs;

use job_server::{JobContext, JobError, Outcome};
use rbee_operations::Operation;
use serde::Serialize;

use crate::hive::Parts;

/// The caller of jobs that go on with what an earlier hive began.
pub(crate) const RESUMER: &str = "hive";

/// Carries an operation out. The one list of what a hive can do.
pub(crate) async fn carry_out(
    parts: &Parts,
    operation: Operation,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    ensure_ours(parts, &operation)?;
    match operation {
        Operation::WorkerSpawn(request) => worker::spawn(parts, request, job).await,
        Operation::WorkerFit(request) => worker::fit(parts, request, job).await,
        Operation::WorkerList(_) => Ok(worker::list(parts)),
        Operation::WorkerGet(target) => worker::get(parts, &target.worker_id),
        Operation::WorkerDelete(target) => worker::delete(parts, &target.worker_id, job).await,
        Operation::ModelDownload(request) => model::download(parts, request, job).await,
        Operation::ModelDownloadCancel(request) => model::cancel_download(parts, &request).await,
        Operation::WorkerRestart(target) => worker::restart(parts, &target.worker_id, job).await,
        Operation::WorkerExcuse(request) => worker::excuse(parts, &request),
        Operation::WorkerLogs(request) => worker_logs::show(parts, &request, job).await,
        Operation::ModelFetch(request) => model::fetch_from_hive(parts, request, job).await,
        Operation::ModelImport(request) => model::import(parts, request, job).await,
        Operation::ModelImportStore(request) => model::import_store(parts, request, job).await,
        Operation::ModelList(_) => Ok(model::list(parts)),
        Operation::ModelGet(target) => model::get(parts, &target.model),
        Operation::ModelDelete(target) => model::delete(parts, &target.model).await,
        Operation::ModelVerify(target) => model::verify(parts, target.model, job).await,
        Operation::ModelUpdate(request) => model::update(parts, request, job).await,
        Operation::ModelPin(request) => model::pin(parts, request, job).await,
        Operation::ModelProjectorSet(request) => model::set_projector(parts, request, job).await,
        Operation::ModelAlias(request) => model::name(parts, request).await,
        Operation::ModelGarbage(request) => model::garbage(parts, request).await,
        Operation::HiveStatus(_) => Ok(status(parts)),
        Operation::HiveRefresh(_) => refresh(parts, job).await,
        Operation::HiveList {}
        | Operation::HiveStart(_)
        | Operation::HiveStop(_)
        | Operation::HiveRestart(_)
        | Operation::HiveAdd(_)
        | Operation::HiveRemove(_)
        | Operation::HiveInstall(_)
        | Operation::HiveUninstall(_)
        | Operation::HiveLogs(_)
        | Operation::HiveDiscover(_)
        | Operation::HiveSshHosts {}
        | Operation::ListAll(_)
        | Operation::ModelCopy(_)
        | Operation::ModelPolicySet(_)
        | Operation::ModelPolicyList {}
        | Operation::WorkerAttach(_)
        | Operation::WorkerDetach(_)
        | Operation::Infer(_) => Err(not_for_a_hive(&operation)),
    }
}

fn status(parts: &Parts) -> Outcome {
    let snapshot = parts.snapshot();
    let message = format!(
        "Hive {}: {} devices, {} models, {} workers",
        snapshot.hive_id,
        snapshot.devices.len(),
        snapshot.catalog.len(),
        snapshot.workers.len()
    );
    outcome(message, &snapshot)
}

async fn refresh(parts: &Parts, job: &JobContext) -> Result<Outcome, JobError> {
    unless_cancelled(job, parts.devices.refresh()).await??;
    Ok(status(parts))
}

/// Gives a question to the worker's binary up when the job is cancelled; its process ends with it.
async fn unless_cancelled<T>(
    job: &JobContext,
    question: impl Future<Output = T>,
) -> Result<T, JobError> {
    job.cancelled().run_until_cancelled(question).await.ok_or_else(JobError::cancelled)
}

/// `localhost` is this machine to whoever speaks to it directly.
fn ensure_ours(parts: &Parts, operation: &Operation) -> Result<(), JobError> {
    match operation.hive_id() {
        Some(hive) if *hive != parts.alias && !hive.is_localhost() => {
            let message = format!("this is hive {}, not {hive}", parts.alias);
            Err(JobError::new("wrong_hive", message))
        }
        _ => Ok(()),
    }
}

fn not_for_a_hive(operation: &Operation) -> JobError {
    let message = format!("a hive does not carry out {}", operation.name());
    JobError::new("unsupported_operation", message).hint("send it to the queen")
}

/// An outcome with a result of plain data.
fn outcome(message: impl Into<String>, data: &impl Serialize) -> Outcome {
    let data = serde_json::to_value(data).expect("a wire type is plain data");
    Outcome::new(message, data)
}
