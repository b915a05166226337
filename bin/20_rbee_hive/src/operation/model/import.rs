//! Adding files that lie on this machine: one, a folder of them, or those of another program.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use job_server::{JobContext, JobError, Outcome};
use rbee_operations::{ModelImport, ModelImportStore, ModelStore};
use serde_json::json;
use worker_contract::{ModelAlias, ModelEntry};

use super::projector::{self, Ready};
use super::{blocking, inspect, off_thread, outcome};
use crate::catalog::foreign::{self, Foreign};
use crate::catalog::{Candidate, Imported, Over, Sharing};
use crate::hive::Parts;

/// Adds a file: the worker's binary reads what is in it, then it is brought in and pinned.
pub(in crate::operation) async fn import(
    parts: &Parts,
    request: ModelImport,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    let sharing = if request.link { Sharing::Linked } else { Sharing::Own };
    let path = request.path;
    if !path.contains('\0') && Path::new(&path).is_absolute() && Path::new(&path).is_dir() {
        if request.alias.is_some() {
            let message = "a folder of models cannot have one name";
            return Err(JobError::new("invalid_value", message).hint("leave out --alias"));
        }
        if request.projector.is_some() {
            let message = "the models of a folder cannot have one projector";
            return Err(JobError::new("invalid_value", message)
                .hint("leave out --mmproj: the one that lies alone beside a model comes with it"));
        }
        let folder = PathBuf::from(&path);
        let found = off_thread(move || Ok(foreign::gguf_files(&folder))).await?;
        return import_all(parts, &path, found, sharing, job).await;
    }
    // Looked at before the model is added: one that is none spoils nothing.
    let projector = match request.projector {
        Some(path) => Some(projector::candidate(parts, path, sharing, job).await?),
        None => None,
    };
    let demanded = projector.as_ref();
    let (imported, is_copy) =
        import_one(parts, path, request.alias, demanded, sharing, job).await?;
    if request.link && is_copy {
        job.warn("the file could not be shared, so it was copied: is it on another disk?");
    }
    let (mut message, mut entry) = match imported {
        Imported::Added(entry) => (format!("Model {} is in the catalog", entry.alias), entry),
        Imported::AlreadyThere(entry) => {
            (format!("Model {} was in the catalog already", entry.alias), entry)
        }
    };
    if let Some(projector) = projector {
        entry = projector::attach(parts, projector, &entry.alias, Over::TheSame, job).await?;
        message.push_str(", and sees images");
    }
    Ok(outcome(message, &entry))
}

/// Adds the models of another program, which keeps them.
pub(in crate::operation) async fn import_store(
    parts: &Parts,
    request: ModelImportStore,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    let store = request.store;
    let (name, flag, folder) = match store {
        ModelStore::Ollama => ("Ollama", "ollama", foreign::ollama_folder()),
        ModelStore::LmStudio => ("LM Studio", "lmstudio", foreign::lm_studio_folder()),
    };
    let folder = match request.path.map(PathBuf::from).or(folder) {
        Some(folder) if folder.is_absolute() && folder.is_dir() => folder,
        Some(folder) => {
            let message = format!("{} is not a folder of this machine", folder.display());
            return Err(JobError::new("store_not_found", message)
                .hint("give the folder's absolute path on the hive's machine"));
        }
        None => {
            let message = format!("{name} keeps no models in its usual places here");
            return Err(JobError::new("store_not_found", message)
                .hint(format!("name the folder: rbee-keeper model import FOLDER --from {flag}")));
        }
    };
    let shown = folder.display().to_string();
    let found = off_thread(move || {
        Ok(match store {
            ModelStore::Ollama => foreign::ollama(&folder),
            ModelStore::LmStudio => foreign::gguf_files(&folder),
        })
    });
    import_all(parts, &shown, found.await?, Sharing::Linked, job).await
}

/// Adds what can be added, and says of the rest why not.
async fn import_all(
    parts: &Parts,
    folder: &str,
    found: Vec<Foreign>,
    sharing: Sharing,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    if found.is_empty() {
        let message = format!("there is no model in {folder}");
        return Err(JobError::new("no_model", message).hint("a model is a GGUF file"));
    }
    let (mut models, mut refused, mut copies) = (Vec::<ModelEntry>::new(), Vec::new(), 0_u32);
    for Foreign { alias, file, projector } in found {
        let path = file.display().to_string();
        match import_one(parts, path.clone(), alias, None, sharing, job).await {
            Ok((Imported::Added(entry) | Imported::AlreadyThere(entry), is_copy)) => {
                copies += u32::from(is_copy);
                models.push(seeing(parts, entry, projector, sharing, job).await?);
            }
            Err(error) if error.code == "cancelled" => return Err(error),
            Err(error) => {
                job.warn(format!("{path}: {}", error.message));
                refused.push(json!({ "path": path, "code": error.code, "reason": error.message }));
            }
        }
    }
    if models.is_empty() {
        let message = format!("none of {} files in {folder} could be added", refused.len());
        return Err(JobError::new("invalid_model", message));
    }
    if sharing == Sharing::Linked && copies > 0 {
        job.warn(format!(
            "{copies} could not be shared and were copied: another disk, or another user's files"
        ));
    }
    let count = |number, noun| match number {
        1 => format!("1 {noun}"),
        number => format!("{number} {noun}s"),
    };
    let mut message = format!("{} of {folder} in the catalog", count(models.len(), "model"));
    if !refused.is_empty() {
        message = format!("{message}, {} refused", count(refused.len(), "file"));
    }
    Ok(outcome(message, &json!({ "models": models, "refused": refused })))
}

/// The model with the projector that lies beside it; one that does not fit leaves the model as it is.
async fn seeing(
    parts: &Parts,
    entry: ModelEntry,
    projector: Option<PathBuf>,
    sharing: Sharing,
    job: &JobContext,
) -> Result<ModelEntry, JobError> {
    let Some(projector) = projector else { return Ok(entry) };
    let path = projector.display().to_string();
    let attached = async {
        let ready = projector::candidate(parts, path.clone(), sharing, job).await?;
        projector::attach(parts, ready, &entry.alias, Over::TheSame, job).await
    };
    match attached.await {
        Err(error) if error.code == "cancelled" => Err(error),
        Err(error) => {
            job.warn(format!("{path}: {}", error.message));
            Ok(entry)
        }
        attached => attached,
    }
}

async fn import_one(
    parts: &Parts,
    path: String,
    alias: Option<ModelAlias>,
    demanded: Option<&Ready>,
    sharing: Sharing,
    job: &JobContext,
) -> Result<(Imported, bool), JobError> {
    let candidate = off_thread(move || Candidate::open(&path)).await?;
    let alias = match alias {
        Some(alias) => alias,
        None => candidate.alias()?,
    };
    job.say(format!("Reading what {} contains", candidate.path().display()));
    let gguf = inspect(parts, candidate.path(), job).await?;
    if let Some(projector) = demanded {
        projector.ensure_fits(&alias, gguf.embedding_length)?;
    }
    let (catalog, bytes) = (Arc::clone(&parts.catalog), candidate.bytes());
    let importing = format!("Importing {alias}");
    let imported = blocking(job, &importing, bytes, move |watcher| {
        catalog.import(candidate, alias, gguf, sharing, watcher)
    })
    .await?;
    if matches!(imported.0, Imported::Added(_)) {
        parts.changes.note();
    }
    Ok(imported)
}
