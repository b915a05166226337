//! Who is served first when many wait.

use access_tokens::TokenStore;
use serde_json::json;

use crate::support::{Queen, Reply, Script, WorkerDouble, chat, until};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn one_who_asks_once_does_not_wait_for_all_of_one_who_asks_much() {
    let queen = Queen::start().await;
    let store = TokenStore::open(&queen.secrets());
    let (much, once) = (store.create("much").unwrap(), store.create("once").unwrap());
    let hangs = || Script::Hangs(&[]);
    let worker = WorkerDouble::start("w-1", [hangs(), hangs()]);
    let mut beat = worker.beat();
    beat.slots.total = 2;
    queen.worker_beat(&beat).await;

    let ask = |token: &access_tokens::NewToken, text: &str| {
        let mut body = chat();
        body["messages"] = json!([{"role": "user", "content": text}]);
        Reply::read(queen.post(CHAT).bearer_auth(token.secret.expose()).json(&body))
    };
    let hung = async { tokio::join!(ask(&much, "hung"), ask(&much, "hung")) };
    let waiting = |count: usize| {
        let queen = &queen;
        let token = once.secret.expose().to_owned();
        async move {
            until("they wait", async || {
                let status = Reply::read(queen.get("/v1/status").bearer_auth(&token)).await;
                status.json()["waiting"] == count
            })
            .await;
        }
    };
    let mut hung = Box::pin(hung);
    let full = until("the worker is full", async || worker.open() == 2);
    tokio::select! {
        hung = &mut hung => panic!("{hung:?}"),
        () = full => {}
    }
    let four = futures::future::join_all((0..4).map(|_| ask(&much, "much")));
    let last = async {
        waiting(4).await;
        ask(&once, "once").await
    };
    let freed = async {
        waiting(5).await;
        drop(hung);
    };
    let (four, last, ()) = tokio::join!(four, last, freed);
    assert!(four.iter().chain([&last]).all(|reply| reply.status == 200), "{four:?} {last:?}");
    let served: Vec<String> = worker
        .requests()
        .iter()
        .map(|request| serde_json::to_string(request).unwrap())
        .map(|request| if request.contains("once") { "once" } else { "much" }.to_owned())
        .collect();
    let place = served.iter().skip(2).position(|who| who == "once").unwrap();
    assert!(place < 2, "it came fifth and was served as number {place}: {served:?}");
}
