//! `POST /v1/completions`: the request.

use daemon_http::ApiError;
use serde_json::Value;
use worker_contract::{InferenceRequest, Prompt, RequestId, Task, TokenId};

use super::error::{unsupported, wrong_type};
use super::fields::{Fields, is_empty};
use super::format::read_format;
use super::sampling::{read_n, read_sampling, read_streaming, refuse_unserved};
use super::{Body, FieldNames, Understood};

/// As many likely tokens as this endpoint tells with each token.
const MAX_LOGPROBS: u32 = 5;

/// Understands a completion request, or says which field is wrong.
pub fn read_completion(body: Body, request_id: RequestId) -> Result<Understood, ApiError> {
    let mut fields = Fields::new(body)?;
    let model = fields.required_text("model")?;
    let prompt = read_prompt(fields.required("prompt")?)?;
    let mut sampling = read_sampling(&mut fields)?;
    sampling.logprobs = fields.count_to("logprobs", 0, MAX_LOGPROBS)?;
    let (format, format_field) = read_format(&mut fields)?;
    let streaming = read_streaming(&mut fields)?;
    let n = read_n(&mut fields)?;
    let deterministic = fields.flag("deterministic")?;
    let task = read_task(&mut fields, prompt)?;
    refuse_unserved(&mut fields)?;
    fields.only("echo", is_empty, "")?;
    fields.only("best_of", |best_of| *best_of == n, " but with the same value as 'n'")?;
    fields.finish()?;
    let request = InferenceRequest {
        sampling,
        format,
        n,
        deterministic,
        ..InferenceRequest::new(request_id, task)
    };
    Ok(Understood {
        model,
        request,
        fields: FieldNames::of("prompt").with_format(format_field),
        stream: streaming.stream,
        include_usage: streaming.include_usage,
    })
}

/// What stands after the text makes it a gap to be filled.
fn read_task(fields: &mut Fields, prompt: Prompt) -> Result<Task, ApiError> {
    match (fields.text("suffix")?.filter(|suffix| !suffix.is_empty()), prompt) {
        (None, prompt) => Ok(Task::Completion { prompt }),
        (Some(suffix), Prompt::Text(prefix)) => Ok(Task::Infill { prefix, suffix }),
        (Some(_), Prompt::Tokens(_)) => {
            Err(unsupported("suffix", " with a prompt of token ids; send the prompt as text"))
        }
    }
}

/// A text, token ids, or an array of one of these.
fn read_prompt(prompt: Value) -> Result<Prompt, ApiError> {
    let mut items = match prompt {
        Value::String(text) => return Ok(Prompt::Text(text)),
        Value::Array(items) => items,
        other => return Err(wrong_type("prompt", "a string or an array", &other)),
    };
    let is_list = |item: &Value| item.is_string() || item.is_array();
    match items.as_slice() {
        [] => {
            let message = "Invalid 'prompt': empty array. Expected at least one token or text.";
            Err(ApiError::bad_request("empty_array", message).param("prompt"))
        }
        [only] if is_list(only) => match items.remove(0) {
            Value::Array(tokens) if tokens.iter().any(is_list) => {
                Err(wrong_type("prompt[0]", "an array of token ids", &Value::Array(tokens)))
            }
            inner => read_prompt(inner),
        },
        [first, ..] if is_list(first) => {
            Err(unsupported("prompt", " with several prompts; send the request for each"))
        }
        tokens => read_tokens("prompt", tokens).map(Prompt::Tokens),
    }
}

/// Token ids out of an array that is at `path`.
pub(super) fn read_tokens(path: &str, tokens: &[Value]) -> Result<Vec<TokenId>, ApiError> {
    let read = |(index, token): (usize, &Value)| {
        let id = token.as_i64().and_then(|id| TokenId::try_from(id).ok()).filter(|id| *id >= 0);
        id.ok_or_else(|| wrong_type(&format!("{path}[{index}]"), "a token id", token))
    };
    tokens.iter().enumerate().map(read).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use worker_contract::OutputFormat;

    use super::*;

    #[test]
    fn a_prompt_is_a_text_tokens_or_an_array_of_one_of_these() {
        let text = |text: &str| Prompt::Text(text.into());
        for (prompt, expected) in [
            (json!("Once"), text("Once")),
            (json!(["Once"]), text("Once")),
            (json!(""), text("")),
            (json!([1, 2, 3]), Prompt::Tokens(vec![1, 2, 3])),
            (json!([[1, 2, 3]]), Prompt::Tokens(vec![1, 2, 3])),
            (json!([7]), Prompt::Tokens(vec![7])),
        ] {
            let understood = read(json!({"prompt": prompt})).unwrap();
            assert_eq!(understood.request.task, Task::Completion { prompt: expected });
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (field, code, param) in [
            (json!({"prompt": null}), "missing_required_parameter", "prompt"),
            (json!({"prompt": 5}), "invalid_type", "prompt"),
            (json!({"prompt": []}), "empty_array", "prompt"),
            (json!({"prompt": [[]]}), "empty_array", "prompt"),
            (json!({"prompt": [[["a"]]]}), "invalid_type", "prompt[0]"),
            (json!({"prompt": ["a", "b"]}), "unsupported_parameter", "prompt"),
            (json!({"prompt": [[1], [2]]}), "unsupported_parameter", "prompt"),
            (json!({"prompt": [1, "b"]}), "invalid_type", "prompt[1]"),
            (json!({"prompt": [1, -2]}), "invalid_type", "prompt[1]"),
            (json!({"prompt": [1, 99_999_999_999_u64]}), "invalid_type", "prompt[1]"),
            (json!({"prompt": "x", "echo": true}), "unsupported_parameter", "echo"),
            (json!({"prompt": [1], "suffix": "y"}), "unsupported_parameter", "suffix"),
            (json!({"prompt": "x", "suffix": 5}), "invalid_type", "suffix"),
            (json!({"prompt": "x", "best_of": 2}), "unsupported_parameter", "best_of"),
            (json!({"prompt": "x", "n": 2, "best_of": 3}), "unsupported_parameter", "best_of"),
            (json!({"prompt": "x", "n": 17}), "integer_above_max_value", "n"),
            (json!({"prompt": "x", "logprobs": true}), "invalid_type", "logprobs"),
            (json!({"prompt": "x", "logprobs": 6}), "integer_above_max_value", "logprobs"),
            (json!({"prompt": "x", "top_logprobs": 1}), "unknown_parameter", "top_logprobs"),
            (json!({"prompt": "x", "tools": []}), "unknown_parameter", "tools"),
            (json!({"prompt": "x", "messages": []}), "unknown_parameter", "messages"),
        ] {
            let error = read(field.clone()).expect_err(&field.to_string());
            assert_eq!(error.detail.code.as_deref(), Some(code), "{field}: {error}");
            assert_eq!(error.detail.param.as_deref(), Some(param), "{field}: {error}");
        }
        let harmless = json!({"prompt": "x", "echo": false, "suffix": null, "best_of": 1, "n": 1});
        assert!(read(harmless).is_ok());
    }

    #[test]
    fn what_only_this_endpoint_has_arrives() {
        let fields = json!({
            "prompt": ["a ="], "suffix": "\nreturn a", "n": 3, "best_of": 3, "logprobs": 5,
            "deterministic": true, "guided_regex": "[0-9]+",
        });
        let request = read(fields).unwrap().request;
        let (prefix, suffix) = ("a =".into(), "\nreturn a".into());
        assert_eq!(request.task, Task::Infill { prefix, suffix });
        assert_eq!(
            (request.n, request.sampling.logprobs, request.deterministic),
            (3, Some(5), true)
        );
        assert_eq!(request.format, OutputFormat::Regex { pattern: "[0-9]+".into() });
        let none = read(json!({"prompt": "x", "logprobs": 0, "suffix": ""})).unwrap().request;
        assert_eq!(none.sampling.logprobs, Some(0));
        assert!(matches!(none.task, Task::Completion { .. }));
    }

    fn read(mut body: Value) -> Result<Understood, ApiError> {
        body["model"] = json!("m");
        let Value::Object(body) = body else { panic!("an object") };
        read_completion(body, "r-1".parse().unwrap())
    }
}
