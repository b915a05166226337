//! Several prompts in one request.

use serde_json::{Value, json};
use worker_contract::{Prompt, Task};

use crate::support::{Queen, Script, WorkerDouble, done, until};

const COMPLETIONS: &str = "/v1/completions";

#[tokio::test]
async fn each_prompt_is_answered_by_itself_and_the_answers_come_in_their_order() {
    let (queen, worker) = queen_with([]).await;
    let answer = queen.ask(COMPLETIONS, &prompts(&["a", "b", "c"])).await;
    assert_eq!(answer.header("x-rbee-worker"), "w-1");
    let answer = answer.json();
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 3, "{answer}");
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], index);
        assert_eq!(
            (&choice["text"], &choice["finish_reason"]),
            (&json!("Hello world"), &json!("stop"))
        );
    }
    let usage = &answer["usage"];
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(21), &json!(6)));
    let mut asked: Vec<_> = worker.requests().into_iter().map(|request| request.task).collect();
    asked.sort_by_key(|task| format!("{task:?}"));
    let task = |text: &str| Task::Completion { prompt: Prompt::Text(text.into()) };
    assert_eq!(asked, [task("a"), task("b"), task("c")]);
    let requests = worker.requests();
    let mut ids: Vec<_> = requests.iter().map(|request| request.request_id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3, "each has an id of its own");
}

#[tokio::test]
async fn streamed_answers_are_told_apart_by_their_index() {
    let (queen, _worker) = queen_with([]).await;
    let mut body = prompts(&["a", "b"]);
    body["stream_options"] = json!({"include_usage": true});
    let told = queen.stream(COMPLETIONS, &body).await.begun().await.rest().await;
    assert!(told.is_done && told.error.is_none(), "{told:?}");
    for index in [0, 1] {
        let choices = told.chunks.iter().map(|chunk| &chunk["choices"][0]);
        let own: Vec<&Value> = choices.filter(|choice| choice["index"] == index).collect();
        let text: String = own.iter().filter_map(|choice| choice["text"].as_str()).collect();
        assert_eq!(text, "Hello world", "{told:?}");
        let ends = own.iter().filter(|choice| choice["finish_reason"] == "stop");
        assert_eq!(ends.count(), 1, "{told:?}");
    }
    assert_eq!(told.chunks.last().unwrap()["usage"]["completion_tokens"], 4);
}

#[tokio::test]
async fn what_is_wrong_with_one_prompt_is_wrong_with_all() {
    let refuses = || Script::Refuses(400, "context_length_exceeded");
    let (queen, _worker) = queen_with([refuses(), refuses()]).await;
    let reply = queen.ask(COMPLETIONS, &prompts(&["a", "b"])).await;
    let error = reply.error(400, "context_length_exceeded");
    let (param, message) = (error["param"].as_str().unwrap(), error["message"].as_str().unwrap());
    assert!(["prompt[0]", "prompt[1]"].contains(&param), "{error}");
    assert!(message.starts_with(&format!("{param}: the prompt has 9000 tokens")), "{error}");
}

#[tokio::test]
async fn the_answers_to_all_prompts_are_together_no_longer_than_one_may_be() {
    // 40 MiB each, in pieces of half a MiB.
    let text = "x".repeat(512 * 1024);
    let piece = json!({"type": "delta", "index": 0, "text": text, "tokens": [1]});
    let mut events = vec![piece; 80];
    events.push(done(80, "stop"));
    let (queen, worker) = queen_with([0; 2].map(|_| Script::Plays(events.clone()))).await;
    let reply = queen.ask(COMPLETIONS, &prompts(&["a", "b"])).await;
    let error = reply.error(502, "worker_failed");
    assert!(error["message"].as_str().unwrap().contains("more than 64 MiB together"), "{error}");
    until("the worker is let go", async || worker.open() == 0).await;
}

#[tokio::test]
async fn the_answers_to_several_prompts_are_begun_anew_where_only_another_file_is_left() {
    let dies = || Script::Dies(&["Good"]);
    let first = WorkerDouble::start("w-1", [dies(), dies()]);
    let other = WorkerDouble::start("w-2", []);
    let queen = Queen::start().await;
    let beat = |worker: &WorkerDouble, digit: &str| {
        let mut beat = worker.beat();
        beat.model.digest = Some(digit.repeat(64).parse().unwrap());
        beat
    };
    queen.worker_beat(&beat(&first, "1")).await;
    let joins = async {
        until("the first one has some", async || !first.requests().is_empty()).await;
        queen.worker_beat(&beat(&other, "2")).await;
    };
    let body = prompts(&["a", "b"]);
    let (reply, ()) = tokio::join!(queen.ask(COMPLETIONS, &body), joins);
    let choices = reply.json()["choices"].clone();
    let texts: Vec<_> = [0, 1].map(|index| choices[index]["text"].clone()).to_vec();
    assert_eq!(texts, ["Hello world", "Hello world"], "{choices}");
    assert!(other.requests().iter().all(|begun| begun.resume.is_empty()));
}

fn prompts(prompts: &[&str]) -> Value {
    json!({"model": "m", "prompt": prompts})
}

async fn queen_with(scripts: impl IntoIterator<Item = Script>) -> (Queen, WorkerDouble) {
    let worker = WorkerDouble::start("w-1", scripts);
    let queen = Queen::start().await;
    queen.worker_beat(&worker.beat()).await;
    (queen, worker)
}
