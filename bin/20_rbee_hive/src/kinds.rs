//! What the models of a catalog can do, where whoever added them did not ask, or asked
//! another worker's binary: models of an earlier rbee.

use std::collections::HashSet;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use worker_contract::{ModelEntry, ModelKind};

use crate::catalog::Catalog;
use crate::changes::Changes;
use crate::worker_binary::{AskError, WorkerBinary};

/// The argument of a worker that chooses what its model is for.
const POOLING: &str = "--pooling";

/// Asks the worker's binary of one such model after the other, until `stop`: of all models where another
/// binary was asked before, since it may have judged otherwise.
pub(crate) async fn find_missing(
    catalog: Arc<Catalog>,
    binary: WorkerBinary,
    changes: Changes,
    stop: CancellationToken,
) {
    let other = other_binary(&catalog, &binary).await;
    let mut asked = HashSet::new();
    for entry in catalog.list() {
        let is_known = entry.gguf.kind.is_some() && other.is_none();
        // All names of a file are told of it at once.
        if is_known || !asked.insert(entry.sha256.clone()) {
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
    if let Some(binary) = other {
        let noted = in_catalog(&catalog, move |catalog| catalog.note_kinds_told_by(&binary)).await;
        if let Err(error) = noted {
            tracing::warn!(%error, "that all models were looked at cannot be kept");
        }
    }
}

/// The binary, where it is not the one that was last asked of all models. Where nobody can tell, it is not.
async fn other_binary(catalog: &Arc<Catalog>, binary: &WorkerBinary) -> Option<String> {
    let mark = binary.mark()?.to_string();
    let before = in_catalog(catalog, Catalog::kinds_told_by).await;
    before.is_ok_and(|before| before.as_ref() != Some(&mark)).then_some(mark)
}

async fn note(
    catalog: &Arc<Catalog>,
    entry: &ModelEntry,
    kind: Option<ModelKind>,
    changes: &Changes,
) {
    let Some(kind) = kind else { return };
    let digest = entry.sha256.clone();
    match in_catalog(catalog, move |catalog| catalog.note_kind(&digest, kind)).await {
        Ok(true) => changes.note(),
        Ok(false) => {}
        Err(error) => {
            tracing::warn!(model = %entry.alias, %error, "what a model can do cannot be kept");
        }
    }
}

/// Does what blocks.
async fn in_catalog<T: Send + 'static>(
    catalog: &Arc<Catalog>,
    work: impl FnOnce(&Catalog) -> T + Send + 'static,
) -> T {
    let catalog = Arc::clone(catalog);
    let done = tokio::task::spawn_blocking(move || work(&catalog)).await;
    done.expect("what it does does not panic, and nobody aborts it")
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
