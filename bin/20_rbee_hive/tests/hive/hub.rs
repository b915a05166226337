//! A hive and the server that it downloads from.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt as _;
use job_server::{Executor, JobError, JobRegistry, Limits, Replayed};
use rbee_hive::HiveSettings;
use rbee_operations::{
    JobEvent, ModelDownload, ModelDownloadCancel, ModelGarbage, Operation, ProjectorChoice,
};
use test_cluster::{ModelHub, wait_until};
use tokio_util::sync::CancellationToken;
use worker_contract::{HiveAlias, ModelEntry};

use crate::support::{Home, SOON, TestHive, alias, result};

pub(crate) const MIB: usize = 1 << 20;

/// Bytes that differ from place to place.
pub(crate) fn body(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(&mut next).take(length / 4).flatten().collect();
    bytes[..4].copy_from_slice(b"GGUF");
    bytes
}

/// A model whose tokens are of so many numbers, as the double reads it.
pub(crate) fn body_of(width: u32, length: usize) -> Vec<u8> {
    let mut bytes = body(length);
    let said = format!("GGUF width={width} ");
    bytes[..said.len()].copy_from_slice(said.as_bytes());
    bytes
}

/// A projector that gives so many numbers for a token.
pub(crate) fn projector_of(width: u32, what: u8) -> Vec<u8> {
    [format!("GGUF mmproj width={width} ").as_bytes(), &[what; 100]].concat()
}

/// What the double takes for a projector.
pub(crate) fn projector(what: u8) -> Vec<u8> {
    [b"GGUF mmproj".as_slice(), &[what; 100]].concat()
}

pub(crate) fn download(reference: &str, name: Option<&str>) -> Operation {
    download_with(reference, name, ProjectorChoice::Usual)
}

pub(crate) fn download_with(
    reference: &str,
    name: Option<&str>,
    projector: ProjectorChoice,
) -> Operation {
    Operation::ModelDownload(ModelDownload {
        hive_id: HiveAlias::localhost(),
        reference: reference.parse().expect("test references are legal"),
        alias: name.map(alias),
        projector,
    })
}

pub(crate) fn cancel_download(reference: &str) -> Operation {
    Operation::ModelDownloadCancel(ModelDownloadCancel {
        hive_id: HiveAlias::localhost(),
        reference: reference.parse().expect("test references are legal"),
    })
}

pub(crate) async fn start(home: &Home, hub: &ModelHub) -> TestHive {
    start_at(home, &hub.address, home.double("ready")).await
}

pub(crate) async fn start_real(home: &Home, hub: &ModelHub) -> TestHive {
    let worker = test_cluster::Binaries::find().and_then(|found| found.get("llm-worker-rbee"));
    start_at(home, &hub.address, worker.unwrap()).await
}

pub(crate) async fn start_at(home: &Home, endpoint: &str, worker: PathBuf) -> TestHive {
    let mut settings: HiveSettings = home.settings(worker).unwrap();
    settings.hive.hf_endpoint = Some(endpoint.to_owned());
    settings.hive.download_stall_s = 1;
    settings.hive.download_retries = 3;
    TestHive { hive: rbee_hive::Hive::start(settings).await.unwrap() }
}

impl Home {
    /// What lies among the models and is none, nor the names of one.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let names = |folder: PathBuf| -> Vec<String> {
            let files = fs::read_dir(folder).into_iter().flatten().flatten();
            files.map(|file| file.file_name().to_string_lossy().into_owned()).collect()
        };
        let mut left = names(self.models().join("partial"));
        left.extend(names(self.models()).into_iter().filter(|name| name.starts_with('.')));
        left
    }
}

pub(crate) async fn has_sent(hub: &ModelHub, bytes: usize) {
    let sent = async || (hub.sent() >= bytes as u64).then_some(());
    wait_until("the first bytes", SOON, sent).await.unwrap();
}

impl TestHive {
    pub(crate) async fn download(&self, reference: &str) -> Result<ModelEntry, JobError> {
        Ok(result(self.run(download(reference, None)).await?))
    }

    pub(crate) async fn garbage(&self, remove: bool) -> Vec<serde_json::Value> {
        self.unfinished(remove, "garbage").await
    }

    /// Those that run.
    pub(crate) async fn downloads(&self) -> Vec<serde_json::Value> {
        self.unfinished(false, "downloads").await
    }

    async fn unfinished(&self, remove: bool, list: &str) -> Vec<serde_json::Value> {
        let hive_id = HiveAlias::localhost();
        let outcome = self.run(Operation::ModelGarbage(ModelGarbage { hive_id, remove })).await;
        outcome.unwrap().data[list].as_array().unwrap().clone()
    }

    pub(crate) async fn cancelled_after(&self, hub: &ModelHub, bytes: usize) {
        let cancel = CancellationToken::new();
        let from = usize::try_from(hub.sent()).unwrap();
        let ends = async {
            has_sent(hub, from + bytes).await;
            cancel.cancel();
        };
        let running = self.run_until(download("hf:me/m", Some("m")), cancel.clone());
        let (ended, ()) = tokio::join!(running, ends);
        assert_eq!(ended.unwrap_err().code, "cancelled");
        // The transfer writes down what it has after its last listener has gone.
        let idle = async || (!self.garbage(false).await.is_empty()).then_some(());
        wait_until("the unfinished download in the list", SOON, idle).await.unwrap();
    }

    /// Runs an operation as a job, and hears what it tells.
    pub(crate) async fn told(
        &self,
        operation: Operation,
    ) -> (Result<job_server::Outcome, JobError>, Vec<JobEvent>) {
        let jobs = JobRegistry::in_memory(Limits::default());
        let executor: Arc<dyn Executor> = Arc::new(self.hive.clone());
        let id = jobs.submit(&operation, "test", &executor).unwrap();
        let replayed = jobs.follow(&id, None).unwrap().collect::<Vec<_>>().await;
        let events = replayed.into_iter().filter_map(|replayed| match replayed {
            Replayed::Event { event, .. } => Some(event),
            _ => None,
        });
        let mut events: Vec<JobEvent> = events.collect();
        let last = events.pop().expect("a job does not end without a word");
        let ended = match last.code {
            Some(code) => Err(JobError::new(code, last.message)),
            None => Ok(job_server::Outcome::new(last.message, last.data.unwrap_or_default())),
        };
        (ended, events)
    }
}
