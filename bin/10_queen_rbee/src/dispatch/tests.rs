//! Requests that wait together, and a hive that does not answer.

mod names;
mod sooner;
mod suspects;
mod turns;

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{advance, timeout};
use tokio_util::task::TaskTracker;
use worker_contract::HiveAlias;

use super::*;
use crate::decisions::Filter;
use crate::doubles::{NeverReady, Nowhere, server};
use crate::hive_client::{FindHive, HiveClient};
use crate::policy::Policies;
use crate::registry::{Failed, Liveness, Rest};
use crate::rules::Rules;
use crate::scheduler::{Lack, Spawn};

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

#[tokio::test(start_paused = true)]
async fn a_start_that_falls_into_a_restart_of_the_queens_own_hive_is_made_up_for() {
    let hive = Arc::new(Restarting::default());
    let stage = Stage::without_task(hive.clone(), None);
    TaskTracker::new().spawn(stage.dispatcher.clone().run(stage.stop.clone()));
    let back = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!stage.dispatcher.registry().is_starting(&model()));
        hive.is_running.store(true, SeqCst);
        stage.reports("localhost", &[("m", 'b')]);
        while !stage.dispatcher.registry().is_starting(&model()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        refused = stage.dispatcher.place(wanted(None)) => panic!("{refused:?}"),
        back = timeout(Duration::from_secs(5), back) => back.expect("it is started"),
    }
    assert!(stage.dispatcher.registry().failed_start(&model(), clock::now()).is_none());
}

/// A hive in the queen's own process, between two lives at first.
#[derive(Debug, Default)]
struct Restarting {
    is_running: AtomicBool,
}

impl FindHive for Restarting {
    fn find(&self, hive: &HiveAlias) -> Result<Arc<dyn HiveClient>, JobError> {
        if self.is_running.load(SeqCst) {
            return NeverReady.find(hive);
        }
        Err(JobError::new("hive_not_running", "the hive of this machine is not running"))
    }
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
        ("larger_than_device", true, (0, false)),
        ("worker_failed", true, (1, false)),
    ] {
        let mut starts = Starts::default();
        starts.ended(failed(code, fits), at(10));
        check(&starts, Some((at(11), Liveness::Alive)), expected);
    }
}

#[test]
fn who_makes_way_for_a_model_is_reckoned_a_few_times_a_second_whatever_is_reported() {
    let (mut starts, start) = (Starts::default(), Instant::now());
    let at = |millis| start + Duration::from_millis(millis);
    let looks = (0..2_000).filter(|millis| {
        let may = starts.may_reckon(&model(), at(*millis));
        if may {
            starts.reckoned(&model(), at(*millis));
        }
        may
    });
    assert_eq!(looks.count(), 8);
    assert!(starts.may_reckon(&"other".parse().unwrap(), at(2_000)), "each model by itself");
    starts.forget_all_but(&Admission::<()>::new(1));
    assert!(starts.may_reckon(&model(), at(2_000)), "nobody waits for it");
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_time_is_over_gets_no_place() {
    let stage = Stage::new();
    stage.beat("w-1", 'a');
    let late = Wanted { deadline: clock::now(), ..wanted(None) };
    assert!(matches!(stage.dispatcher.place(late).await, Err(NoPlace::Deadline { .. })));
}

#[tokio::test(start_paused = true)]
async fn who_has_next_to_no_time_left_gets_no_place_and_takes_none() {
    let stage = Stage::without_task(Arc::new(NeverReady), None);
    let millis = Duration::from_millis;
    let place = async |left| {
        let deadline = clock::now() + left;
        stage.dispatcher.place(Wanted { deadline, ..wanted(Some('a')) }).await
    };
    let placed = async || place(Duration::from_secs(60)).await.unwrap();
    let is_late = |placed| matches!(placed, Err(NoPlace::Deadline { .. }));
    // When a place is free, how much later the one that gets it looks, and whether that is too late.
    for (until_free, until_looked_at, expected) in [(99, 0, false), (99, 1, true), (101, 0, true)] {
        stage.beat("w-1", 'a');
        let (ends, _runs) = (placed().await, placed().await);
        let mut waits = pin!(place(millis(100) + LEAST_LEFT));
        assert!(futures::poll!(&mut waits).is_pending());
        advance(millis(until_free)).await;
        drop(ends);
        stage.dispatcher.hand_out(&mut Attempts::default());
        advance(millis(until_looked_at)).await;
        assert_eq!(is_late(waits.await), expected, "{until_free} and {until_looked_at} ms");
    }
    assert!(is_late(place(LEAST_LEFT).await), "it finds an empty queue");
    let late = Wanted { deadline: clock::now() + LEAST_LEFT / 2, ..wanted(Some('a')) };
    assert!(stage.dispatcher.place_now(late, 0).is_none());
    drop((placed().await, placed().await));
}

#[tokio::test]
async fn a_start_that_is_joined_fails_where_it_was_begun() {
    let stage = Stage::without_task(Arc::new(Nowhere), None);
    let start = |hive: &str| {
        let hive = hive.parse().unwrap();
        let (device, evict) = (None, Vec::new());
        let spawn = Spawn {
            hive,
            device,
            evict,
            fits: false,
            others: 0,
            by: None,
            lack: Lack::NoWorker,
            asks: false,
        };
        stage.dispatcher.spawner.spawn(&model(), &spawn).expect("nobody has to go")
    };
    let (first, joined) = (start("a"), start("b"));
    assert!(first.is_first && !joined.is_first);
    let mut attempts = Attempts::default();
    attempts.begun(&model(), joined);
    let ended = attempts.next().await.expect("it is under way");
    assert_eq!((ended.site.0.as_str(), ended.result.is_err()), ("a", true));
}

#[tokio::test]
async fn the_queues_are_open_to_others_while_rules_are_asked() {
    const SCRIPT: &str = "fn filter(request, worker) { let n = 0; while n < 50 { n += 1; } true }";
    const REQUESTS: usize = 20;
    let stage = Stage::without_task(Arc::new(NeverReady), Some(SCRIPT));
    for number in 0..300 {
        stage.beat(&format!("w-{number}"), 'a');
    }
    // Rules tell callers apart, so each of them is judged for.
    let wait = |number| {
        let wanted = Wanted { caller: format!("caller-{number}"), ..wanted(None) };
        stage.dispatcher.enter(&wanted, Wait::Start).expect("there is a place in the queue")
    };
    let mut turns: Vec<_> = (0..REQUESTS).map(wait).collect();
    let is_over = AtomicBool::new(false);
    let seen_between = std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut seen = false;
            while !is_over.load(SeqCst) {
                seen |= (1..REQUESTS).contains(&stage.dispatcher.waiting());
            }
            seen
        });
        stage.dispatcher.hand_out(&mut Attempts::default());
        is_over.store(true, SeqCst);
        looks.join().unwrap()
    });
    for (_, answer) in &mut turns {
        assert!(matches!(answer.try_recv(), Ok(Ok(_))), "each of them is placed");
    }
    assert!(seen_between, "the queues were locked from the first to the last of them");
}

#[tokio::test(start_paused = true)]
async fn who_has_less_time_than_a_server_rests_is_refused_also_behind_one_that_has_more() {
    let stage = Stage::new();
    let (registry, seconds) = (stage.dispatcher.registry(), Duration::from_secs);
    registry.server_probed(&server("nas", "served"), clock::now());
    let rest = Rest::new(429, None, Some(seconds(30)), clock::now());
    registry.worker_rests(&"nas-served".parse().unwrap(), rest);
    let place = |left| {
        let deadline = clock::now() + seconds(left);
        let model = "served".parse().unwrap();
        stage.dispatcher.place(Wanted { model, deadline, ..wanted(None) })
    };
    // They come together, so that the second one does not find an empty queue.
    let (patient, hasty) =
        tokio::join!(timeout(seconds(5), place(60)), timeout(seconds(1), place(10)));
    let refused = hasty.expect("it is refused at once").unwrap_err();
    assert!(matches!(&refused, NoPlace::Resting(resting) if resting.left_s == 30), "{refused}");
    assert!(patient.is_err(), "it waits");
}

#[tokio::test]
async fn a_request_finds_an_idle_worker_behind_many_whom_the_rules_keep_from_it() {
    const SCRIPT: &str =
        r#"fn filter(request, worker) { request.prompt_bytes < 10 || worker.id == "big" }"#;
    let stage = Stage::with_room_for(256, Arc::new(NeverReady), Some(SCRIPT));
    let wait = |bytes| {
        let wanted = Wanted { prompt: Arc::new(PromptChain::of_length(bytes)), ..wanted(None) };
        stage.dispatcher.enter(&wanted, Wait::Start).expect("there is a place in the queue")
    };
    stage.beat("big", 'a');
    let _running = [wait(1), wait(1)];
    stage.dispatcher.hand_out(&mut Attempts::default());
    assert_eq!(stage.dispatcher.waiting(), 0, "they fill the worker");
    stage.beat("small", 'a');
    let _long: Vec<_> = (0..100).map(|number| wait(1_000 + number)).collect();
    let (_turn, mut short) = wait(1);
    stage.dispatcher.hand_out(&mut Attempts::default());
    let place = short.try_recv().expect("it is answered").expect("it has a place");
    assert_eq!((place.worker_id.as_str(), stage.dispatcher.waiting()), ("small", 100));
}

#[tokio::test]
async fn whether_a_request_has_a_place_depends_on_the_priority_that_rules_give_it() {
    const FILTER: &str = "fn filter(request, worker) { request.priority == \"batch\" }";
    for (priority, expected) in [("batch", true), ("interactive", false)] {
        let script = format!("fn priority(request) {{ \"{priority}\" }} {FILTER}");
        let stage = Stage::without_task(Arc::new(NeverReady), Some(&script));
        stage.beat("w-1", 'b');
        assert_eq!(stage.dispatcher.has_place(&wanted(None)), expected, "{priority}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_request_waits_for_is_recorded_again_when_it_changes() {
    let stage = Stage::new();
    stage.beat("w-1", 'a');
    let place = async || stage.dispatcher.place(wanted(Some('a'))).await.unwrap();
    let running = [place().await, place().await];
    let third = wanted(Some('a'));
    let id = third.request_id.clone();
    let fails = async {
        assert_eq!(stage.dispatcher.waiting(), 1);
        for request in 1..4 {
            let failed = Failed { request, is_connection: false };
            stage.dispatcher.registry().worker_failed(&running[0], failed, clock::now());
        }
    };
    let (placed, ()) =
        tokio::join!(timeout(Duration::from_secs(1), stage.dispatcher.place(third)), fails);
    assert!(placed.is_err(), "it waits");
    assert_eq!(stage.waits(id).await, ["room", "circuit"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_again_and_again_is_recorded_no_more_often_than_one_that_waits_once() {
    let stage = Stage::new();
    stage.beat("w-1", 'a');
    let place = async || stage.dispatcher.place(wanted(Some('a'))).await.unwrap();
    let _running = [place().await, place().await];
    let third = wanted(Some('a'));
    for _ in 0..40 {
        let waits = timeout(Duration::from_millis(10), stage.dispatcher.place(third.clone())).await;
        assert!(waits.is_err(), "it waits");
    }
    assert_eq!(stage.waits(third.request_id).await, ["room"; 17]);
}

#[tokio::test(start_paused = true)]
async fn the_places_of_a_request_that_full_servers_send_back_are_recorded_the_first_times() {
    let stage = Stage::new();
    stage.beat("w-1", 'a');
    for (bounces, is_told) in [(0, true), (2, true), (3, false), (u8::MAX, false)] {
        let asks = Wanted { bounces, ..wanted(Some('a')) };
        let id = asks.request_id.clone();
        drop(stage.dispatcher.place(asks).await.unwrap());
        assert_eq!(stage.waits(id).await.len(), usize::from(is_told), "{bounces} times");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_let_in_is_not_said_to_wait() {
    let stage = Stage::new();
    let patience = Duration::from_secs(1);
    let others = (0..32).map(|_| timeout(patience, stage.dispatcher.place(wanted(None))));
    let last = wanted(None);
    let id = last.request_id.clone();
    let (_, refused) =
        tokio::join!(futures::future::join_all(others), stage.dispatcher.place(last));
    assert!(matches!(refused, Err(NoPlace::QueueFull { .. })), "{refused:?}");
    assert!(stage.waits(id).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_vain_is_not_told_of_others_who_are_no_longer_there() {
    let stage = Stage::new();
    stage.beat("w-1", 'a');
    let place = async || stage.dispatcher.place(wanted(Some('a'))).await.unwrap();
    let _running = [place().await, place().await];
    let of = |seconds| Wanted {
        deadline: clock::now() + Duration::from_secs(seconds),
        ..wanted(Some('a'))
    };
    let (first, second) =
        tokio::join!(stage.dispatcher.place(of(1)), stage.dispatcher.place(of(4)));
    for late in [first.unwrap_err(), second.unwrap_err()] {
        let told = late.to_string();
        assert!(told.ends_with(&WaitReason::Room.to_string()), "{told}");
    }
}

#[tokio::test]
async fn a_model_that_a_missing_hive_may_have_is_no_unknown_one() {
    let other = Wanted { model: "other".parse().unwrap(), ..wanted(None) };
    let rows: [(Arc<dyn FindHive>, &str); 2] = [
        (Arc::new(Nowhere), "unknown_model the model other does not exist"),
        (Arc::new(Missing), "hive_gone nobody has the model other at present, and it cannot start"),
    ];
    for (hives, expected) in rows {
        let stage = Stage::without_task(hives, None);
        let refused = stage.dispatcher.place(other.clone()).await.unwrap_err();
        assert_eq!(format!("{} {refused}", refused.reason()), expected);
    }
}

/// A queen whose own hive could not be started.
#[derive(Debug)]
struct Missing;

impl FindHive for Missing {
    fn find(&self, hive: &HiveAlias) -> Result<Arc<dyn HiveClient>, JobError> {
        Nowhere.find(hive)
    }

    fn missing(&self) -> Option<String> {
        Some("it cannot start".to_owned())
    }
}

/// A queen with a hive, which has the model and whose starts never end.
struct Stage {
    dispatcher: Dispatcher,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let stage = Self::without_task(Arc::new(NeverReady), None);
        TaskTracker::new().spawn(stage.dispatcher.clone().run(stage.stop.clone()));
        stage
    }

    /// The same, whose worker goes on to report.
    fn reporting() -> Arc<Self> {
        let stage = Arc::new(Self::new());
        stage.beat("w-1", 'a');
        let reports = Arc::downgrade(&stage);
        TaskTracker::new().spawn(async move {
            while let Some(stage) = reports.upgrade() {
                stage.beat("w-1", 'a');
                stage.dispatcher.registry().sweep(clock::now());
                drop(stage);
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        });
        stage
    }

    /// The same, which hands places out only when it is told to, perhaps with rules.
    fn without_task(hives: Arc<dyn FindHive>, rules: Option<&str>) -> Self {
        Self::with_room_for(32, hives, rules)
    }

    /// The same, where so many may wait for a model.
    fn with_room_for(max_per_model: usize, hives: Arc<dyn FindHive>, rules: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policies.db");
        let policies = Policies::open(&file, BTreeMap::new(), 0).unwrap();
        let registry = Registry::new(Duration::from_secs(2), Vec::new(), clock::now());
        let script = Rules::none(Decisions::in_memory());
        if let Some(rules) = rules {
            script.load(rules).unwrap();
        }
        let registry = registry.with_rules(script);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let spawner = Spawner::new(hives, registry.clone(), policies, tasks, stop.clone());
        let dispatcher = Dispatcher::new(registry, spawner, Decisions::in_memory(), max_per_model);
        let stage = Self { dispatcher, stop, _folder: folder };
        stage.reports("localhost", &[("m", 'b')]);
        stage
    }

    /// What is recorded of a request, such as what it waits for, the first first.
    async fn waits(&self, id: RequestId) -> Vec<String> {
        let filter = Filter { request_id: Some(id), model: None, limit: 99 };
        let found = self.dispatcher.decisions().find(filter).await;
        found.iter().rev().map(|entry| entry.decided.because.reason().to_owned()).collect()
    }

    /// A hive reports what it has by which names.
    fn reports(&self, hive: &str, models: &[(&str, char)]) {
        let entry = |(name, file): &(&str, char)| {
            json!({
                "alias": name, "sha256": digest(*file), "source": "test", "added_at": 0,
                "architecture": "llama", "quantization": "F16", "parameters": 1,
                "context_length": 1, "has_chat_template": false, "size_bytes": 1,
            })
        };
        let catalog: Vec<_> = models.iter().map(entry).collect();
        let beat = json!({
            "hive_id": hive, "version": "0", "devices": [], "catalog": catalog, "workers": [],
        });
        let beat = serde_json::from_value(beat).unwrap();
        self.dispatcher.registry().hive_beat(beat, clock::now()).unwrap();
    }

    /// A worker reports that is ready, and has a file.
    fn beat(&self, id: &str, file: char) {
        self.beat_as(id, "m", file);
    }

    /// The same, by a name of the file.
    fn beat_as(&self, id: &str, model: &str, file: char) {
        self.beat_on("CPU-0", id, model, file);
    }

    /// The same, on a device.
    fn beat_on(&self, device: &str, id: &str, model: &str, file: char) {
        let beat = json!({
            "worker_id": id, "hive_id": "localhost", "address": "http://127.0.0.1:1",
            "model": {"name": model, "digest": digest(file), "context_length": 1},
            "device": device, "state": "ready", "slots": {"total": 2, "busy": 0}, "queued": 0,
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

fn model() -> ModelAlias {
    "m".parse().unwrap()
}

fn digest(of: char) -> Value {
    Value::String(of.to_string().repeat(64))
}

/// A request that must go on with a file, or with any.
pub(super) fn wanted(file: Option<char>) -> Wanted {
    let prompt = worker_contract::Prompt::Text("a".into());
    let task = worker_contract::Task::Completion { prompt };
    let request = worker_contract::InferenceRequest::new(RequestId::random(), task);
    Wanted {
        request_id: request.request_id.clone(),
        model: model(),
        caller: "local".into(),
        priority: Priority::Interactive,
        prompt: Arc::new(PromptChain::of(&request)),
        answer_tokens: 0,
        answers: 1,
        session: None,
        failed: Vec::new(),
        barred: Vec::new(),
        digest: file.map(|file| file.to_string().repeat(64).parse().unwrap()),
        alone: false,
        fell_alone: false,
        ways: Ways::ALL,
        too_short: 0,
        has_another_way: false,
        had_a_place: false,
        waits_told: WaitsTold::default(),
        bounces: 0,
        deadline: clock::now() + Duration::from_secs(60),
    }
}
