//! Which files a reference stands for: a question to whoever has them.

use job_server::{JobContext, JobError};
use narration::with_causes;
use rbee_operations::{HubRef, ModelRef, ProjectorChoice};
use url::Url;
use worker_contract::{Device, DeviceKind, Sha256Digest};

use super::told::Told;
use crate::catalog::digest_of;
use crate::catalog::shard::{self, Shard};
use crate::download::{
    Beside, DownloadError, Hub, HubError, Memory, NoChoice, Remote, RepoFile, Repository, beside,
    choose, named,
};
use crate::hive::Parts;

/// What a reference stands for.
pub(super) struct Wanted {
    /// The file, or the parts of a split model in their order.
    pub(super) files: Vec<Remote>,
    /// As the catalog keeps it: with the quantization that was chosen.
    pub(super) source: String,
    /// The name of the file, or of the first part.
    pub(super) file_name: String,
    /// What the model is to see images with.
    pub(super) projector: Option<WantedProjector>,
}

/// A projector.
#[derive(Clone)]
pub(super) struct WantedProjector {
    pub(super) place: ProjectorPlace,
    /// As the catalog keeps it.
    pub(super) source: String,
    /// Whether somebody asked for it, so that doing without it is a failure.
    pub(super) is_demanded: bool,
}

/// Where a projector is.
#[derive(Clone)]
pub(super) enum ProjectorPlace {
    Server(Remote),
    /// A file of this machine.
    Disk(String),
}

impl Wanted {
    /// The digest that the model will have, if whoever has the files tells.
    pub(super) fn digest(&self) -> Option<Sha256Digest> {
        let digests: Option<Vec<_>> = self.files.iter().map(|file| file.sha256.clone()).collect();
        digests.map(|digests| digest_of(&digests))
    }
}

/// Asks whoever has the files which they are.
pub(super) async fn find(
    parts: &Parts,
    reference: &ModelRef,
    projector: &ProjectorChoice,
    job: &JobContext,
) -> Result<Wanted, FindError> {
    let mut wanted = match reference {
        ModelRef::Hub(model) => in_repository(parts, model, projector, job).await?,
        ModelRef::Url(url) => at_address(parts, url, reference)?,
        ModelRef::File(_) => return Err(FindError::Unsupported),
    };
    match (projector, reference) {
        (ProjectorChoice::From(from), _) => {
            wanted.projector = Some(projector_at(parts, from, job).await?);
        }
        (ProjectorChoice::Best, ModelRef::Url(_)) => return Err(FindError::NotListed),
        _ => {}
    }
    Ok(wanted)
}

/// The projector that a reference stands for.
pub(super) async fn projector_at(
    parts: &Parts,
    reference: &ModelRef,
    job: &JobContext,
) -> Result<WantedProjector, FindError> {
    let source = reference.without_secrets();
    let place = match reference {
        ModelRef::File(path) => ProjectorPlace::Disk(path.clone()),
        ModelRef::Url(url) => {
            let remote = at_address(parts, url, reference)?.files.into_iter().next();
            ProjectorPlace::Server(remote.ok_or(FindError::Unsupported)?)
        }
        ModelRef::Hub(model) => {
            let (hub, repository) = ask(parts, model, job).await?;
            let files = &repository.files;
            let Some(name) = &model.quant else {
                let found = chosen(&hub, model, &repository, beside("", files), true, job)?;
                return found.ok_or_else(|| FindError::NoProjector { repo: model.id() });
            };
            match named(name, files) {
                Beside::One(file) | Beside::Unclear(file) => {
                    ProjectorPlace::Server(hub.remote(model, &repository, &file))
                }
                Beside::Several(files) => return Err(several(model, files)),
                Beside::Nothing => {
                    return Err(FindError::NoProjector { repo: model.to_string() });
                }
            }
        }
    };
    Ok(WantedProjector { place, source, is_demanded: true })
}

/// What of that which lies beside a model is taken; says so.
fn chosen(
    hub: &Hub,
    model: &HubRef,
    repository: &Repository,
    beside: Beside,
    is_demanded: bool,
    job: &JobContext,
) -> Result<Option<WantedProjector>, FindError> {
    match beside {
        Beside::Unclear(file) if !is_demanded => {
            let (id, name) = (model.id(), &file.name);
            job.warn(format!(
                "{id} has several models, and {name} is not called like this one, so it is not taken: to \
                 see images with it: --mmproj {}",
                with_file(model, name)
            ));
            Ok(None)
        }
        Beside::One(file) | Beside::Unclear(file) => {
            let how = if is_demanded { "" } else { "; --no-mmproj leaves it" };
            job.say(format!("Taking the projector {}, so that it sees images{how}", file.name));
            let source = with_file(model, &file.name);
            let place = ProjectorPlace::Server(hub.remote(model, repository, &file));
            Ok(Some(WantedProjector { place, source, is_demanded }))
        }
        Beside::Several(files) if is_demanded => Err(several(model, files)),
        Beside::Several(files) => {
            let (id, names) = (model.id(), names(files));
            job.warn(format!(
                "{id} has several projectors, so none is taken: name one to see images with: \
                 --mmproj hf:{id}:FILE, of {names}"
            ));
            Ok(None)
        }
        Beside::Nothing if is_demanded => Err(FindError::NoProjector { repo: model.id() }),
        Beside::Nothing => Ok(None),
    }
}

fn several(model: &HubRef, files: Vec<RepoFile>) -> FindError {
    FindError::SeveralProjectors { repo: model.id(), names: names(files) }
}

fn names(files: Vec<RepoFile>) -> String {
    files.into_iter().map(|file| file.name).collect::<Vec<_>>().join(", ")
}

/// A reference to a file or a quantization of a repository; a name that no reference can hold stays
/// out: an update chooses again then.
fn with_file(model: &HubRef, file: &str) -> String {
    let named = HubRef { quant: Some(file.to_owned()), ..model.clone() }.to_string();
    match named.parse::<ModelRef>() {
        Ok(_) => named,
        Err(_) => HubRef { quant: None, ..model.clone() }.to_string(),
    }
}

async fn in_repository(
    parts: &Parts,
    model: &HubRef,
    projector: &ProjectorChoice,
    job: &JobContext,
) -> Result<Wanted, FindError> {
    let (hub, repository) = ask(parts, model, job).await?;
    let memories = memories(&parts.devices.list());
    let choice = choose(&model.id(), &repository.files, model.quant.as_deref(), &memories)?;
    if let Some(reason) = choice.reason {
        job.say(format!("Taking {reason}"));
    }
    let files = choice.files.iter().map(|file| hub.remote(model, &repository, file)).collect();
    let first = choice.files.first().map(|file| file.name.as_str()).unwrap_or_default();
    let is_demanded = *projector == ProjectorChoice::Best;
    let projector = if is_demanded || *projector == ProjectorChoice::Usual {
        let there = beside(first, &repository.files);
        chosen(&hub, model, &repository, there, is_demanded, job)?
    } else {
        None
    };
    let file_name = first.rsplit('/').next().unwrap_or(first).to_owned();
    let source = match &model.quant {
        Some(_) => model.to_string(),
        None => with_file(model, choice.quant.as_deref().unwrap_or(first)),
    };
    Ok(Wanted { files, source, file_name, projector })
}

/// Which files a repository has.
async fn ask(
    parts: &Parts,
    model: &HubRef,
    job: &JobContext,
) -> Result<(Hub, Repository), FindError> {
    let hub = parts.downloads.hub().map_err(FindError::Hub)?;
    let hears = Told::new(job.clone(), String::new());
    job.say(format!("Asking {} for {}", hub.endpoint.host_str().unwrap_or("the hub"), model.id()));
    let repository = parts.downloads.repository(&hub, model, &hears, job.cancelled()).await?;
    Ok((hub, repository))
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
    Ok(Wanted { files, source: reference.without_secrets(), file_name, projector: None })
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
    Choice(NoChoice),
    Hub(HubError),
    Unsupported,
    /// A web server tells no list of its files.
    NotListed,
    NoProjector {
        repo: String,
    },
    SeveralProjectors {
        repo: String,
        names: String,
    },
}

impl From<DownloadError> for FindError {
    fn from(error: DownloadError) -> Self {
        Self::Download(error)
    }
}

impl From<NoChoice> for FindError {
    fn from(error: NoChoice) -> Self {
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
                let hint = "[hive] hf_endpoint, or HF_ENDPOINT where the hive is started, names the hub; \
                            `rbee-keeper token huggingface` stores a token for it";
                Self::new("hub_unusable", with_causes(&error)).hint(hint)
            }
            FindError::Unsupported => {
                Self::new("unsupported_reference", "a file of this machine has no other state")
            }
            FindError::NotListed => {
                let message = "a web server does not tell which files it has beside the model";
                Self::new("projector_not_found", message)
                    .hint("name it: --mmproj https://HOST/FILE")
            }
            FindError::NoProjector { repo } => {
                Self::new("projector_not_found", format!("there is no projector in {repo}"))
                    .hint("its name has mmproj in it; --no-mmproj takes the model alone")
            }
            FindError::SeveralProjectors { repo, names } => {
                let message = format!("{repo} has several projectors: {names}");
                Self::new("projector_ambiguous", message)
                    .hint(format!("name one: --mmproj hf:{repo}:FILE"))
            }
        }
    }
}
