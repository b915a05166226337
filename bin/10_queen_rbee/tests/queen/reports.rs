//! Reports that are not believed, and those that are too much.

use access_tokens::HiveSecrets;
use rbee_config::Paths;
use serde_json::{Value, json};
use worker_contract::{
    HiveAlias, HiveHeartbeat, ModelEntry, ModelShard, SupervisedState, SupervisedWorker,
    WorkerHeartbeat, WorkerState,
};

use crate::support::{HiveDouble, Home, Queen, Reply, Script, WorkerDouble, chat, until};

const OF_WORKER: &str = "/v1/worker-heartbeat";
const OF_HIVE: &str = "/v1/hive-heartbeat";

#[tokio::test]
async fn a_hives_secret_is_not_taken_for_the_reports_of_another_one() {
    let (home, name) = (Home::new(), "gpu-1".parse::<HiveAlias>().unwrap());
    let paths = Paths::under(home.path());
    paths.create_all().unwrap();
    let secret = HiveSecrets::open(&paths.secrets).unwrap().get_or_make(&name).unwrap();
    let queen = Queen::at(&home, |_| {}).await;
    let (worker, other) = (WorkerDouble::start("w-1", []), HiveDouble::start(false));
    let own = HiveDouble::start_as(name.clone(), false);
    let send = async |path: &str, report: Value| {
        Reply::read(queen.post(path).bearer_auth(secret.expose()).json(&report)).await
    };
    for (path, report) in [(OF_WORKER, json!(worker.beat())), (OF_HIVE, json!(other.beat()))] {
        let error = send(path, report).await.error(403, "other_hive");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("gpu-1") && message.contains("localhost"), "{message}");
    }
    let status = queen.status().await;
    assert_eq!((&status["workers"], &status["hives"]), (&json!([]), &json!([])));
    let of_it = WorkerHeartbeat { hive_id: name, ..worker.beat() };
    assert_eq!(send(OF_WORKER, json!(of_it)).await.status, 204);
    assert_eq!(send(OF_HIVE, json!(own.beat())).await.status, 204);
}

#[tokio::test]
async fn workers_of_this_machine_have_a_secret_for_reports_and_are_shown_no_other() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    let secret = |file: &str| {
        let text = std::fs::read_to_string(queen.secrets().join(file)).unwrap();
        text.trim().to_owned()
    };
    let (own, reports) = (secret("local.token"), secret("hives/localhost.token"));
    for path in ["/v1/shutdown", "/v1/jobs", "/v1/chat/completions"] {
        let refused = Reply::read(queen.post(path).bearer_auth(&reports).json(&chat())).await;
        refused.error(403, "hive_secret");
    }
    let forged = queen.post(OF_HIVE).bearer_auth(&reports).json(&hive.beat());
    Reply::read(forged).await.error(403, "workers_secret");

    let worker = WorkerDouble::start("w-1", []);
    // One of an earlier rbee has the queen's own.
    for shown in [&reports, &own, &reports] {
        let beat = queen.post(OF_WORKER).bearer_auth(shown).json(&worker.beat());
        assert_eq!(Reply::read(beat).await.status, 204);
        assert_eq!(queen.ask("/v1/chat/completions", &chat()).await.status, 200);
        assert_eq!(worker.shown().unwrap(), format!("Bearer {shown}"));
    }
}

#[tokio::test]
async fn of_two_workers_with_one_id_and_one_pid_the_one_that_its_hive_lists_keeps_its_requests() {
    let first = WorkerDouble::start("w-1", [Script::Hangs(&["Hello"])]);
    let second = WorkerDouble::start("w-1", []);
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    let listed = |worker: &WorkerDouble| HiveHeartbeat {
        workers: vec![worker.listed(SupervisedState::Ready)],
        ..hive.beat()
    };
    queen.hive_beat(&listed(&first)).await;
    queen.worker_beat(&first.beat()).await;
    let mut stream = queen.stream("/v1/chat/completions", &chat()).await.begun().await;
    stream.until_text().await;
    for _ in 0..3 {
        let reply = Reply::read(queen.report(OF_WORKER).json(&second.beat())).await;
        let message = reply.error(409, "name_taken")["message"].as_str().unwrap().to_owned();
        assert!(message.contains(&first.url) && message.contains(&second.url), "{message}");
        queen.worker_beat(&first.beat()).await;
    }
    assert_eq!((first.open(), queen.in_flight("w-1").await), (1, 1), "its stream goes on");
    assert_eq!(queen.status().await["workers"][0]["address"], json!(first.url));

    // Its hive has started it again, elsewhere.
    queen.hive_beat(&listed(&second)).await;
    queen.worker_beat(&second.beat()).await;
    until("the first one is left", async || first.open() == 0).await;
    Reply::read(queen.report(OF_WORKER).json(&first.beat())).await.error(409, "name_taken");
}

#[tokio::test]
async fn a_worker_that_has_not_reported_is_shown_as_its_hive_lists_it() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    let worker = WorkerDouble::start("w-1", []);
    let list = async |workers| queen.hive_beat(&HiveHeartbeat { workers, ..hive.beat() }).await;
    for (state, name, more) in [
        (SupervisedState::Starting { progress: 0.5 }, "loading", ("progress", json!(0.5))),
        (SupervisedState::Ready, "ready", ("liveness", json!("alive"))),
        (SupervisedState::Stopping, "draining", ("queued", json!(0))),
        (SupervisedState::Failed { reason: "no".into() }, "failed", ("reason", json!("no"))),
    ] {
        list(vec![worker.listed(state)]).await;
        let status = queen.status().await;
        let shown = &status["workers"][0];
        assert_eq!((&shown["worker_id"], &shown["state"]), (&json!("w-1"), &json!(name)));
        assert_eq!((&shown["slots"]["total"], &shown[more.0]), (&json!(0), &more.1), "{shown}");
        assert_eq!(shown["address"], json!(worker.url));
        if name == "ready" {
            let answer = queen.ask("/v1/chat/completions", &chat()).await;
            assert_eq!(answer.header("x-rbee-worker"), "w-1", "it takes requests");
        }
    }
    list(Vec::new()).await;
    assert_eq!(queen.status().await["workers"], json!([]));
    queen.worker_beat(&worker.beat()).await;
    list(vec![worker.listed(SupervisedState::Ready)]).await;
    let status = queen.status().await;
    assert_eq!(status["workers"].as_array().unwrap().len(), 1);
    assert_eq!(status["workers"][0]["slots"]["total"], 4, "what it says itself counts");
}

#[tokio::test]
async fn a_number_that_is_none_is_refused_by_the_name_of_its_field() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    let worker = WorkerDouble::start("w-1", []);
    let report = WorkerHeartbeat {
        state: WorkerState::Loading { progress: 0.125 },
        tokens_per_second: 0.25,
        ..worker.beat()
    };
    let list = HiveHeartbeat {
        workers: vec![worker.listed(SupervisedState::Starting { progress: 0.125 })],
        ..hive.beat()
    };
    let (report, list) = (json!(report).to_string(), json!(list).to_string());
    let send = async |path: &str, text: String| Reply::read(queen.report(path).body(text)).await;
    for number in ["1e300", "-1e300"] {
        for (path, text, place, field) in [
            (OF_WORKER, &report, "0.25", "tokens_per_second"),
            (OF_WORKER, &report, "0.125", "progress"),
            (OF_HIVE, &list, "0.125", "workers[0].progress"),
        ] {
            let text = text.replace(place, number);
            let error = send(path, text).await.error(400, "invalid_type");
            assert_eq!(error["param"], field, "{error}");
        }
    }
    assert_eq!(queen.status().await["workers"], json!([]));
    // What is only out of its range is shown as the nearest number.
    let text = report.replace("0.25", "-7").replace("0.125", "-7");
    assert_eq!(send(OF_WORKER, text).await.status, 204);
    let shown = queen.status().await["workers"][0].clone();
    assert_eq!((&shown["tokens_per_second"], &shown["progress"]), (&json!(0.0), &json!(0.0)));
}

#[tokio::test]
async fn long_reports_are_refused_and_of_long_texts_the_beginning_is_kept() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    let worker = WorkerDouble::start("w-1", []);
    let built = |length: usize| json!({ "engine_build": "x".repeat(length) });
    let with = |mut report: Value, other: Value| {
        report.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
        report
    };
    let trouble = json!({ "trouble": "x".repeat(4 << 20) });
    let address = json!({ "address": format!("http://{}", "x".repeat(1000)) });
    let send =
        async |path: &str, report: Value| Reply::read(queen.report(path).json(&report)).await;
    for (path, report) in [
        (OF_WORKER, with(json!(worker.beat()), built(64 << 10))),
        (OF_HIVE, with(json!(hive.beat()), trouble)),
    ] {
        send(path, report).await.error(413, "body_too_large");
    }
    let refused = send(OF_WORKER, with(json!(worker.beat()), address)).await;
    assert_eq!(refused.error(400, "invalid_value")["param"], "address");
    assert!(refused.text.len() < 1000, "{refused:?}");
    let taken = send(OF_WORKER, with(json!(worker.beat()), built(60_000))).await;
    assert_eq!(taken.status, 204, "{taken:?}");
    let shown = queen.status().await["workers"][0]["engine_build"].clone();
    assert_eq!(shown, json!("x".repeat(256)));
}

#[tokio::test]
async fn a_hive_with_a_thousand_models_and_as_many_workers_as_it_can_have_is_heard() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    let worker = WorkerDouble::start("w-1", []);
    let entry = hive.beat().catalog.remove(0);
    let shard = ModelShard { sha256: entry.sha256.clone(), size_bytes: 50 << 30 };
    let model = |number: usize| {
        let mut entry = ModelEntry {
            alias: format!("model-{number}-{}", "x".repeat(80)).parse().unwrap(),
            source: "s".repeat(300),
            shards: vec![shard.clone(); 16],
            ..entry.clone()
        };
        entry.gguf.name = Some("n".repeat(200));
        entry
    };
    let failed = || SupervisedState::Failed { reason: "r".repeat(2400) };
    let listed = |number: usize| SupervisedWorker {
        worker_id: format!("w-{number}").parse().unwrap(),
        ..worker.listed(if number < 20 { failed() } else { SupervisedState::Ready })
    };
    let report = HiveHeartbeat {
        catalog: (0..1000).map(model).collect(),
        workers: (0..512).map(listed).collect(),
        ..hive.beat()
    };
    queen.hive_beat(&report).await;
    let models = Reply::read(queen.get("/v1/models")).await.json();
    assert!(models["data"].as_array().unwrap().len() >= 1000);

    let one_more = WorkerHeartbeat { worker_id: "w-512".parse().unwrap(), ..worker.beat() };
    let reply = Reply::read(queen.report(OF_WORKER).json(&one_more)).await;
    let message = reply.error(503, "too_many")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("localhost has 512 workers"), "{message}");
    let elsewhere = WorkerHeartbeat { hive_id: "gpu-1".parse().unwrap(), ..one_more };
    queen.worker_beat(&elsewhere).await;
}
