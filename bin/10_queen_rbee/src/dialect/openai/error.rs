//! What is wrong with a request, in the words and codes of OpenAI's API.

use daemon_http::ApiError;
use serde_json::Value;
use worker_contract::ModelAlias;

/// How many names an error lists.
const MAX_NAMES: usize = 20;
/// How much of a name or value an error repeats, in characters.
const MAX_SHOWN: usize = 80;
/// How alike two names are that could be meant for each other, of 1.
const ALIKE: f64 = 0.75;

/// A field that must be there is missing.
pub(super) fn missing(param: &str) -> ApiError {
    ApiError::bad_request(
        "missing_required_parameter",
        format!("Missing required parameter: '{param}'."),
    )
    .param(param)
}

/// A field has a value of another type.
pub(super) fn wrong_type(param: &str, expected: &str, got: &Value) -> ApiError {
    let message = format!(
        "Invalid type for '{param}': expected {expected}, but got {} instead.",
        name_of(got)
    );
    ApiError::bad_request("invalid_type", message).param(param)
}

/// A field has a value that is not one of those that it can have.
pub(super) fn wrong_value(param: &str, got: &str, supported: &str) -> ApiError {
    let got = shown(got);
    let message =
        format!("Invalid value for '{param}': '{got}'. Supported values are: {supported}.");
    ApiError::bad_request("invalid_value", message).param(param)
}

/// A field is below or above what it can be.
pub(super) fn out_of_range(
    param: &str,
    is_integer: bool,
    bound: Bound,
    got: &dyn std::fmt::Display,
) -> ApiError {
    let what = if is_integer { "integer" } else { "decimal" };
    let (code, words, sign, bound) = match bound {
        Bound::Min(min) => ("below_min_value", "below minimum", ">=", min),
        Bound::Max(max) => ("above_max_value", "above maximum", "<=", max),
    };
    let message = format!(
        "Invalid '{param}': {what} {words} value. Expected a value {sign} {bound}, but got {got} instead."
    );
    ApiError::bad_request(&format!("{what}_{code}"), message).param(param)
}

/// A bound that was passed.
#[derive(Clone, Copy)]
pub(super) enum Bound {
    Min(f64),
    Max(f64),
}

/// A field that OpenAI's API has and rbee does not serve.
pub(super) fn unsupported(param: &str, instead: &str) -> ApiError {
    let message = format!("Unsupported parameter: '{param}' is not served by rbee{instead}.");
    ApiError::bad_request("unsupported_parameter", message).param(param)
}

/// A field has a value that cannot be; `why` is a whole sentence's end.
pub(super) fn invalid(param: &str, why: &str) -> ApiError {
    ApiError::bad_request("invalid_value", format!("Invalid '{param}': {why}.")).param(param)
}

/// Fields that do not go together.
pub(super) fn conflict(param: &str, message: impl Into<String>) -> ApiError {
    ApiError::bad_request("invalid_parameter_combination", message).param(param)
}

/// An array has nothing in it.
pub(super) fn empty_array(param: &str) -> ApiError {
    let message =
        format!("Invalid '{param}': empty array. Expected an array with minimum length 1.");
    ApiError::bad_request("empty_array", message).param(param)
}

/// An array has too many items.
pub(super) fn too_long(param: &str, max: usize, got: usize) -> ApiError {
    let message = format!(
        "Invalid '{param}': array too long. Expected an array with maximum length {max}, but got an array with length {got} instead."
    );
    ApiError::bad_request("array_above_max_length", message).param(param)
}

/// A field that nobody knows: `param` is where it is, `name` the last part of that.
pub(super) fn unknown(param: &str, name: &str, known: &[&str]) -> ApiError {
    let message = format!("Unknown parameter: '{param}'.");
    let error = ApiError::bad_request("unknown_parameter", message).param(param);
    match nearest(name, known.iter().copied()) {
        Some(near) => error.hint(format!("did you mean '{near}'?")),
        None => error.hint("leave it out: rbee does not ignore what could change the answer"),
    }
}

/// 404: there is no such model. Names the nearest of those that there are.
#[must_use]
pub fn unknown_model<'a>(
    asked: &str,
    available: impl Iterator<Item = &'a ModelAlias> + Clone,
) -> ApiError {
    let near = nearest(asked, available.clone().map(ModelAlias::as_str));
    let near = near.map(|near| format!(" Did you mean '{near}'?")).unwrap_or_default();
    let message = format!("The model '{}' does not exist.{near}", shown(asked));
    let names: Vec<_> = available.clone().take(MAX_NAMES).map(ModelAlias::as_str).collect();
    let more = available.skip(MAX_NAMES).count();
    let error = |message| ApiError::not_found("model_not_found", message).param("model");
    if names.is_empty() {
        return error(format!("{message} No model is available."))
            .hint("add one: rbee-keeper model import FILE --alias NAME");
    }
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    error(format!("{message} Available: {}{more}.", names.join(", ")))
}

/// 404: an endpoint that is not served.
#[must_use]
pub fn unserved(path: &str) -> ApiError {
    let instead = match path.split('/').nth(2) {
        Some("responses" | "assistants" | "threads") => "use /v1/chat/completions",
        Some("batches") => "send the requests one by one with the header `x-rbee-priority: batch`",
        _ => "rbee does not serve it",
    };
    ApiError::not_found("unknown_route", format!("there is no route {}", shown(path)))
        .hint(format!("{instead}; docs/openai-api.md lists what of OpenAI's API is served"))
}

/// The name that is most like another one, if it is like it at all.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name: String = name.chars().take(MAX_SHOWN).collect();
    let rated = known.map(|other| (strsim::jaro_winkler(&name, other), other));
    let best = rated.filter(|(alike, _)| *alike >= ALIKE).max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, other)| other)
}

/// As much of a name as an error repeats.
pub(crate) fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect()
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a decimal number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_model_is_told_with_the_nearest_and_the_others() {
        let names = |names: &[&str]| -> Vec<ModelAlias> {
            names.iter().map(|name| name.parse().unwrap()).collect()
        };
        let told = |asked: &str, available: &[&str]| {
            let available = names(available);
            unknown_model(asked, available.iter()).detail.message
        };
        insta::assert_snapshot!(
            told("smollm2-135n", &["gemma3", "smollm2-135m"]),
            @"The model 'smollm2-135n' does not exist. Did you mean 'smollm2-135m'? Available: gemma3, smollm2-135m."
        );
        insta::assert_snapshot!(
            told("gpt-4", &["smollm2-135m"]),
            @"The model 'gpt-4' does not exist. Available: smollm2-135m."
        );
        insta::assert_snapshot!(
            told("../../etc/passwd", &[]),
            @"The model '../../etc/passwd' does not exist. No model is available."
        );
        let many: Vec<String> = (0..25).map(|n| format!("m{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(told("zzz", &many).ends_with(" and 5 more."));
        assert!(told(&"x".repeat(100_000), &many).len() < 400);
    }
}
