//! `POST /v1/chat/completions`: the request.

use daemon_http::ApiError;
use serde_json::{Value, json};
use worker_contract::{RequestId, Task};

use super::content::read_messages;
use super::fields::{Fields, is_empty};
use super::sampling::{read_sampling, read_streaming, refuse_unserved};
use super::{Body, Understood, request};

/// Understands a chat request, or says which field is wrong.
pub fn read_chat(body: Body, request_id: RequestId) -> Result<Understood, ApiError> {
    let mut fields = Fields::new(body);
    let model = fields.required_text("model")?;
    let messages = read_messages(fields.required("messages")?)?;
    let sampling = read_sampling(&mut fields)?;
    let streaming = read_streaming(&mut fields)?;
    refuse_unserved(&mut fields)?;
    refuse_unserved_chat(&mut fields)?;
    fields.finish()?;
    Ok(Understood {
        model,
        request: request(request_id, Task::Chat(messages.into()), sampling),
        stream: streaming.stream,
        include_usage: streaming.include_usage,
    })
}

fn refuse_unserved_chat(fields: &mut Fields) -> Result<(), ApiError> {
    fields.harmless(&["parallel_tool_calls", "prediction"]);
    let says = |words: &'static [&str]| move |value: &Value| words.iter().any(|word| value == word);
    fields.only("tools", is_empty, "")?;
    fields.only("functions", is_empty, "")?;
    fields.only("tool_choice", says(&["none", "auto"]), "")?;
    fields.only("function_call", says(&["none", "auto"]), "")?;
    fields.only("response_format", |format| format["type"] == "text", " but as text")?;
    fields.only("modalities", |modalities| *modalities == json!(["text"]), " but as text")?;
    fields.only("top_logprobs", |count| *count == json!(0), "")?;
    for name in ["audio", "web_search_options", "reasoning_effort", "verbosity", "reasoning"] {
        fields.only(name, is_empty, "")?;
    }
    for name in ["chat_template", "chat_template_kwargs", "add_generation_prompt"] {
        fields.only(name, |value| is_empty(value) || *value == json!(true), "")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use worker_contract::{ChatMessage, Role, Sampling};

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
                 "annotations": [], "audio": null},
            ],
            "temperature": 0.5, "top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1.25,
            "presence_penalty": -2, "frequency_penalty": 2, "seed": 7, "stop": "\n",
            "max_completion_tokens": 5, "ignore_eos": true,
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
        ];
        assert_eq!(understood.request.task, Task::Chat(messages.into()));
        assert_eq!(
            understood.request.sampling,
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
                ..Sampling::default()
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
        ] {
            read(&with(&field)).unwrap_or_else(|error| panic!("{field}: {error}"));
        }
        let seed = |seed: i64| read(&with(&json!({"seed": seed}))).unwrap().request.sampling.seed;
        assert_eq!(seed(-1), None, "-1 is random");
        assert_eq!((seed(-2), seed(-2) == seed(-3)), (seed(-2), false));
    }

    #[test]
    fn what_is_wrong_is_named_in_the_words_of_the_api() {
        let rows = [
            (
                json!({"max_tokens": -1}),
                "integer_below_min_value",
                "max_tokens",
                ">= 1, but got -1",
            ),
            (json!({"max_tokens": 0}), "integer_below_min_value", "max_tokens", "but got 0"),
            (
                json!({"max_tokens": 1.5}),
                "invalid_type",
                "max_tokens",
                "an integer, but got a decimal",
            ),
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
            (
                json!({"frequency_penalty": 3}),
                "decimal_above_max_value",
                "frequency_penalty",
                "<= 2",
            ),
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
            (json!({"max_token": 5}), "unknown_parameter", "max_token", "Unknown parameter"),
        ];
        for (field, code, param, mentions) in rows {
            check(&field, code, param, mentions);
        }
        let error = read(&with(&json!({"max_token": 5}))).unwrap_err();
        assert_eq!(error.detail.hint.as_deref(), Some("did you mean 'max_tokens'?"));
    }

    #[test]
    fn what_is_not_served_is_never_ignored() {
        for (field, param) in [
            (json!({"n": 2}), "n"),
            (json!({"tools": [{"type": "function"}]}), "tools"),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (json!({"response_format": {"type": "json_object"}}), "response_format"),
            (json!({"logprobs": true}), "logprobs"),
            (json!({"top_logprobs": 3}), "top_logprobs"),
            (json!({"logit_bias": {"5": 1}}), "logit_bias"),
            (json!({"modalities": ["audio"]}), "modalities"),
            (json!({"reasoning_effort": "high"}), "reasoning_effort"),
            (json!({"grammar": "root ::= x"}), "grammar"),
            (json!({"messages": [{"role": "tool", "content": "x"}]}), "messages[0].role"),
            (
                json!({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}),
                "messages[0].tool_calls",
            ),
            (
                json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
                "messages[0].content[0]",
            ),
        ] {
            check(&field, "unsupported_parameter", param, "not served");
        }
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
        "logprobs",
        "unheard_of",
    ];

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            let key = prop_oneof![Just("role"), Just("content"), Just("type"), Just("text")];
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
        assert_eq!(error.detail.param.as_deref(), Some(param), "{field}: {error}");
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
}
