//! A queen that is killed while she writes, again and again: what she said is done is kept, and no file is damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use rbee_operations::{
    Infer, JobEvent, JobState, JobSummary, ModelPolicy, ModelPolicySet, Operation,
};
use rusqlite::Connection;
use serde_json::Value;
use test_cluster::{Api, Cluster, DEMO_ALIAS, JobRun, Signal, send_signal};
use worker_contract::{JobId, Sampling};

/// How often she is killed.
const ROUNDS: usize = 4;
/// How many have jobs done, each one after the other.
const WRITERS: usize = 4;
/// After how many ends of jobs she is killed first, and how many more each time.
const ENDS: usize = 12;
const MORE_ENDS: usize = 7;
/// The files of a queen who has her hive in her own process.
const FILES: [&str; 4] = ["decisions.db", "hive.db", "policies.db", "queen.db"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queen_that_is_killed_while_she_writes_loses_no_finished_job_and_damages_no_file() {
    let mut cluster = Cluster::builder()
        .integrated()
        .env("RBEE_QUEEN__THREADS", "1")
        .env("RBEE_WORKER__SLOTS", "2")
        .start()
        .await
        .unwrap();
    cluster.import_demo_model().await.unwrap();
    cluster.spawn_worker().await.unwrap();
    let data = cluster.home().path().join("data");
    let (mut kept, mut decisions, mut interrupted) = (Kept::default(), 0, 0);
    for round in 0..ROUNDS {
        let api = cluster.api().unwrap();
        let told = Told::new(ENDS + MORE_ENDS * round, cluster.queen().unwrap().pid);
        let writers = (0..WRITERS).map(|writer| write(&api, round, writer, &told));
        futures::future::join_all(writers).await;
        // She is dead, and is reaped.
        cluster.queen().unwrap().kill().await.unwrap();
        let ends = told.kept().jobs.len();
        assert!(ends >= told.kill_after, "{ends} jobs ended, then she was gone by herself");
        kept.extend(told);

        let stored = check_files(&data);
        assert!(stored > decisions, "round {round}: {stored} decisions are on disk");
        decisions = stored;
        cluster.queen().unwrap().start_again().await.unwrap();
        cluster.wait_for_hive().await.unwrap();
        interrupted = check_records(&cluster.api().unwrap(), &kept).await;
    }
    assert!(interrupted > 0, "she was never killed while a job ran");
    let last = cluster.api().unwrap().run_job(&infer()).await.unwrap();
    last.result::<Value>().unwrap();
}

/// What somebody was told that it is done.
#[derive(Debug, Default)]
struct Kept {
    /// Jobs, with the last of their events.
    jobs: BTreeMap<JobId, (u64, JobEvent)>,
    /// The idle time that was set last for each model.
    policies: BTreeMap<String, u64>,
}

impl Kept {
    fn extend(&mut self, told: Told) {
        let Kept { jobs, policies } = told.kept.into_inner().unwrap();
        self.jobs.extend(jobs);
        self.policies.extend(policies);
    }
}

/// What was told in the life of one queen, who is killed the instant that enough was.
#[derive(Debug)]
struct Told {
    kept: Mutex<Kept>,
    kill_after: usize,
    queen: u32,
}

impl Told {
    fn new(kill_after: usize, queen: u32) -> Self {
        Self { kept: Mutex::default(), kill_after, queen }
    }

    fn add(&self, run: &JobRun, policy: Option<(String, u64)>) {
        let mut kept = self.kept();
        kept.jobs.insert(run.job_id.clone(), run.events.last().unwrap().clone());
        kept.policies.extend(policy);
        if kept.jobs.len() == self.kill_after {
            send_signal(self.queen, Signal::KILL);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }
}

/// Has one job done after the other until the queen is gone: half of the writers only answers.
async fn write(api: &Api, round: usize, writer: usize, told: &Told) {
    for step in 1.. {
        let idle_s = u64::try_from(round * 10_000 + step).unwrap();
        let (operation, policy) = match writer % 2 {
            0 => (infer(), None),
            _ => (policy(writer, idle_s), Some((model(writer), idle_s))),
        };
        // A connection that breaks is the end of the queen.
        let Ok(run) = api.run_job(&operation).await else { return };
        if !run.done {
            return;
        }
        assert!(run.failure().is_none(), "{run:?}");
        told.add(&run, policy);
    }
}

/// Looks at copies of the files as the killed one left them: the next one is to mend hers herself. Tells how
/// many decisions are in them.
fn check_files(data: &Path) -> i64 {
    let copies = tempfile::tempdir().unwrap();
    let mut names = Vec::new();
    for file in fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path()) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        assert!(!name.contains("damaged"), "{name} was set aside");
        let kind = file.extension().unwrap_or_default().to_string_lossy();
        // What is beside `-wal` is made from it.
        if kind == "db" || kind == "db-wal" {
            fs::copy(&file, copies.path().join(&name)).unwrap();
        }
        names.extend((kind == "db").then_some(name));
    }
    names.sort();
    assert_eq!(names, FILES);
    let written_ahead = fs::metadata(data.join("queen.db-wal")).map_or(0, |file| file.len());
    assert!(written_ahead > 0, "the queen tidied up: she was not killed");
    for name in names {
        let file = Connection::open(copies.path().join(&name)).unwrap();
        let verdict: String =
            file.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(verdict, "ok", "{name}");
        let mut strays = file.prepare("PRAGMA foreign_key_check").unwrap();
        assert!(!strays.exists([]).unwrap(), "{name} has rows that belong to nothing");
    }
    let file = Connection::open(copies.path().join("decisions.db")).unwrap();
    file.query_row("SELECT count(*) FROM decisions", [], |row| row.get(0)).unwrap()
}

/// Sees that all is there that somebody was told of, and that nothing else is left half done; tells how many
/// jobs were interrupted.
async fn check_records(api: &Api, kept: &Kept) -> usize {
    for (job, last) in &kept.jobs {
        let summary = api.job(job).await.unwrap();
        assert_eq!(summary.state, JobState::Succeeded, "{summary:?}");
        let replayed = api.follow(job, None).await.unwrap();
        assert!(replayed.done);
        assert_eq!(replayed.events.last(), Some(last), "{job}: {replayed:?}");
    }
    let listed = api.get("/v1/jobs").await.unwrap().expect_status(200).unwrap().json().unwrap();
    let listed: Vec<JobSummary> = serde_json::from_value(listed["jobs"].clone()).unwrap();
    let (succeeded, rest): (Vec<_>, Vec<_>) =
        listed.into_iter().partition(|job| job.state == JobState::Succeeded);
    assert!(succeeded.len() >= kept.jobs.len());
    for job in &rest {
        assert_eq!(job.state, JobState::Failed, "{job:?}");
    }
    let shown = api.run_job(&Operation::ModelPolicyList {}).await.unwrap();
    let shown: Value = shown.result().unwrap();
    let shown = shown["policies"].as_array().unwrap();
    for (model, told) in &kept.policies {
        let policy = shown.iter().find(|policy| policy["model"] == model.as_str());
        let is = policy.and_then(|policy| policy["idle_ttl_s"].as_u64());
        // One more may have been set, whose job was interrupted.
        assert!(is >= Some(*told), "{model}: {told} was set, and {is:?} is there");
    }
    rest.len()
}

fn infer() -> Operation {
    let sampling = Sampling {
        temperature: Some(0.0),
        max_tokens: Some(6),
        ignore_eos: true,
        ..Sampling::default()
    };
    let (model, prompt) = (DEMO_ALIAS.parse().unwrap(), "Tell me about the sea.".to_owned());
    Operation::Infer(Box::new(Infer { model, prompt, system: None, sampling }))
}

fn policy(writer: usize, idle_s: u64) -> Operation {
    let policy = ModelPolicy { idle_ttl_s: Some(idle_s), ..ModelPolicy::default() };
    let model = model(writer).parse().unwrap();
    Operation::ModelPolicySet(ModelPolicySet { model, reset: false, policy })
}

/// A model that only its policy knows.
fn model(writer: usize) -> String {
    format!("model-{writer}")
}
