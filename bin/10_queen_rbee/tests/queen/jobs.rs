//! Operations as jobs.

use std::io::Write as _;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use access_tokens::{Authenticator, TokenStore, local_secret};
use daemon_http::{Edge, edge};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use job_client::{ClientError, JobClient, JobEnd};
use job_server::{Executor, JobContext, JobError, JobRegistry, Limits, Outcome};
use rbee_config::Paths;
use rbee_operations::{
    HiveTarget, Infer, JobEvent, JobState, JobSummary, LISTED_JOBS, ListAll, Listed, Operation,
};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use worker_contract::{HiveAlias, HiveHeartbeat, JobId, Prompt, Sampling, Task};

use crate::support::{HiveDouble, Home, Queen, Reply, Script, WorkerDouble, serve, until};

#[tokio::test]
async fn an_answer_comes_as_token_events_and_its_figures_as_the_result() {
    let (queen, worker) = queen_with_worker([]).await;
    let (events, end) = run(&queen, &infer(None)).await;
    let tokens: Vec<_> = events.iter().filter(|event| event.event == "token").collect();
    let texts: Vec<_> = tokens.iter().map(|event| event.message.as_str()).collect();
    assert_eq!(texts, ["Hello", " world"]);
    assert_eq!(tokens[0].data, Some(json!({"text": "Hello", "tokens": [0, 1]})));
    let JobEnd::Succeeded(last) = end else { panic!("{end:?}") };
    let data = last.data.unwrap();
    assert_eq!((&data["worker_id"], &data["finish_reason"]), (&json!("w-1"), &json!("stop")));
    assert_eq!(data["usage"]["completion_tokens"], 2);
    assert!(matches!(&worker.requests()[0].task, Task::Chat(chat) if chat.messages.len() == 1));
}

#[tokio::test]
async fn a_cancelled_job_ends_the_request_at_the_worker() {
    let (queen, worker) = queen_with_worker([Script::Hangs(&["Hello"])]).await;
    let cancel = CancellationToken::new();
    let jobs = client(&queen);
    let operation = infer(None);
    let job = jobs.run_until(&operation, &cancel, |_| {});
    let cancelling = async {
        until("the worker has it", async || worker.open() == 1).await;
        cancel.cancel();
    };
    let (end, ()) = tokio::join!(job, cancelling);
    assert_eq!(end.unwrap(), JobEnd::Cancelled);
    until("the worker's connection is closed", async || worker.open() == 0).await;
}

#[tokio::test]
async fn a_model_without_a_template_continues_the_prompt_as_it_is() {
    let no_template = || Script::Refuses(400, "no_chat_template");
    let (queen, worker) =
        queen_with_worker([no_template(), Script::Says(&["x"]), no_template()]).await;
    let (_, end) = run(&queen, &infer(None)).await;
    assert!(matches!(end, JobEnd::Succeeded(_)), "{end:?}");
    let prompt = Prompt::Text("Hi".into());
    assert_eq!(worker.requests()[1].task, Task::Completion { prompt });

    let (_, end) = run(&queen, &infer(Some("Be brief."))).await;
    let JobEnd::Failed(error) = end else { panic!("instructions cannot be followed: {end:?}") };
    assert_eq!(error.code.as_deref(), Some("no_chat_template"));
    let told = Reply::read(queen.get("/v1/decisions")).await.json();
    let all = told["decisions"].as_array().unwrap();
    let retries: Vec<_> = all.iter().filter(|told| told["kind"] == "retry").collect();
    assert_eq!(retries.len(), 1, "{told}");
    assert_eq!(retries[0]["reason"], "no_chat_template");
    let metrics = Reply::read(queen.get("/metrics")).await.text;
    for ended in ["done", "refused"] {
        let line = format!("rbee_queen_requests_total{{model=\"m\",outcome=\"{ended}\"}} 1");
        assert!(metrics.lines().any(|l| l == line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_model_whose_file_has_no_template_is_not_asked_to_chat_first() {
    let (queen, worker) = queen_with_worker([]).await;
    let mut beat = HiveDouble::start(false).beat();
    for entry in &mut beat.catalog {
        entry.gguf.has_chat_template = false;
    }
    queen.hive_beat(&beat).await;
    let (_, end) = run(&queen, &infer(None)).await;
    assert!(matches!(end, JobEnd::Succeeded(_)), "{end:?}");
    let prompt = Prompt::Text("Hi".into());
    assert_eq!(worker.requests()[0].task, Task::Completion { prompt });
}

#[tokio::test]
async fn a_failed_inference_says_why() {
    let (queen, _worker) = queen_with_worker([Script::Dies(&["Hello"])]).await;
    let (_, end) = run(&queen, &infer(None)).await;
    let JobEnd::Failed(error) = end else { panic!("{end:?}") };
    assert_eq!(error.code.as_deref(), Some("worker_failed"));

    let mut unknown = infer(None);
    if let Operation::Infer(infer) = &mut unknown {
        infer.model = "nothing".parse().unwrap();
    }
    let (_, end) = run(&queen, &unknown).await;
    let JobEnd::Failed(error) = end else { panic!("{end:?}") };
    assert_eq!(error.code.as_deref(), Some("model_not_found"));
    assert!(error.message.contains("nothing"), "{error:?}");
}

#[tokio::test]
async fn what_no_worker_would_take_starts_none() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    queen.hive_beat(&hive.beat()).await;
    let mut hot = infer(None);
    if let Operation::Infer(infer) = &mut hot {
        infer.sampling.temperature = Some(9.0);
    }
    let (_, end) = run(&queen, &hot).await;
    let JobEnd::Failed(error) = end else { panic!("{end:?}") };
    assert_eq!(error.code.as_deref(), Some("decimal_above_max_value"));
    assert!(error.message.contains("'temperature'"), "{error:?}");
    assert_eq!(hive.spawns(), 0);
}

#[tokio::test]
async fn a_hives_events_are_passed_on_once_and_its_result_and_errors_become_ours() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    queen.hive_beat(&hive.beat()).await;
    let (events, end) = run(&queen, &Operation::ModelList(localhost())).await;
    let messages: Vec<_> = events.iter().map(|event| event.message.as_str()).collect();
    assert_eq!(messages, ["looking", "found", "1 model"]);
    let JobEnd::Succeeded(last) = end else { panic!("{end:?}") };
    assert_eq!(last.data.unwrap()["models"][0]["alias"], "m");

    let (_, end) = run(&queen, &Operation::WorkerList(localhost())).await;
    let JobEnd::Failed(error) = end else { panic!("{end:?}") };
    assert_eq!(error.code.as_deref(), Some("not_in_the_script"));
    assert_eq!(error.hint.as_deref(), Some("ask something else"));
}

#[tokio::test]
async fn hives_are_listed_and_an_unknown_one_names_the_known() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    let (_, end) = run(&queen, &Operation::WorkerList(localhost())).await;
    let JobEnd::Failed(error) = end else { panic!("{end:?}") };
    assert_eq!(error.code.as_deref(), Some("hive_not_running"));

    queen.hive_beat(&hive.beat()).await;
    let (_, end) = run(&queen, &Operation::HiveList {}).await;
    let JobEnd::Succeeded(last) = end else { panic!("{end:?}") };
    let listed = &last.data.unwrap()["hives"][0];
    assert_eq!((&listed["hive_id"], &listed["liveness"]), (&json!("localhost"), &json!("alive")));

    let elsewhere = HiveTarget { hive_id: "gpu-1".parse().unwrap() };
    let (_, end) = run(&queen, &Operation::HiveStatus(elsewhere)).await;
    let JobEnd::Failed(error) = end else { panic!("{end:?}") };
    assert_eq!(error.code.as_deref(), Some("hive_not_found"));
    assert!(error.message.contains("known are: localhost"), "{error:?}");
}

#[tokio::test]
async fn what_all_hives_have_is_one_list_and_a_hive_that_is_away_is_named() {
    let queen = Queen::start().await;
    let all = |of| Operation::ListAll(ListAll { of });
    let (_, end) = run(&queen, &all(Listed::Models)).await;
    let JobEnd::Failed(error) = end else { panic!("there is no hive: {end:?}") };
    assert_eq!(error.code.as_deref(), Some("hive_not_running"));

    let named = |name: &str| HiveDouble::start_as(name.parse().unwrap(), false);
    let (here, nas, away) = (HiveDouble::start(false), named("nas"), named("away"));
    for hive in [&away, &nas, &here] {
        queen.hive_beat(&hive.beat()).await;
    }
    drop(away);
    let (_, end) = run(&queen, &all(Listed::Models)).await;
    let JobEnd::Succeeded(last) = end else { panic!("{end:?}") };
    let data = last.data.unwrap();
    let models = data["models"].as_array().unwrap();
    let owners: Vec<_> = models.iter().map(|model| (&model["hive_id"], &model["alias"])).collect();
    assert_eq!(owners, [(&json!("localhost"), &json!("m")), (&json!("nas"), &json!("m"))]);
    assert_eq!(data["unheard"].as_array().map(Vec::len), Some(1), "{data}");
    assert_eq!(data["unheard"][0]["hive_id"], "away");
    let (_, end) = run(&queen, &all(Listed::Workers)).await;
    let JobEnd::Failed(error) = end else { panic!("no hive lists its workers: {end:?}") };
    assert!(error.message.starts_with("no hive answers; localhost: what?"), "{error:?}");
}

#[tokio::test]
async fn a_worker_that_no_hive_has_started_is_told_of_in_lists_and_to_who_looks_for_it() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    hive.lists_workers();
    hive.let_start();
    queen.hive_beat(&hive.beat()).await;
    let operation = |json| serde_json::from_value::<Operation>(json).unwrap();
    let spawn = operation(json!({"WorkerSpawn": {"model": "m"}}));
    assert!(matches!(run(&queen, &spawn).await.1, JobEnd::Succeeded(_)));
    queen.worker_beat(&hive.worker_beats()[0]).await;
    let by_hand = WorkerDouble::start("w-hand", []);
    queen.worker_beat(&by_hand.beat()).await;
    let all = Operation::ListAll(ListAll { of: Listed::Workers });
    for list in [all, Operation::WorkerList(localhost())] {
        let (events, end) = run(&queen, &list).await;
        assert!(matches!(end, JobEnd::Succeeded(_)), "{end:?}");
        let left_out = events.iter().filter(|event| event.message.contains("is left out"));
        let left_out: Vec<_> = left_out.map(|event| event.message.as_str()).collect();
        let expected = "w-hand is left out, which takes requests for m: the hive localhost has not started \
                        it, somebody has, as process 1 beside it";
        assert_eq!(left_out, [expected]);
    }
    for (id, expected) in [
        (
            "w-hand",
            "the hive localhost has not started w-hand: somebody has, as process 1 beside it",
        ),
        ("w-none", "there is no worker w-none on this hive"),
    ] {
        let (_, end) = run(&queen, &operation(json!({"WorkerGet": {"worker_id": id}}))).await;
        let JobEnd::Failed(error) = end else { panic!("{end:?}") };
        assert_eq!((error.code.as_deref(), &*error.message), (Some("worker_not_found"), expected));
    }
}

#[tokio::test]
async fn a_download_whose_hive_has_started_again_is_followed_there_to_its_end() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    let download = json!({"ModelDownload": {"hive_id": "localhost", "reference": "hf:o/r"}});
    let download: Operation = serde_json::from_value(download).unwrap();
    let first = Life::begin(0).await;
    queen.hive_beat(&HiveHeartbeat { address: Some(first.url()), ..hive.beat() }).await;
    let port = first.address.port();
    let lives = async {
        until("the hive has the job", async || first.jobs.running() == 1).await;
        drop(first);
        let second = Life::begin(port).await;
        second.goes_on(&download);
        second.fetched.notify_one();
        second
    };
    let ((events, end), second) = tokio::join!(run(&queen, &download), lives);
    let JobEnd::Succeeded(last) = end else { panic!("{end:?}") };
    assert_eq!(last.message, "fetched");
    let told: Vec<_> = events.iter().map(|event| event.message.as_str()).collect();
    let again = "The hive has started again, and goes on with the download";
    assert!(told.ends_with(&[again, "fetching", "fetched"]), "{told:?}");

    // A life that knows nothing of it: nobody is told of a job that he never saw.
    let lives = async {
        until("the hive has the job", async || second.jobs.running() == 1).await;
        drop(second);
        Life::begin(port).await
    };
    let ((_, end), third) = tokio::join!(run(&queen, &download), lives);
    let JobEnd::Failed(error) = end else { panic!("{end:?}") };
    assert_eq!(error.code.as_deref(), Some("hive_restarted"), "{error:?}");
    assert!(error.hint.unwrap().contains("the same command goes on"));
    assert!(third.jobs.list().is_empty());
}

#[tokio::test]
async fn a_followed_log_ends_when_the_token_is_revoked_that_reads_it() {
    let home = Home::new();
    let queen = Queen::at(&home, |_| {}).await;
    let program = if cfg!(feature = "local-hive") { "queen-rbee" } else { "rbee-hive" };
    let logs = Paths::under(home.path()).logs;
    std::fs::create_dir_all(&logs).unwrap();
    let log = logs.join(format!("{program}.log"));
    let mut log = std::fs::File::options().create(true).append(true).open(log).unwrap();
    let tokens = TokenStore::open(&queen.secrets());
    let reader = JobClient::new(&queen.url, Some(tokens.create("reader").unwrap().secret));
    let follow = serde_json::from_value(json!({"HiveLogs": {"follow": true}})).unwrap();
    let job = reader.submit(&follow).await.unwrap();
    let lines = async {
        let mut events = pin!(reader.follow(&job, None));
        let first = events.next().await.unwrap().unwrap();
        assert_eq!(first.event.event, "log");
        tokens.revoke("reader").unwrap();
        loop {
            if let Err(error) = events.next().await.unwrap() {
                return error;
            }
        }
    };
    let writing = async {
        loop {
            writeln!(log, "another line").unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        error = lines => assert!(matches!(error, ClientError::Revoked(_)), "{error:?}"),
        () = writing => unreachable!("there is always another line"),
    }
    let home = JobClient::new(&queen.url, Some(local_secret(&queen.secrets()).unwrap()));
    until("the job has ended", async || home.get(&job).await.unwrap().state == JobState::Cancelled)
        .await;
}

#[tokio::test]
async fn an_answer_that_is_a_job_has_the_drain_time_in_which_nobody_is_heard() {
    let (home, go_on) = (Home::new(), Arc::new(Notify::new()));
    let queen = Queen::at(&home, |config| config.worker.heartbeat_interval_ms = 1000).await;
    let worker = WorkerDouble::start("w-1", [Script::Waits(&["Hello"], Arc::clone(&go_on))]);
    let hive = HiveDouble::start_as("nas".parse().unwrap(), false);
    queen.worker_beat(&worker.beat()).await;
    queen.hive_beat(&hive.beat()).await;
    let answer = client(&queen).submit(&infer(None)).await.unwrap();
    let start = json!({"WorkerSpawn": {"hive_id": "nas", "model": "m"}});
    let start = client(&queen).submit(&serde_json::from_value(start).unwrap()).await.unwrap();
    until("worker and hive have begun", async || worker.open() == 1 && hive.spawns() == 1).await;

    let stopped = Instant::now();
    let going_on = async {
        let enough = Duration::from_secs(6);
        until("a silent worker would be gone", async || stopped.elapsed() > enough).await;
        assert_eq!(worker.open(), 1, "the answer goes on");
        go_on.notify_one();
    };
    tokio::join!(queen.stop(), going_on);
    assert!(stopped.elapsed() < Duration::from_secs(9), "she ends when the answer has ended");

    let queen = Queen::at(&home, |_| {}).await;
    let (answer, start) = (job(&queen, &answer).await, job(&queen, &start).await);
    assert_eq!((answer.state, answer.error), (JobState::Succeeded, None));
    assert_eq!(start.state, JobState::Failed, "{start:?}");
}

#[tokio::test]
async fn looking_erases_no_job_and_is_listed_only_for_who_asks() {
    let home = Home::new();
    let queen = Queen::at(&home, |config| config.queen.keep_jobs = 2).await;
    let worker = WorkerDouble::start("w-1", []);
    queen.worker_beat(&worker.beat()).await;
    let (_, end) = run(&queen, &infer(None)).await;
    assert!(matches!(end, JobEnd::Succeeded(_)), "{end:?}");
    for _ in 0..5 {
        for look in [Operation::HiveList {}, Operation::ModelPolicyList {}] {
            let (_, end) = run(&queen, &look).await;
            assert!(matches!(end, JobEnd::Succeeded(_)), "{end:?}");
        }
    }
    let names = |jobs: Vec<JobSummary>| -> Vec<String> {
        jobs.into_iter().map(|job| job.operation).collect()
    };
    assert_eq!(names(client(&queen).list(LISTED_JOBS).await.unwrap().jobs), ["infer"]);
    let all = client(&queen).list_with_looks(LISTED_JOBS).await.unwrap().jobs;
    assert_eq!(all.len(), 11);
    assert_eq!(job(&queen, &all[0].job_id).await, all[0], "it is shown by its id");
    queen.stop().await;

    let queen = Queen::at(&home, |_| {}).await;
    assert_eq!(names(client(&queen).list_with_looks(LISTED_JOBS).await.unwrap().jobs), ["infer"]);
}

#[tokio::test]
async fn a_queen_starts_with_a_past_in_which_a_bit_has_flipped_and_shows_the_rest() {
    let home = Home::new();
    let queen = Queen::at(&home, |_| {}).await;
    let lost = json!({"HiveAdd": {"hive_id": "gpu-1", "ssh": "gpu-1"}});
    let kept = json!({"HiveRemove": {"hive_id": "gpu-1"}});
    for operation in [lost, kept] {
        let operation = serde_json::from_value(operation).unwrap();
        let (_, end) = run(&queen, &operation).await;
        assert!(matches!(end, JobEnd::Succeeded(_)), "{end:?}");
    }
    queen.stop().await;
    let file = Paths::under(home.path()).data.join("queen.db");
    let (mut bytes, name) = (std::fs::read(&file).unwrap(), b"hive_add");
    let places: Vec<_> =
        (0..bytes.len()).filter(|at| bytes[*at..].starts_with(name.as_slice())).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at] ^= 0x80;
    }
    std::fs::write(&file, bytes).unwrap();

    let queen = Queen::at(&home, |_| {}).await;
    let jobs = client(&queen).list(10).await.unwrap().jobs;
    let shown: Vec<_> = jobs.iter().map(|job| job.operation.as_str()).collect();
    assert_eq!(shown, ["hive_remove"]);
    let (_, end) = run(&queen, &Operation::HiveList {}).await;
    assert!(matches!(end, JobEnd::Succeeded(_)), "{end:?}");
}

/// A life of a hive that downloads, between its start and its sudden end.
struct Life {
    address: SocketAddr,
    jobs: JobRegistry,
    fetched: Arc<Notify>,
    executor: Arc<dyn Executor>,
    _server: DropGuard,
}

struct Downloads(Arc<Notify>);

impl Life {
    /// Listens on a port, once that is free.
    async fn begin(port: u16) -> Self {
        let (jobs, fetched) = (JobRegistry::in_memory(Limits::default()), Arc::new(Notify::new()));
        let executor: Arc<dyn Executor> = Arc::new(Downloads(Arc::clone(&fetched)));
        let mut listens = None;
        until("the port is free", async || {
            let routes =
                job_server::routes(jobs.clone(), Arc::clone(&executor), Authenticator::open());
            let open = Edge { auth: Authenticator::open(), max_body_bytes: 1 << 20 };
            listens = serve(edge(routes, open), port);
            listens.is_some()
        })
        .await;
        let (address, server) = listens.unwrap();
        Self { address, jobs, fetched, executor, _server: server }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// As a hive does with what it was downloading when it last ended.
    fn goes_on(&self, download: &Operation) {
        self.jobs.submit(download, "hive", &self.executor).unwrap();
    }
}

impl Executor for Downloads {
    fn execute(
        &self,
        _operation: Operation,
        job: JobContext,
    ) -> BoxFuture<'static, Result<Outcome, JobError>> {
        let fetched = Arc::clone(&self.0);
        Box::pin(async move {
            job.say("fetching");
            fetched.notified().await;
            Ok(Outcome::said("fetched"))
        })
    }
}

async fn queen_with_worker(scripts: impl IntoIterator<Item = Script>) -> (Queen, WorkerDouble) {
    let worker = WorkerDouble::start("w-1", scripts);
    let queen = Queen::start().await;
    queen.worker_beat(&worker.beat()).await;
    (queen, worker)
}

async fn run(queen: &Queen, operation: &Operation) -> (Vec<JobEvent>, JobEnd) {
    let mut events = Vec::new();
    let end = client(queen).run(operation, |event| events.push(event.clone())).await.unwrap();
    (events, end)
}

async fn job(queen: &Queen, id: &JobId) -> JobSummary {
    client(queen).get(id).await.unwrap()
}

fn client(queen: &Queen) -> JobClient {
    JobClient::new(&queen.url, None)
}

fn infer(system: Option<&str>) -> Operation {
    Operation::Infer(Box::new(Infer {
        model: "m".parse().unwrap(),
        prompt: "Hi".into(),
        system: system.map(str::to_owned),
        sampling: Sampling::default(),
    }))
}

fn localhost() -> HiveTarget {
    HiveTarget { hive_id: HiveAlias::localhost() }
}
