//! Giving a model what it sees images with.

use std::path::Path;
use std::sync::Arc;

use job_server::{JobContext, JobError};
use worker_contract::{ModelAlias, ModelEntry, Sha256Digest};

use super::download::discard;
use super::find::{ProjectorPlace, WantedProjector};
use super::told::Told;
use super::{blocking, inspect_any, off_thread};
use crate::catalog::{Candidate, CatalogError, Over, Place, Sharing, Staged, StagedFile};
use crate::download::Fetched;
use crate::hive::Parts;

/// The architecture that projector files name.
const ARCHITECTURE: &str = "clip";
/// The code of the refusal of a projector that was made for another model.
pub(super) const DOES_NOT_FIT: &str = "projector_does_not_fit";

/// A projector that is on this machine and was looked at.
pub(super) struct Ready {
    what: What,
    /// How many numbers it gives for a token, where its file tells.
    width: Option<u32>,
}

enum What {
    Fetched {
        file: Fetched,
        source: String,
    },
    /// The catalog had its bytes.
    Known {
        file: StagedFile,
        source: String,
    },
    Candidate {
        file: Candidate,
        sharing: Sharing,
    },
}

impl Ready {
    /// Its file and where it came from, on their way into the catalog. One of this machine that nobody
    /// has copied yet is not.
    pub(super) fn into_staged(self) -> Option<(StagedFile, String)> {
        match self.what {
            What::Fetched { file, source } => Some((staged(&file), source)),
            What::Known { file, source } => Some((file, source)),
            What::Candidate { .. } => None,
        }
    }

    /// Its digest, where that is known.
    pub(super) fn digest(&self) -> Option<&Sha256Digest> {
        match &self.what {
            What::Fetched { file, .. } => Some(&file.sha256),
            What::Known { file, .. } => Some(&file.sha256),
            What::Candidate { .. } => None,
        }
    }

    /// Refuses it for a model of another width: the engine could not load the two together.
    pub(super) fn ensure_fits(
        &self,
        alias: &ModelAlias,
        width: Option<u32>,
    ) -> Result<(), JobError> {
        let (Some(ours), Some(wanted)) = (self.width, width) else { return Ok(()) };
        if ours == wanted {
            return Ok(());
        }
        let message = format!(
            "the projector was made for another model: it gives {ours} numbers for a token, {alias} \
             takes {wanted}"
        );
        Err(JobError::new(DOES_NOT_FIT, message).hint(
            "--mmproj names the one that was made for it, --no-mmproj takes the model without",
        ))
    }
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
    if let Some(digest) = &remote.sha256
        && let Some(ready) = known(parts, digest.clone(), source.clone(), alias, job).await?
    {
        return Ok(Some(ready));
    }
    let hears = Told::new(job.clone(), format!("Downloading the projector of {alias}"));
    let fetched = parts.downloads.get(vec![remote], &hears, job.cancelled()).await;
    let fetched = fetched.map_err(|error| JobError::from(&*error))?;
    let Some(file) = fetched.into_iter().next() else { return Ok(None) };
    match look_at_fetched(parts, &file, job).await {
        Ok(width) => Ok(Some(Ready { what: What::Fetched { file, source }, width })),
        Err(error) => {
            if error.code == "invalid_projector" {
                discard(Staged::new(vec![staged(&file)])).await;
            }
            Err(error)
        }
    }
}

/// A projector that is in the catalog already: that of another model, or one that stays.
pub(super) async fn known(
    parts: &Parts,
    digest: Sha256Digest,
    source: String,
    alias: &ModelAlias,
    job: &JobContext,
) -> Result<Option<Ready>, JobError> {
    let Some(file) = known_file(parts, digest, alias, job).await? else { return Ok(None) };
    let width = look(parts, file.place.path(), job).await?;
    Ok(Some(Ready { what: What::Known { file, source }, width }))
}

async fn known_file(
    parts: &Parts,
    digest: Sha256Digest,
    alias: &ModelAlias,
    job: &JobContext,
) -> Result<Option<StagedFile>, JobError> {
    let Some(path) = parts.catalog.file_with(&digest) else { return Ok(None) };
    let size = move || Ok(std::fs::metadata(path).map_or(0, |metadata| metadata.len()));
    let bytes = off_thread(size).await?;
    let catalog = Arc::clone(&parts.catalog);
    let doing = format!("Checking the projector of {alias}");
    blocking(job, &doing, bytes, move |watcher| catalog.stage_known(&digest, watcher)).await
}

/// Opens a file of this machine and looks at it.
pub(super) async fn candidate(
    parts: &Parts,
    path: String,
    sharing: Sharing,
    job: &JobContext,
) -> Result<Ready, JobError> {
    let file = off_thread(move || Candidate::open(&path)).await?;
    let width = look(parts, file.path(), job).await?;
    Ok(Ready { what: What::Candidate { file, sharing }, width })
}

/// Lets the model see with it, if it was made for such a model.
pub(super) async fn attach(
    parts: &Parts,
    ready: Ready,
    alias: &ModelAlias,
    over: Over,
    job: &JobContext,
) -> Result<ModelEntry, JobError> {
    let width = width_of(parts, &parts.catalog.get(alias)?, job).await?;
    if let Err(error) = ready.ensure_fits(alias, width) {
        let_go(parts, ready).await;
        return Err(error);
    }
    let (catalog, name) = (Arc::clone(&parts.catalog), alias.clone());
    let entry = match ready.what {
        What::Fetched { file, source } => {
            let (digest, from) = (file.sha256.clone(), source.clone());
            let attached =
                off_thread(move || catalog.attach(&name, staged(&file), from, over)).await;
            match attached {
                // Whoever fetched the same file has put it into the catalog.
                Err(gone @ CatalogError::PartGone) => {
                    let taken = known_file(parts, digest, alias, job).await?.ok_or(gone)?;
                    let (catalog, name) = (Arc::clone(&parts.catalog), alias.clone());
                    off_thread(move || catalog.attach(&name, taken, source, over)).await?
                }
                attached => attached?,
            }
        }
        What::Known { file, source } => {
            off_thread(move || catalog.attach(&name, file, source, over)).await?
        }
        What::Candidate { file, sharing } => {
            let (doing, bytes) = (format!("Importing the projector of {alias}"), file.bytes());
            blocking(job, &doing, bytes, move |watcher| {
                catalog.import_projector(&name, file, sharing, over, watcher)
            })
            .await?
        }
    };
    parts.changes.note();
    Ok(entry)
}

/// Removes a download that nobody else needs.
pub(super) async fn let_go(parts: &Parts, ready: Ready) {
    let What::Fetched { file, .. } = ready.what else { return };
    let key = file.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let free = StagedFile { place: Place::Downloaded(file.path.clone(), None), ..staged(&file) };
    drop(file);
    let downloads = Arc::clone(&parts.downloads);
    let removed = off_thread(move || {
        downloads.if_idle(&key, || free.discard());
        Ok(())
    });
    if let Err(error) = removed.await {
        tracing::warn!(%error, "a projector that nobody needs stays on the disk");
    }
}

/// How many numbers stand for a token of a model; one that was added by an earlier hive is looked at.
async fn width_of(
    parts: &Parts,
    entry: &ModelEntry,
    job: &JobContext,
) -> Result<Option<u32>, JobError> {
    if entry.gguf.embedding_length.is_some() {
        return Ok(entry.gguf.embedding_length);
    }
    match inspect_any(parts, &parts.catalog.first_file(entry), job).await {
        Ok(found) => Ok(found.embedding_length),
        Err(error) if error.code == "cancelled" => Err(error),
        Err(_) => Ok(None),
    }
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
    if pinned != *digest && is_demanded {
        let given = digest.clone();
        return Err(CatalogError::SeesOtherwise { alias, pinned, given }.into());
    }
    let (catalog, name, size) = (Arc::clone(&parts.catalog), alias.clone(), entry.bytes_on_disk());
    let checking = format!("Checking the files of {alias}");
    let checked = blocking(job, &checking, size, move |watcher| {
        catalog.checked_projector(&name, watcher).map(drop)
    });
    match checked.await {
        Err(error) if error.code == "cancelled" => Err(error),
        // Nobody agreed to another one.
        Err(error) if pinned != *digest => Err(error),
        Ok(()) if pinned != *digest => {
            job.warn(format!("{alias} keeps its projector: the one beside it is another by now"));
            Ok(false)
        }
        checked => Ok(checked.is_err()),
    }
}

/// Whoever fetched the same file may have put it into the catalog meanwhile.
async fn look_at_fetched(
    parts: &Parts,
    file: &Fetched,
    job: &JobContext,
) -> Result<Option<u32>, JobError> {
    let error = match look(parts, &file.path, job).await {
        Err(error) => error,
        looked => return looked,
    };
    let path = file.path.clone();
    let is_there = off_thread(move || Ok(path.is_file())).await?;
    match parts.catalog.file_with(&file.sha256).filter(|_| !is_there) {
        Some(taken) => look(parts, &taken, job).await,
        None => Err(error),
    }
}

/// Its width, if it is a projector.
async fn look(parts: &Parts, file: &Path, job: &JobContext) -> Result<Option<u32>, JobError> {
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
        return Ok(found.embedding_length);
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
        place: Place::Downloaded(file.path.clone(), Some(Arc::clone(&file.held))),
        is_copy: false,
    }
}
