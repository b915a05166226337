//! Fetching a model: which files, then the files, then a look at what is in them, then a name for them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use job_server::{JobContext, JobError, Outcome};
use rbee_operations::{HubRef, ModelDownload, ModelImport, ModelRef, Pace, Progress};
use tempfile::TempDir;
use url::Url;
use worker_contract::{Device, DeviceKind, GgufSummary, ModelAlias, ModelEntry, Sha256Digest};

use super::import;
use super::{inspect, off_thread, outcome};
use crate::catalog::shard::{self, Shard, shard_name};
use crate::catalog::{
    CatalogError, Imported, Place, Staged, StagedFile, digest_of, from_file_name,
};
use crate::download::{DownloadError, Fetched, Hears, Memory, Rate, Remote, choose, eta};
use crate::hive::Parts;

/// The shortest time between two progress events.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// What a reference stands for.
pub(super) struct Wanted {
    /// The file, or the parts of a split model in their order.
    pub(super) files: Vec<Remote>,
    /// As the catalog keeps it: with the quantization that was chosen.
    pub(super) source: String,
    /// The name of the file, or of the first part.
    pub(super) file_name: String,
}

impl Wanted {
    /// The digest that the model will have, if whoever has the files tells.
    pub(super) fn digest(&self) -> Option<Sha256Digest> {
        let digests: Option<Vec<_>> = self.files.iter().map(|file| file.sha256.clone()).collect();
        digests.map(|digests| digest_of(&digests))
    }
}

/// Downloads a model and gives it a name.
pub(in crate::operation) async fn download(
    parts: &Parts,
    request: ModelDownload,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    if let ModelRef::File(path) = request.reference {
        let (hive_id, alias) = (request.hive_id, request.alias);
        let import = ModelImport { hive_id, path, alias, link: false };
        return import::import(parts, import, job).await;
    }
    let mut wanted = match find(parts, &request.reference, job).await {
        Err(FindError::Download(error)) if error.is_offline() => {
            return there_already(parts, &request, job).ok_or_else(|| JobError::from(&error));
        }
        found => found?,
    };
    let alias = match request.alias {
        Some(alias) => alias,
        None => from_file_name(&wanted.file_name)
            .ok_or_else(|| CatalogError::NoAlias { file_name: wanted.file_name.clone() })?,
    };
    bring(parts, &mut wanted, alias, job).await
}

/// Fetches what is wanted, and gives it a name.
pub(super) async fn bring(
    parts: &Parts,
    wanted: &mut Wanted,
    alias: ModelAlias,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    if let Some(done) = known(parts, wanted, &alias, job).await? {
        return Ok(done);
    }
    let fetched = fetch(parts, wanted, &alias, job).await?;
    let _turn = parts.downloads.turn().await;
    if let Some(done) = known(parts, wanted, &alias, job).await? {
        staged(&fetched).discard();
        return Ok(done);
    }
    let (staged, gguf) = look(parts, &fetched, &alias, job).await?;
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

/// Asks whoever has the files which they are.
pub(super) async fn find(
    parts: &Parts,
    reference: &ModelRef,
    job: &JobContext,
) -> Result<Wanted, FindError> {
    match reference {
        ModelRef::Hub(model) => in_repository(parts, model, job).await,
        ModelRef::Url(url) => at_address(parts, url, reference),
        ModelRef::File(_) => Err(FindError::Unsupported),
    }
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

/// Has the worker's binary read what was fetched.
pub(super) async fn look(
    parts: &Parts,
    fetched: &[Fetched],
    alias: &ModelAlias,
    job: &JobContext,
) -> Result<(Staged, GgufSummary), JobError> {
    job.say(format!("Reading what {alias} contains"));
    let staged = staged(fetched);
    let folder = tempfile::Builder::new().prefix(".import-").tempdir_in(parts.catalog.partial());
    let folder = folder.map_err(|source| CatalogError::Io {
        doing: "the models folder cannot be written to",
        source,
    })?;
    match inspect(parts, &together(&folder, fetched)?, job).await {
        Ok(gguf) => Ok((staged, gguf)),
        Err(error) => {
            if error.code == "invalid_model" {
                staged.discard();
            }
            Err(error)
        }
    }
}

async fn in_repository(
    parts: &Parts,
    model: &HubRef,
    job: &JobContext,
) -> Result<Wanted, FindError> {
    let hub = parts.downloads.hub().map_err(FindError::Hub)?;
    let hears = Told::new(job.clone(), String::new());
    job.say(format!("Asking {} for {}", hub.endpoint.host_str().unwrap_or("the hub"), model.id()));
    let repository = parts.downloads.repository(&hub, model, &hears, job.cancelled()).await?;
    let memories = memories(&parts.devices.list());
    let choice = choose(&model.id(), &repository.files, model.quant.as_deref(), &memories)?;
    if let Some(reason) = choice.reason {
        job.say(format!("Taking {reason}"));
    }
    let files = choice.files.iter().map(|file| hub.remote(model, &repository, file)).collect();
    let first = choice.files.first().map(|file| file.name.as_str()).unwrap_or_default();
    let file_name = first.rsplit('/').next().unwrap_or(first).to_owned();
    let quant = model.quant.clone().or(choice.quant).unwrap_or_else(|| file_name.clone());
    // A name that no reference can hold stays out: an update chooses again then.
    let with_quant = HubRef { quant: Some(quant), ..model.clone() }.to_string();
    let source = match with_quant.parse::<ModelRef>() {
        Ok(_) => with_quant,
        Err(_) => model.to_string(),
    };
    Ok(Wanted { files, source, file_name })
}

fn at_address(parts: &Parts, url: &str, reference: &ModelRef) -> Result<Wanted, FindError> {
    let url: Url = url.parse().map_err(|_| FindError::Unsupported)?;
    let token = parts.downloads.token_for(&url).map_err(FindError::Hub)?;
    let file_name = reference.file_name().unwrap_or_default().to_owned();
    let remote = |url: Url, what: &str| Remote {
        url,
        token: token.clone(),
        what: what.to_owned(),
        size: None,
        sha256: None,
    };
    let part = file_name.strip_suffix(".gguf").and_then(Shard::of);
    let files = match part {
        None => vec![remote(url, &file_name)],
        Some(part) => (1..=part.count)
            .map(|index| {
                let name = shard::name(part.stem, index, part.count);
                let mut url = url.clone();
                if let Ok(mut segments) = url.path_segments_mut() {
                    segments.pop().push(&name);
                }
                remote(url, &name)
            })
            .collect(),
    };
    Ok(Wanted { files, source: reference.without_secrets(), file_name })
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
    let source = request.reference.without_secrets();
    let same_repository = |entry: &ModelEntry| match (&request.reference, entry.source.parse()) {
        (ModelRef::Hub(asked), Ok(ModelRef::Hub(had))) => {
            asked.id() == had.id()
                && asked.revision == had.revision
                && (asked.quant.is_none() || asked.quant == had.quant)
        }
        _ => entry.source == source,
    };
    let entry = parts.catalog.list().into_iter().find(|entry| {
        let named = request.alias.as_ref().is_none_or(|alias| *alias == entry.alias);
        named && same_repository(entry)
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
        place: Place::Downloaded(file.path.clone()),
        is_copy: false,
    };
    Staged::new(fetched.iter().map(file).collect())
}

/// The parts side by side under the names by which the engine finds them.
fn together(folder: &TempDir, fetched: &[Fetched]) -> Result<std::path::PathBuf, JobError> {
    if let [only] = fetched {
        return Ok(only.path.clone());
    }
    for (index, file) in fetched.iter().enumerate() {
        let name = folder.path().join(shard_name(index + 1, fetched.len()));
        std::os::unix::fs::symlink(&file.path, name).map_err(|source| CatalogError::Io {
            doing: "the models folder cannot be written to",
            source,
        })?;
    }
    Ok(folder.path().join(shard_name(1, fetched.len())))
}

/// The memories that a model may be meant for: that of the largest GPU, then that of the processor.
fn memories(devices: &[Device]) -> Vec<Memory> {
    let largest = |kind| {
        let of_kind = devices.iter().filter(|device| device.id.kind == kind);
        of_kind.max_by_key(|device| device.memory_total_bytes)
    };
    let both = [largest(DeviceKind::Gpu), largest(DeviceKind::Cpu)];
    let memory = |device: &Device| Memory {
        device: device.id.to_string(),
        bytes: device.memory_total_bytes,
    };
    both.into_iter().flatten().map(memory).collect()
}

/// Why nothing can be downloaded.
#[derive(Debug)]
pub(super) enum FindError {
    Download(DownloadError),
    Choice(crate::download::NoChoice),
    Hub(crate::download::HubError),
    Unsupported,
}

impl From<DownloadError> for FindError {
    fn from(error: DownloadError) -> Self {
        Self::Download(error)
    }
}

impl From<crate::download::NoChoice> for FindError {
    fn from(error: crate::download::NoChoice) -> Self {
        Self::Choice(error)
    }
}

impl From<FindError> for JobError {
    fn from(error: FindError) -> Self {
        match error {
            FindError::Download(error) => (&error).into(),
            FindError::Choice(error) => {
                Self::new(error.code(), error.to_string()).hint(error.hint())
            }
            FindError::Hub(error) => {
                let hint = "HF_ENDPOINT or [hive] hf_endpoint names the hub; \
                            `rbee-keeper token huggingface` stores a token for it";
                Self::new("hub_unusable", crate::hive::with_causes(&error)).hint(hint)
            }
            FindError::Unsupported => {
                Self::new("unsupported_reference", "a file of this machine has no other state")
            }
        }
    }
}

/// A job that hears how a download goes.
struct Told {
    job: JobContext,
    doing: String,
    begun: Instant,
    last: Mutex<(Option<Duration>, Rate)>,
}

impl Told {
    fn new(job: JobContext, doing: String) -> Self {
        Self { job, doing, begun: Instant::now(), last: Mutex::default() }
    }
}

impl Hears for Told {
    fn reached(&self, done: u64, total: Option<u64>) {
        let now = self.begun.elapsed();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (told, rate) = &mut *last;
        let is_whole = total == Some(done);
        if told.is_some_and(|told| now.saturating_sub(told) < TELL_EVERY) && !is_whole {
            return;
        }
        *told = Some(now);
        let per_second = rate.note(now, done);
        let pace = Pace { per_second, eta_s: eta(done, total, per_second) };
        let progress = Progress { done, total, unit: "bytes".into() };
        self.job.progress_at(self.doing.clone(), progress, pace);
    }

    fn note(&self, words: String) {
        self.job.warn(words);
    }
}
