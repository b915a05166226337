//! Servers of others that write their answers in ways of their own.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::attached::queen_with;
use crate::support::{Plays, Queen, Reply, ServerDouble, chat};

const CHAT: &str = "/v1/chat/completions";
const EMBED: &str = "/v1/embeddings";

#[tokio::test]
async fn what_keeps_a_stream_alive_takes_nothing_of_its_answer_away() {
    for between in
        ["data:\n\n", "data: {}\n\n", "event: ping\ndata: ping\n\n", "event: ping\ndata: {}\n\n"]
    {
        let text = |text: &str| {
            format!(
                "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
            )
        };
        let (hello, world) = (text("Hello"), text(" world"));
        let body = format!("{between}{hello}{between}{world}data: [DONE]\n\n{between}");
        let plays = Plays::Answers(200, "text/event-stream", body);
        let server = ServerDouble::start("vllm", &["m"], [plays]);
        let queen = queen_with(&server).await;
        let reply = queen.ask(CHAT, &chat()).await;
        let choice = &reply.json()["choices"][0];
        assert_eq!(choice["message"]["content"], "Hello world", "{between}: {reply:?}");
        assert_eq!(server.requests().len(), 1, "{between}");
    }
}

#[tokio::test]
async fn a_content_type_is_understood_in_any_case() {
    let chunk = r#"{"choices":[{"index":0,"delta":{"content":"Hi"}}]}"#;
    let whole = r#"{"choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}]}"#;
    for (kind, body) in [
        ("Text/Event-Stream; charset=utf-8", format!("data: {chunk}\n\ndata: [DONE]\n\n")),
        ("Application/JSON", whole.to_owned()),
        ("text/plain", format!("\ndata: {chunk}\n\ndata: [DONE]\n\n")),
        ("", format!("data: {chunk}\n\ndata: [DONE]\n\n")),
    ] {
        for status in [200, 201] {
            let plays = Plays::Answers(status, kind, body.clone());
            let server = ServerDouble::start("vllm", &["m"], [plays]);
            let queen = queen_with(&server).await;
            let reply = queen.ask(CHAT, &chat()).await;
            let text = reply.json()["choices"][0]["message"]["content"].clone();
            assert_eq!(text, "Hi", "{status} {kind}: {reply:?}");
            assert_eq!(server.requests().len(), 1, "{status} {kind}");
        }
    }
}

#[tokio::test]
async fn a_page_of_an_untold_type_is_no_answer() {
    for (kind, body) in [("text/plain", "It works!"), ("text/plain", "ok"), ("", "")] {
        let plays = vec![Plays::Answers(200, kind, body.into()); 8];
        let server = ServerDouble::start("vllm", &["m"], plays);
        let queen = queen_with(&server).await;
        let error = queen.ask(CHAT, &chat()).await.error(502, "worker_failed");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("neither text/event-stream nor JSON"), "{body}: {error}");
    }
}

#[tokio::test]
async fn vectors_may_be_longer_than_a_text_and_what_is_too_long_is_not_asked_for_again() {
    let room = " ".repeat(65 << 20);
    let vectors = format!(r#"{{"data":[{{"index":0,"embedding":[0.5]}}]{room}}}"#);
    let plays = Plays::Answers(200, "application/json", vectors);
    let server = ServerDouble::start("vllm", &["m"], [plays]);
    let queen = queen_with(&server).await;
    let reply = queen.ask(EMBED, &json!({"model": "m", "input": "a"})).await;
    assert_eq!(reply.json()["data"][0]["embedding"], json!([0.5]), "{reply:?}");
    assert_eq!(server.requests().len(), 1);

    let choice = r#"{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}"#;
    let text = format!(r#"{{"choices":[{choice}]{room}}}"#);
    let plays = Plays::Answers(200, "application/json", text);
    let server = ServerDouble::start("vllm", &["m"], [plays]);
    let queen = queen_with(&server).await;
    let error = queen.ask(CHAT, &chat()).await.error(502, "worker_failed");
    assert!(error["message"].as_str().unwrap().contains("more than 64 MiB"), "{error}");
    assert_eq!(server.requests().len(), 1, "it would be as long again");
}

#[tokio::test]
async fn an_event_of_a_server_may_be_as_long_as_a_text() {
    let chunk =
        |length| json!({"choices": [{"index": 0, "delta": {"content": "x".repeat(length)}}]});
    let long = 2 << 20;
    let server = ServerDouble::start("vllm", &["m"], [Plays::Chunks(vec![chunk(long)])]);
    let queen = queen_with(&server).await;
    let reply = queen.ask(CHAT, &chat()).await.json();
    assert_eq!(reply["choices"][0]["message"]["content"].as_str().map(str::len), Some(long));

    let server = ServerDouble::start("vllm", &["m"], [Plays::Chunks(vec![chunk(65 << 20)])]);
    let queen = queen_with(&server).await;
    let error = queen.ask(CHAT, &chat()).await.error(502, "worker_failed");
    assert!(error["message"].as_str().unwrap().contains("more than 64 MiB"), "{error}");
    assert_eq!(server.requests().len(), 1, "it would be as long again");
}

#[tokio::test]
async fn a_server_that_refuses_to_say_what_it_used_is_asked_for_the_answer_alone() {
    let of_field =
        r#"{"detail":[{"loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}"#;
    let error = r#"{"error":{"message":"Unknown parameter: stream_options"}}"#;
    let other = r#"{"error":{"message":"Unknown parameter: user"}}"#;
    for (status, body, told, asked) in [
        (422, of_field, 200, vec![true, false]),
        (400, error, 200, vec![true, false]),
        (400, other, 400, vec![true]),
    ] {
        let plays = [Plays::Answers(status, "application/json", body.into())];
        let server = ServerDouble::start("vllm", &["m"], plays);
        let queen = queen_with(&server).await;
        let reply = queen.ask(CHAT, &chat()).await;
        assert_eq!(reply.status, told, "{body}: {reply:?}");
        let bodies = server.requests();
        let sent: Vec<_> = bodies.iter().map(|it| it.get("stream_options").is_some()).collect();
        assert_eq!(sent, asked, "{body}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_stream_an_answer_is_asked_for_it_in_one_piece() {
    let choice = json!({"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"});
    let whole = json!({"choices": [choice]}).to_string();
    let said = |message: &str| json!({"error": {"message": message}}).to_string();
    let named = json!({"error": {"message": "no such value", "param": "stream"}}).to_string();
    let (streamed, both) = (vec![json!(true)], vec![json!(true), json!(false)]);
    for (status, body, told, asked) in [
        (500, said("Cannot use tools with stream"), 200, &both),
        (400, said("Streaming is not supported for this model"), 200, &both),
        (400, named, 200, &both),
        (422, r#"{"detail":[{"loc":["body","stream"],"msg":"no"}]}"#.into(), 200, &both),
        (400, said("the upstream does not answer"), 400, &streamed),
    ] {
        let refuses = Plays::Answers(status, "application/json", body.clone());
        let answers = Plays::Answers(200, "application/json", whole.clone());
        let server = ServerDouble::start("vllm", &["m"], [refuses.clone(), answers.clone()]);
        let queen = queen_with(&server).await;
        let reply = queen.ask(CHAT, &chat()).await;
        assert_eq!(reply.status, told, "{body}: {reply:?}");
        let bodies = server.requests();
        let sent: Vec<_> = bodies.iter().map(|it| it["stream"].clone()).collect();
        assert_eq!(&sent, asked, "{body}");
        assert_eq!(failures(&queen).await, "0", "{body}");
        if told != 200 {
            continue;
        }
        assert_eq!(bodies[1].get("stream_options"), None, "{body}");
        assert_eq!(reply.json()["choices"][0]["message"]["content"], "Hi", "{body}");
        let server = ServerDouble::start("vllm", &["m"], [refuses, answers]);
        let queen = queen_with(&server).await;
        let transcript = queen.stream(CHAT, &chat()).await.begun().await.rest().await;
        assert!(transcript.is_done && transcript.text() == "Hi", "{body}: {transcript:?}");
    }
}

#[tokio::test]
async fn a_server_that_refuses_one_way_after_another_is_asked_without_all_of_them() {
    let refuses = |message: &str| {
        let body = json!({"error": {"message": message}}).to_string();
        Plays::Answers(400, "application/json", body)
    };
    let choice = json!({"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"});
    let whole = json!({"choices": [choice]}).to_string();
    let plays = [
        refuses("Unknown parameter: stream_options"),
        refuses("this model has no streaming"),
        Plays::Answers(200, "application/json", whole),
    ];
    let server = ServerDouble::start("vllm", &["m"], plays);
    let queen = queen_with(&server).await;
    let reply = queen.ask(CHAT, &chat()).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "Hi", "{reply:?}");
    let bodies = server.requests();
    let sent: Vec<_> = bodies
        .iter()
        .map(|it| (it.get("stream_options").is_some(), it["stream"].clone()))
        .collect();
    assert_eq!(sent, [(true, json!(true)), (false, json!(true)), (false, json!(false))]);
    assert_eq!(failures(&queen).await, "0", "nothing is held against it");
}

#[tokio::test]
async fn what_a_server_says_of_a_last_token_without_text_reaches_the_client() {
    let likely = |token: &str| json!({"content": [{"token": token, "logprob": -0.5, "bytes": null, "top_logprobs": []}]});
    let chunk = |text: &str, token: &str, reason: Value| {
        let delta = json!({"content": text});
        json!({"choices": [{"index": 0, "delta": delta, "logprobs": likely(token), "finish_reason": reason}]})
    };
    let chunks = || vec![chunk("Hi", "Hi", json!(null)), chunk("", "<eos>", json!("stop"))];
    let plays = [Plays::Chunks(chunks()), Plays::Chunks(chunks())];
    let server = ServerDouble::start("vllm", &["m"], plays);
    let queen = queen_with(&server).await;
    let mut body = chat();
    body["logprobs"] = true.into();
    let tokens = |choice: &Value| -> Vec<Value> {
        let of = choice["logprobs"]["content"].as_array().into_iter().flatten();
        of.map(|entry| entry["token"].clone()).collect()
    };
    let reply = queen.ask(CHAT, &body).await.json();
    assert_eq!(tokens(&reply["choices"][0]), ["Hi", "<eos>"], "{reply}");
    let transcript = queen.stream(CHAT, &body).await.begun().await.rest().await;
    let streamed = transcript.chunks.iter().flat_map(|chunk| tokens(&chunk["choices"][0]));
    assert_eq!(streamed.collect::<Vec<_>>(), ["Hi", "<eos>"], "{transcript:?}");
    assert!(transcript.is_done, "{transcript:?}");
}

#[tokio::test]
async fn what_is_said_in_a_field_that_rbee_does_not_know_is_streamed_as_it_comes() {
    let piece = |delta: Value| json!({"choices": [{"index": 0, "delta": delta}]});
    let begun = piece(json!({"role": "assistant", "content": ""}));
    let thoughts = ["Hm", ", yes"].map(|thought| piece(json!({"thought": thought})));
    let [one, two] = thoughts;
    let told_to = Arc::new(Notify::new());
    let text =
        json!({"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]});
    let plays = Plays::Holds(vec![begun, one, two], Arc::clone(&told_to), text);
    let server = ServerDouble::start("vllm", &["m"], [plays]);
    let queen = queen_with(&server).await;
    let mut stream = queen.stream(CHAT, &chat()).await.begun().await;
    let mut thought = String::new();
    while thought != "Hm, yes" {
        let chunk: Value = serde_json::from_str(&stream.next().await.unwrap()).unwrap();
        thought.push_str(chunk["choices"][0]["delta"]["thought"].as_str().unwrap_or_default());
    }
    told_to.notify_one();
    let transcript = stream.rest().await;
    assert!(transcript.is_done && transcript.text() == "Hi", "{transcript:?}");
}

#[tokio::test]
async fn a_server_that_refuses_base64_is_asked_for_numbers() {
    let vectors = r#"{"data":[{"index":0,"embedding":[1]}]}"#;
    let fine = || Plays::Answers(200, "application/json", vectors.into());
    let refuses = |status, message| {
        let error = json!({"error": {"message": message}}).to_string();
        Plays::Answers(status, "application/json", error)
    };
    let named = refuses(400, "base64 encoding is not currently supported");
    for (plays, status, asked) in [
        (vec![fine()], 200, vec![Some("base64")]),
        (vec![named, fine()], 200, vec![Some("base64"), None]),
        (vec![refuses(422, "no such value"), fine()], 200, vec![Some("base64"), None]),
        (vec![refuses(400, "too long")], 400, vec![Some("base64")]),
    ] {
        let server = ServerDouble::start("vllm", &["m"], plays);
        let queen = queen_with(&server).await;
        let body = json!({"model": "m", "input": "a", "encoding_format": "base64"});
        let reply = queen.ask(EMBED, &body).await;
        assert_eq!(reply.status, status, "{reply:?}");
        if status == 200 {
            assert_eq!(reply.json()["data"][0]["embedding"], "AACAPw==", "{reply:?}");
        }
        let bodies = server.requests();
        let sent: Vec<_> = bodies.iter().map(|body| body["encoding_format"].as_str()).collect();
        assert_eq!(sent, asked, "{reply:?}");
    }
}

#[tokio::test]
async fn the_reason_of_a_server_is_told_also_where_it_is_no_error_in_openais_words() {
    let json = "application/json";
    let of_field = r#"{"detail":[{"loc":["body","top_p"],"msg":"too big"}]}"#;
    for (status, kind, body, told, mentions) in [
        (422, json, of_field, 422, "body.top_p: too big"),
        (400, json, r#"{"detail":"no such adapter"}"#, 400, "no such adapter"),
        (400, "text/plain", "no such adapter\nsorry", 400, "400 Bad Request: no such adapter"),
        (502, "text/plain", "nobody is behind", 502, "502 Bad Gateway: nobody is behind"),
        (502, "text/html", "<html>", 502, "in words that are not understood"),
    ] {
        let plays = vec![Plays::Answers(status, kind, body.into()); 8];
        let server = ServerDouble::start("vllm", &["m"], plays);
        let queen = queen_with(&server).await;
        let reply = queen.ask(CHAT, &chat()).await;
        let message = reply.json()["error"]["message"].to_string();
        assert!(reply.status == told && message.contains(mentions), "{body}: {reply:?}");
        let decisions = Reply::read(queen.get("/v1/decisions")).await.text;
        assert!(!decisions.contains("nobody is behind"), "it may repeat a prompt: {decisions}");
    }
}

#[tokio::test]
async fn a_server_that_redirects_is_asked_once_and_where_to_is_told() {
    for status in [301, 302, 303, 307, 308] {
        let plays = vec![Plays::Redirects(status, "https://u:hush@llm.example/v1?key=hush"); 8];
        let server = ServerDouble::start("vllm", &["m"], plays);
        let queen = queen_with(&server).await;
        let error = queen.ask(CHAT, &chat()).await.error(502, "unsupported_by_server");
        let message = error["message"].as_str().unwrap();
        assert!(message.ends_with(" to https://llm.example/v1"), "{error}");
        assert_eq!(server.requests().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_server_that_compresses_its_answers_is_told_from_one_that_breaks_off() {
    let plays = vec![Plays::Compresses("gzip"); 8];
    let server = ServerDouble::start("vllm", &["m"], plays);
    let queen = queen_with(&server).await;
    let error = queen.ask(CHAT, &chat()).await.error(502, "worker_failed");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("it compresses its answer (gzip), which was not asked for"),
        "{error}"
    );
}

#[tokio::test]
async fn a_refusal_is_told_as_one_and_not_as_the_text() {
    let piece = |delta: Value, reason: Value| json!({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]});
    let pieces = ["I cannot", " do it"].map(|text| piece(json!({"refusal": text}), json!(null)));
    let [one, two] = pieces;
    let begun = piece(json!({"role": "assistant", "content": ""}), json!(null));
    let chunks = vec![begun, one, two, piece(json!({}), json!("stop"))];
    let message = json!({"content": null, "refusal": "I cannot do it"});
    let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
    let whole = json!({"choices": [choice]}).to_string();
    for plays in [Plays::Chunks(chunks), Plays::Answers(200, "application/json", whole)] {
        let server = ServerDouble::start("vllm", &["m"], [plays.clone(), plays]);
        let queen = queen_with(&server).await;
        let reply = queen.ask(CHAT, &chat()).await;
        let message = &reply.json()["choices"][0]["message"];
        let expected = (json!("I cannot do it"), json!(""));
        assert_eq!((&message["refusal"], &message["content"]), (&expected.0, &expected.1));
        let transcript = queen.stream(CHAT, &chat()).await.begun().await.rest().await;
        let told = transcript
            .chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["refusal"].as_str());
        assert_eq!(told.collect::<String>(), "I cannot do it", "{transcript:?}");
        assert!(transcript.is_done && transcript.text().is_empty(), "{transcript:?}");
    }
}

#[tokio::test]
async fn pieces_in_a_field_that_rbee_does_not_know_are_all_passed_on() {
    let piece = |delta: Value| json!({"choices": [{"index": 0, "delta": delta}]});
    let words: Vec<String> = (0..200).map(|number| format!("{number} ")).collect();
    let thoughts = words.iter().map(|word| piece(json!({"thought": word})));
    let chunks = thoughts.chain([piece(json!({"content": "Hi"}))]).collect();
    let server = ServerDouble::start("vllm", &["m"], [Plays::Chunks(chunks)]);
    let queen = queen_with(&server).await;
    let reply = queen.ask(CHAT, &chat()).await;
    let message = &reply.json()["choices"][0]["message"];
    let expected = (json!("Hi"), json!(words.concat()));
    assert_eq!((&message["content"], &message["thought"]), (&expected.0, &expected.1));
}

#[tokio::test]
async fn a_server_that_makes_one_answer_only_is_asked_for_the_others_one_by_one() {
    for (owner, asked) in [("somebody", vec![2, 1]), ("library", vec![1, 1])] {
        let plays = [Plays::Says(&["Hello"]), Plays::Says(&["Hi"])];
        let server = ServerDouble::start(owner, &["m"], plays);
        let queen = queen_with(&server).await;
        let mut body = chat();
        body["n"] = json!(2);
        let reply = queen.ask(CHAT, &body).await;
        let texts = |number: usize| reply.json()["choices"][number]["message"]["content"].clone();
        assert_eq!((texts(0), texts(1)), (json!("Hello"), json!("Hi")), "{owner}: {reply:?}");
        let bodies = server.requests();
        let sent: Vec<_> = bodies.iter().map(|body| body["n"].clone()).collect();
        assert_eq!(sent, asked, "{owner}");
        assert_eq!(failures(&queen).await, "0", "nothing is held against it");
    }
}

#[tokio::test]
async fn a_server_that_runs_another_model_than_it_listed_answers_for_none() {
    let chunk = |model: &str| json!({"model": model, "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]});
    let plays = [Plays::Chunks(vec![chunk("other")]), Plays::Chunks(vec![chunk("m")])];
    let server = ServerDouble::start("llamacpp", &["m"], plays);
    server.say_of_itself(json!({"total_slots": 1}));
    let queen = queen_with(&server).await;
    let error = queen.ask(CHAT, &chat()).await.error(404, "model_not_found");
    assert!(error["message"].as_str().unwrap().contains("another model than m"), "{error}");
    let reply = queen.ask(CHAT, &chat()).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "Hi", "{reply:?}");
    assert_eq!(failures(&queen).await, "0", "nothing is held against it");
}

/// How often the server has failed, by the queen's metrics.
pub(crate) async fn failures(queen: &Queen) -> String {
    let text = Reply::read(queen.get("/metrics")).await.text;
    let line = "rbee_queen_worker_failures_total{worker=\"nas-m\",model=\"m\"} ";
    let count = text.lines().find_map(|told| told.strip_prefix(line));
    count.unwrap_or_else(|| panic!("no {line} in\n{text}")).to_owned()
}
