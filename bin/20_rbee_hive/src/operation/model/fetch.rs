//! Fetching a model from another hive, which gives each file for a ticket.

use access_tokens::Secret;
use job_server::{JobContext, JobError, Outcome};
use rbee_operations::{FileOffer, ModelFetch, ProjectorOffer};

use super::download::bring;
use super::find::{ProjectorPlace, Wanted, WantedProjector};
use crate::catalog::shard::MAX_SHARDS;
use crate::download::Remote;
use crate::hive::Parts;

/// Fetches the files of a model and gives it the name that it has over there. What arrived before is
/// not fetched again; each file has the digest that it is pinned to over there, or is refused.
pub(in crate::operation) async fn fetch_from_hive(
    parts: &Parts,
    request: ModelFetch,
    job: &JobContext,
) -> Result<Outcome, JobError> {
    let ModelFetch { from, model, source, files, projector, .. } = request;
    if files.is_empty() || files.len() > MAX_SHARDS {
        let message = format!("a model has 1 to {MAX_SHARDS} files, not {}", files.len());
        return Err(JobError::new("invalid_value", message));
    }
    let file_name = format!("{model} of {from}");
    let remotes: Result<Vec<Remote>, JobError> =
        files.into_iter().map(|file| remote(file, &file_name)).collect();
    let projector = match projector {
        None => None,
        Some(ProjectorOffer { source, file }) => {
            let place = ProjectorPlace::Server(remote(file, &format!("projector of {file_name}"))?);
            Some(WantedProjector { place, source, is_demanded: true })
        }
    };
    let mut wanted = Wanted { files: remotes?, source, file_name, projector };
    bring(parts, &mut wanted, model, job).await
}

fn remote(file: FileOffer, what: &str) -> Result<Remote, JobError> {
    let FileOffer { url, ticket, sha256, size_bytes } = file;
    let shown: String = url.chars().take(200).collect();
    let url = url.parse().map_err(|_| {
        JobError::new("invalid_value", format!("{shown:?} is not the address of a file"))
    })?;
    Ok(Remote {
        url,
        token: ticket.map(Secret::from),
        what: what.to_owned(),
        size: Some(size_bytes),
        sha256: Some(sha256),
    })
}
