//! What was decided for a request, and why.

use serde_json::{Value, json};
use worker_contract::WorkerHeartbeat;

use crate::support::{HiveDouble, Queen, Reply, Script, WorkerDouble, chat, until};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn a_requests_way_is_told_from_its_failing_worker_to_the_one_that_answered() {
    let queen = Queen::start().await;
    let failing = WorkerDouble::start("w-1", [Script::Dies(&["Hello"])]);
    let other = WorkerDouble::start("w-2", [Script::Says(&[" world"])]);
    queen.worker_beat(&failing.beat()).await;
    queen.worker_beat(&other.beat()).await;
    let request = queen.post(CHAT).header("x-request-id", "r-1").json(&chat());
    assert_eq!(Reply::read(request).await.header("x-request-id"), "r-1");
    let way = why(&queen, "request_id=r-1").await;
    let told: Vec<_> = way.iter().map(|d| (text(d, "kind"), text(d, "worker_id"))).collect();
    assert_eq!(told, [("dispatch", "w-2"), ("failover", "w-1"), ("dispatch", "w-1")]);
    assert!(
        text(&way[1], "why").contains("another is sought that goes on after 2 tokens"),
        "{way:?}"
    );
    assert!(text(&way[0], "why").starts_with("w-2 is the only worker"), "{way:?}");
    assert_eq!((text(&way[0], "caller"), text(&way[0], "model")), ("local", "m"));
    assert_eq!(way[0]["detail"]["chosen"]["slots"], 4, "{way:?}");
}

#[tokio::test]
async fn starts_refusals_and_circuits_are_told_too() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    hive.let_start();
    queen.hive_beat(&hive.beat()).await;
    assert_eq!(queen.ask(CHAT, &chat()).await.status, 200);
    let of_model = why(&queen, "model=m").await;
    let kinds: Vec<_> = of_model.iter().map(|d| text(d, "kind")).collect();
    assert_eq!(kinds, ["dispatch", "spawn", "wait"]);
    assert_eq!(text(&of_model[2], "reason"), "start");
    assert_eq!(of_model[1]["detail"]["hive"], "localhost");

    let unknown = json!({"model": "other", "messages": [{"role": "user", "content": "Hi"}]});
    queen.ask(CHAT, &unknown).await.error(404, "model_not_found");
    let refused = &why(&queen, "model=other").await[0];
    assert_eq!((text(refused, "kind"), text(refused, "reason")), ("reject", "unknown_model"));

    let queen = Queen::start().await;
    let babbling = WorkerDouble::start("w-1", vec![Script::Babbles; 10]);
    queen.worker_beat(&babbling.beat()).await;
    for _ in 0..2 {
        queen.ask(CHAT, &chat()).await.error(502, "worker_failed");
    }
    let third = queen.post(CHAT).header("x-rbee-deadline-ms", "300").json(&chat());
    let error = Reply::read(third).await.error(504, "deadline_exceeded");
    let decided = why(&queen, "").await;
    let kinds: Vec<_> = decided.iter().map(|d| text(d, "kind").to_owned()).collect();
    assert_eq!((&*kinds[0], text(&decided[0], "reason")), ("reject", "deadline"), "{decided:?}");
    assert_eq!(decided[0]["why"], error["message"], "no less than the client was told");
    let count = |wanted| kinds.iter().filter(|kind| *kind == wanted).count();
    let counted = (count("give_up"), count("retry"), count("circuit_opened"));
    assert_eq!(counted, (2, 5, 1), "the third request opens it: {kinds:?}");

    queen.worker_beat(&WorkerHeartbeat { pid: 2, ..babbling.beat() }).await;
    until("that its next process gets requests again is told", async || {
        let latest = &why(&queen, "").await[0];
        (text(latest, "kind"), text(latest, "reason")) == ("circuit_closed", "replaced")
    })
    .await;
}

#[tokio::test]
async fn a_name_that_no_model_can_have_is_refused_as_any_unknown_one_and_told_in_part() {
    let queen = Queen::start().await;
    let long = "x".repeat(5000);
    let rows = [("gpt 9", "gpt 9"), ("", ""), ("a\nb", "ab"), (long.as_str(), &long[..80])];
    for (number, (model, told)) in rows.into_iter().enumerate() {
        for (path, what) in [(CHAT, "messages"), ("/v1/completions", "prompt")] {
            let id = format!("r-{number}-{what}");
            let mut body = chat();
            body["model"] = json!(model);
            if what == "prompt" {
                body = json!({"model": model, "prompt": ["one", "two"]});
            }
            let request = queen.post(path).header("x-request-id", &id).json(&body);
            Reply::read(request).await.error(404, "model_not_found");
            let way = why(&queen, &format!("request_id={id}")).await;
            let [refused] = way.as_slice() else { panic!("{id}: {way:?}") };
            assert_eq!(
                (text(refused, "kind"), text(refused, "reason")),
                ("reject", "unknown_model")
            );
            assert_eq!(text(refused, "why"), format!("the model '{told}' does not exist"));
            assert_eq!(text(refused, "caller"), "local");
        }
    }
}

#[tokio::test]
async fn what_a_request_waits_for_is_told() {
    let worker = WorkerDouble::start("w-1", vec![Script::Hangs(&["x"]); 2]);
    let queen = Queen::start().await;
    let mut beat = worker.beat();
    beat.slots.total = 2;
    queen.worker_beat(&beat).await;
    let busy = [
        queen.stream(CHAT, &chat()).await.begun().await,
        queen.stream(CHAT, &chat()).await.begun().await,
    ];
    let ask = |id: &'static str| {
        let request = queen.post(CHAT).header("x-request-id", id);
        Reply::read(request.header("x-rbee-deadline-ms", "400").json(&chat()))
    };
    let (second, third) = tokio::join!(ask("r-2"), async {
        until("the second waits", async || queen.status().await["waiting"] == 1).await;
        ask("r-3").await
    });
    second.error(504, "deadline_exceeded");
    third.error(504, "deadline_exceeded");
    drop(busy);
    for (id, reason) in [("r-2", "room"), ("r-3", "turn")] {
        let way = why(&queen, &format!("request_id={id}")).await;
        let told: Vec<_> = way.iter().map(|d| (text(d, "kind"), text(d, "reason"))).collect();
        assert_eq!(told, [("reject", "deadline"), ("wait", reason)]);
    }
}

#[tokio::test]
async fn a_request_whose_client_goes_away_ends_with_that() {
    let worker = WorkerDouble::start("w-1", vec![Script::Hangs(&["x"]); 2]);
    let queen = Queen::start().await;
    let mut beat = worker.beat();
    beat.slots.total = 2;
    queen.worker_beat(&beat).await;
    let mut body = chat();
    body["stream"] = true.into();
    let open = |id: &'static str| {
        crate::support::Stream::open(queen.post(CHAT).header("x-request-id", id).json(&body))
    };
    let (mut first, second) = (open("r-1").await.begun().await, open("r-2").await.begun().await);
    first.until_text().await;
    {
        let waits = until("a request waits", async || queen.status().await["waiting"] == 1);
        tokio::select! {
            _ = Reply::read(queen.post(CHAT).header("x-request-id", "r-3").json(&body)) => {
                panic!("nobody answers")
            }
            () = waits => {}
        }
    }
    let ends_so = async |id: &str, before: &str, worker: &str, said: &str| {
        until("its end is told", async || {
            let way = why(&queen, &format!("request_id={id}")).await;
            text(&way[0], "kind") == "give_up"
        })
        .await;
        let way = why(&queen, &format!("request_id={id}")).await;
        let told: Vec<_> = way.iter().map(|d| (text(d, "kind"), text(d, "reason"))).collect();
        assert_eq!(told[0], ("give_up", "cancelled"), "{way:?}");
        assert_eq!(told[1].0, before, "{way:?}");
        assert_eq!(way[0]["worker_id"].as_str().unwrap_or_default(), worker, "{way:?}");
        assert!(text(&way[0], "why").contains(said), "{way:?}");
    };
    ends_so("r-3", "wait", "", "went away or read nothing for a minute, while it waited").await;
    let waited = Reply::read(queen.get("/metrics")).await.text;
    assert!(waited.contains("queue_wait_seconds_count{model=\"m\"} 3\n"), "{waited}");
    drop((first, second));
    ends_so("r-1", "dispatch", "w-1", "went away or read nothing for a minute, after ").await;
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_refused() {
    let queen = Queen::start().await;
    for (query, param) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("model=../x", "model"),
        ("request_id=a%20b", "request_id"),
    ] {
        let path = format!("/v1/decisions?{query}");
        let error = Reply::read(queen.get(&path)).await.error(400, "invalid_value");
        assert_eq!(error["param"], param, "{error}");
    }
    Reply::read(queen.get("/v1/decisions?what=1")).await.error(400, "invalid_value");
}

async fn why(queen: &Queen, query: &str) -> Vec<Value> {
    let reply = Reply::read(queen.get(&format!("/v1/decisions?{query}"))).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["decisions"].as_array().unwrap().clone()
}

fn text<'a>(decision: &'a Value, field: &str) -> &'a str {
    decision[field].as_str().unwrap_or_default()
}
