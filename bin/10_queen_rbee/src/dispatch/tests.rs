//! Requests that wait together, and a hive that does not answer.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use job_server::{JobContext, JobError, Outcome};
use rbee_operations::Operation;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use worker_contract::HiveAlias;

use super::*;
use crate::hive_client::{FindHive, HiveClient};
use crate::policy::Policies;
use crate::registry::Liveness;

#[tokio::test(start_paused = true)]
async fn a_start_for_one_request_does_not_keep_another_from_a_worker_that_is_there() {
    let stage = Stage::new();
    let begun = |digest: char| wanted(Some(digest));
    stage.beat("w-1", 'a');
    // They come together, so that none of them finds an empty queue but the first.
    let (_, place) = tokio::join!(
        timeout(Duration::from_secs(5), stage.dispatcher.place(begun('b'))),
        timeout(Duration::from_secs(1), stage.dispatcher.place(begun('a'))),
    );
    assert_eq!(place.expect("it waits for the start").unwrap().worker_id.as_str(), "w-1");
    assert!(stage.dispatcher.registry().is_starting(&model()));
}

#[tokio::test(start_paused = true)]
async fn a_start_on_a_hive_that_is_forgotten_is_waited_for_no_longer() {
    let stage = Stage::new();
    let dispatcher = stage.dispatcher.clone();
    let forget = async {
        while !stage.dispatcher.registry().is_starting(&model()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // It is known by then that the hive has reported.
        tokio::time::sleep(Duration::from_secs(1)).await;
        stage.dispatcher.registry().forget_hive(&HiveAlias::localhost());
    };
    let (place, ()) =
        tokio::join!(timeout(Duration::from_secs(3), dispatcher.place(wanted(None))), forget);
    let refused = place.expect("it waits for a hive that is forgotten").unwrap_err();
    assert!(matches!(&refused, NoPlace::SpawnFailed { source, .. } if source.code == "hive_gone"));
}

#[test]
fn a_start_that_was_lost_is_tried_once_more_when_its_hive_is_heard_again() {
    let site: starts::Site = (HiveAlias::localhost(), None);
    let failed = |code, fits| {
        let result = Err(JobError::new(code, "it failed"));
        starts::Ended { model: model(), site: site.clone(), fits, result }
    };
    let lost = || failed("job_not_found", false);
    let (mut starts, start) = (Starts::default(), Instant::now());
    let at = |seconds| start + Duration::from_secs(seconds);
    let check = |starts: &Starts, heard: Option<(Instant, Liveness)>, expected: (usize, bool)| {
        let closed = starts.closed(&model(), |_| heard);
        assert_eq!((closed.sites.len(), closed.is_news_due), expected, "{heard:?}");
    };
    check(&starts, None, (0, false));
    starts.ended(lost(), at(10));
    check(&starts, Some((at(9), Liveness::Suspect)), (1, true));
    check(&starts, Some((at(9), Liveness::Gone)), (1, false));
    check(&starts, None, (1, false));
    check(&starts, Some((at(11), Liveness::Alive)), (0, false));
    starts.ended(lost(), at(12));
    check(&starts, Some((at(13), Liveness::Alive)), (1, false));
    for (code, fits, expected) in [
        ("not_enough_memory", true, (0, false)),
        ("not_enough_memory", false, (1, false)),
        ("worker_failed", true, (1, false)),
    ] {
        let mut starts = Starts::default();
        starts.ended(failed(code, fits), at(10));
        check(&starts, Some((at(11), Liveness::Alive)), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_time_is_over_gets_no_place() {
    let stage = Stage::new();
    stage.beat("w-1", 'a');
    let late = Wanted { deadline: clock::now(), ..wanted(None) };
    assert!(matches!(stage.dispatcher.place(late).await, Err(NoPlace::Deadline { .. })));
}

/// A queen with a hive, which has the model and whose starts never end.
struct Stage {
    dispatcher: Dispatcher,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policies.db");
        let policies = Policies::open(&file, std::collections::BTreeMap::new(), 0).unwrap();
        let registry = Registry::new(Duration::from_secs(2), Vec::new(), clock::now());
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let spawner = Spawner::new(
            Arc::new(NeverReady),
            registry.clone(),
            policies,
            tasks.clone(),
            stop.clone(),
        );
        let dispatcher = Dispatcher::new(registry, spawner, Decisions::in_memory(), 8);
        tasks.spawn(dispatcher.clone().run(stop.clone()));
        let stage = Self { dispatcher, stop, _folder: folder };
        let entry = json!({
            "alias": "m", "sha256": digest('b'), "source": "test", "added_at": 0,
            "architecture": "llama", "quantization": "F16", "parameters": 1, "context_length": 1,
            "has_chat_template": false, "size_bytes": 1,
        });
        let beat = json!({
            "hive_id": "localhost", "version": "0", "devices": [], "catalog": [entry],
            "workers": [],
        });
        let beat = serde_json::from_value(beat).unwrap();
        stage.dispatcher.registry().hive_beat(beat, clock::now()).unwrap();
        stage
    }

    /// A worker reports that is ready, and has a file.
    fn beat(&self, id: &str, file: char) {
        let beat = json!({
            "worker_id": id, "hive_id": "localhost", "address": "http://127.0.0.1:1",
            "model": {"name": "m", "digest": digest(file), "context_length": 1},
            "device": "CPU-0", "state": "ready", "slots": {"total": 1, "busy": 0}, "queued": 0,
            "kv_cache": {"used_tokens": 0, "capacity_tokens": 1}, "tokens_per_second": 0.0,
            "engine_build": "x", "pid": 1,
        });
        let beat = serde_json::from_value(beat).unwrap();
        self.dispatcher.registry().worker_beat(beat, clock::now()).unwrap();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[derive(Debug)]
struct NeverReady;

impl FindHive for NeverReady {
    fn find(&self, _: &HiveAlias) -> Result<Arc<dyn HiveClient>, JobError> {
        Ok(Arc::new(Self))
    }
}

impl HiveClient for NeverReady {
    fn execute(
        &self,
        _: Operation,
        _: JobContext,
    ) -> BoxFuture<'static, Result<Outcome, JobError>> {
        std::future::pending().boxed()
    }
}

fn model() -> ModelAlias {
    "m".parse().unwrap()
}

fn digest(of: char) -> Value {
    Value::String(of.to_string().repeat(64))
}

/// A request that must go on with a file, or with any.
fn wanted(file: Option<char>) -> Wanted {
    let prompt = worker_contract::Prompt::Text("a".into());
    let task = worker_contract::Task::Completion { prompt };
    let request = worker_contract::InferenceRequest::new(RequestId::random(), task);
    Wanted {
        request_id: request.request_id.clone(),
        model: model(),
        caller: "local".into(),
        priority: Priority::Interactive,
        prompt: Arc::new(PromptChain::of(&request)),
        session: None,
        failed: Vec::new(),
        digest: file.map(|file| file.to_string().repeat(64).parse().unwrap()),
        alone: false,
        ways: Ways::ALL,
        had_a_place: false,
        deadline: clock::now() + Duration::from_secs(60),
    }
}
