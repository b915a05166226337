//! Streams that nothing breaks: real workers of the demo model are killed under load, and the queen.
//!
//! Two kinds of answers show a token that is lost, doubled or changed: one that a JSON schema forces to
//! be one long text, and greedy ones of workers in batch-invariant mode, which have one right text.
#![expect(clippy::unwrap_used, reason = "in a test it is an assertion")]

mod records;

use std::time::{Duration, Instant};

use rbee_operations::{Operation, WorkerTarget};
use serde_json::{Value, json};
use test_cluster::{Api, Cluster, DEMO_ALIAS, Transcript, wait_until};
use worker_contract::HiveAlias;

/// For how long workers are killed, in seconds; the environment can ask for more.
const SECONDS: u64 = 20;
/// The pause between two kills.
const PAUSE: Duration = Duration::from_secs(4);
const WORKERS: usize = 3;
const CLIENTS: usize = 6;
/// How long forced texts are.
const DIGITS: usize = 120;
const SOON: Duration = Duration::from_secs(60);

const PROMPTS: [&str; 3] =
    ["Tell me about the sea.", "What is a compiler?", "Write a short story about a bee."];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream_breaks_while_workers_are_killed_and_every_text_is_exact() {
    let cluster = cluster().await;
    for _ in 0..WORKERS {
        cluster.spawn_worker().await.unwrap();
    }
    let api = cluster.api().unwrap();
    let mut undisturbed = Vec::new();
    for prompt in PROMPTS {
        undisturbed.push(answer(&api, &greedy(prompt)).await.text);
    }
    let seconds = std::env::var("RBEE_TEST_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds: u64 = seconds.unwrap_or(SECONDS);
    let end = Instant::now() + Duration::from_secs(seconds);
    let clients = (0..CLIENTS).map(|number| client(&api, number, &undisturbed, end));
    let (answers, kills) = tokio::join!(futures::future::join_all(clients), killer(&cluster, end));
    let answers: usize = answers.into_iter().sum();
    // Fewer than there are pauses: a worker that has failed often waits longer until it starts again.
    let wanted = usize::try_from(seconds / 10).unwrap().max(3);
    assert!(kills >= wanted, "{kills} kills in {seconds} s, not {wanted}");
    assert!(answers >= CLIENTS, "{answers} answers");
    let failovers = failovers(&cluster);
    assert!(failovers >= kills / 2, "{failovers} answers went on elsewhere, {kills} kills");
    cluster.wait_until_idle().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queen_that_is_killed_leaves_workers_and_hives_and_serves_again() {
    let mut cluster = cluster().await;
    let worker = cluster.spawn_worker().await.unwrap();
    let api = cluster.api().unwrap();
    let body = greedy(PROMPTS[0]);
    let before = answer(&api, &body).await.text;
    let hive = pid_of(&cluster, "rbee-hive");
    assert!(hive.is_some());
    let streams = (0..CLIENTS).map(async |number| {
        let mut transcript = Transcript::default();
        let mut body = greedy(PROMPTS[number % PROMPTS.len()]);
        body["max_tokens"] = json!(1000);
        if number == 0 {
            // Nothing of an answer that is no stream comes.
            assert!(api.post("/v1/chat/completions", &body).await.is_err());
            return;
        }
        if let Ok(mut stream) = api.chat_stream(&body).await {
            assert!(stream.read_rest(&mut transcript).await.is_err(), "{transcript:?}");
        }
        assert!(!transcript.done && transcript.error.is_none(), "{transcript:?}");
    });
    let killed = async {
        wait_until("both slots compute", SOON, async || {
            let workers = cluster.workers().await.ok()?;
            (workers[0]["in_flight"].as_u64() >= Some(2)).then_some(())
        })
        .await
        .unwrap();
        cluster.queen().unwrap().kill().await.unwrap();
    };
    tokio::join!(futures::future::join_all(streams), killed);
    let killed_at = Instant::now();
    cluster.queen().unwrap().start_again().await.unwrap();
    let api = cluster.api().unwrap();
    let after = answer(&api, &body).await.text;
    eprintln!("the next request is answered {} ms later", killed_at.elapsed().as_millis());
    assert_eq!(after, before);
    let workers = cluster.workers().await.unwrap();
    let known = (&workers[0]["worker_id"], &workers[0]["pid"]);
    assert_eq!(known, (&json!(worker.worker_id), &json!(worker.pid)), "the same process");
    assert_eq!(pid_of(&cluster, "rbee-hive"), hive, "the hive lives on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_deleted_in_the_middle_of_an_answer_hands_it_on() {
    let cluster = cluster().await;
    cluster.spawn_worker().await.unwrap();
    cluster.spawn_worker().await.unwrap();
    let api = cluster.api().unwrap();
    let (body, expected) = forced(7, DIGITS);
    let mut stream = api.chat_stream(&body).await.unwrap();
    let mut transcript = Transcript::default();
    stream.read_pieces(3, &mut transcript).await.unwrap();
    let workers = cluster.workers().await.unwrap();
    let busy = workers.iter().find(|worker| worker["in_flight"] == 1).unwrap();
    let target = WorkerTarget {
        hive_id: HiveAlias::localhost(),
        worker_id: busy["worker_id"].as_str().unwrap().parse().unwrap(),
    };
    let deleted = api.run_job(&Operation::WorkerDelete(target)).await.unwrap();
    deleted.result::<Value>().unwrap();
    stream.read_rest(&mut transcript).await.unwrap();
    assert!(transcript.done && transcript.error.is_none(), "{transcript:?}");
    assert_eq!(serde_json::from_str::<Value>(&transcript.text).unwrap(), json!(expected));
    assert_eq!(failovers(&cluster), 1, "it went on elsewhere");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_answer_goes_on_where_computing_it_again_takes_longer_than_a_worker_may_be_silent() {
    let cluster = cluster_with(&[("RBEE_QUEEN__STALL_TIMEOUT_S", "4")]).await;
    for _ in 0..WORKERS {
        cluster.spawn_worker().await.unwrap();
    }
    let api = cluster.api().unwrap();
    let (body, expected) = forced(7, 700);
    let mut stream = api.chat_stream(&body).await.unwrap();
    let mut transcript = Transcript::default();
    // The second one has hardly got on when it is killed, too.
    for pieces in [450, 480] {
        stream.read_pieces(pieces, &mut transcript).await.unwrap();
        let workers = cluster.workers().await.unwrap();
        let busy = workers.iter().find(|worker| worker["in_flight"] == 1).unwrap();
        assert!(kill(busy["pid"].as_u64().unwrap()).await);
    }
    stream.read_rest(&mut transcript).await.unwrap();
    assert!(transcript.done && transcript.error.is_none(), "{transcript:?}");
    assert_eq!(serde_json::from_str::<Value>(&transcript.text).unwrap(), json!(expected));
    assert_eq!(failovers(&cluster), 2, "nobody who computes it again is given up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queen_whose_past_is_damaged_sets_it_aside_and_serves() {
    let mut cluster =
        Cluster::builder().distributed().env("RBEE_QUEEN__THREADS", "2").start().await.unwrap();
    cluster.import_demo_model().await.unwrap();
    let data = cluster.home().path().join("data");
    let kept = |word: &str| {
        let names = std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().contains(word)).count()
    };
    assert_eq!(kept("damaged"), 0);
    cluster.queen().unwrap().kill().await.unwrap();
    for file in ["queen.db", "decisions.db"] {
        std::fs::write(data.join(file), "no database at all, but a text that is long enough")
            .unwrap();
        for beside in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(data.join(format!("{file}{beside}")));
        }
    }
    cluster.queen().unwrap().start_again().await.unwrap();
    cluster.wait_for_hive().await.unwrap();
    for file in ["queen.db.damaged", "decisions.db.damaged"] {
        assert!(kept(file) >= 1, "what was there is kept for whoever wants to look: {file}");
    }
    let mut body = greedy(PROMPTS[0]);
    body["max_tokens"] = json!(4);
    assert!(!answer(&cluster.api().unwrap(), &body).await.text.is_empty());
    // Jobs are kept again, over the next end.
    cluster.spawn_worker().await.unwrap();
    cluster.queen().unwrap().restart().await.unwrap();
    let jobs = cluster.api().unwrap().get("/v1/jobs").await.unwrap().text;
    assert!(jobs.contains("worker_spawn"), "{jobs}");
}

/// A cluster whose workers give the same text however many requests they have.
async fn cluster() -> Cluster {
    cluster_with(&[]).await
}

/// The same with some more settings.
async fn cluster_with(settings: &[(&str, &str)]) -> Cluster {
    let builder = Cluster::builder()
        .distributed()
        .env("RBEE_QUEEN__THREADS", "1")
        .env("RBEE_WORKER__ARGUMENTS", "--batch-invariant")
        .env("RBEE_WORKER__SLOTS", "2")
        .env("RBEE_WORKER__CTX_SIZE", "2048")
        // They fail more often here than any worker that is worth starting again.
        .env("RBEE_HIVE__MAX_FAILURES", "100")
        // One that is told to end is not waited for.
        .env("RBEE_HIVE__STOP_GRACE_S", "0");
    let builder = settings.iter().fold(builder, |builder, (name, value)| builder.env(name, value));
    let cluster = builder.start().await.unwrap();
    cluster.import_demo_model().await.unwrap();
    cluster
}

/// Asks one question after the other until the time is over; each answer must be exact.
async fn client(api: &Api, number: usize, undisturbed: &[String], end: Instant) -> usize {
    let mut answers = 0;
    while Instant::now() < end {
        let which = (number + answers) % (PROMPTS.len() + 1);
        // Some read no stream.
        let is_whole = (number + answers).is_multiple_of(3);
        let ask = async |body: &Value| {
            if is_whole { whole(api, body).await } else { answer(api, body).await.text }
        };
        if let Some(prompt) = PROMPTS.get(which) {
            let text = ask(&greedy(prompt)).await;
            assert_eq!(text, undisturbed[which], "client {number}, answer {answers}, {is_whole}");
        } else {
            let (body, expected) = forced(number * 1000 + answers, DIGITS);
            let text = ask(&body).await;
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!(expected));
        }
        answers += 1;
    }
    answers
}

/// The whole of a stream, which must have no error and a good end.
async fn answer(api: &Api, body: &Value) -> Transcript {
    let mut stream = api.chat_stream(body).await.unwrap();
    let mut transcript = Transcript::default();
    stream.read_rest(&mut transcript).await.unwrap();
    assert!(transcript.done && transcript.error.is_none(), "{transcript:?}");
    assert!(transcript.finish_reason.is_some());
    transcript
}

/// The text of an answer that is no stream, which must be complete.
async fn whole(api: &Api, body: &Value) -> String {
    let answer = api.post("/v1/chat/completions", body).await.unwrap();
    let answer = answer.expect_status(200).unwrap().json().unwrap();
    assert!(answer["choices"][0]["finish_reason"].is_string(), "{answer}");
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

fn pid_of(cluster: &Cluster, program: &str) -> Option<u32> {
    cluster.processes().into_iter().find(|process| process.name == program).map(|found| found.pid)
}

/// Kills one worker after the other, each as long as there is another one; gives their number.
async fn killer(cluster: &Cluster, end: Instant) -> usize {
    let mut kills = 0;
    while Instant::now() + PAUSE < end {
        let next = Instant::now() + PAUSE;
        wait_until("another kill is due", SOON, async || (Instant::now() >= next).then_some(()))
            .await
            .unwrap();
        let ready = wait_until("two workers are ready", SOON, async || {
            let ready = ready(cluster).await;
            (ready.len() >= 2).then_some(ready)
        })
        .await
        .unwrap();
        kills += usize::from(kill(ready[kills % ready.len()]).await);
    }
    kills
}

/// Kills a process. Whether there was one.
async fn kill(pid: u64) -> bool {
    let pid = pid.to_string();
    let killed = tokio::process::Command::new("kill").args(["-9", &pid]).status().await;
    killed.unwrap().success()
}

/// The processes of the workers that take requests.
async fn ready(cluster: &Cluster) -> Vec<u64> {
    let workers = cluster.workers().await.unwrap();
    let ready = workers.iter().filter(|w| w["state"] == "ready" && w["liveness"] == "alive");
    ready.filter_map(|worker| worker["pid"].as_u64()).collect()
}

/// How many answers went on elsewhere, as the queen's log tells.
fn failovers(cluster: &Cluster) -> usize {
    let log = std::fs::read_to_string(cluster.home().logs().join("queen-rbee.log")).unwrap();
    log.lines().filter(|line| line.contains("a worker failed a request")).count()
}

fn greedy(prompt: &str) -> Value {
    json!({
        "model": DEMO_ALIAS,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": 60,
    })
}

/// A request whose answer is one long text of so many hexadecimal digits, and that text.
fn forced(seed: usize, count: usize) -> (Value, String) {
    let mut state = u64::try_from(seed).unwrap() + 1;
    let digits = (0..count).map(|_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from_digit(u32::try_from(state >> 60).unwrap(), 16).unwrap()
    });
    let text: String = digits.collect();
    let mut body = greedy(&format!("Number {seed}, please."));
    body["max_tokens"] = json!(3 * count + 40);
    body["response_format"] = json!({
        "type": "json_schema",
        "json_schema": {"name": "number", "strict": true, "schema": {"const": text}},
    });
    (body, text)
}
