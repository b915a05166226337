use proptest::prelude::*;
use worker_contract::{OutputFormat, Sampling, Tool, ToolCall, ToolChoice};

use super::*;

#[test]
fn every_field_of_a_full_request_arrives() {
    let understood = read(&json!({
        "model": "m",
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "text", "text": "one"}, {"type": "text", "text": "two"},
            ], "name": "ann"},
            {"role": "assistant", "content": "ok", "refusal": null, "tool_calls": [],
             "annotations": [], "audio": null, "function_call": null},
            {"role": "user", "content": "And now?"},
        ],
        "temperature": 0.5, "top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1.25,
        "presence_penalty": -2, "frequency_penalty": 2, "seed": 7, "stop": "\n",
        "max_completion_tokens": 5, "ignore_eos": true, "typical_p": 0.5,
        "xtc_probability": 0.25, "xtc_threshold": 0.125, "dry_multiplier": 1.5, "dry_base": 2,
        "dry_allowed_length": 3, "dry_penalty_last_n": 100, "dry_sequence_breakers": ["\n"],
        "repeat_last_n": 32, "logit_bias": {"15": -100, "7": 1.5}, "logprobs": true,
        "top_logprobs": 3, "n": 4, "deterministic": true,
        "response_format": {"type": "json_object"},
        "chat_template_kwargs": {"enable_thinking": false},
        "stream": true, "stream_options": {"include_usage": true, "include_obfuscation": false},
    }))
    .unwrap();
    let message = |role, content: &str, name: Option<&str>| ChatMessage {
        name: name.map(str::to_owned),
        ..ChatMessage::text(role, content)
    };
    let messages = vec![
        message(Role::System, "Be brief.", None),
        message(Role::User, "one\ntwo", Some("ann")),
        message(Role::Assistant, "ok", None),
        message(Role::User, "And now?", None),
    ];
    let variables = json!({"enable_thinking": false});
    let chat =
        Chat { template_variables: variables.as_object().unwrap().clone(), ..Chat::from(messages) };
    let request = understood.request;
    assert_eq!(request.task, Task::Chat(chat));
    assert_eq!((request.n, request.deterministic), (4, true));
    assert_eq!(request.format, OutputFormat::JsonObject);
    assert_eq!(
        request.sampling,
        Sampling {
            temperature: Some(0.5),
            top_p: Some(1.0),
            top_k: Some(0),
            min_p: Some(0.0),
            repeat_penalty: Some(1.25),
            presence_penalty: Some(-2.0),
            frequency_penalty: Some(2.0),
            seed: Some(7),
            stop: vec!["\n".into()],
            max_tokens: Some(5),
            ignore_eos: true,
            typical_p: Some(0.5),
            xtc_probability: Some(0.25),
            xtc_threshold: Some(0.125),
            dry_multiplier: Some(1.5),
            dry_base: Some(2.0),
            dry_allowed_length: Some(3),
            dry_penalty_last_n: Some(100),
            dry_sequence_breakers: Some(vec!["\n".into()]),
            repeat_last_n: Some(32),
            logit_bias: vec![(15, -100.0), (7, 1.5)],
            logprobs: Some(3),
        }
    );
    assert!(understood.stream && understood.include_usage);
}

#[test]
fn what_asks_for_nothing_is_accepted() {
    for field in [
        json!({"user": "u", "metadata": {"a": "b"}, "store": true, "service_tier": "auto"}),
        json!({"n": 1, "logprobs": false, "top_logprobs": 0, "logit_bias": {}}),
        json!({"tools": [], "tool_choice": "none", "parallel_tool_calls": false}),
        json!({"response_format": {"type": "text"}, "modalities": ["text"]}),
        json!({"stream": false, "stream_options": {"include_usage": true}}),
        json!({"temperature": null, "stop": null, "tools": null, "anything": null}),
        json!({"max_tokens": 5, "max_completion_tokens": 5, "seed": -1, "stop": []}),
        json!({"functions": [], "function_call": "auto", "tool_choice": "auto"}),
        json!({"add_generation_prompt": true, "continue_final_message": false}),
        json!({"repeat_penalty": 1.5, "repetition_penalty": 1.5, "chat_template_kwargs": {}}),
        json!({"reasoning_effort": null, "deterministic": false, "min_tokens": 0}),
    ] {
        read(&with(&field)).unwrap_or_else(|error| panic!("{field}: {error}"));
    }
    let seed = |seed: i64| read(&with(&json!({"seed": seed}))).unwrap().request.sampling.seed;
    assert_eq!(seed(-1), None, "-1 is random");
    assert_eq!((seed(-2), seed(-2) == seed(-3)), (seed(-2), false));
}

#[test]
fn what_is_wrong_is_named_in_the_words_of_the_api() {
    let many: std::collections::HashMap<_, _> = (0..1025).map(|id| (id.to_string(), 1)).collect();
    let rows = [
        (json!({"max_tokens": -1}), "integer_below_min_value", "max_tokens", ">= 1, but got -1"),
        (json!({"max_tokens": 0}), "integer_below_min_value", "max_tokens", "but got 0"),
        (json!({"max_tokens": 1.5}), "invalid_type", "max_tokens", "an integer, but got a decimal"),
        (json!({"max_tokens": "many"}), "invalid_type", "max_tokens", "a string"),
        (
            json!({"max_tokens": 1, "max_completion_tokens": 2}),
            "invalid_parameter_combination",
            "max_tokens",
            "send one",
        ),
        (json!({"temperature": "warm"}), "invalid_type", "temperature", "a decimal"),
        (json!({"temperature": 2.1}), "decimal_above_max_value", "temperature", "<= 2"),
        (json!({"temperature": -0.5}), "decimal_below_min_value", "temperature", ">= 0"),
        (json!({"top_p": 7}), "decimal_above_max_value", "top_p", "but got 7"),
        (json!({"frequency_penalty": 3}), "decimal_above_max_value", "frequency_penalty", "<= 2"),
        (json!({"seed": "x"}), "invalid_type", "seed", "an integer"),
        (json!({"stream": "perhaps"}), "invalid_type", "stream", "a boolean"),
        (json!({"stream_options": 1}), "invalid_type", "stream_options", "an object"),
        (json!({"stop": {"a": 1}}), "invalid_type", "stop", "an array of strings"),
        (json!({"stop": ["a", 1]}), "invalid_type", "stop[1]", "a string"),
        (json!({"stop": [""]}), "invalid_value", "stop", "1 to 256"),
        (json!({"model": 5}), "invalid_type", "model", "a string"),
        (json!({"model": null}), "missing_required_parameter", "model", "model"),
        (json!({"messages": null}), "missing_required_parameter", "messages", "messages"),
        (json!({"messages": "hello"}), "invalid_type", "messages", "an array"),
        (json!({"messages": []}), "empty_array", "messages", "minimum length 1"),
        (json!({"messages": ["hi"]}), "invalid_type", "messages[0]", "an object"),
        (
            json!({"messages": [{"role": "robot", "content": "x"}]}),
            "invalid_value",
            "messages[0].role",
            "'robot'",
        ),
        (
            json!({"messages": [{"role": "user"}]}),
            "missing_required_parameter",
            "messages[0].content",
            "content",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
            "missing_required_parameter",
            "messages[0].content[0].text",
            "text",
        ),
        (json!({"n": 0}), "integer_below_min_value", "n", ">= 1"),
        (json!({"n": 17}), "integer_above_max_value", "n", "<= 16"),
        (json!({"logprobs": 3}), "invalid_type", "logprobs", "a boolean"),
        (
            json!({"logprobs": true, "top_logprobs": 21}),
            "integer_above_max_value",
            "top_logprobs",
            "<= 20",
        ),
        (
            json!({"top_logprobs": 3}),
            "invalid_parameter_combination",
            "top_logprobs",
            "'logprobs' is true",
        ),
        (json!({"logit_bias": [[5, 1]]}), "invalid_type", "logit_bias", "an object"),
        (json!({"logit_bias": {"the": 1}}), "invalid_value", "logit_bias", "a token id"),
        (json!({"logit_bias": {"-5": 1}}), "invalid_value", "logit_bias", "a token id"),
        (json!({"logit_bias": {"5": "x"}}), "invalid_type", "logit_bias.5", "a decimal"),
        (json!({"logit_bias": {"5": 101}}), "decimal_above_max_value", "logit_bias.5", "<= 100"),
        (json!({"logit_bias": many}), "array_above_max_length", "logit_bias", "length 1024"),
        (json!({"xtc_probability": 2}), "decimal_above_max_value", "xtc_probability", "<= 1"),
        (json!({"dry_base": 0.5}), "decimal_below_min_value", "dry_base", ">= 1"),
        (
            json!({"dry_penalty_last_n": -2}),
            "integer_below_min_value",
            "dry_penalty_last_n",
            ">= -1",
        ),
        (
            json!({"dry_sequence_breakers": ["a", 5]}),
            "invalid_type",
            "dry_sequence_breakers[1]",
            "a string",
        ),
        (
            json!({"repeat_penalty": 1.5, "repetition_penalty": 1.25}),
            "invalid_parameter_combination",
            "repeat_penalty",
            "send one",
        ),
        (json!({"deterministic": "yes"}), "invalid_type", "deterministic", "a boolean"),
        (json!({"chat_template_kwargs": []}), "invalid_type", "chat_template_kwargs", "an object"),
        (json!({"max_token": 5}), "unknown_parameter", "max_token", "Unknown parameter"),
    ];
    for (field, code, param, mentions) in rows {
        check(&field, code, param, mentions);
    }
    let error = read(&with(&json!({"max_token": 5}))).unwrap_err();
    assert_eq!(error.detail.hint.as_deref(), Some("did you mean 'max_tokens'?"));
    let many = |fields: usize| -> Value {
        (0..fields).map(|n| (format!("f{n}"), json!(1))).collect::<Body>().into()
    };
    check(&many(300), "invalid_value", "", "302 fields, more than 256");
    check(&json!({"stream_options": many(257)}), "invalid_value", "stream_options", "257");
}

#[test]
fn what_is_not_served_is_never_ignored() {
    for (field, param) in [
        (json!({"functions": [{"name": "f"}]}), "functions"),
        (json!({"function_call": {"name": "f"}}), "function_call"),
        (json!({"min_tokens": 5}), "min_tokens"),
        (json!({"stop_token_ids": [5]}), "stop_token_ids"),
        (json!({"chat_template": "{{ x }}"}), "chat_template"),
        (json!({"modalities": ["audio"]}), "modalities"),
        (json!({"grammar": "root ::= x"}), "grammar"),
        (json!({"messages": [{"role": "function", "content": "x"}]}), "messages[0].role"),
        (
            json!({"messages": [{"role": "user", "content": "", "tool_calls": [{}]}]}),
            "messages[0].tool_calls",
        ),
        (
            json!({"messages": [{"role": "user", "content": "", "tool_call_id": "c"}]}),
            "messages[0].tool_call_id",
        ),
        (
            json!({"messages": [{"role": "assistant", "content": "", "function_call": {"name": "f"}}]}),
            "messages[0].function_call",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}),
            "messages[0].content[0]",
        ),
        (
            json!({"messages": [{"role": "system", "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA=="}}]}]}),
            "messages[0].content[0]",
        ),
    ] {
        check(&field, "unsupported_parameter", param, "not served");
    }
}

#[test]
fn images_stand_where_they_were_among_the_text() {
    let image = |data: &str| {
        let url = format!("data:image/png;base64,{data}");
        json!({"type": "image_url", "image_url": {"url": url, "detail": "low"}})
    };
    let text = |text: &str| json!({"type": "text", "text": text});
    let content =
        json!([text("ä"), image("AAAA"), image("BBBB"), text("two"), text("three"), image("CCCC")]);
    let body = with(&json!({"messages": [{"role": "user", "content": content}]}));
    let Task::Chat(chat) = read(&body).unwrap().request.task else { panic!("not a chat") };
    assert_eq!(chat.messages[0].content, "ätwo\nthree");
    let images: Vec<_> =
        chat.messages[0].images.iter().map(|image| (image.at, image.data.as_str())).collect();
    assert_eq!(images, [(2, "AAAA"), (2, "BBBB"), (11, "CCCC")]);
}

#[test]
fn an_image_is_sent_and_not_fetched() {
    let at = "messages[0].content[0].image_url";
    for (image, code, param, said) in [
        (json!({"url": "https://x.org/a.png"}), "invalid_value", ".url", "fetches nothing"),
        (json!("HTTP://x.org/a.png"), "invalid_value", "", "fetches nothing"),
        (json!({"url": "data:image/png,abc"}), "invalid_value", ".url", "data URL"),
        (json!({"url": "/etc/passwd"}), "invalid_value", ".url", "data URL"),
        (json!({}), "missing_required_parameter", ".url", "required"),
        (json!(7), "invalid_type", "", "object"),
    ] {
        let part = json!({"type": "image_url", "image_url": image});
        let field = json!({"messages": [{"role": "user", "content": [part]}]});
        check(&field, code, &format!("{at}{param}"), said);
    }
}

#[test]
fn calls_and_their_results_arrive() {
    let call = |id: &str, arguments: Value| {
        json!({"id": id, "type": "function", "index": 0,
               "function": {"name": "add", "arguments": arguments}})
    };
    let messages = json!([
        {"role": "user", "content": "1+2? 3+4?"},
        {"role": "assistant", "content": null, "reasoning_content": "Two sums.", "tool_calls": [
            call("c1", json!("{\"a\": 1}")), call("c2", json!({"a": 3})), call("c3", json!("")),
        ]},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "7"}]},
    ]);
    let tools = json!([{"type": "function", "function": {"name": "add"}}]);
    let fields = json!({"messages": messages, "tools": tools, "tool_choice": "required"});
    let Task::Chat(chat) = read(&with(&fields)).unwrap().request.task else { panic!("a chat") };
    let made = |id: &str, arguments: &str| ToolCall {
        id: id.into(),
        name: "add".into(),
        arguments: arguments.into(),
    };
    let calls = [made("c1", "{\"a\": 1}"), made("c2", "{\"a\":3}"), made("c3", "{}")];
    assert_eq!(chat.messages[1].tool_calls, calls);
    assert_eq!(chat.messages[1].content, "");
    assert_eq!(chat.messages[1].reasoning.as_deref(), Some("Two sums."));
    let result =
        ChatMessage { tool_call_id: Some("c2".into()), ..ChatMessage::text(Role::Tool, "7") };
    assert_eq!(chat.messages[3], result);
    let tool = Tool { name: "add".into(), description: None, parameters: None, strict: false };
    assert_eq!((chat.tools, chat.tool_choice), (vec![tool], ToolChoice::Required));
    assert!(chat.parallel_tool_calls && !chat.continue_last);

    let message = |message: Value| json!({"messages": [message]});
    let answered = |call: Value| message(json!({"role": "assistant", "tool_calls": [call]}));
    let missing = "missing_required_parameter";
    for (fields, code, param) in [
        (message(json!({"role": "tool", "content": "x"})), missing, "messages[0].tool_call_id"),
        (message(json!({"role": "assistant"})), missing, "messages[0].content"),
        (message(json!({"role": "assistant", "tool_calls": []})), missing, "messages[0].content"),
        (answered(json!({"type": "function"})), missing, "messages[0].tool_calls[0].id"),
        (
            answered(call("c", json!(5))),
            "invalid_type",
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            message(json!({"role": "assistant", "reasoning_content": "a", "reasoning": "b"})),
            "invalid_parameter_combination",
            "messages[0].reasoning_content",
        ),
    ] {
        check(&fields, code, param, param);
    }
}

#[test]
fn a_last_message_of_the_assistant_is_continued_unless_it_is_complete() {
    let ends = |last: Value, more: Value| {
        let mut fields = json!({"messages": [{"role": "user", "content": "Hi"}, last]});
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        with(&fields)
    };
    let continues =
        |last: &Value, more: Value| match read(&ends(last.clone(), more)).unwrap().request.task {
            Task::Chat(chat) => chat.continue_last,
            other => panic!("{other:?}"),
        };
    let (begun, asked) =
        (json!({"role": "assistant", "content": "The"}), json!({"role": "user", "content": "x"}));
    let called = json!({"role": "assistant", "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]});
    assert!(continues(&begun, json!({})));
    assert!(continues(&begun, json!({"add_generation_prompt": false})));
    assert!(continues(&begun, json!({"continue_final_message": true})));
    assert!(!continues(&begun, json!({"continue_final_message": false})));
    assert!(!continues(&begun, json!({"add_generation_prompt": true})));
    assert!(!continues(&asked, json!({})));
    assert!(!continues(&called, json!({})));

    let (goes_on, begins) = ("continue_final_message", "add_generation_prompt");
    for (last, more, code, param) in [
        (&asked, json!({goes_on: true}), "invalid_value", goes_on),
        (&called, json!({goes_on: true}), "invalid_value", goes_on),
        (&asked, json!({begins: false}), "invalid_value", begins),
        (&begun, json!({goes_on: true, begins: true}), "invalid_parameter_combination", goes_on),
    ] {
        let error = read(&ends(last.clone(), more.clone())).expect_err(&more.to_string());
        assert_eq!(error.detail.code.as_deref(), Some(code), "{more}: {error}");
        assert_eq!(error.detail.param.as_deref(), Some(param), "{more}: {error}");
    }
    let twice = json!({"messages": [begun, begun]});
    check(&twice, "invalid_value", "messages", "the last two");
}

#[test]
fn an_answer_is_taken_back_with_all_that_was_said_beside_it() {
    let call = json!({"id": "c", "type": "function", "index": 0, "extra_content": {"s": "t"},
        "function": {"name": "f", "arguments": "{}"}});
    let answer = json!({"role": "assistant", "content": "a", "tool_calls": [call],
        "reasoning_details": [{"type": "reasoning.text", "text": "Hm"}], "annotations": [{"type": "url_citation"}]});
    let asks = json!({"role": "user", "content": "Hi"});
    let fields =
        json!({"messages": [asks, answer, {"role": "tool", "tool_call_id": "c", "content": "1"}]});
    let Task::Chat(chat) = read(&with(&fields)).unwrap().request.task else { panic!("a chat") };
    assert_eq!((chat.messages[1].content.as_str(), chat.messages[1].tool_calls.len()), ("a", 1));
    for (field, param) in [
        (json!({"role": "user", "content": "Hi", "annotations": [1]}), "messages[0].annotations"),
        (json!({"role": "assistant", "content": "", "audio": {"id": "a"}}), "messages[0].audio"),
    ] {
        check(&json!({"messages": [field]}), "unsupported_parameter", param, "not served");
    }
}

#[test]
fn how_much_is_thought_is_told_to_the_template() {
    for (fields, expected) in [
        (json!({"reasoning_effort": "high"}), json!({"reasoning_effort": "high"})),
        (
            json!({"reasoning_effort": "none"}),
            json!({"enable_thinking": false, "reasoning_effort": "none"}),
        ),
        (
            json!({"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": true}}),
            json!({"enable_thinking": true, "reasoning_effort": "none"}),
        ),
        (
            json!({"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "high"}}),
            json!({"reasoning_effort": "high"}),
        ),
        (json!({"reasoning_effort": ""}), json!({})),
    ] {
        let Task::Chat(chat) = read(&with(&fields)).unwrap().request.task else { panic!("a chat") };
        assert_eq!(Value::Object(chat.template_variables), expected, "{fields}");
    }
    check(&json!({"reasoning_effort": 5}), "invalid_type", "reasoning_effort", "a string");
}

proptest! {
    /// Whatever JSON a field holds, it is understood or refused under its name.
    #[test]
    fn no_value_of_any_field_goes_wrong_silently(
        name in prop::sample::select(FIELDS),
        value in any_json(),
    ) {
        let mut body = with(&json!({}));
        body.insert(name.to_owned(), value.clone());
        if let Err(error) = read_chat(body, id()) {
            prop_assert_eq!(error.status.as_u16(), 400);
            let param = error.detail.param.unwrap_or_default();
            prop_assert!(param.starts_with(name), "{}: {} {:?}", name, value, param);
        }
    }
}

const FIELDS: &[&str] = &[
    "model",
    "messages",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repeat_penalty",
    "seed",
    "stop",
    "max_tokens",
    "max_completion_tokens",
    "ignore_eos",
    "stream",
    "stream_options",
    "n",
    "tools",
    "tool_choice",
    "response_format",
    "structured_outputs",
    "guided_choice",
    "json_schema",
    "logit_bias",
    "dry_sequence_breakers",
    "dry_penalty_last_n",
    "chat_template_kwargs",
    "reasoning_effort",
    "deterministic",
    "logprobs",
    "unheard_of",
];

const KEYS: &[&str] =
    &["role", "content", "type", "text", "function", "name", "tool_calls", "id", "schema", "5"];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let key = prop::sample::select(KEYS);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..4).prop_map(|entries| {
                Value::Object(entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    })
}

fn check(field: &Value, code: &str, param: &str, mentions: &str) {
    let error = read(&with(field)).expect_err(&field.to_string());
    assert_eq!(error.status.as_u16(), 400, "{field}");
    assert_eq!(error.detail.code.as_deref(), Some(code), "{field}: {error}");
    assert_eq!(error.detail.param.as_deref().unwrap_or_default(), param, "{field}: {error}");
    assert!(error.detail.message.contains(mentions), "{field}: {error}");
}

/// A body that is right, with the fields of an object in it.
fn with(fields: &Value) -> Body {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    let Value::Object(mut body) = body else { unreachable!("it is an object") };
    body.extend(fields.as_object().unwrap().clone());
    body
}

fn read(body: &impl serde::Serialize) -> Result<Understood, ApiError> {
    let Ok(Value::Object(body)) = serde_json::to_value(body) else { panic!("an object") };
    read_chat(body, id())
}

fn id() -> RequestId {
    "r-1".parse().unwrap()
}
