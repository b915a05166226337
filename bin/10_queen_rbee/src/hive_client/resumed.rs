//! Downloads outlive their hive: the next life of it goes on with them as jobs of its own, and whoever
//! followed the first one follows that.

use std::time::Duration;

use job_client::{ClientError, JobClient, JobEnd};
use job_server::{JobContext, JobError};
use rbee_operations::{JobState, JobSummary, LISTED_JOBS, Operation};
use tokio::time::{sleep, timeout};
use worker_contract::JobId;

/// For how long a hive that has ended is awaited, and how often it is looked whether it has started again.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_secs(1);
/// How jobs end whose hive ends.
const ENDED: [&str; 2] = ["interrupted", "hive_stopping"];
/// What a hive says of a job of an earlier life.
const FORGOTTEN: &str = "job_not_found";

/// How a job at a hive was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// The hive has started again, and knows nothing of it.
    Forgotten,
    /// The hive has ended it to end itself.
    Ended,
    /// The hive does not answer any more.
    Unheard,
}

impl Loss {
    /// Whether that is how it ended.
    pub(super) fn of(ended: &Result<JobEnd, ClientError>) -> Option<Self> {
        match ended {
            Ok(JobEnd::Failed(last)) => {
                let code = last.code.as_deref()?;
                ENDED.contains(&code).then_some(Self::Ended)
            }
            Err(ClientError::Api { detail, .. }) => {
                (detail.code.as_deref() == Some(FORGOTTEN)).then_some(Self::Forgotten)
            }
            Err(ClientError::StreamLost { .. }) => Some(Self::Unheard),
            _ => None,
        }
    }

    /// What is told where nothing goes on that could be followed.
    pub(super) fn told(self, operation: &Operation) -> JobError {
        let hive = operation.hive_id().map(ToString::to_string).unwrap_or_default();
        let (code, message) = match self {
            Self::Forgotten => ("hive_restarted", "was started again in the middle of it"),
            Self::Ended => ("hive_stopped", "was stopped in the middle of it"),
            Self::Unheard => ("hive_lost", "does not answer any more"),
        };
        let lost = JobError::new(code, format!("hive {hive} {message}"));
        match (self, operation) {
            (_, Operation::ModelDownload(_)) if self == Self::Forgotten || !is_noted(operation) => {
                lost.hint("the same command goes on with what is there")
            }
            (_, Operation::ModelDownload(download)) => lost.hint(format!(
                "the download goes on when the hive starts again: rbee-keeper model list --partial \
                 --hive {hive} shows it, rbee-keeper model cancel {} --hive {hive} ends it",
                download.reference.without_secrets()
            )),
            _ => lost.hint(format!("see what became of it: rbee-keeper hive status {hive}")),
        }
    }
}

/// The job of the hive's next life that goes on with a download, if one does.
pub(super) async fn find(
    jobs: &JobClient,
    operation: &Operation,
    loss: Loss,
    job: &JobContext,
) -> Option<JobId> {
    if !is_noted(operation) {
        return None;
    }
    if loss == Loss::Ended {
        job.warn("the hive was stopped; the download goes on when it starts again");
    }
    let found = if loss == Loss::Ended {
        let starts_again = async {
            loop {
                match look(jobs, operation).await {
                    Some(found) => return found,
                    None => sleep(PAUSE).await,
                }
            }
        };
        let awaited = timeout(PATIENCE, starts_again);
        job.cancelled().run_until_cancelled(awaited).await?.ok()
    } else {
        // Who has started again goes on before it answers.
        look(jobs, operation).await
    };
    if found.is_some() {
        job.say("The hive has started again, and goes on with the download");
    }
    found
}

/// What is to be done about an operation when its hive has ended, where that goes on with it by itself.
pub(super) fn after_end(operation: &Operation) -> Option<String> {
    is_noted(operation).then(|| {
        "the download goes on by itself when the queen runs again: rbee-keeper model list --partial"
            .to_owned()
    })
}

/// Whether the hive's next life goes on with it by itself. What holds a secret is kept nowhere.
fn is_noted(operation: &Operation) -> bool {
    matches!(operation, Operation::ModelDownload(_)) && *operation == operation.redacted()
}

async fn look(jobs: &JobClient, operation: &Operation) -> Option<JobId> {
    let known = jobs.list(LISTED_JOBS).await.ok()?.jobs;
    known.into_iter().find(|known| goes_on(known, operation)).map(|found| found.job_id)
}

/// Whether a job does that, or has done it.
fn goes_on(known: &JobSummary, operation: &Operation) -> bool {
    let detail = serde_json::to_value(operation.redacted()).unwrap_or_default();
    known.operation == operation.name()
        && known.detail == detail
        && !matches!(known.state, JobState::Failed | JobState::Cancelled)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_same_download_that_has_not_failed_is_gone_on_with() {
        let operation = |reference: &str| -> Operation {
            let download = json!({ "hive_id": "nas", "reference": reference });
            serde_json::from_value(json!({ "ModelDownload": download })).unwrap()
        };
        let known = |reference: &str, state: &str| -> JobSummary {
            let operation = operation(reference);
            serde_json::from_value(json!({
                "job_id": "3b1c2c3e-6a0d-4c1d-8c5d-0a3d6d0f2c11", "operation": operation.name(),
                "detail": operation, "caller": "hive", "state": state, "created_at": "",
            }))
            .unwrap()
        };
        for (reference, state, is_it) in [
            ("hf:o/r", "running", true),
            ("hf:o/r", "queued", true),
            ("hf:o/r", "succeeded", true),
            ("hf:o/r", "failed", false),
            ("hf:o/r", "cancelled", false),
            ("hf:o/other", "running", false),
        ] {
            let found = goes_on(&known(reference, state), &operation("hf:o/r"));
            assert_eq!(found, is_it, "{reference} {state}");
        }
    }

    #[test]
    fn only_a_download_without_a_secret_goes_on_by_itself() {
        let download = |reference: &str| json!({ "ModelDownload": { "reference": reference } });
        for (operation, goes_on) in [
            (download("hf:o/r"), true),
            (download("https://example.com/m.gguf"), true),
            (download("https://example.com/m.gguf?Signature=s"), false),
            (json!({ "ModelList": {} }), false),
        ] {
            let read: Operation = serde_json::from_value(operation.clone()).unwrap();
            assert_eq!(after_end(&read).is_some(), goes_on, "{operation}");
        }
    }

    #[test]
    fn who_lost_a_download_is_told_how_to_see_and_how_to_end_it_and_no_id() {
        let download = json!({ "ModelDownload": { "hive_id": "nas", "reference": "hf:o/r" } });
        let download: Operation = serde_json::from_value(download).unwrap();
        let told = Loss::Unheard.told(&download);
        assert_eq!(told.message, "hive nas does not answer any more");
        let hint = told.hint.unwrap();
        for command in ["model list --partial --hive nas", "model cancel hf:o/r --hive nas"] {
            assert!(hint.contains(command), "{command} is not in {hint}");
        }
        let list = json!({ "WorkerList": { "hive_id": "nas" } });
        let told = Loss::Forgotten.told(&serde_json::from_value(list).unwrap());
        assert_eq!(told.code, "hive_restarted");
        assert!(told.hint.unwrap().contains("hive status nas"));
    }
}
