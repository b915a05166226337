//! Fetching a model: which files, then the files, then a look at what is in them, then a name for them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use job_server::{JobContext, JobError, Outcome};
use rbee_operations::{ModelDownload, ModelDownloadCancel, ModelImport, ModelRef, ProjectorChoice};
use serde_json::json;
use tempfile::TempDir;
use worker_contract::{GgufSummary, ModelAlias};

use super::find::{FindError, Wanted, find};
use super::ongoing::Ongoing;
use super::projector::{self, Ready};
use super::told::Told;
use super::{import, inspect, off_thread, outcome, unless_cancelled};
use crate::catalog::shard::shard_name;
use crate::catalog::{CatalogError, Imported, Over, Place, Staged, StagedFile, from_file_name};
use crate::download::{DownloadError, Fetched, unattended_pauses};
use crate::hive::Parts;
use crate::operation::RESUMER;

/// Downloads a model and gives it a name. The next hive goes on with it if this one is killed.
pub(in crate::operation) async fn download(
    parts: &Parts,
    request: ModelDownload,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    let ongoing = Ongoing::begin(parts, &request).await?;
    let asks_hub = asks_hub(&request);
    let work = Box::pin(async {
        if job.caller() == RESUMER {
            return unattended(parts, request, &ongoing, job).await;
        }
        carry_out(parts, request, &ongoing, job).await
    });
    let ended = ongoing.cancelled().run_until_cancelled(work).await;
    let ended = ended.unwrap_or_else(|| {
        let message = "somebody cancelled this download; what arrived is kept";
        Err(JobError::new("download_cancelled", message).hint(
            "the same command goes on with it; rbee-keeper model gc removes what is left of it",
        ))
    });
    let is_left = parts.downloads.ending().is_cancelled()
        && ended.as_ref().is_err_and(|error| {
            job.cancelled().is_cancelled() || error.code == JobError::cancelled().code
        });
    if is_left {
        ongoing.leave();
    } else {
        ongoing.end().await?;
    }
    if is_left && !job.cancelled().is_cancelled() {
        let message = "the hive was stopped; the download goes on when it starts again";
        return Err(JobError::new("hive_stopping", message));
    }
    if asks_hub { ended } else { ended.map_err(of_web_server) }
}

fn asks_hub(request: &ModelDownload) -> bool {
    let is_hubs = |reference: &ModelRef| matches!(reference, ModelRef::Hub(_));
    let projector = match &request.projector {
        ProjectorChoice::From(projector) => is_hubs(projector),
        ProjectorChoice::Usual | ProjectorChoice::Best | ProjectorChoice::Without => false,
    };
    is_hubs(&request.reference) || projector
}

/// The same error with the advice for a server that is no hub: no mirror, and no token for one, would help.
fn of_web_server(error: JobError) -> JobError {
    let hint = match error.code.as_str() {
        "server_unreachable" => {
            "check the URL, and whether the hive's machine reaches that server; the same command goes on \
             where this one ended"
        }
        "download_not_found" => "check the URL",
        "download_unauthorized" => {
            "check the URL: the server gives this file only to whoever logs in"
        }
        "download_rate_limited" => "wait, then give the same command",
        _ => return error,
    };
    error.hint(hint)
}

/// Ends a download, whoever began it.
pub(in crate::operation) async fn cancel_download(
    parts: &Parts,
    request: &ModelDownloadCancel,
) -> Result<Outcome, JobError> {
    let reference = request.reference.without_secrets();
    if parts.downloads.running().cancel(&reference).await == 0 {
        let message = format!("{reference} is not being downloaded");
        return Err(JobError::new("download_not_found", message)
            .hint("see what is: rbee-keeper model list --partial"));
    }
    let message = format!("The download of {reference} is cancelled; what arrived is kept");
    Ok(outcome(message, &json!({ "reference": reference })))
}

/// A download that nobody waits for is tried again for a long time where that may help.
async fn unattended(
    parts: &Parts,
    request: ModelDownload,
    ongoing: &Ongoing,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    let mut pauses = unattended_pauses();
    loop {
        let error = match carry_out(parts, request.clone(), ongoing, job).await {
            Err(error) if DownloadError::may_pass(&error.code) => error,
            ended => return ended,
        };
        let Some(pause) = pauses.next() else { return Err(error) };
        job.warn(format!("{}; trying again in {:.1} s", error.message, pause.as_secs_f32()));
        let slept = parts.downloads.ending().run_until_cancelled(tokio::time::sleep(pause));
        unless_cancelled(job, slept).await?.ok_or_else(JobError::cancelled)?;
    }
}

async fn carry_out(
    parts: &Parts,
    request: ModelDownload,
    ongoing: &Ongoing,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    if let ModelRef::File(path) = request.reference {
        let (hive_id, alias) = (request.hive_id, request.alias);
        let projector = match request.projector {
            ProjectorChoice::From(ModelRef::File(path)) => Some(path),
            ProjectorChoice::Usual | ProjectorChoice::Without => None,
            ProjectorChoice::Best | ProjectorChoice::From(_) => {
                let message = "a file's projector is a file as well";
                return Err(JobError::new("invalid_value", message)
                    .hint("name it by its path: --mmproj file:/PATH"));
            }
        };
        let request = ModelImport { hive_id, path, alias, link: false, projector };
        return import::import(parts, request, job).await;
    }
    let mut wanted = match find(parts, &request.reference, &request.projector, job).await {
        Err(FindError::Download(error)) if error.is_offline() => {
            return there_already(parts, &request, job).ok_or_else(|| JobError::from(&error));
        }
        found => found?,
    };
    ongoing.keep(&wanted).await?;
    let alias = match request.alias {
        Some(alias) => alias,
        None => from_file_name(&wanted.file_name)
            .ok_or_else(|| CatalogError::NoAlias { file_name: wanted.file_name.clone() })?,
    };
    bring(parts, &mut wanted, alias, job).await
}

/// Has the files in the catalog under a name, from wherever they are: fetched, unless they are here.
pub(super) async fn bring(
    parts: &Parts,
    wanted: &mut Wanted,
    alias: ModelAlias,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    // The small file first: a model that is there has what it sees with a moment later.
    let is_demanded = wanted.projector.as_ref().is_some_and(|projector| projector.is_demanded);
    let projector = match wanted.projector.take() {
        Some(projector) => {
            let there = wanted.digest().and_then(|digest| parts.catalog.with_digest(&digest));
            projector::prepare(parts, projector, there.as_ref(), &alias, job).await?
        }
        None => None,
    };
    let demanded = projector.as_ref().filter(|_| is_demanded);
    let brought = bring_model(parts, wanted, alias.clone(), demanded, job).await?;
    let Some(projector) = projector else { return Ok(brought) };
    let _turn = parts.downloads.turn(job.cancelled()).await.ok_or_else(JobError::cancelled)?;
    match projector::attach(parts, projector, &alias, Over::TheSame, job).await {
        Ok(entry) => Ok(outcome(format!("{}, and sees images", brought.message), &entry)),
        Err(error) if error.code == projector::DOES_NOT_FIT && !is_demanded => {
            job.warn(format!("{alias} is taken without what lies beside it: {}", error.message));
            Ok(brought)
        }
        Err(error) => Err(error),
    }
}

/// The same of the model alone, which is not added if it cannot see with what somebody demanded.
async fn bring_model(
    parts: &Parts,
    wanted: &mut Wanted,
    alias: ModelAlias,
    demanded: Option<&Ready>,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    if let Some(done) = known(parts, wanted, &alias, job).await? {
        return Ok(done);
    }
    let fetched = fetch(parts, wanted, &alias, job).await?;
    let _turn = parts.downloads.turn(job.cancelled()).await.ok_or_else(JobError::cancelled)?;
    // Somebody else may have waited for the same files, and was first.
    if let Some(done) = known(parts, wanted, &alias, job).await? {
        discard(staged(&fetched)).await;
        return Ok(done);
    }
    let (staged, gguf) = look(parts, &fetched, &alias, &wanted.source, job).await?;
    if let Some(projector) = demanded {
        projector.ensure_fits(&alias, gguf.embedding_length)?;
    }
    let catalog = Arc::clone(&parts.catalog);
    if let Ok(entry) = parts.catalog.get(&alias) {
        // Its file was gone or changed, and these are the bytes that it is pinned to.
        off_thread(move || catalog.restore(staged)).await?;
        return Ok(outcome(format!("Model {alias} has its file again"), &entry));
    }
    let source = wanted.source.clone();
    let added = off_thread(move || catalog.add(staged, alias, source, gguf)).await?;
    Ok(match added {
        Imported::Added(entry) => {
            parts.changes.note();
            outcome(format!("Model {} is in the catalog", entry.alias), &entry)
        }
        Imported::AlreadyThere(entry) => {
            outcome(format!("Model {} was in the catalog already", entry.alias), &entry)
        }
    })
}

/// Fetches the files; their digests are known then.
pub(super) async fn fetch(
    parts: &Parts,
    wanted: &mut Wanted,
    alias: &ModelAlias,
    job: &JobContext,
) -> Result<Vec<Fetched>, JobError> {
    let hears = Told::new(job.clone(), format!("Downloading {alias}"));
    let fetched = parts.downloads.get(wanted.files.clone(), &hears, job.cancelled()).await;
    let fetched = fetched.map_err(|error| JobError::from(&*error))?;
    for (file, fetched) in wanted.files.iter_mut().zip(&fetched) {
        file.sha256 = Some(fetched.sha256.clone());
    }
    Ok(fetched)
}

/// Has the worker's binary read what was fetched from a source.
pub(super) async fn look(
    parts: &Parts,
    fetched: &[Fetched],
    alias: &ModelAlias,
    source: &str,
    job: &JobContext,
) -> Result<(Staged, GgufSummary), JobError> {
    job.say(format!("Reading what {alias} contains"));
    let staged = staged(fetched);
    let (partial, files) = (parts.catalog.partial(), fetched.to_vec());
    let (_folder, first) = off_thread(move || together(&partial, &files)).await?;
    match inspect(parts, &first, job).await {
        Ok(gguf) => Ok((staged, gguf)),
        Err(error) if error.code == "invalid_model" => {
            discard(staged).await;
            Err(no_model(error, &first, source))
        }
        Err(error) => Err(error),
    }
}

/// The same of what was fetched, by where it came from: the file had a name that means nothing to anybody.
fn no_model(error: JobError, file: &Path, source: &str) -> JobError {
    let message = error.message.replace(&file.display().to_string(), source);
    let message =
        if message.contains(source) { message } else { format!("{source} is no model: {message}") };
    JobError::new(error.code, message).hint(
        "what arrived is thrown away; a model is a whole GGUF file: is that the address of the file \
         itself, and not of a page about it?",
    )
}

/// Removes what turned out to be no model, or to be there already.
pub(super) async fn discard(staged: Staged) {
    let removed = off_thread(move || {
        staged.discard();
        Ok(())
    });
    if let Err(error) = removed.await {
        tracing::warn!(%error, "a download that nobody needs stays on the disk");
    }
}

/// What need not be downloaded: the name has these bytes, or another name has.
async fn known(
    parts: &Parts,
    wanted: &Wanted,
    alias: &ModelAlias,
    job: &JobContext,
) -> Result<Option<Outcome>, JobError> {
    let Some(digest) = wanted.digest() else { return Ok(None) };
    let named = parts.catalog.get(alias).ok();
    if let Some(named) = &named
        && named.sha256 != digest
    {
        let (alias, pinned) = (alias.clone(), named.sha256.clone());
        return Err(CatalogError::AliasTaken { alias, pinned, given: digest }.into());
    }
    let Some(there) = named.clone().or_else(|| parts.catalog.with_digest(&digest)) else {
        return Ok(None);
    };
    // A file that is gone or was changed is downloaded again.
    let (catalog, name) = (Arc::clone(&parts.catalog), there.alias.clone());
    let checking = format!("Checking the file of {}", there.alias);
    let checked = super::blocking(job, &checking, there.gguf.size_bytes, move |watcher| {
        catalog.checked_file(&name, watcher)
    });
    if let Err(error) = checked.await {
        return if error.code == "cancelled" { Err(error) } else { Ok(None) };
    }
    if named.is_some() {
        let message = format!("Model {alias} was in the catalog already");
        return Ok(Some(outcome(message, &there)));
    }
    let (catalog, name, model) = (Arc::clone(&parts.catalog), alias.clone(), there.alias);
    let named = off_thread(move || catalog.name(&model, name)).await?;
    let (Imported::Added(entry) | Imported::AlreadyThere(entry)) = named;
    parts.changes.note();
    let message = format!("Model {alias} is in the catalog: its file was there already");
    Ok(Some(outcome(message, &entry)))
}

/// Without a network, what was downloaded before serves.
fn there_already(parts: &Parts, request: &ModelDownload, job: &JobContext) -> Option<Outcome> {
    let entry = parts.catalog.list().into_iter().find(|entry| {
        let named = request.alias.as_ref().is_none_or(|alias| *alias == entry.alias);
        named && request.reference.covers(&entry.source)
    })?;
    job.warn("its server cannot be reached, so nobody knows whether there is another file by now");
    let message = format!("Model {} was in the catalog already", entry.alias);
    Some(outcome(message, &entry))
}

/// Fetched files, on their way into the catalog.
pub(super) fn staged(fetched: &[Fetched]) -> Staged {
    let file = |file: &Fetched| StagedFile {
        sha256: file.sha256.clone(),
        bytes: file.bytes,
        place: Place::Downloaded(file.path.clone(), Some(Arc::clone(&file.held))),
        is_copy: false,
    };
    Staged::new(fetched.iter().map(file).collect())
}

/// The parts side by side in a folder, under the names by which the engine finds them, and the first of them.
fn together(
    partial: &Path,
    fetched: &[Fetched],
) -> Result<(Option<TempDir>, PathBuf), CatalogError> {
    let failed =
        |source| CatalogError::Io { doing: "the models folder cannot be written to", source };
    if let [only] = fetched {
        return Ok((None, only.path.clone()));
    }
    let folder = tempfile::Builder::new().prefix(".import-").tempdir_in(partial).map_err(failed)?;
    for (index, file) in fetched.iter().enumerate() {
        let name = folder.path().join(shard_name(index + 1, fetched.len()));
        std::os::unix::fs::symlink(&file.path, name).map_err(failed)?;
    }
    let first = folder.path().join(shard_name(1, fetched.len()));
    Ok((Some(folder), first))
}
