//! Clients that go away or do not read.

use crate::support::{Queen, Script, WorkerDouble, chat, until};

const CHAT: &str = "/v1/chat/completions";
/// A worker of which nothing is taken while the queen answers so many others has been slowed to a stop.
const STILL: usize = 50;

#[tokio::test]
async fn a_client_that_closes_its_stream_ends_the_request_at_the_worker() {
    let (queen, worker) = queen_with(Script::Hangs(&["Hello"])).await;
    let mut stream = queen.stream(CHAT, &chat()).await.begun().await;
    stream.until_text().await;
    assert_eq!(worker.open(), 1);
    drop(stream);
    until("the worker's connection is closed", async || worker.open() == 0).await;
    until("its place is free", async || queen.in_flight("w-1").await == 0).await;
}

#[tokio::test]
async fn a_client_that_goes_away_before_the_whole_answer_ends_it_too() {
    for script in [Script::Hangs(&["Hello"]), Script::Silent] {
        let (queen, worker) = queen_with(script).await;
        {
            let (body, work) = (chat(), until("the worker has it", async || worker.open() == 1));
            tokio::select! {
                _ = queen.ask(CHAT, &body) => panic!("nobody answers"),
                () = work => {}
            }
        }
        until("the worker's connection is closed", async || worker.open() == 0).await;
    }
}

#[tokio::test]
async fn a_client_that_goes_away_while_it_waits_leaves_the_queue() {
    let hang = || Script::Hangs(&["Hello"]);
    let worker = WorkerDouble::start("w-1", [hang(), hang()]);
    let queen = Queen::start().await;
    let mut beat = worker.beat();
    beat.slots.total = 2;
    queen.worker_beat(&beat).await;
    let first = queen.stream(CHAT, &chat()).await.begun().await;
    let second = queen.stream(CHAT, &chat()).await.begun().await;
    {
        let (body, waits) =
            (chat(), until("a request waits", async || queen.status().await["waiting"] == 1));
        tokio::select! {
            _ = queen.ask(CHAT, &body) => panic!("nobody answers"),
            () = waits => {}
        }
    }
    until("nobody waits", async || queen.status().await["waiting"] == 0).await;
    drop((first, second));
    until("all places are free", async || queen.in_flight("w-1").await == 0).await;
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
    assert_eq!(worker.requests().len(), 3, "who left was not sent on");
}

#[tokio::test]
async fn a_client_that_does_not_read_slows_its_worker_and_fills_no_memory() {
    let (queen, worker) = queen_with(Script::Pours(4096)).await;
    let mut stream = queen.stream(CHAT, &chat()).await.begun().await;
    stream.until_text().await;
    let (mut last, mut still) = (0, 0);
    until("the worker is slowed to a stop", async || {
        queen.status().await;
        still = if worker.poured() == last { still + 1 } else { 0 };
        last = worker.poured();
        still >= STILL
    })
    .await;
    // What is on its way fits the sockets' buffers, a few MiB; the queen has no queue of her own.
    assert!(worker.poured() < 8192, "{} pieces of 4 KiB", worker.poured());
    let stopped_at = worker.poured();
    for _ in 0..stopped_at {
        stream.until_text().await;
    }
    until("it goes on when it is read", async || worker.poured() > stopped_at).await;
}

#[tokio::test]
async fn a_deadline_ends_a_stream_that_nobody_reads() {
    let (queen, worker) = queen_with(Script::Pours(4096)).await;
    let mut body = chat();
    body["stream"] = true.into();
    let request = queen.post(CHAT).header("x-rbee-deadline-ms", "2000").json(&body);
    let unread = request.send().await.unwrap();
    assert_eq!(unread.status(), 200);
    until("its place is free", async || queen.in_flight("w-1").await == 0).await;
    until("the worker's connection is closed", async || worker.open() == 0).await;
}

#[tokio::test]
async fn clients_that_do_not_read_slow_nobody_else() {
    let worker =
        WorkerDouble::start("w-1", [Script::Pours(4096), Script::Pours(4096), Script::Pours(4096)]);
    let queen = Queen::start().await;
    queen.worker_beat(&worker.beat()).await;
    let mut idle = Vec::new();
    for _ in 0..3 {
        let mut stream = queen.stream(CHAT, &chat()).await.begun().await;
        stream.until_text().await;
        idle.push(stream);
    }
    for _ in 0..20 {
        let begin = std::time::Instant::now();
        let reply = queen.ask(CHAT, &chat()).await;
        assert_eq!(reply.json()["choices"][0]["message"]["content"], "Hello world");
        assert!(begin.elapsed() < std::time::Duration::from_secs(2), "{:?}", begin.elapsed());
    }
    assert_eq!(worker.open(), 3);
}

async fn queen_with(script: Script) -> (Queen, WorkerDouble) {
    let worker = WorkerDouble::start("w-1", [script]);
    let queen = Queen::start().await;
    queen.worker_beat(&worker.beat()).await;
    (queen, worker)
}
