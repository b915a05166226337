//! Changing what a name stands for, which only happens when the operator agreed to a digest.

use std::sync::Arc;

use job_server::{JobContext, JobError, Outcome};
use rbee_operations::{ModelName, ModelPin, ModelRef, ModelUpdate, ProjectorChoice};
use serde_json::{Value, json};
use worker_contract::ModelEntry;

use super::download::{fetch, look, staged};
use super::find::{ProjectorPlace, WantedProjector, find};
use super::projector::{self, Ready};
use super::{blocking, in_use, inspect, off_thread, outcome};
use crate::catalog::{CatalogError, Imported};
use crate::hive::Parts;

/// Looks whether a model's source has another file by now; takes it if that is the one agreed to.
pub(in crate::operation) async fn update(
    parts: &Parts,
    request: ModelUpdate,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    let alias = request.model;
    let entry = parts.catalog.get(&alias)?;
    let reference = entry.source.parse::<ModelRef>().ok();
    let on_a_server = |r: &ModelRef| matches!(r, ModelRef::Hub(_) | ModelRef::Url(_));
    let Some(reference) = reference.filter(on_a_server) else {
        let message = format!("{alias} comes from {}, which is no server", entry.source);
        return Err(JobError::new("no_source", message)
            .hint("import the file under another name, or delete the model first"));
    };
    let mut wanted = find(parts, &reference, &projector_source(&entry), job).await?;
    let sight = sight(&entry, wanted.projector.as_ref());
    let report = |offered: Option<&str>, updated: bool| {
        json!({
            "alias": alias, "source": entry.source, "pinned": entry.sha256,
            "offered": offered, "projector": sight,
            "changed": offered != Some(entry.sha256.as_hex()), "updated": updated,
        })
    };
    let offered = wanted.digest();
    if offered.as_ref() == Some(&entry.sha256) {
        let message = format!("Model {alias} is what its source has");
        return Ok(outcome(message, &report(Some(entry.sha256.as_hex()), false)));
    }
    if let (Some(offered), None) = (&offered, &request.accept) {
        let message = format!(
            "The source of {alias} has another file: its SHA-256 is {offered}, that of {alias} is {}",
            entry.sha256
        );
        return Ok(outcome(message, &report(Some(offered.as_hex()), false)));
    }
    ensure_it_sees_on(&entry)?;
    // A server that tells no digest has to be read to the end; what arrives is kept for the answer.
    let fetched = fetch(parts, &mut wanted, &alias, job).await?;
    let _turn = parts.downloads.turn().await;
    let actual = staged(&fetched).digest();
    if actual == entry.sha256 {
        staged(&fetched).discard();
        let message = format!("Model {alias} is what its source has");
        return Ok(outcome(message, &report(Some(actual.as_hex()), false)));
    }
    if request.accept.as_ref() != Some(&actual) {
        let message = format!(
            "The source of {alias} has another file: its SHA-256 is {actual}, that of {alias} is {}",
            entry.sha256
        );
        return Ok(outcome(message, &report(Some(actual.as_hex()), false)));
    }
    let (staged, gguf) = look(parts, &fetched, &alias, job).await?;
    let projector = match wanted.projector.take() {
        Some(projector) => projector::prepare(parts, projector, None, &alias, job).await?,
        None => None,
    };
    if let (Some(accepted), Some(Ready::Fetched { file, .. })) =
        (&request.accept_projector, &projector)
        && file.sha256 != *accepted
    {
        let message = format!(
            "The source of {alias} has another projector than was agreed to: its SHA-256 is {}",
            file.sha256
        );
        return Ok(outcome(message, &report(Some(actual.as_hex()), false)));
    }
    let change = parts.usage.exclude(&alias).ok_or_else(|| in_use(parts, &alias))?;
    let (catalog, name, source) = (Arc::clone(&parts.catalog), alias.clone(), wanted.source);
    let replaced = off_thread(move || {
        let replaced = catalog.replace(staged, name, source, gguf);
        drop(change);
        replaced
    });
    let mut replaced = replaced.await?;
    if let Some(projector) = projector {
        replaced = projector::attach(parts, projector, &alias, job).await?;
    }
    parts.changes.note();
    let message = format!("Model {alias} is pinned to {}", replaced.sha256);
    Ok(outcome(message, &report(Some(replaced.sha256.as_hex()), true)))
}

/// A projector belongs to the bytes of its model. One that came from a file is not fetched again for
/// other bytes, and the model would see no longer.
fn ensure_it_sees_on(entry: &ModelEntry) -> Result<(), JobError> {
    let Some(projector) = &entry.projector else { return Ok(()) };
    if projector_source(entry) != ProjectorChoice::Without {
        return Ok(());
    }
    let (alias, source) = (&entry.alias, &projector.source);
    let message = format!(
        "{alias} sees with a projector that came from {source}: its next file would have none"
    );
    Err(JobError::new("projector_would_be_lost", message)
        .hint("download the other file under another name, with --mmproj FILE"))
}

/// Where the projector of a model is looked for: where it came from, if that is a server.
fn projector_source(entry: &ModelEntry) -> ProjectorChoice {
    let source = entry.projector.as_ref().and_then(|projector| projector.source.parse().ok());
    match source {
        Some(ModelRef::File(_)) | None => ProjectorChoice::Without,
        Some(reference) => ProjectorChoice::From(reference),
    }
}

/// What a model is pinned to see with, and what is there instead.
fn sight(entry: &ModelEntry, found: Option<&WantedProjector>) -> Option<Value> {
    let pinned = &entry.projector.as_ref()?.sha256;
    let offered = match &found?.place {
        ProjectorPlace::Server(remote) => remote.sha256.clone(),
        ProjectorPlace::Disk(_) => None,
    };
    Some(json!({ "pinned": pinned, "offered": offered }))
}

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
    let change = parts.usage.exclude(&alias).ok_or_else(|| in_use(parts, &alias))?;
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
