//! What unfinished downloads have left, and those that run.

use std::sync::Arc;

use job_server::{JobError, Outcome};
use rbee_operations::ModelGarbage;
use serde_json::json;

use super::{off_thread, outcome};
use crate::hive::Parts;

/// Lists it, or removes it. What is being downloaded is left alone, and listed by itself.
pub(in crate::operation) async fn garbage(
    parts: &Parts,
    request: ModelGarbage,
) -> Result<Outcome, JobError> {
    let (catalog, downloads) = (Arc::clone(&parts.catalog), Arc::clone(&parts.downloads));
    let (found, running) = off_thread(move || {
        let found = if request.remove {
            catalog.remove_garbage(|key, remove| downloads.if_idle(key, remove))
        } else {
            catalog.garbage(|key| downloads.is_busy(key))
        };
        Ok((found, downloads.running().list(&catalog.partial())))
    })
    .await?;
    let bytes: u64 = found.iter().map(|garbage| garbage.bytes).sum();
    let size = bytesize::ByteSize(bytes).display().si();
    let what = match found.len() {
        1 => "1 unfinished or nameless file".to_owned(),
        n => format!("{n} unfinished or nameless files"),
    };
    let message =
        if request.remove { format!("Removed {what}: {size}") } else { format!("{what}: {size}") };
    let data = json!({ "garbage": found, "downloads": running, "removed": request.remove });
    Ok(outcome(message, &data))
}
