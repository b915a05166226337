//! Functions, continued messages and text in the middle, on the real model.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{WorkerProcess, demo_model, text, tokens};

fn tool(name: &str, properties: Value) -> Value {
    let required: Vec<_> = properties.as_object().unwrap().keys().collect();
    let schema = json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    });
    json!({"name": name, "description": "Tells it.", "parameters": schema})
}

fn chat(more: Value) -> Value {
    let mut task = json!({
        "type": "chat",
        "messages": [{"role": "user", "content": "What is the weather in Oslo?"}],
    });
    task.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    task
}

/// The calls of an answer: id, name and arguments.
fn calls(events: &[Value]) -> Vec<(String, String, String)> {
    let mut calls: Vec<(String, String, String)> = Vec::new();
    let parts = events.iter().filter_map(|event| event["tool_calls"].as_array()).flatten();
    for part in parts {
        if let Some(id) = part["id"].as_str() {
            calls.push((id.to_owned(), part["name"].as_str().unwrap().to_owned(), String::new()));
        }
        let index = part.get("index").and_then(Value::as_u64).unwrap();
        calls[usize::try_from(index).unwrap()].2 += part["arguments"].as_str().unwrap();
    }
    calls
}

#[test]
fn a_required_call_is_made_with_arguments_that_obey_its_schema() {
    let worker = WorkerProcess::ready(&["--slots", "1"]);
    let tools = json!([
        tool(
            "get_weather",
            json!({"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "boolean"}})
        ),
        tool("now", json!({})),
    ]);
    for seed in 1..=3 {
        let events = worker.events(&json!({
            "task": chat(json!({"tools": tools, "tool_choice": "required", "parallel_tool_calls": false})),
            "sampling": {"seed": seed, "max_tokens": 120},
        }));
        assert_eq!(text(&events), "");
        let calls = calls(&events);
        assert_eq!(calls.len(), 1, "{events:?}");
        let arguments: Value = serde_json::from_str(&calls[0].2).unwrap();
        if calls[0].1 == "get_weather" {
            assert!(["Oslo", "Rome"].contains(&arguments["city"].as_str().unwrap()));
            assert!(arguments["days"].is_boolean());
        } else {
            assert_eq!((calls[0].1.as_str(), arguments), ("now", json!({})));
        }
        assert_eq!(events.last().unwrap()["finish_reason"], "tool_calls");
    }
    let named =
        json!({"tools": tools, "tool_choice": {"named": "now"}, "parallel_tool_calls": false});
    let events = worker.events(&json!({"task": chat(named), "sampling": {"max_tokens": 120}}));
    assert_eq!(calls(&events)[0].1, "now");
}

#[test]
fn a_call_that_is_cut_anywhere_goes_on_under_its_id() {
    let worker = WorkerProcess::ready(&["--slots", "1"]);
    let words = "7f3a <b>\"q\" \\ zürich 🦀 90210";
    let tools = json!([tool("note", json!({"words": {"const": words}}))]);
    let request = json!({
        "request_id": "a-call-that-is-cut",
        "task": chat(json!({"tools": tools, "tool_choice": "required", "parallel_tool_calls": false})),
        "sampling": {"temperature": 0, "max_tokens": 150},
    });
    let whole = worker.events(&request);
    let wanted = calls(&whole);
    assert_eq!(serde_json::from_str::<Value>(&wanted[0].2).unwrap(), json!({"words": words}));
    let all = tokens(&whole);
    for cut in 1..all.len() {
        let mut known = 0;
        let told = whole.iter().take_while(|event| {
            known += event["tokens"].as_array().map_or(0, Vec::len);
            known <= cut
        });
        let mut events: Vec<_> = told.cloned().collect();
        let told = tokens(&events);
        let mut rest = request.clone();
        rest["resume"] = json!(told);
        events.extend(worker.events(&rest));
        assert_eq!(calls(&events), wanted, "cut after {} tokens", told.len());
    }
}

#[test]
fn functions_are_offered_and_the_model_is_free_not_to_call() {
    let worker = WorkerProcess::ready(&["--slots", "1"]);
    let tools = json!([tool("get_weather", json!({"city": {"type": "string"}}))]);
    let prompt_tokens = |more: Value| {
        let sampling = json!({"max_tokens": 8, "temperature": 0});
        let events = worker.events(&json!({"task": chat(more), "sampling": sampling}));
        events[0]["prompt_tokens"].as_u64().unwrap()
    };
    let alone = prompt_tokens(json!({}));
    assert!(prompt_tokens(json!({"tools": tools})) > alone + 30);
    assert_eq!(prompt_tokens(json!({"tools": tools, "tool_choice": "none"})), alone);
}

#[test]
fn a_message_that_was_begun_is_continued() {
    let worker = WorkerProcess::ready(&["--slots", "1"]);
    let events = worker.events(&json!({
        "task": {
            "type": "chat",
            "messages": [
                {"role": "user", "content": "Count from one to six in words, with commas."},
                {"role": "assistant", "content": "One, two, three,"},
            ],
            "continue_last": true,
        },
        "sampling": {"temperature": 0, "max_tokens": 4},
    }));
    assert!(text(&events).to_lowercase().contains("four"), "{:?}", text(&events));
}

#[test]
fn what_cannot_be_asked_is_refused_by_its_field() {
    let worker = WorkerProcess::ready(&["--slots", "1"]);
    let ok = tool("f", json!({}));
    let endless = json!({
        "name": "f",
        "parameters": {
            "type": "object",
            "properties": {"a": {"$ref": "#"}},
            "required": ["a"],
        },
    });
    let cases = [
        (chat(json!({"tools": [tool("a b", json!({}))]})), "tools[0].name"),
        (chat(json!({"tools": [ok, ok]})), "tools[1].name"),
        (chat(json!({"tools": [ok], "tool_choice": {"named": "g"}})), "tool_choice"),
        (chat(json!({"tool_choice": "required"})), "tool_choice"),
        (chat(json!({"tools": [endless], "tool_choice": "required"})), "tools"),
        (chat(json!({"continue_last": true})), "continue_last"),
        (chat(json!({"template_variables": {"messages": []}})), "template_variables.messages"),
        (json!({"type": "infill", "prefix": "a", "suffix": "b"}), "task"),
    ];
    for (task, param) in cases {
        let (status, body) = worker.post(&json!({"task": task}));
        assert_eq!(status, 400, "{body}");
        let error: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(error["error"]["param"], param, "{body}");
    }
}

/// A copy of the demo model with other keys in it, in front of its own.
fn with_keys(file: &Path, keys: &[(&str, u32)]) {
    let model = std::fs::read(demo_model()).unwrap();
    let mut more: Vec<u8> = Vec::new();
    let mut key = |name: &str, kind: u32, value: &[u8]| {
        more.extend((name.len() as u64).to_le_bytes());
        more.extend(name.as_bytes());
        more.extend(kind.to_le_bytes());
        more.extend(value);
        more.len()
    };
    let mut length = 0;
    for (name, value) in keys {
        length = key(name, 4, &value.to_le_bytes());
    }
    // The tensors stay aligned if all is moved by a multiple of 32: a text makes up for the rest.
    let frame = length + "test.filler".len() + 8 + 4 + 8;
    let filler = vec![b'x'; frame.next_multiple_of(32) - frame];
    let filler = [&(filler.len() as u64).to_le_bytes(), filler.as_slice()].concat();
    key("test.filler", 8, &filler);
    let count = u64::from_le_bytes(model[16..24].try_into().unwrap()) + keys.len() as u64 + 1;
    let parts = [&model[..16], &count.to_le_bytes(), more.as_slice(), &model[24..]];
    std::fs::write(file, parts.concat()).unwrap();
}

#[test]
fn text_is_filled_in_between_prefix_and_suffix() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("infill.gguf");
    // Any three tokens will do: the demo model was not trained to fill in.
    let [pre, suf, mid] = [3, 4, 5];
    with_keys(
        &file,
        &[
            ("tokenizer.ggml.fim_pre_token_id", pre),
            ("tokenizer.ggml.fim_suf_token_id", suf),
            ("tokenizer.ggml.fim_mid_token_id", mid),
        ],
    );
    let worker = WorkerProcess::start(&file, &["--slots", "1"]);
    worker.wait_for_state("ready");
    let sampling = json!({"temperature": 0, "max_tokens": 8, "ignore_eos": true, "logprobs": 0});
    let ask = |task: Value| worker.events(&json!({"task": task, "sampling": sampling}));
    let infill = |prefix: &str, suffix: &str| {
        ask(json!({"type": "infill", "prefix": prefix, "suffix": suffix}))
    };
    let empty = infill("", "");
    let by_hand = ask(json!({"type": "completion", "prompt": [pre, suf, mid]}));
    assert_eq!(tokens(&empty), tokens(&by_hand));
    let length = |events: &[Value]| events[0]["prompt_tokens"].as_u64().unwrap();
    let plain = |text: &str| length(&ask(json!({"type": "completion", "prompt": text})));
    let (prefix, suffix) = ("def add(a, b):\n    return", "\n\nprint(add(1, 2)) # <|im_end|>");
    let both = infill(prefix, suffix);
    assert_eq!(length(&both), 3 + plain(prefix) + plain(suffix));
    let logprob = |events: &[Value]| events[1]["logprobs"][0]["logprob"].as_f64().unwrap();
    assert!((logprob(&both) - logprob(&infill(suffix, prefix))).abs() > 1e-6);
}
