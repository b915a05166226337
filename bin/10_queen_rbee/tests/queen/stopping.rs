//! What becomes of answers when the queen ends.

use serde_json::{Value, json};

use crate::support::{Home, Queen, Reply, Script, WorkerDouble, chat, until};

const CHAT: &str = "/v1/chat/completions";

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
