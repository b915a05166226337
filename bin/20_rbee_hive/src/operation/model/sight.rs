//! Changing what a model sees images with: another projector, or none.

use std::sync::Arc;

use job_server::{JobContext, JobError, Outcome};
use rbee_operations::{ModelProjectorSet, ModelRef, ProjectorChoice};
use worker_contract::ModelEntry;

use super::find::{WantedProjector, find, projector_at};
use super::{alone, off_thread, outcome, projector};
use crate::catalog::Over;
use crate::hive::Parts;

/// Gives a model another projector, or takes its own away. No worker may run it meanwhile.
pub(in crate::operation) async fn set_projector(
    parts: &Parts,
    request: ModelProjectorSet,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    let ModelProjectorSet { model: alias, projector, .. } = request;
    let entry = parts.catalog.get(&alias)?;
    let wanted = match projector {
        ProjectorChoice::Without => return take_away(parts, &entry).await,
        ProjectorChoice::From(reference) => projector_at(parts, &reference, job).await?,
        ProjectorChoice::Best | ProjectorChoice::Usual => beside(parts, &entry, job).await?,
    };
    let ready = projector::prepare(parts, wanted, None, &alias, job).await?;
    let ready = ready.ok_or_else(|| nothing(&entry))?;
    let _turn = parts.downloads.turn(job.cancelled()).await.ok_or_else(JobError::cancelled)?;
    let change = alone(parts, &entry)?;
    let entry = projector::attach(parts, ready, &alias, Over::Any, job).await?;
    drop(change);
    Ok(outcome(format!("Model {alias} sees images"), &entry))
}

async fn take_away(parts: &Parts, entry: &ModelEntry) -> Result<Outcome, JobError> {
    let alias = entry.alias.clone();
    if entry.projector.is_none() {
        return Ok(outcome(format!("Model {alias} sees no images"), entry));
    }
    let change = alone(parts, entry)?;
    let (catalog, name) = (Arc::clone(&parts.catalog), alias.clone());
    let entry = off_thread(move || {
        let detached = catalog.detach(&name);
        drop(change);
        detached
    });
    let entry = entry.await?;
    parts.changes.note();
    Ok(outcome(format!("Model {alias} sees images no longer"), &entry))
}

/// The best that lies where the model came from.
async fn beside(
    parts: &Parts,
    entry: &ModelEntry,
    job: &JobContext,
) -> Result<WantedProjector, JobError> {
    let source = entry.source.parse::<ModelRef>().map_err(|_| nothing(entry))?;
    let found = find(parts, &source, &ProjectorChoice::Best, job).await?;
    found.projector.ok_or_else(|| nothing(entry))
}

fn nothing(entry: &ModelEntry) -> JobError {
    let ModelEntry { alias, source, .. } = entry;
    let message = format!("{alias} comes from {source}, where no projector is found");
    JobError::new("projector_not_found", message)
        .hint(format!("name one: rbee-keeper model mmproj {alias} REFERENCE"))
}
