//! How many workers a model has, where, and for how long.

use std::time::Duration;

use rbee_operations::ModelPolicy;
use serde_json::{Value, json};
use worker_contract::{DeviceKind, HiveHeartbeat};

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
async fn a_policy_for_what_nobody_knows_is_taken_with_a_note() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    queen.hive_beat(&hive.beat_with_workers(8)).await;
    for (model, policy, notes) in [
        ("m", json!({"min": 0, "device": "GPU-0"}), &[][..]),
        ("m", json!({"hive": "localhost", "device": "CPU-0"}), &[]),
        ("nope", json!({"min": 0}), &["no hive has a model nope yet"]),
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
    beat.slots.total = 1;
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
