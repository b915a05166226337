//! Copying a model from one hive to another: the queen brings the two together, the bytes go straight
//! between them.

use std::time::{Duration, Instant, SystemTime};

use access_tokens::Ticket;
use job_server::{JobContext, JobError, Outcome};
use rbee_operations::{FileOffer, ModelCopy, ModelFetch, Operation, ProjectorOffer};
use reqwest::Url;
use serde::Deserialize as _;
use worker_contract::{HiveAlias, ModelAlias, ModelEntry, Sha256Digest};

use super::Operations;
use crate::hive_client::NEVER_REPORTED;
use crate::registry::Liveness;

/// How long the receiving hive may come for the files.
const GOOD_FOR: Duration = Duration::from_secs(6 * 3600);

impl Operations {
    pub(super) async fn model_copy(
        &self,
        copy: ModelCopy,
        job: JobContext,
    ) -> Result<Outcome, JobError> {
        let ModelCopy { from, hive_id: to, model } = copy;
        if from == to {
            let message = format!("{model} is on {from} already: name two hives");
            return Err(JobError::new("invalid_value", message));
        }
        let receiver = self.hives.get(&to)?;
        let entry = self.entry(&from, &model)?;
        let base = self.url_between(&from, &to)?;
        let secret = self.keyring.secret(&from, self.registry.shown_by(&from))?;
        let until = SystemTime::now() + GOOD_FOR;
        let offer = |sha256: &Sha256Digest, size_bytes: u64| FileOffer {
            url: format!("{base}/v1/models/{sha256}/file"),
            ticket: Some(
                Ticket::new(&secret, sha256.as_hex(), until).into_secret().expose().to_owned(),
            ),
            sha256: sha256.clone(),
            size_bytes,
        };
        let files = if entry.shards.is_empty() {
            vec![offer(&entry.sha256, entry.gguf.size_bytes)]
        } else {
            entry.shards.iter().map(|part| offer(&part.sha256, part.size_bytes)).collect()
        };
        let projector = entry.projector.map(|projector| ProjectorOffer {
            file: offer(&projector.sha256, projector.size_bytes),
            source: projector.source,
        });
        job.say(format!("Copying {model} from {from} to {to}"));
        let (hive_id, source) = (to.clone(), entry.source);
        let fetch = ModelFetch { hive_id, from, model, source, files, projector };
        let outcome = receiver.execute(Operation::ModelFetch(fetch), job).await?;
        // Who has just copied a model wants to use it before the hive's next report.
        if let Ok(model) = ModelEntry::deserialize(&outcome.data) {
            self.registry.catalogued(&to, model);
        }
        Ok(outcome)
    }

    fn entry(&self, from: &HiveAlias, model: &ModelAlias) -> Result<ModelEntry, JobError> {
        let hives = self.registry.hives(Instant::now());
        let Some(hive) = hives.into_iter().find(|hive| hive.said.hive_id == *from) else {
            // Says which hives there are.
            self.hives.get(from)?;
            return Err(JobError::new(NEVER_REPORTED, format!("hive {from} has not reported yet")));
        };
        if hive.liveness == Liveness::Gone {
            return Err(JobError::new("hive_gone", format!("hive {from} does not report")));
        }
        let found = hive.said.catalog.into_iter().find(|entry| entry.alias == *model);
        found.ok_or_else(|| {
            JobError::new("model_not_found", format!("hive {from} has no model {model}"))
                .hint(format!("see which it has: rbee-keeper model list --hive {from}"))
        })
    }

    /// Where one hive finds the files of another one.
    fn url_between(&self, from: &HiveAlias, to: &HiveAlias) -> Result<String, JobError> {
        let found = if self.hives.is_inside(from) {
            self.remote.queen_url(to)
        } else {
            self.hives.address(from)
        };
        let is_loopback = |url: &String| {
            let host = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
            host.is_none_or(|host| {
                host == "localhost" || host.starts_with("127.") || host == "[::1]"
            })
        };
        match found {
            Some(url) if to.is_localhost() || !is_loopback(&url) => Ok(url),
            _ => {
                let message = format!(
                    "hive {to} has no way to hive {from}, which listens for its own machine only"
                );
                Err(JobError::new("no_address", message).hint(
                    "let the queen and her hive listen for other machines: [queen] bind and advertise, [hive] bind and advertise",
                ))
            }
        }
    }
}
