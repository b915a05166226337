//! What becomes of answers when the queen ends.

use std::time::Duration;

use job_client::{JobClient, JobEnd};
use rbee_config::Paths;
use rbee_operations::Operation;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::support::{Home, Queen, Reply, Script, WorkerDouble, chat, until};

const CHAT: &str = "/v1/chat/completions";
/// What a queen may take to end over whom she need not wait for. Answers would have twice as long.
const A_MOMENT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn answers_whose_time_is_over_when_the_queen_ends_say_so() {
    let home = Home::new();
    let queen = Queen::at(&home, |config| config.queen.drain_s = 1).await;
    let worker = WorkerDouble::start("w-1", vec![Script::Hangs(&["Hello"]); 2]);
    queen.worker_beat(&worker.beat()).await;
    let mut stream = queen.stream(CHAT, &chat()).await.begun().await;
    stream.until_text().await;
    let whole = Reply::read(queen.post(CHAT).json(&chat()));
    let stopped = async {
        until("both are under way", async || worker.open() == 2).await;
        queen.stop().await;
    };
    let (transcript, reply, ()) = tokio::join!(stream.rest(), whole, stopped);
    reply.error(503, "stopping");
    let error = transcript.error.expect("a last word");
    assert_eq!((&error["code"], transcript.is_done), (&json!("stopping"), false), "{error}");

    let queen = Queen::at(&home, |_| {}).await;
    let decisions = Reply::read(queen.get("/v1/decisions")).await.json()["decisions"].clone();
    let is_cut = |it: &&Value| it["kind"] == "give_up" && it["reason"] == "stopping";
    let cut = decisions.as_array().unwrap().iter().filter(is_cut);
    assert_eq!(cut.count(), 2, "{decisions}");
}

#[tokio::test]
async fn whoever_follows_a_log_is_told_that_the_queen_ends_and_does_not_hold_her_up() {
    let home = Home::new();
    let queen = Queen::at(&home, |_| {}).await;
    let logs = Paths::under(home.path()).logs;
    for program in ["queen-rbee", "rbee-hive"] {
        std::fs::write(logs.join(format!("{program}.log")), "a line\n").unwrap();
    }
    let follow = json!({"HiveLogs": {"hive_id": "localhost", "follow": true}});
    let follow: Operation = serde_json::from_value(follow).unwrap();
    let (jobs, follows) = (JobClient::new(&queen.url, None), Notify::new());
    let following = jobs.run(&follow, |event| {
        if event.message == "a line" {
            follows.notify_one();
        }
    });
    let stopping = async {
        follows.notified().await;
        timeout(A_MOMENT, queen.stop()).await
    };
    let (end, stopped) = tokio::join!(following, stopping);
    assert!(stopped.is_ok(), "she waits for who follows a log");
    let JobEnd::Failed(last) = end.unwrap() else { panic!("it did not end") };
    assert_eq!(last.code.as_deref(), Some("interrupted"));
}
