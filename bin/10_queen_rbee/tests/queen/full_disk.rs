//! A queen whose disk is full.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use access_tokens::{Authenticator, Caller, TokenStore};
use daemon_lifecycle::RunFiles;
use job_client::{JobClient, JobEnd};
use rbee_config::Paths;
use rbee_operations::Operation;
use serde_json::json;
use test_cluster::SmallDisk;

use crate::support::{Home, Queen, Reply, WorkerDouble, chat, until};

#[tokio::test]
async fn a_queen_starts_and_serves_on_a_full_disk_and_records_when_there_is_room() {
    if let Some(reason) = SmallDisk::unavailable() {
        test_cluster::skip_test(&reason);
        return;
    }
    let home = Home::new();
    let data = Paths::under(home.path()).data;
    let disk = SmallDisk::mount(&data, 4).unwrap();
    let queen = Queen::at(&home, |_| {}).await;
    let operation = |value| -> Operation { serde_json::from_value(value).unwrap() };
    let added = operation(json!({"HiveAdd": {"hive_id": "gpu-1", "ssh": "gpu-1"}}));
    run(&queen, &added).await;
    assert!(queen.status().await.get("records_trouble").is_none());
    let set = operation(json!({"ModelPolicySet": {"model": "m", "policy": {"min": 0, "max": 3}}}));
    run(&queen, &set).await;
    queen.stop().await;
    let secrets = data.join("secrets-of-another");
    let door = Authenticator::from_store(&secrets).unwrap();
    let token = TokenStore::open(&secrets).create("laptop").unwrap();
    drop(door);
    let files = RunFiles::new(&data.join("run"), "queen-rbee");
    let address = "127.0.0.1:8500".parse().unwrap();
    files.acquire().unwrap().publish_addr(address).unwrap();
    let (filler, rest) = (data.join("filler"), data.join("rest"));
    fill(&filler);

    let run_lock = files.acquire().unwrap();
    run_lock.publish_addr(address).unwrap();
    assert_eq!(files.read_running().unwrap().addr, address, "it can be found");
    fill(&rest);

    let door = Authenticator::from_store(&secrets).unwrap();
    let caller = door.verify(Some(token.secret.expose()));
    assert!(matches!(caller, Ok(Caller::Token { .. })), "{caller:?}");
    let queen = Queen::at(&home, |_| {}).await;
    let status = queen.status().await;
    let trouble = status["records_trouble"].as_str().unwrap();
    assert!(trouble.contains("disk"), "{trouble}");
    let health = Reply::read(queen.get("/health")).await.json();
    assert_eq!((&health["status"], &health["records"]), (&json!("ok"), &json!("not kept")));
    assert_eq!(operations(&queen).await, ["model_policy_set", "hive_add"], "the past is shown");
    let worker = WorkerDouble::start("w-1", []);
    queen.worker_beat(&worker.beat()).await;
    assert_eq!(queen.ask("/v1/chat/completions", &chat()).await.status, 200);
    run(&queen, &operation(json!({"Infer": {"model": "m", "prompt": "Hi"}}))).await;

    fs::remove_file(&filler).unwrap();
    fs::remove_file(&rest).unwrap();
    until("records are kept again", async || queen.status().await.get("records_trouble").is_none())
        .await;
    let health = Reply::read(queen.get("/health")).await.json();
    assert!(health.get("records").is_none(), "{health}");
    run(&queen, &set).await;
    queen.stop().await;
    let queen = Queen::at(&home, |_| {}).await;
    let expected = ["model_policy_set", "infer", "model_policy_set", "hive_add"];
    assert_eq!(operations(&queen).await, expected, "what was in memory is on the disk");
    queen.stop().await;
    drop((run_lock, disk));
}

async fn run(queen: &Queen, operation: &Operation) {
    let end = client(queen).run(operation, |_| {}).await.unwrap();
    assert!(matches!(end, JobEnd::Succeeded(_)), "{end:?}");
}

/// The latest first.
async fn operations(queen: &Queen) -> Vec<String> {
    let jobs = client(queen).list(10).await.unwrap().jobs;
    jobs.into_iter().map(|job| job.operation).collect()
}

fn client(queen: &Queen) -> JobClient {
    JobClient::new(&queen.url, None)
}

/// Leaves no byte.
fn fill(file: &Path) {
    let mut file = File::create(file).unwrap();
    for piece in [4096, 1] {
        while file.write_all(&[0; 4096][..piece]).is_ok() {}
    }
}
