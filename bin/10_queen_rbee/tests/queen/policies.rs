//! How many workers a model has, where, and for how long.

use std::time::Duration;

use rbee_operations::ModelPolicy;
use serde_json::{Value, json};
use worker_contract::{DeviceKind, HiveHeartbeat, SupervisedState};

use crate::support::{HiveDouble, Queen, Reply, Script, WorkerDouble, chat, until};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn the_longest_idle_worker_makes_room_for_a_model_that_is_asked_for() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    hive.let_start();
    queen.hive_beat(&hive.beat_with_workers(8)).await;
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
    report(&queen, &hive, 1).await;
    let reply = queen
        .ask(CHAT, &json!({"model": "other", "messages": [{"role": "user", "content": "Hi"}]}))
        .await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(hive.asked(), ["spawn m GPU-0", "delete w-spawned-0", "spawn other GPU-0"]);
}

#[tokio::test]
async fn a_pinned_worker_does_not_make_room() {
    let queen = Queen::start().await;
    set(&queen, json!({"model": "m", "policy": {"pin": true}})).await;
    let hive = HiveDouble::start(false);
    hive.let_start();
    queen.hive_beat(&hive.beat_with_workers(8)).await;
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
    report(&queen, &hive, 1).await;
    queen
        .ask(CHAT, &json!({"model": "other", "messages": [{"role": "user", "content": "Hi"}]}))
        .await;
    let asked = hive.asked();
    assert!(!asked.iter().any(|asked| asked.starts_with("delete")), "{asked:?}");
}

#[tokio::test]
async fn a_request_that_finds_no_memory_beside_a_pinned_model_is_told_so() {
    let queen = Queen::start().await;
    set(&queen, json!({"model": "m", "policy": {"pin": true}})).await;
    let hive = HiveDouble::start(false);
    hive.takes([("m", 6_000), ("other", 7_500)], true);
    hive.let_start();
    queen.hive_beat(&hive.beat_with_workers(8)).await;
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
    report(&queen, &hive, 2).await;
    let other = json!({"model": "other", "messages": [{"role": "user", "content": "Hi"}]});
    let reply = queen.ask(CHAT, &other).await;
    let error = reply.error(503, "not_enough_memory");
    let told = |field: &str| error[field].as_str().unwrap().to_owned();
    assert!(told("message").ends_with("pinned, or kept by their policies' min: m"), "{error}");
    assert!(told("hint").contains("rbee-keeper model policy m --pin false"), "{error}");
    let decided = Reply::read(queen.get("/v1/decisions?model=other")).await.text;
    assert!(decided.contains("kept by their policies' min: m"), "{decided}");
}

#[tokio::test]
async fn an_idle_worker_is_ended_and_the_next_request_starts_one_again() {
    let queen = Queen::configured(|config| config.queen.idle_ttl_s = 1).await;
    let hive = HiveDouble::start(false);
    hive.let_start();
    queen.hive_beat(&hive.beat()).await;
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
    until("it is ended", async || {
        report(&queen, &hive, 8).await;
        hive.asked().last().is_some_and(|asked| asked == "delete w-spawned-0")
    })
    .await;
    queen.hive_beat(&hive.beat()).await;
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
    assert_eq!(hive.spawns(), 2);
}

#[tokio::test]
async fn as_many_workers_are_kept_as_the_policy_wants_with_its_settings() {
    let queen = Queen::configured(|config| {
        let policy = ModelPolicy {
            min: Some(1),
            slots: Some(7),
            ctx_size: Some(1024),
            ..ModelPolicy::default()
        };
        config.models.insert("m".parse().unwrap(), policy);
        config.queen.idle_ttl_s = 1;
    })
    .await;
    let hive = HiveDouble::start(false);
    hive.let_start();
    until("one is started without a request", async || {
        report(&queen, &hive, 8).await;
        !hive.started().is_empty()
    })
    .await;
    let started = hive.started();
    assert_eq!((started[0].slots, started[0].ctx_size), (Some(7), Some(1024)));
    let shown = job(&queen, json!({"ModelPolicyList": {}})).await;
    assert_eq!(shown["policies"][0]["min"], 1);
    assert_eq!(shown["policies"][0]["slots"], 7);
}

#[tokio::test]
async fn a_worker_that_somebody_starts_is_as_the_policy_wants_unless_they_say_otherwise() {
    let queen = Queen::start().await;
    set(&queen, json!({"model": "m", "policy": {"slots": 7, "ctx_size": 1024}})).await;
    let hive = HiveDouble::start(false);
    hive.let_start();
    queen.hive_beat(&hive.beat()).await;
    for spawn in [json!({"model": "m"}), json!({"model": "m", "slots": 2})] {
        job(&queen, json!({ "WorkerSpawn": spawn })).await;
    }
    let started: Vec<_> = hive.started().iter().map(|s| (s.slots, s.ctx_size)).collect();
    assert_eq!(started, [(Some(7), Some(1024)), (Some(2), Some(1024))]);
}

#[tokio::test]
async fn a_prompt_that_is_too_long_gets_a_worker_of_its_own_only_where_that_has_a_longer_context() {
    // Nobody knows how the first one was started: its context is not taken for the hive's own setting.
    for (ctx_size, spawns) in [(None, 1), (Some(256), 0), (Some(1024), 1)] {
        let queen = Queen::start().await;
        if let Some(tokens) = ctx_size {
            set(&queen, json!({"model": "m", "policy": {"ctx_size": tokens}})).await;
        }
        let hive = HiveDouble::start(false);
        hive.let_start();
        queen.hive_beat(&hive.beat()).await;
        let short = WorkerDouble::start("w-1", [Script::Refuses(400, "context_length_exceeded")]);
        let mut beat = short.beat();
        beat.model.context_length = 256;
        queen.worker_beat(&beat).await;
        let reply = queen.ask(CHAT, &chat()).await;
        assert_eq!(hive.spawns(), spawns, "{ctx_size:?}: {reply:?}");
        if spawns == 0 {
            let error = reply.error(400, "context_length_exceeded");
            let hint = error["hint"].as_str().unwrap();
            assert!(hint.contains("rbee-keeper model policy m --ctx-size N"), "{hint}");
            continue;
        }
        assert_eq!(reply.header("x-rbee-worker"), "w-spawned-0", "{reply:?}");
        assert_eq!(hive.started()[0].ctx_size, ctx_size);
        let decided = Reply::read(queen.get("/v1/decisions?model=m")).await.text;
        assert!(decided.contains("the contexts of its workers are too short"), "{decided}");
    }
}

#[tokio::test]
async fn that_a_longer_context_is_sought_is_recorded_only_where_somebody_can_have_one() {
    for (max, status, sought) in [(1, 400, 0), (2, 200, 1)] {
        let queen = Queen::start().await;
        set(&queen, json!({"model": "m", "policy": {"max": max}})).await;
        let hive = HiveDouble::start(false);
        hive.let_start();
        queen.hive_beat(&hive.beat()).await;
        let short = WorkerDouble::start("w-1", [Script::Refuses(400, "context_length_exceeded")]);
        let mut beat = short.beat();
        beat.model.context_length = 256;
        queen.worker_beat(&beat).await;
        let reply = queen.ask(CHAT, &chat()).await;
        assert_eq!(reply.status, status, "at most {max}: {reply:?}");
        let decided = Reply::read(queen.get("/v1/decisions?model=m")).await.json();
        let is_sought =
            |it: &&Value| (&it["kind"], &it["reason"]) == (&json!("retry"), &json!("context"));
        let count = decided["decisions"].as_array().unwrap().iter().filter(is_sought).count();
        assert_eq!(count, sought, "at most {max}: {decided}");
    }
}

#[tokio::test]
async fn a_policy_for_what_nobody_knows_is_taken_with_a_note() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    queen.hive_beat(&hive.beat_with_workers(8)).await;
    for (model, policy, notes) in [
        ("m", json!({"min": 0, "device": "GPU-0"}), &[][..]),
        ("m", json!({"hive": "localhost", "device": "CPU-0"}), &[]),
        ("nope", json!({"min": 0}), &["no hive has a model nope yet"]),
        ("m", json!({"hive": "any", "device": "any"}), &[]),
        ("m", json!({"hive": "nowhere"}), &["no hive nowhere is known"]),
        ("m", json!({"device": "GPU-7"}), &["no hive has a GPU-7"]),
        ("m", json!({"hive": "localhost", "device": "GPU-7"}), &["localhost has no GPU-7"]),
        ("n", json!({"hive": "x", "device": "GPU-7"}), &["model n", "no hive x"]),
    ] {
        let set = job(&queen, json!({"ModelPolicySet": {"model": model, "policy": policy}})).await;
        let told = set["notes"].as_array().cloned().unwrap_or_default();
        assert_eq!(told.len(), notes.len(), "{model} {policy}: {told:?}");
        for (told, note) in told.iter().zip(notes) {
            assert!(told.as_str().unwrap().contains(note), "{told}");
        }
    }
    let reset = job(&queen, json!({"ModelPolicySet": {"model": "nope", "reset": true}})).await;
    assert_eq!(reset.get("notes"), None, "nothing is wanted of it");
}

#[tokio::test]
async fn what_a_policy_does_not_change_of_workers_that_run_is_told() {
    let queen = Queen::start().await;
    let workers = [WorkerDouble::start("w-1", []), WorkerDouble::start("w-2", [])];
    for worker in &workers {
        let mut beat = worker.beat();
        beat.kv_cache.capacity_tokens = 2048;
        queen.worker_beat(&beat).await;
    }
    for (policy, notes) in [
        (json!({"slots": 4, "ctx_size": 2048}), &[][..]),
        (json!({"slots": 2}), &["2 workers run with 4 slots, 2048 tokens", "delete w-1"]),
        (json!({"ctx_size": 4096}), &["2 workers run with 4 slots, 2048 tokens", "delete w-2"]),
        (
            json!({"device": "GPU-7"}),
            &["2 workers run on localhost CPU-0: the policy", "delete w-2"],
        ),
        (json!({"hive": "gpu-1"}), &["2 workers run on localhost CPU-0: the policy", "delete w-1"]),
        (json!({"hive": "any", "device": "any"}), &[]),
        (json!({"max": 1}), &["2 workers run, and max is 1"]),
        (json!({"max": 2}), &[]),
        (json!({"min": 2}), &[]),
    ] {
        let set = job(&queen, json!({"ModelPolicySet": {"model": "m", "policy": policy}})).await;
        let told = set["notes"].to_string();
        assert_eq!(set.get("notes").is_some(), !notes.is_empty(), "{policy}: {told}");
        assert!(notes.iter().all(|note| told.contains(note)), "{policy}: {told}");
    }
}

#[tokio::test]
async fn a_worker_that_has_not_said_how_large_it_is_is_not_said_to_be_of_another_size() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    let worker = WorkerDouble::start("w-1", []);
    let workers = vec![worker.listed(SupervisedState::Ready)];
    queen.hive_beat(&HiveHeartbeat { workers, ..hive.beat() }).await;
    assert_eq!(queen.status().await["workers"][0]["state"], "ready");
    let policy = json!({"slots": 2, "ctx_size": 512});
    let set = job(&queen, json!({"ModelPolicySet": {"model": "m", "policy": policy}})).await;
    assert_eq!(set.get("notes"), None, "{set}");
}

#[tokio::test]
async fn a_worker_with_as_long_a_context_as_its_model_can_have_is_no_other_than_the_policy_wants() {
    // A worker has four sequences, and none is longer than the model was trained for.
    for (trained, started_by_queen, is_told) in
        [(512, false, false), (1024, false, true), (1024, true, false)]
    {
        let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
        hive.let_start();
        let mut beat = hive.beat();
        beat.catalog[0].gguf.context_length = trained;
        queen.hive_beat(&beat).await;
        let other = WorkerDouble::start("w-1", []);
        let mut said = other.beat();
        if started_by_queen {
            job(&queen, json!({"WorkerSpawn": {"model": "m", "ctx_size": 200_000}})).await;
            said = hive.worker_beats().remove(0);
        }
        said.kv_cache.capacity_tokens = 2048;
        queen.worker_beat(&said).await;
        let change = json!({"model": "m", "policy": {"ctx_size": 200_000}});
        let set = job(&queen, json!({ "ModelPolicySet": change })).await;
        assert_eq!(set.get("notes").is_some(), is_told, "{trained} {started_by_queen}: {set}");
    }
}

#[tokio::test]
async fn who_ends_a_worker_that_must_be_is_told_that_another_one_comes() {
    for (min, is_told) in [(0, false), (1, true)] {
        let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
        hive.let_start();
        queen.hive_beat(&hive.beat()).await;
        job(&queen, json!({"WorkerSpawn": {"model": "m"}})).await;
        queen.hive_beat(&hive.beat()).await;
        set(&queen, json!({"model": "m", "policy": {"min": min}})).await;
        let delete = json!({"operation": {"WorkerDelete": {"worker_id": "w-spawned-0"}}});
        let created = queen.ask("/v1/jobs", &delete).await.json();
        let told = events(&queen, &created).await;
        assert_eq!(told.contains("another worker is started"), is_told, "{min}: {told}");
    }
}

#[tokio::test]
async fn one_name_for_two_files_is_warned_of_where_it_is_given() {
    for (digit, is_told) in [("0", false), ("1", true)] {
        let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
        queen.hive_beat(&hive.beat()).await;
        let mut other = hive.beat();
        other.hive_id = "gpu-1".parse().unwrap();
        other.catalog[0].sha256 = digit.repeat(64).parse().unwrap();
        queen.hive_beat(&other).await;
        let alias = json!({"operation": {"ModelAlias": {"model": "x", "alias": "m"}}});
        let created = queen.ask("/v1/jobs", &alias).await.json();
        let told = events(&queen, &created).await;
        assert_eq!(told.contains("m is another file on gpu-1"), is_told, "{told}");
    }
}

#[tokio::test]
async fn two_workers_that_must_be_are_started_although_there_is_one_device() {
    let queen = Queen::start().await;
    set(&queen, json!({"model": "m", "policy": {"min": 2, "device": "CPU-0"}})).await;
    let hive = HiveDouble::start(false);
    hive.let_start();
    until("two are started", async || {
        let mut beat = hive.beat_with_workers(8);
        beat.devices.truncate(1);
        beat.devices[0].memory_free_bytes = 64 << 30;
        queen.hive_beat(&beat).await;
        for beat in hive.worker_beats() {
            queen.worker_beat(&beat).await;
        }
        hive.started().len() == 2
    })
    .await;
    assert_eq!(hive.asked(), ["spawn m CPU-0", "spawn m CPU-0"]);
}

#[tokio::test]
async fn a_worker_that_must_be_and_has_no_place_is_told_of() {
    let queen = Queen::start().await;
    set(&queen, json!({"model": "m", "policy": {"min": 1}})).await;
    let hive = HiveDouble::start(false);
    until("it is told", async || {
        let mut beat = hive.beat_with_workers(0);
        beat.devices.iter_mut().for_each(|device| device.memory_free_bytes = 1 << 30);
        queen.hive_beat(&beat).await;
        let decisions = Reply::read(queen.get("/v1/decisions")).await.json();
        decisions["decisions"].as_array().unwrap().iter().any(|d| d["kind"] == "no_place")
    })
    .await;
    assert_eq!(hive.spawns(), 0);
}

#[tokio::test]
async fn a_worker_that_must_be_and_fails_is_tried_elsewhere_at_once_and_then_not_again_and_again() {
    let queen = Queen::start().await;
    set(&queen, json!({"model": "m", "policy": {"min": 1}})).await;
    let hive = HiveDouble::start(true);
    hive.let_start();
    until("it is told that no place is left", async || {
        queen.hive_beat(&with_room(hive.beat_with_workers(8))).await;
        decided(&queen).await.iter().any(|reason| reason == "no_place policy_min")
    })
    .await;
    let mut asked = hive.asked();
    asked.sort();
    assert_eq!(asked, ["spawn m CPU-0", "spawn m GPU-0"], "each device once");
    let failures = decided(&queen).await;
    let failures = failures.iter().filter(|reason| *reason == "no_place start_failed").count();
    assert_eq!(failures, 2, "each failure is told of");
}

#[tokio::test]
async fn a_worker_that_must_be_and_fails_on_one_hive_comes_up_on_another() {
    let queen = Queen::start().await;
    set(&queen, json!({"model": "m", "policy": {"min": 1}})).await;
    let failing = HiveDouble::start(true);
    let other = HiveDouble::start_as("other".parse().unwrap(), false);
    failing.let_start();
    other.let_start();
    until("it has come up", async || {
        // The card of the one that fails is the better place.
        let mut beat = with_room(failing.beat_with_workers(8));
        beat.devices.retain(|device| device.id.kind == DeviceKind::Gpu);
        queen.hive_beat(&beat).await;
        let mut beat = with_room(other.beat_with_workers(8));
        beat.devices.retain(|device| device.id.kind == DeviceKind::Cpu);
        queen.hive_beat(&beat).await;
        !other.started().is_empty()
    })
    .await;
    assert_eq!((failing.asked(), other.spawns()), (vec!["spawn m GPU-0".to_owned()], 1));
}

#[tokio::test]
async fn requests_that_wait_for_long_get_another_worker_where_there_is_room() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    hive.let_start();
    let hangs = || Script::Hangs(&[]);
    let slow = WorkerDouble::start("w-1", [hangs(), hangs()]);
    let mut beat = slow.beat();
    beat.slots.total = 2;
    queen.worker_beat(&beat).await;
    let body = chat();
    let first = async { tokio::join!(queen.ask(CHAT, &body), queen.ask(CHAT, &body)) };
    let others = async {
        until("the first one is full", async || queen.in_flight("w-1").await == 2).await;
        tokio::join!(queen.ask(CHAT, &body), queen.ask(CHAT, &body))
    };
    let reported = async {
        loop {
            report(&queen, &hive, 8).await;
            queen.worker_beat(&beat).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let (third, fourth) = tokio::select! {
        others = others => others,
        hung = first => panic!("{hung:?}"),
        () = reported => unreachable!("it reports without end"),
    };
    for reply in [third, fourth] {
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.header("x-rbee-worker"), "w-spawned-0");
    }
    assert_eq!(hive.asked(), ["spawn m GPU-0"]);
}

#[tokio::test]
async fn a_policy_that_contradicts_itself_is_refused_and_nothing_is_changed() {
    let queen = Queen::start().await;
    set(&queen, json!({"model": "m", "policy": {"min": 2}})).await;
    let bad = json!({"operation": {"ModelPolicySet": {"model": "m", "policy": {"max": 1}}}});
    let created = queen.ask("/v1/jobs", &bad).await.json();
    let events = events(&queen, &created).await;
    assert!(events.contains("min is 2 and max is 1"), "{events}");
    let unbounded =
        json!({"operation": {"ModelPolicySet": {"model": "m", "policy": {"min": 1000}}}});
    assert_eq!(queen.ask("/v1/jobs", &unbounded).await.status, 400);
    let shown = job(&queen, json!({"ModelPolicyList": {}})).await;
    assert_eq!(
        (&shown["policies"][0]["min"], &shown["policies"][0]["max"]),
        (&json!(2), &json!(4))
    );
}

/// The reports of a hive, with so much free on its card, and of its workers.
async fn report(queen: &Queen, hive: &HiveDouble, free_gib: u64) {
    queen.hive_beat(&hive.beat_with_workers(free_gib)).await;
    for beat in hive.worker_beats() {
        queen.worker_beat(&beat).await;
    }
}

async fn set(queen: &Queen, change: Value) {
    job(queen, json!({ "ModelPolicySet": change })).await;
}

/// A report of devices that all have room for any model.
fn with_room(mut beat: HiveHeartbeat) -> HiveHeartbeat {
    for device in &mut beat.devices {
        (device.memory_total_bytes, device.memory_free_bytes) = (64 << 30, 64 << 30);
    }
    beat
}

/// The decisions, each with its reason.
async fn decided(queen: &Queen) -> Vec<String> {
    let told = Reply::read(queen.get("/v1/decisions")).await.json();
    let all = told["decisions"].as_array().unwrap().iter();
    all.map(|it| format!("{} {}", it["kind"].as_str().unwrap(), it["reason"].as_str().unwrap()))
        .collect()
}

/// The result of a job.
async fn job(queen: &Queen, operation: Value) -> Value {
    let created = queen.ask("/v1/jobs", &json!({ "operation": operation })).await.json();
    let events = events(queen, &created).await;
    let last = events.split("data: ").filter(|data| data.contains("\"data\"")).last();
    let last: Value =
        serde_json::from_str(last.expect("a result").split("\n\n").next().unwrap()).unwrap();
    last["data"].clone()
}

async fn events(queen: &Queen, created: &Value) -> String {
    let path = format!("/v1/jobs/{}/stream", created["job_id"].as_str().unwrap());
    Reply::read(queen.get(&path)).await.text
}
