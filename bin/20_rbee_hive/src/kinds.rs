//! What the models of a catalog can do, where whoever added them did not ask: models of an earlier rbee.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use worker_contract::{ModelEntry, ModelKind};

use crate::catalog::Catalog;
use crate::changes::Changes;
use crate::worker_binary::{AskError, WorkerBinary};

/// The argument of a worker that chooses what its model is for.
const POOLING: &str = "--pooling";

/// Asks the worker's binary of one such model after the other, until `stop`.
pub(crate) async fn find_missing(
    catalog: Arc<Catalog>,
    binary: WorkerBinary,
    changes: Changes,
    stop: CancellationToken,
) {
    for entry in catalog.list() {
        // Another name of the same file may have told it meanwhile.
        if catalog.get(&entry.alias).is_ok_and(|known| known.gguf.kind.is_some()) {
            continue;
        }
        let file = catalog.first_file(&entry);
        let found = tokio::select! {
            () = stop.cancelled() => return,
            found = binary.inspect(&file) => found,
        };
        match found {
            Ok(found) => note(&catalog, &entry, found.kind, &changes).await,
            // Whoever starts a worker of it is told what is wrong with the file.
            Err(AskError::Refused(_) | AskError::TimedOut(_)) => {}
            Err(error) => {
                tracing::debug!(reason = error.told(), "what models can do cannot be found out");
                return;
            }
        }
    }
}

async fn note(
    catalog: &Arc<Catalog>,
    entry: &ModelEntry,
    kind: Option<ModelKind>,
    changes: &Changes,
) {
    let Some(kind) = kind else { return };
    let (catalog, digest) = (Arc::clone(catalog), entry.sha256.clone());
    let noted = tokio::task::spawn_blocking(move || catalog.note_kind(&digest, kind)).await;
    match noted.expect("noting does not panic, and nobody aborts it") {
        Ok(()) => changes.note(),
        Err(error) => {
            tracing::warn!(model = %entry.alias, %error, "what a model can do cannot be kept");
        }
    }
}

/// The models as workers with these further arguments would run them: whoever chooses the pooling makes of
/// each model what its file does not say.
pub(crate) fn as_run(mut models: Vec<ModelEntry>, arguments: &[String]) -> Vec<ModelEntry> {
    let chooses = |argument: &String| {
        argument.strip_prefix(POOLING).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    if arguments.iter().any(chooses) {
        for model in &mut models {
            model.gguf.kind = None;
        }
    }
    models
}
