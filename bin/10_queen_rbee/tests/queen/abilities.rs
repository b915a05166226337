//! What an answer can be besides one text: calls, several choices, log probabilities, reasoning.

use serde_json::{Value, json};
use worker_contract::{OutputFormat, Task, ToolChoice};

use crate::support::{Queen, Script, WorkerDouble, chat, completion, done};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn functions_go_to_the_worker_and_its_calls_come_back_whole_or_in_pieces() {
    let (queen, worker) = queen_with([calls(), calls()]).await;
    let mut body = chat();
    body["tools"] = json!([{"type": "function", "function": {"name": "add", "parameters": {
        "type": "object", "properties": {"a": {"type": "integer"}},
    }}}]);
    body["tool_choice"] = json!({"type": "function", "function": {"name": "add"}});
    body["parallel_tool_calls"] = json!(false);

    let answer = queen.ask(CHAT, &body).await.json();
    let choice = &answer["choices"][0];
    let function = json!({"name": "add", "arguments": "{\"a\":1}"});
    let call = json!({"id": "call_1", "type": "function", "function": function});
    let message = json!({
        "role": "assistant", "reasoning_content": "A sum.", "content": null, "refusal": null,
        "tool_calls": [call],
    });
    assert_eq!((&choice["message"], &choice["finish_reason"]), (&message, &json!("tool_calls")));

    let stream = queen.stream(CHAT, &body).await.begun().await.rest().await;
    let deltas: Vec<_> = stream.chunks.iter().map(|c| c["choices"][0]["delta"].clone()).collect();
    let begin = json!({"index": 0, "id": "call_1", "type": "function",
                       "function": {"name": "add", "arguments": ""}});
    let more = |text: &str| json!({"tool_calls": [{"index": 0, "function": {"arguments": text}}]});
    assert_eq!(
        deltas,
        [
            json!({"role": "assistant", "content": ""}),
            json!({"reasoning_content": "A sum."}),
            json!({"tool_calls": [begin]}),
            more("{\"a\":"),
            more("1}"),
            json!({}),
        ]
    );
    assert_eq!(stream.chunks[5]["choices"][0]["finish_reason"], "tool_calls");
    assert!(stream.is_done);

    for request in worker.requests() {
        let Task::Chat(chat) = request.task else { panic!("a chat") };
        assert_eq!((chat.tools[0].name.as_str(), chat.tools.len()), ("add", 1));
        assert_eq!(chat.tool_choice, ToolChoice::Named("add".into()));
        assert!(!chat.parallel_tool_calls);
    }
}

#[tokio::test]
async fn several_answers_come_mixed_and_each_ends_for_its_own_reason() {
    let two = || {
        Script::Plays(vec![
            delta(json!({"index": 1, "text": "b", "tokens": [1]})),
            delta(json!({"text": "a", "tokens": [2]})),
            delta(json!({"index": 1, "text": "B", "tokens": [3]})),
            json!({"type": "choice_done", "index": 1, "finish_reason": "length"}),
            delta(json!({"text": "A", "tokens": [4]})),
            json!({"type": "choice_done", "index": 0, "finish_reason": "stop"}),
            done(4, "stop"),
        ])
    };
    let (queen, worker) = queen_with([two(), two()]).await;
    let mut body = completion();
    body["n"] = json!(2);

    let answer = queen.ask("/v1/completions", &body).await.json();
    let choice = |index: u32, text: &str, reason: &str| json!({"index": index, "text": text, "logprobs": null, "finish_reason": reason});
    assert_eq!(answer["choices"], json!([choice(0, "aA", "stop"), choice(1, "bB", "length")]));
    assert_eq!(answer["usage"]["completion_tokens"], 4);

    let stream = queen.stream("/v1/completions", &body).await.begun().await.rest().await;
    let seen: Vec<_> = stream.chunks.iter().map(|chunk| &chunk["choices"][0]).collect();
    let text = |index: u32| -> String {
        seen.iter().filter(|c| c["index"] == index).filter_map(|c| c["text"].as_str()).collect()
    };
    assert_eq!((text(0), text(1)), ("aA".into(), "bB".into()));
    let ends: Vec<_> = seen.iter().filter(|c| !c["finish_reason"].is_null()).collect();
    let ends: Vec<_> = ends.iter().map(|c| (&c["index"], &c["finish_reason"])).collect();
    assert_eq!(ends, [(&json!(1), &json!("length")), (&json!(0), &json!("stop"))]);
    assert!(stream.is_done);
    assert!(worker.requests().iter().all(|request| request.n == 2));
}

#[tokio::test]
async fn log_probabilities_come_with_the_text_that_they_are_of() {
    let token = |token: i32, text: &str| {
        let chosen = json!({"token": token, "logprob": -0.5, "bytes": text.as_bytes()});
        let mut told = chosen.clone();
        told["top"] = json!([chosen]);
        told
    };
    let likely = || {
        Script::Plays(vec![
            delta(json!({"text": "", "tokens": [1], "logprobs": [token(1, "He")]})),
            delta(json!({"text": "Hello", "tokens": [2], "logprobs": [token(2, "llo")]})),
            delta(json!({"text": "!", "tokens": [3], "logprobs": [token(3, "!")]})),
            done(3, "stop"),
        ])
    };
    let (queen, worker) = queen_with([likely(), likely(), likely(), likely()]).await;
    let mut chat = chat();
    chat["logprobs"] = json!(true);
    chat["top_logprobs"] = json!(1);
    let whole = queen.ask(CHAT, &chat).await.json();
    let content = whole["choices"][0]["logprobs"]["content"].clone();
    let top = json!([{"token": "llo", "logprob": -0.5, "bytes": [108, 108, 111]}]);
    let second =
        json!({"token": "llo", "logprob": -0.5, "bytes": [108, 108, 111], "top_logprobs": top});
    assert_eq!((content.as_array().unwrap().len(), &content[1]), (3, &second));
    let stream = queen.stream(CHAT, &chat).await.begun().await.rest().await;
    let first = &stream.chunks[1]["choices"][0];
    assert_eq!(first["delta"]["content"], "Hello");
    assert_eq!(
        first["logprobs"]["content"].as_array().unwrap()[..],
        content.as_array().unwrap()[..2]
    );
    let pieces: Vec<Value> = stream
        .chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array().cloned())
        .flatten()
        .collect();
    assert_eq!(Value::from(pieces), content);

    let mut completion = completion();
    completion["logprobs"] = json!(1);
    let expected = json!({
        "tokens": ["He", "llo", "!"], "token_logprobs": [-0.5, -0.5, -0.5],
        "top_logprobs": [{"He": -0.5}, {"llo": -0.5}, {"!": -0.5}], "text_offset": [0, 2, 5],
    });
    let whole = queen.ask("/v1/completions", &completion).await.json();
    assert_eq!(whole["choices"][0]["logprobs"], expected);
    let stream = queen.stream("/v1/completions", &completion).await.begun().await.rest().await;
    assert_eq!(stream.chunks[1]["choices"][0]["logprobs"]["text_offset"], json!([5]));
    assert!(worker.requests().iter().all(|request| request.sampling.logprobs == Some(1)));
}

#[tokio::test]
async fn the_form_of_the_answer_and_the_gap_to_fill_go_to_the_worker() {
    let (queen, worker) = queen_with([]).await;
    let schema = json!({"type": "object", "properties": {"a": {"const": 1}}});
    let mut body = completion();
    body["suffix"] = json!(" the end");
    body["json_schema"] = schema.clone();
    assert_eq!(queen.ask("/v1/completions", &body).await.status, 200);
    let mut body = chat();
    body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": schema}});
    assert_eq!(queen.ask(CHAT, &body).await.status, 200);
    let requests = worker.requests();
    let (prefix, suffix) = ("Once".to_owned(), " the end".to_owned());
    assert_eq!(requests[0].task, Task::Infill { prefix, suffix });
    for request in requests {
        assert_eq!(request.format, OutputFormat::JsonSchema { schema: schema.clone() });
    }
}

#[tokio::test]
async fn a_worker_that_ends_an_answer_too_early_or_mixes_its_parts_up_has_failed() {
    for wrong in [
        vec![done(0, "stop")],
        vec![delta(json!({"index": 2, "text": "a", "tokens": [1]})), done(1, "stop")],
        vec![json!({"type": "embedding", "index": 0, "vector": [1.0]}), done(1, "stop")],
        vec![
            delta(
                json!({"text": "", "tokens": [1], "tool_calls": [{"index": 0, "arguments": "{"}]}),
            ),
            done(1, "stop"),
        ],
    ] {
        let (queen, worker) = queen_with([0; 3].map(|_| Script::Plays(wrong.clone()))).await;
        let mut body = chat();
        body["n"] = json!(2);
        queen.ask(CHAT, &body).await.error(502, "worker_failed");
        assert_eq!(worker.requests().len(), 3, "{wrong:?}");
    }
}

/// Thinks, and then calls a function.
fn calls() -> Script {
    let piece = |call: Value| delta(json!({"text": "", "tokens": [1], "tool_calls": [call]}));
    Script::Plays(vec![
        delta(json!({"text": "", "tokens": [1], "reasoning": "A sum."})),
        piece(json!({"index": 0, "id": "call_1", "name": "add", "arguments": ""})),
        piece(json!({"index": 0, "arguments": "{\"a\":"})),
        delta(json!({"text": "", "tokens": [1]})),
        piece(json!({"index": 0, "arguments": "1}"})),
        done(5, "tool_calls"),
    ])
}

fn delta(mut fields: Value) -> Value {
    fields["type"] = json!("delta");
    fields
}

async fn queen_with(scripts: impl IntoIterator<Item = Script>) -> (Queen, WorkerDouble) {
    let worker = WorkerDouble::start("w-1", scripts);
    let queen = Queen::start().await;
    queen.worker_beat(&worker.beat()).await;
    (queen, worker)
}
