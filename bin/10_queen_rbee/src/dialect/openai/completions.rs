//! `POST /v1/completions`: the request.

use daemon_http::ApiError;
use serde_json::Value;
use worker_contract::{InferenceRequest, Prompt, RequestId, Task, TokenId};

use super::error::{Bound, empty_array, out_of_range, too_long, unsupported, wrong_type};
use super::fields::{Fields, is_empty};
use super::format::read_format;
use super::sampling::{read_n, read_sampling, read_streaming, refuse_unserved};
use super::{Body, FieldNames, Understood};

/// As many likely tokens as this endpoint tells with each token.
const MAX_LOGPROBS: u32 = 5;

/// As many prompts as a request may have, and as many answers to all of them.
const MAX_PROMPTS: u32 = 128;

/// A completion request, understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The request, as if its first prompt were the only one.
    pub first: Understood,
    /// What else is to be completed in the same way.
    pub others: Vec<Task>,
}

/// Understands a completion request, or says which field is wrong.
pub fn read_completion(body: Body, request_id: RequestId) -> Result<Completion, ApiError> {
    let mut fields = Fields::new(body)?;
    let model = fields.required_text("model")?;
    let prompts = read_prompts(fields.required("prompt")?)?;
    let mut sampling = read_sampling(&mut fields)?;
    sampling.logprobs = fields.count_to("logprobs", 0, MAX_LOGPROBS)?;
    let (format, format_field) = read_format(&mut fields)?;
    let streaming = read_streaming(&mut fields)?;
    let n = read_n(&mut fields)?;
    check_answers(n, prompts.len())?;
    let deterministic = fields.flag("deterministic")?;
    let (task, others) = read_tasks(&mut fields, prompts)?;
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
    let first = Understood {
        model,
        request,
        fields: FieldNames::of("prompt").with_format(format_field),
        stream: streaming.stream,
        include_usage: streaming.include_usage,
    };
    Ok(Completion { first, others })
}

/// So many answers to each prompt must not be too many together.
fn check_answers(n: u32, prompts: usize) -> Result<(), ApiError> {
    let prompts = u32::try_from(prompts).unwrap_or(u32::MAX);
    if n.saturating_mul(prompts) <= MAX_PROMPTS {
        return Ok(());
    }
    let most = Bound::Max(f64::from(MAX_PROMPTS / prompts));
    Err(out_of_range("n", true, most, &format_args!("{n} for each of {prompts} prompts")))
}

/// The first task, and the others.
fn read_tasks(fields: &mut Fields, prompts: Vec<Prompt>) -> Result<(Task, Vec<Task>), ApiError> {
    let suffix = fields.text("suffix")?.filter(|suffix| !suffix.is_empty());
    let mut tasks = prompts.into_iter().map(|prompt| task(prompt, suffix.as_deref()));
    let first = tasks.next().ok_or_else(no_prompt)??;
    Ok((first, tasks.collect::<Result<_, _>>()?))
}

/// What stands after the text makes it a gap to be filled.
fn task(prompt: Prompt, suffix: Option<&str>) -> Result<Task, ApiError> {
    match (suffix, prompt) {
        (None, prompt) => Ok(Task::Completion { prompt }),
        (Some(suffix), Prompt::Text(prefix)) => {
            Ok(Task::Infill { prefix, suffix: suffix.to_owned() })
        }
        (Some(_), Prompt::Tokens(_)) => {
            Err(unsupported("suffix", " with a prompt of token ids; send the prompt as text"))
        }
    }
}

/// A text, token ids, or an array of these.
fn read_prompts(prompt: Value) -> Result<Vec<Prompt>, ApiError> {
    let items = match prompt {
        Value::String(text) => return Ok(vec![Prompt::Text(text)]),
        Value::Array(items) => items,
        other => return Err(wrong_type("prompt", "a string or an array", &other)),
    };
    match items.first() {
        None => Err(no_prompt()),
        Some(Value::String(_) | Value::Array(_)) if items.len() > MAX_PROMPTS as usize => {
            Err(too_long("prompt", MAX_PROMPTS as usize, items.len()))
        }
        Some(Value::String(_) | Value::Array(_)) => {
            items.into_iter().enumerate().map(|(index, item)| read_one(index, item)).collect()
        }
        Some(_) => Ok(vec![Prompt::Tokens(read_tokens("prompt", &items)?)]),
    }
}

/// One of an array of prompts.
fn read_one(index: usize, prompt: Value) -> Result<Prompt, ApiError> {
    let path = format!("prompt[{index}]");
    match prompt {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(tokens) if tokens.is_empty() => Err(empty_array(&path)),
        Value::Array(tokens) => read_tokens(&path, &tokens).map(Prompt::Tokens),
        other => Err(wrong_type(&path, "a string or an array of token ids", &other)),
    }
}

fn no_prompt() -> ApiError {
    let message = "Invalid 'prompt': empty array. Expected at least one token or text.";
    ApiError::bad_request("empty_array", message).param("prompt")
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
            assert_eq!(understood.first.request.task, Task::Completion { prompt: expected });
            assert!(understood.others.is_empty());
        }
    }

    #[test]
    fn several_prompts_are_several_tasks_of_one_request() {
        let read = |body| {
            let Completion { first, others } = read(body).unwrap();
            (first.request.task, others)
        };
        let text = |text: &str| Task::Completion { prompt: Prompt::Text(text.into()) };
        let tokens =
            |tokens: &[TokenId]| Task::Completion { prompt: Prompt::Tokens(tokens.into()) };
        let infill = |prefix: &str| Task::Infill { prefix: prefix.into(), suffix: "z".into() };
        for (body, first, others) in [
            (json!({"prompt": ["a", "b", ""]}), text("a"), vec![text("b"), text("")]),
            (json!({"prompt": [[1], [2, 3]]}), tokens(&[1]), vec![tokens(&[2, 3])]),
            (json!({"prompt": ["a", [2]]}), text("a"), vec![tokens(&[2])]),
            (json!({"prompt": ["a", "b"], "suffix": "z"}), infill("a"), vec![infill("b")]),
        ] {
            assert_eq!(read(body), (first, others));
        }
        assert_eq!(read(json!({"prompt": vec!["a"; 128]})).1.len(), 127);
        assert_eq!(read(json!({"prompt": vec!["a"; 8], "n": 16})).1.len(), 7);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (field, code, param) in [
            (json!({"prompt": null}), "missing_required_parameter", "prompt"),
            (json!({"prompt": 5}), "invalid_type", "prompt"),
            (json!({"prompt": []}), "empty_array", "prompt"),
            (json!({"prompt": [[]]}), "empty_array", "prompt[0]"),
            (json!({"prompt": ["a", []]}), "empty_array", "prompt[1]"),
            (json!({"prompt": [[["a"]]]}), "invalid_type", "prompt[0][0]"),
            (json!({"prompt": ["a", 1]}), "invalid_type", "prompt[1]"),
            (json!({"prompt": [[1], [-2]]}), "invalid_type", "prompt[1][0]"),
            (json!({"prompt": ["a", [1]], "suffix": "y"}), "unsupported_parameter", "suffix"),
            (json!({"prompt": vec!["a"; 129]}), "array_above_max_length", "prompt"),
            (json!({"prompt": vec!["a"; 9], "n": 16}), "integer_above_max_value", "n"),
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
        let request = read(fields).unwrap().first.request;
        let (prefix, suffix) = ("a =".into(), "\nreturn a".into());
        assert_eq!(request.task, Task::Infill { prefix, suffix });
        assert_eq!(
            (request.n, request.sampling.logprobs, request.deterministic),
            (3, Some(5), true)
        );
        assert_eq!(request.format, OutputFormat::Regex { pattern: "[0-9]+".into() });
        let none = read(json!({"prompt": "x", "logprobs": 0, "suffix": ""})).unwrap().first.request;
        assert_eq!(none.sampling.logprobs, Some(0));
        assert!(matches!(none.task, Task::Completion { .. }));
    }

    fn read(mut body: Value) -> Result<Completion, ApiError> {
        body["model"] = json!("m");
        let Value::Object(body) = body else { panic!("an object") };
        read_completion(body, "r-1".parse().unwrap())
    }
}
