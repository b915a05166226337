//! Taking another file from where a model came from, which only happens when the operator agreed to
//! the digest of each file that changes.

use std::sync::Arc;

use job_server::{JobContext, JobError, Outcome};
use rbee_operations::{HubRef, ModelRef, ModelUpdate, ProjectorChoice};
use serde_json::{Value, json};
use worker_contract::{ModelAlias, ModelEntry, ModelProjector, Sha256Digest};

use super::download::{discard, fetch, look, staged};
use super::find::{FindError, ProjectorPlace, Wanted, WantedProjector, find, projector_at};
use super::projector::{self, Ready};
use super::{in_use, off_thread, outcome};
use crate::hive::Parts;

/// What the next file of a model is to see with.
enum NextSight {
    /// It sees nothing, as before.
    Nothing,
    /// The projector that it has.
    Kept(ModelProjector),
    /// What there is where that came from.
    Offered { found: WantedProjector, pinned: Sha256Digest },
}

/// Looks whether a model's source has another file by now; takes it if that is the one agreed to.
pub(in crate::operation) async fn update(
    parts: &Parts,
    request: ModelUpdate,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    let alias = &request.model;
    let entry = parts.catalog.get(alias)?;
    let mut wanted = offered_files(parts, &entry, job).await?;
    let sight = next_sight(parts, &entry, job).await?;
    let told = sight.told();
    let report = |offered: &Sha256Digest, updated: bool| {
        json!({
            "alias": alias, "source": entry.source, "pinned": entry.sha256,
            "offered": offered, "projector": told,
            "changed": *offered != entry.sha256, "updated": updated,
        })
    };
    let but = sight.other_words(alias);
    let same = || {
        let message = format!("Model {alias} is what its source has{but}");
        outcome(message, &report(&entry.sha256, false))
    };
    let other = |offered: &Sha256Digest| {
        let message = format!(
            "The source of {alias} has another file: its SHA-256 is {offered}, that of {alias} is {}",
            entry.sha256
        );
        outcome(message, &report(offered, false))
    };
    match (wanted.digest(), &request.accept) {
        (Some(offered), _) if offered == entry.sha256 => return Ok(same()),
        (Some(offered), None) => return Ok(other(&offered)),
        (Some(offered), Some(accepted)) if offered != *accepted => return Ok(other(&offered)),
        _ => {}
    }
    if request.accept.is_some() {
        sight.ensure_agreed(&request, sight.offered())?;
    }
    // Before the model: whoever is refused for the projector is refused before the large file is fetched.
    let projector = match request.accept {
        Some(_) => ready(parts, sight, &request, &entry, job).await?,
        None => None,
    };
    // A server that tells no digest has to be read to the end; what arrives is kept for the answer.
    let fetched = fetch(parts, &mut wanted, alias, job).await?;
    let actual = staged(&fetched).digest();
    if actual == entry.sha256 {
        discard(staged(&fetched)).await;
        if let Some(projector) = projector {
            projector::let_go(parts, projector).await;
        }
        return Ok(same());
    }
    if request.accept.as_ref() != Some(&actual) {
        return Ok(other(&actual));
    }
    let _turn = parts.downloads.turn(job.cancelled()).await.ok_or_else(JobError::cancelled)?;
    let (staged, gguf) = look(parts, &fetched, alias, &wanted.source, job).await?;
    if let Some(projector) = &projector {
        projector.ensure_fits(alias, gguf.embedding_length).map_err(|error| {
            error.hint(format!(
                "let it see without or with another one first: rbee-keeper model mmproj {alias} \
                 none|REFERENCE"
            ))
        })?;
    }
    let change = parts.usage.exclude(alias).ok_or_else(|| in_use(parts, alias))?;
    let (catalog, name, source) = (Arc::clone(&parts.catalog), alias.clone(), wanted.source);
    let replaced = off_thread(move || {
        let projector = projector.and_then(Ready::into_staged);
        let replaced = catalog.replace(staged, &name, source, gguf, projector);
        drop(change);
        replaced
    });
    let replaced = replaced.await?;
    parts.changes.note();
    let message = format!("Model {alias} is pinned to {}", replaced.sha256);
    Ok(outcome(message, &report(&replaced.sha256, true)))
}

/// The files that there are where a model came from.
async fn offered_files(
    parts: &Parts,
    entry: &ModelEntry,
    job: &JobContext,
) -> Result<Wanted, JobError> {
    let reference = entry.source.parse::<ModelRef>().ok();
    let on_a_server = |r: &ModelRef| matches!(r, ModelRef::Hub(_) | ModelRef::Url(_));
    let Some(reference) = reference.filter(on_a_server) else {
        let message = format!("{} comes from {}, which is no server", entry.alias, entry.source);
        return Err(JobError::new("no_source", message)
            .hint("import the file under another name, or delete the model first"));
    };
    Ok(find(parts, &reference, &ProjectorChoice::Without, job).await?)
}

/// What there is where the projector of a model came from. One that came from a file stays.
async fn next_sight(
    parts: &Parts,
    entry: &ModelEntry,
    job: &JobContext,
) -> Result<NextSight, JobError> {
    let Some(kept) = entry.projector.clone() else { return Ok(NextSight::Nothing) };
    let Ok(reference @ (ModelRef::Hub(_) | ModelRef::Url(_))) = kept.source.parse() else {
        return Ok(NextSight::Kept(kept));
    };
    let found = match (projector_at(parts, &reference, job).await, reference) {
        // It has another name by now, or is there no longer.
        (Err(FindError::NoProjector { .. }), ModelRef::Hub(hub)) => {
            let anywhere = ModelRef::Hub(HubRef { quant: None, ..hub });
            match projector_at(parts, &anywhere, job).await {
                Err(FindError::NoProjector { .. } | FindError::SeveralProjectors { .. }) => {
                    let alias = &entry.alias;
                    job.warn(format!("{alias} keeps its projector: its source has it no longer"));
                    return Ok(NextSight::Kept(kept));
                }
                found => found?,
            }
        }
        (found, _) => found?,
    };
    let pinned = kept.sha256.clone();
    match &found.place {
        ProjectorPlace::Server(remote) if remote.sha256.as_ref() == Some(&pinned) => {
            Ok(NextSight::Kept(kept))
        }
        _ => Ok(NextSight::Offered { found, pinned }),
    }
}

/// The projector of the next file, on this machine.
async fn ready(
    parts: &Parts,
    sight: NextSight,
    request: &ModelUpdate,
    entry: &ModelEntry,
    job: &JobContext,
) -> Result<Option<Ready>, JobError> {
    let alias = &entry.alias;
    match sight {
        NextSight::Nothing => Ok(None),
        NextSight::Kept(ModelProjector { sha256, source, .. }) => {
            let kept = projector::known(parts, sha256, source, alias, job).await?;
            kept.map(Some).ok_or_else(|| would_be_lost(entry))
        }
        NextSight::Offered { ref found, .. } => {
            let wanted = found.clone();
            let ready = projector::prepare(parts, wanted, None, alias, job).await?;
            sight.ensure_agreed(request, ready.as_ref().and_then(Ready::digest))?;
            Ok(ready)
        }
    }
}

fn would_be_lost(entry: &ModelEntry) -> JobError {
    let alias = &entry.alias;
    let message = format!(
        "the projector of {alias} is gone or was changed, and its next file would have none"
    );
    JobError::new("projector_would_be_lost", message).hint(format!(
        "give it one again, or none: rbee-keeper model mmproj {alias} REFERENCE|none"
    ))
}

impl NextSight {
    /// The digest of another projector, where it is known.
    fn offered(&self) -> Option<&Sha256Digest> {
        match self {
            Self::Offered {
                found: WantedProjector { place: ProjectorPlace::Server(r), .. },
                ..
            } => r.sha256.as_ref(),
            _ => None,
        }
    }

    /// What is said of another projector where the model itself is the same.
    fn other_words(&self, alias: &ModelAlias) -> String {
        let (Self::Offered { found, pinned }, Some(offered)) = (self, self.offered()) else {
            return String::new();
        };
        format!(
            ", but its projector is another one there: its SHA-256 is {offered}, {alias} sees with \
             {pinned}; to take it: rbee-keeper model mmproj {alias} {}",
            found.source
        )
    }

    /// What a model is pinned to see with, and what is there instead.
    fn told(&self) -> Option<Value> {
        match self {
            Self::Nothing => None,
            Self::Kept(kept) => Some(json!({ "pinned": kept.sha256, "offered": kept.sha256 })),
            Self::Offered { pinned, .. } => {
                Some(json!({ "pinned": pinned, "offered": self.offered() }))
            }
        }
    }

    /// Refuses another projector than was agreed to.
    fn ensure_agreed(
        &self,
        request: &ModelUpdate,
        digest: Option<&Sha256Digest>,
    ) -> Result<(), JobError> {
        let (Self::Offered { pinned, .. }, Some(digest)) = (self, digest) else { return Ok(()) };
        if digest == pinned || request.accept_projector.as_ref() == Some(digest) {
            return Ok(());
        }
        let ModelUpdate { hive_id, model, accept, .. } = request;
        let message = format!(
            "the projector of {model} changes, too, and nobody agreed to it: its SHA-256 would be \
             {digest}, it is {pinned}"
        );
        let hive =
            if hive_id.is_localhost() { String::new() } else { format!(" --hive {hive_id}") };
        let accept = accept.as_ref().map(|accept| format!(" --accept {accept}"));
        Err(JobError::new("projector_not_accepted", message).hint(format!(
            "to take both: rbee-keeper model update {model}{hive}{} --accept-projector {digest}",
            accept.unwrap_or_default()
        )))
    }
}
