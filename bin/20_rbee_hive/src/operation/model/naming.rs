//! What a name stands for: the file as it lies on the disk, once the operator agreed; a further name.

use std::sync::Arc;

use job_server::{JobContext, JobError, Outcome};
use rbee_operations::{ModelName, ModelPin};

use super::{alone, blocking, inspect, off_thread, outcome};
use crate::catalog::{CatalogError, Imported};
use crate::hive::Parts;

/// Pins a model to its file as it lies on the disk.
pub(in crate::operation) async fn pin(
    parts: &Parts,
    request: ModelPin,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    let alias = request.model;
    let entry = parts.catalog.get(&alias)?;
    let file = parts.catalog.first_file(&entry);
    let gguf = inspect(parts, &file, job).await?;
    let change = alone(parts, &entry)?;
    let (catalog, name, accept) = (Arc::clone(&parts.catalog), alias.clone(), request.accept);
    let reading = format!("Verifying {alias}");
    let pinned = blocking(job, &reading, entry.gguf.size_bytes, move |watcher| {
        let pinned = catalog.pin(&name, &accept, &gguf, watcher);
        drop(change);
        pinned
    });
    let pinned = pinned.await?;
    parts.changes.note();
    Ok(outcome(format!("Model {alias} is pinned to {}", pinned.sha256), &pinned))
}

/// Gives a model a further name.
pub(in crate::operation) async fn name(
    parts: &Parts,
    request: ModelName,
) -> Result<Outcome, JobError> {
    let model = request.model;
    // Held, so that a removal cannot come between.
    let _in_use =
        parts.usage.share(&model).ok_or_else(|| super::unknown_or_being_removed(parts, &model))?;
    let (catalog, from, alias) = (Arc::clone(&parts.catalog), model.clone(), request.alias);
    let named = off_thread(move || -> Result<_, CatalogError> { catalog.name(&from, alias) });
    let (Imported::Added(entry) | Imported::AlreadyThere(entry)) = named.await?;
    parts.changes.note();
    Ok(outcome(format!("Model {model} is also called {}", entry.alias), &entry))
}
