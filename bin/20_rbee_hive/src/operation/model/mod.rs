//! Operations on models.

mod download;
mod fetch;
mod find;
mod garbage;
mod import;
mod naming;
mod ongoing;
mod projector;
mod sight;
mod told;
mod update;

use std::sync::Arc;
use std::time::{Duration, Instant};

use job_server::{JobContext, JobError, Outcome};
use rbee_operations::Progress;
use serde_json::json;
use worker_contract::{GgufSummary, ModelAlias, ModelEntry};

pub(super) use self::download::{cancel_download, download};
pub(super) use self::fetch::fetch_from_hive;
pub(super) use self::garbage::garbage;
pub(super) use self::import::{import, import_store};
pub(super) use self::naming::{name, pin};
pub(super) use self::sight::set_projector;
pub(super) use self::update::update;

use super::{outcome, unless_cancelled};
use crate::catalog::{BeingRemoved, CatalogError, Verified, Watcher};
use crate::hive::Parts;
use crate::worker_binary::AskError;

/// The shortest time between two progress events.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// What the worker's binary says of a file, or of a split model by its first part.
async fn inspect(
    parts: &Parts,
    file: &std::path::Path,
    job: &JobContext,
) -> Result<GgufSummary, JobError> {
    let found = inspect_any(parts, file, job).await?;
    projector::ensure_model(&found.architecture)?;
    Ok(found)
}

/// The same of any GGUF file.
async fn inspect_any(
    parts: &Parts,
    file: &std::path::Path,
    job: &JobContext,
) -> Result<GgufSummary, JobError> {
    let inspected = unless_cancelled(job, parts.binary.inspect(file)).await?;
    inspected.map_err(|error| match error {
        AskError::Refused(reason) => JobError::new("invalid_model", reason)
            .hint("a model is a whole GGUF file; get it again if it was cut short"),
        other => other.into(),
    })
}

pub(super) fn list(parts: &Parts) -> Outcome {
    let models = parts.catalog.list();
    let message = match models.len() {
        1 => "1 model".to_owned(),
        n => format!("{n} models"),
    };
    outcome(message, &json!({ "models": models }))
}

pub(super) fn get(parts: &Parts, alias: &ModelAlias) -> Result<Outcome, JobError> {
    let entry = parts.catalog.get(alias)?;
    Ok(outcome(
        format!("Model {alias}: {} {}", entry.gguf.architecture, entry.gguf.quantization),
        &entry,
    ))
}

/// Removes a model that no worker runs.
pub(super) async fn delete(parts: &Parts, alias: &ModelAlias) -> Result<Outcome, JobError> {
    parts.catalog.get(alias)?;
    let removal = parts.usage.exclude(alias).ok_or_else(|| in_use(parts, alias))?;
    let (catalog, name) = (Arc::clone(&parts.catalog), alias.clone());
    off_thread(move || {
        let removed = catalog.remove(&name);
        drop(removal);
        removed
    })
    .await?;
    parts.changes.note();
    Ok(outcome(format!("Model {alias} is removed"), &json!({ "alias": alias })))
}

/// Computes a model's digest again.
pub(super) async fn verify(
    parts: &Parts,
    alias: ModelAlias,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    let bytes = parts.catalog.get(&alias)?.bytes_on_disk();
    let (catalog, name) = (Arc::clone(&parts.catalog), alias.clone());
    let verifying = format!("Verifying {alias}");
    let found =
        blocking(job, &verifying, bytes, move |watcher| catalog.verify(&name, watcher)).await?;
    let Verified { model, projector } = &found;
    let message = match projector {
        _ if !model.matches() => format!(
            "Model {alias} changed on disk: its pinned SHA-256 is {}, it has {}",
            model.pinned, model.actual
        ),
        Some(projector) if !projector.matches() => format!(
            "The projector of {alias} changed on disk: its pinned SHA-256 is {}, it has {}",
            projector.pinned, projector.actual
        ),
        _ => format!("Model {alias} is the file that was added"),
    };
    let data = json!({
        "alias": alias,
        "pinned": model.pinned,
        "actual": model.actual,
        "projector": projector,
        "matches": found.matches(),
    });
    Ok(outcome(message, &data))
}

/// Why a model cannot be shared.
pub(super) fn unknown_or_being_removed(parts: &Parts, alias: &ModelAlias) -> JobError {
    match parts.catalog.get(alias) {
        Ok(_) => JobError::new("model_in_use", format!("model {alias} is being removed")),
        Err(error) => error.into(),
    }
}

/// Runs a long pass over a file on a blocking thread. It tells how far it is, and ends when the job
/// is cancelled or nobody waits for it.
pub(super) async fn blocking<T: Send + 'static>(
    job: &JobContext,
    doing: &str,
    bytes: u64,
    pass: impl FnOnce(&mut Watcher<'_>) -> Result<T, CatalogError> + Send + 'static,
) -> Result<T, JobError> {
    let cancel = job.cancelled().child_token();
    let _cancel_when_dropped = cancel.clone().drop_guard();
    let mut progress = progress_of(job.clone(), doing.to_owned(), bytes);
    let passed =
        off_thread(move || pass(&mut Watcher { cancel: &cancel, progress: &mut progress }));
    Ok(passed.await?)
}

fn progress_of(job: JobContext, doing: String, bytes: u64) -> impl FnMut(u64) + Send + 'static {
    let mut told = Instant::now();
    move |done| {
        if told.elapsed() >= TELL_EVERY || done >= bytes {
            told = Instant::now();
            let progress = Progress { done, total: Some(bytes.max(done)), unit: "bytes".into() };
            job.progress(doing.clone(), progress);
        }
    }
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CatalogError> + Send + 'static,
) -> Result<T, CatalogError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| {
        let source = std::io::Error::other(panic);
        Err(CatalogError::Io { doing: "a step on a file did not end", source })
    })
}

/// Keeps workers away from a model under all its names; fails where one runs it.
fn alone(parts: &Parts, entry: &ModelEntry) -> Result<Vec<BeingRemoved>, JobError> {
    let names = parts.catalog.names_of(&entry.sha256).into_iter();
    names.map(|name| parts.usage.exclude(&name).ok_or_else(|| in_use(parts, &name))).collect()
}

fn in_use(parts: &Parts, alias: &ModelAlias) -> JobError {
    let workers = parts.supervisor.users_of(alias);
    let first = workers.first().map(ToString::to_string);
    let users = match workers.as_slice() {
        [] => "a worker that is being started".to_owned(),
        [one] => format!("worker {one}"),
        several => {
            let names: Vec<&str> = several.iter().map(worker_contract::WorkerId::as_str).collect();
            format!("workers {}", names.join(", "))
        }
    };
    CatalogError::InUse { alias: alias.clone(), users, first }.into()
}
