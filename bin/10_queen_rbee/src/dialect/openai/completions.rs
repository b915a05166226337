//! `POST /v1/completions`: the request.

use daemon_http::ApiError;
use serde_json::{Value, json};
use worker_contract::{Prompt, RequestId, Task, TokenId};

use super::error::{unsupported, wrong_type};
use super::fields::{Fields, is_empty};
use super::sampling::{read_sampling, read_streaming, refuse_unserved};
use super::{Body, Understood, request};

/// Understands a completion request, or says which field is wrong.
pub fn read_completion(body: Body, request_id: RequestId) -> Result<Understood, ApiError> {
    let mut fields = Fields::new(body);
    let model = fields.required_text("model")?;
    let prompt = read_prompt(fields.required("prompt")?)?;
    let sampling = read_sampling(&mut fields)?;
    let streaming = read_streaming(&mut fields)?;
    refuse_unserved(&mut fields)?;
    fields.only("echo", is_empty, "")?;
    fields.only("suffix", is_empty, "")?;
    fields.only("best_of", |n| *n == json!(1), "")?;
    fields.finish()?;
    Ok(Understood {
        model,
        request: request(request_id, Task::Completion { prompt }, sampling),
        stream: streaming.stream,
        include_usage: streaming.include_usage,
    })
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
        tokens => read_tokens(tokens),
    }
}

fn read_tokens(tokens: &[Value]) -> Result<Prompt, ApiError> {
    let read = |(index, token): (usize, &Value)| {
        let id = token.as_i64().and_then(|id| TokenId::try_from(id).ok()).filter(|id| *id >= 0);
        id.ok_or_else(|| wrong_type(&format!("prompt[{index}]"), "a token id", token))
    };
    tokens.iter().enumerate().map(read).collect::<Result<_, _>>().map(Prompt::Tokens)
}

#[cfg(test)]
mod tests {
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
            (json!({"prompt": "x", "suffix": "y"}), "unsupported_parameter", "suffix"),
            (json!({"prompt": "x", "best_of": 2}), "unsupported_parameter", "best_of"),
            (json!({"prompt": "x", "logprobs": 1}), "unsupported_parameter", "logprobs"),
            (json!({"prompt": "x", "messages": []}), "unknown_parameter", "messages"),
        ] {
            let error = read(field.clone()).expect_err(&field.to_string());
            assert_eq!(error.detail.code.as_deref(), Some(code), "{field}: {error}");
            assert_eq!(error.detail.param.as_deref(), Some(param), "{field}: {error}");
        }
        let harmless = json!({"prompt": "x", "echo": false, "suffix": null, "best_of": 1, "n": 1});
        assert!(read(harmless).is_ok());
    }

    fn read(mut body: Value) -> Result<Understood, ApiError> {
        body["model"] = json!("m");
        let Value::Object(body) = body else { panic!("an object") };
        read_completion(body, "r-1".parse().unwrap())
    }
}
