//! The operator's own rules: a script beside the configuration.

use access_tokens::{NewToken, TokenStore};
use serde_json::{Value, json};
use worker_contract::{WorkerHeartbeat, WorkerState};

use crate::support::{HiveDouble, Queen, Reply, WorkerDouble, chat, until};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn rules_refuse_and_prefer_workers_from_the_moment_that_their_file_is_there() {
    let queen = Queen::start().await;
    let workers = ["w-1", "w-2", "w-3"].map(|name| WorkerDouble::start(name, []));
    for worker in &workers {
        queen.worker_beat(&worker.beat()).await;
    }
    write(
        &queen,
        "fn filter(request, worker) { worker.id != \"w-1\" }
        fn score(request, worker) { if worker.id == \"w-2\" { 100_000 } else { 0 } }",
    );
    loaded(&queen, 1).await;
    for _ in 0..5 {
        assert_eq!(queen.ask(CHAT, &chat()).await.header("x-rbee-worker"), "w-3");
    }
    write(
        &queen,
        "fn filter(request, worker) { worker.id == \"w-1\" && request.caller == \"local\" }",
    );
    loaded(&queen, 2).await;
    assert_eq!(queen.ask(CHAT, &chat()).await.header("x-rbee-worker"), "w-1");
    write(&queen, "fn filter(request, worker) { false }");
    loaded(&queen, 3).await;
    let refused = queen.ask(CHAT, &chat()).await;
    refused.error(503, "refused_by_rules");
    assert_eq!(refused.header("retry-after"), "", "they may refuse it for ever");
    std::fs::remove_file(queen.rules_file()).unwrap();
    until("the rules are gone", async || queen.ask(CHAT, &chat()).await.status == 200).await;
}

#[tokio::test]
async fn rules_know_a_caller_by_the_name_of_its_token() {
    let queen = Queen::start().await;
    let store = TokenStore::open(&queen.secrets());
    let (nightly, daily) = (store.create("nightly").unwrap(), store.create("daily").unwrap());
    let workers = ["w-1", "w-2"].map(|name| WorkerDouble::start(name, []));
    for worker in &workers {
        queen.worker_beat(&worker.beat()).await;
    }
    write(
        &queen,
        "fn filter(request, worker) {
            worker.id == if request.token == \"nightly\" { \"w-2\" } else { \"w-1\" }
        }",
    );
    let of = async |token: &NewToken| {
        let request = queen.post(CHAT).bearer_auth(token.secret.expose()).json(&chat());
        Reply::read(request).await.header("x-rbee-worker").to_owned()
    };
    until("the script is loaded", async || of(&nightly).await == "w-2").await;
    assert_eq!(of(&daily).await, "w-1");
    let trial = json!({
        "script": "fn filter(request, worker) { request.token == \"daily\" }",
        "caller": daily.info.fingerprint,
    });
    let request = queen.post("/v1/policy/test").bearer_auth(daily.secret.expose()).json(&trial);
    let report = Reply::read(request).await.json();
    assert_eq!(report["models"][0]["places"][0]["allowed"], true, "{report}");
}

#[tokio::test]
async fn a_script_that_loops_for_ever_or_fails_costs_no_request_and_is_told_of() {
    let queen = Queen::start().await;
    let worker = WorkerDouble::start("w-1", []);
    queen.worker_beat(&worker.beat()).await;
    for (number, (body, reason)) in
        [("loop {}", "slow"), ("worker.nothing.more", "failed")].into_iter().enumerate()
    {
        write(&queen, &format!("fn filter(request, worker) {{ {body} }}"));
        loaded(&queen, number + 1).await;
        for _ in 0..20 {
            assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
        }
        let told = rules(&queen).await;
        assert_eq!(told[0]["reason"], reason, "{told:?}");
        assert!(told[0]["why"].as_str().unwrap().contains("the built-in policy decides"));
    }
    let metrics = Reply::read(queen.get("/metrics")).await.text;
    let line = metrics.lines().find(|line| line.starts_with("rbee_queen_rule_failures_total "));
    let failures: u64 = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!((2..=16).contains(&failures), "it is left alone for a while: {failures}");
    write(&queen, "fn filter(request, worker) {");
    until("it is told that it is broken", async || {
        rules(&queen).await[0]["reason"] == "not_understood"
    })
    .await;
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
}

#[tokio::test]
async fn rules_choose_where_a_worker_is_started_and_may_forbid_it() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    hive.let_start();
    queen.hive_beat(&hive.beat()).await;
    write(
        &queen,
        "fn filter(request, worker) { worker.is_running || worker.hive != \"localhost\" }",
    );
    loaded(&queen, 1).await;
    queen.ask(CHAT, &chat()).await.error(503, "refused_by_rules");
    assert_eq!(hive.spawns(), 0);
    write(&queen, "fn filter(request, worker) { !worker.is_running }");
    loaded(&queen, 2).await;
    let request = queen.post(CHAT).header("x-rbee-deadline-ms", "2000").json(&chat());
    Reply::read(request).await.error(503, "refused_by_rules");
    assert_eq!(hive.spawns(), 1, "a second one at the same place would be no other");
}

#[tokio::test]
async fn who_waits_until_only_a_worker_is_left_that_the_rules_refuse_is_told_so_at_its_deadline() {
    let queen = Queen::start().await;
    let workers = ["w-1", "w-2"].map(|name| WorkerDouble::start(name, []));
    let loads = WorkerState::Loading { progress: 0.5 };
    for worker in &workers {
        queen.worker_beat(&WorkerHeartbeat { state: loads.clone(), ..worker.beat() }).await;
    }
    write(&queen, "fn filter(request, worker) { worker.id != \"w-1\" }");
    loaded(&queen, 1).await;
    let request = queen.post(CHAT).header("x-rbee-deadline-ms", "3000").json(&chat());
    let goes = async {
        until("it waits", async || queen.status().await["waiting"] == 1).await;
        let state = WorkerState::Draining;
        queen.worker_beat(&WorkerHeartbeat { state, ..workers[1].beat() }).await;
    };
    let (reply, ()) = tokio::join!(Reply::read(request), goes);
    reply.error(503, "refused_by_rules");
    let told = Reply::read(queen.get("/v1/decisions?limit=1000")).await.json();
    let all = told["decisions"].as_array().unwrap();
    let rejected = all.iter().find(|decision| decision["kind"] == "reject").unwrap();
    assert_eq!(rejected["reason"], "rules", "{rejected}");
}

#[tokio::test]
async fn a_script_can_be_tried_without_being_used() {
    let queen = Queen::start().await;
    let workers = ["w-1", "w-2"].map(|name| WorkerDouble::start(name, []));
    for worker in &workers {
        queen.worker_beat(&worker.beat()).await;
    }
    let script = "fn filter(request, worker) { worker.id != \"w-1\" }
        fn score(request, worker) { 7 }
        fn priority(request) { \"batch\" }";
    let tried = queen.ask("/v1/policy/test", &json!({"script": script})).await.json();
    let report = &tried["models"][0];
    assert_eq!((&report["model"], &report["priority"]), (&json!("m"), &json!("batch")), "{tried}");
    let of = |id: &str| {
        let places = report["places"].as_array().unwrap();
        let place = places.iter().find(|place| place["worker_id"] == id).unwrap();
        (place["allowed"].clone(), place["extra_ms"].clone())
    };
    assert_eq!(of("w-1"), (json!(false), json!(0)));
    assert_eq!(of("w-2"), (json!(true), json!(7)));
    let told = |field: &str| report[field].as_str().unwrap().to_owned();
    assert!(told("with_script").starts_with("w-2 is the only worker"), "{report}");
    assert!(told("without_script").starts_with("w-1 is expected to answer first"), "{report}");
    assert_eq!(queen.ask(CHAT, &chat()).await.header("x-rbee-worker"), "w-1");

    let slow = json!({"script": "fn score(request, worker) { loop {} }", "model": "m"});
    let report = queen.ask("/v1/policy/test", &slow).await.json()["models"][0].clone();
    assert_eq!(report["error"], "score took too long", "{report}");
    assert_eq!(report["with_script"], report["without_script"]);
    let unknown = json!({"script": script, "model": "zz"});
    let report = queen.ask("/v1/policy/test", &unknown).await.json()["models"][0].clone();
    for field in ["with_script", "without_script"] {
        assert_eq!(report[field], "it is refused: no hive has the model", "{report}");
    }
    let tagged = WorkerDouble::start("w-3", []);
    let mut beat = tagged.beat();
    beat.model.name = "tagged:latest".parse().unwrap();
    queen.worker_beat(&beat).await;
    let meant = json!({"script": script, "model": "tagged"});
    let report = queen.ask("/v1/policy/test", &meant).await.json()["models"][0].clone();
    assert_eq!(report["model"], "tagged:latest", "as a request is understood: {report}");
    let refused = queen.ask("/v1/policy/test", &json!({"script": script, "caller": "zz"})).await;
    assert_eq!(refused.error(400, "unknown_caller")["param"], "caller");
    let refused = queen.ask("/v1/policy/test", &json!({"script": "fn"})).await;
    assert_eq!(refused.error(400, "invalid_script")["param"], "script");
}

fn write(queen: &Queen, script: &str) {
    std::fs::write(queen.rules_file(), script).unwrap();
}

/// Waits until so many scripts were loaded.
async fn loaded(queen: &Queen, scripts: usize) {
    until("the script is loaded", async || {
        rules(queen).await.iter().filter(|told| told["reason"] == "loaded").count() == scripts
    })
    .await;
}

/// What was told of rules, the latest first.
async fn rules(queen: &Queen) -> Vec<Value> {
    let reply = Reply::read(queen.get("/v1/decisions?limit=1000")).await.json();
    let all = reply["decisions"].as_array().unwrap().clone();
    all.into_iter().filter(|decision| decision["kind"] == "rules").collect()
}
