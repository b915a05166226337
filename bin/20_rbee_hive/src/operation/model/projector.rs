//! Giving a model what it sees images with.

use std::sync::Arc;

use job_server::{JobContext, JobError};
use worker_contract::{ModelAlias, ModelEntry, Sha256Digest};

use super::find::{ProjectorPlace, WantedProjector};
use super::told::Told;
use super::{blocking, inspect_any, off_thread};
use crate::catalog::{Candidate, CatalogError, Place, Sharing, StagedFile};
use crate::download::Fetched;
use crate::hive::Parts;

/// The architecture that projector files name.
const ARCHITECTURE: &str = "clip";

/// A projector that is on this machine and was looked at.
pub(super) enum Ready {
    Fetched { file: Fetched, source: String },
    Candidate { file: Candidate, sharing: Sharing },
}

/// Fetches a projector and looks at it; `None` where the model, if it is there already, needs none.
pub(super) async fn prepare(
    parts: &Parts,
    wanted: WantedProjector,
    there: Option<&ModelEntry>,
    alias: &ModelAlias,
    job: &JobContext,
) -> Result<Option<Ready>, JobError> {
    let WantedProjector { place, source, is_demanded } = wanted;
    let remote = match place {
        ProjectorPlace::Disk(path) => {
            return candidate(parts, path, Sharing::Own, job).await.map(Some);
        }
        ProjectorPlace::Server(remote) => remote,
    };
    if let (Some(entry), Some(digest)) = (there, &remote.sha256)
        && !is_needed(parts, entry, digest, is_demanded, job).await?
    {
        return Ok(None);
    }
    let hears = Told::new(job.clone(), format!("Downloading the projector of {alias}"));
    let fetched = parts.downloads.get(vec![remote], &hears, job.cancelled()).await;
    let fetched = fetched.map_err(|error| JobError::from(&*error))?;
    let Some(file) = fetched.into_iter().next() else { return Ok(None) };
    if let Err(error) = look(parts, &file.path, job).await {
        if error.code == "invalid_projector" {
            staged(&file).discard();
        }
        return Err(error);
    }
    Ok(Some(Ready::Fetched { file, source }))
}

/// Opens a file of this machine and looks at it.
pub(super) async fn candidate(
    parts: &Parts,
    path: String,
    sharing: Sharing,
    job: &JobContext,
) -> Result<Ready, JobError> {
    let file = off_thread(move || Candidate::open(&path)).await?;
    look(parts, file.path(), job).await?;
    Ok(Ready::Candidate { file, sharing })
}

/// Lets the model see with it.
pub(super) async fn attach(
    parts: &Parts,
    ready: Ready,
    alias: &ModelAlias,
    job: &JobContext,
) -> Result<ModelEntry, JobError> {
    let (catalog, name) = (Arc::clone(&parts.catalog), alias.clone());
    let entry = match ready {
        Ready::Fetched { file, source } => {
            off_thread(move || catalog.attach(&name, staged(&file), source)).await?
        }
        Ready::Candidate { file, sharing } => {
            let (doing, bytes) = (format!("Importing the projector of {alias}"), file.bytes());
            blocking(job, &doing, bytes, move |watcher| {
                catalog.import_projector(&name, file, sharing, watcher)
            })
            .await?
        }
    };
    parts.changes.note();
    Ok(entry)
}

/// Whether a model that is there lacks this projector, or has it no longer as it was.
async fn is_needed(
    parts: &Parts,
    entry: &ModelEntry,
    digest: &Sha256Digest,
    is_demanded: bool,
    job: &JobContext,
) -> Result<bool, JobError> {
    let Some(pinned) = &entry.projector else { return Ok(true) };
    let (alias, pinned) = (entry.alias.clone(), pinned.sha256.clone());
    if pinned != *digest {
        if is_demanded {
            let given = digest.clone();
            return Err(CatalogError::SeesOtherwise { alias, pinned, given }.into());
        }
        job.warn(format!("{alias} keeps its projector: the one beside it is another by now"));
        return Ok(false);
    }
    let (catalog, size) = (Arc::clone(&parts.catalog), entry.bytes_on_disk());
    let checking = format!("Checking the files of {alias}");
    let checked =
        blocking(job, &checking, size, move |watcher| catalog.checked_files(&alias, watcher));
    match checked.await {
        Err(error) if error.code == "cancelled" => Err(error),
        checked => Ok(checked.is_err()),
    }
}

async fn look(parts: &Parts, file: &std::path::Path, job: &JobContext) -> Result<(), JobError> {
    let refused = |reason: String| {
        JobError::new("invalid_projector", reason).hint(
            "a projector is a GGUF file whose name has mmproj in it, made for this very model",
        )
    };
    let found = inspect_any(parts, file, job).await.map_err(|error| match error.code.as_str() {
        "invalid_model" => refused(error.message),
        _ => error,
    })?;
    if found.architecture == ARCHITECTURE {
        return Ok(());
    }
    let name = file.file_name().unwrap_or_default().display();
    Err(refused(format!("{name} is no projector: its architecture is {}", found.architecture)))
}

/// Refuses a projector that is taken for a model.
pub(super) fn ensure_model(architecture: &str) -> Result<(), JobError> {
    if architecture != ARCHITECTURE {
        return Ok(());
    }
    let message = "the file is a projector, which lets a model see images, and no model";
    Err(JobError::new("invalid_model", message)
        .hint("add it with its model: rbee-keeper model import MODEL.gguf --mmproj FILE"))
}

fn staged(file: &Fetched) -> StagedFile {
    StagedFile {
        sha256: file.sha256.clone(),
        bytes: file.bytes,
        place: Place::Downloaded(file.path.clone()),
        is_copy: false,
    }
}
