//! Calls whose arguments are JSON, within markers of their own.

use serde_json::{Map, Value};

use super::Call;

/// Reads Kimi K2's calls: for each, its id `functions.f:0` and its arguments.
pub(super) fn read_kimi(text: &str) -> Option<Vec<Call>> {
    let mut rest = text.trim();
    let mut calls = Vec::new();
    while !rest.is_empty() {
        let call = rest.strip_prefix("<|tool_call_begin|>")?;
        let (id, after) = call.split_once("<|tool_call_argument_begin|>")?;
        let (arguments, after) = after.split_once("<|tool_call_end|>")?;
        let arguments = serde_json::from_str(arguments).ok()?;
        calls.push(Call { name: kimi_name(id.trim()).to_owned(), arguments });
        rest = after.trim_start();
    }
    Some(calls)
}

/// The function's name in an id of Kimi K2's. Some ids lack what is around it.
fn kimi_name(id: &str) -> &str {
    let name = id.strip_prefix("functions.").unwrap_or(id);
    match name.rsplit_once(':') {
        Some((name, number)) if number.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => name,
    }
}

/// Reads Cohere's calls: an array of them, or one alone.
pub(super) fn read_cohere(text: &str) -> Option<Vec<Call>> {
    match serde_json::from_str(text).ok()? {
        Value::Array(calls) => calls.into_iter().map(cohere_call).collect(),
        call => Some(vec![cohere_call(call)?]),
    }
}

fn cohere_call(mut call: Value) -> Option<Call> {
    let call = call.as_object_mut()?;
    let mut first = |names: [&str; 2]| names.iter().find_map(|name| call.remove(*name));
    let Some(Value::String(name)) = first(["tool_name", "name"]) else { return None };
    let arguments = match first(["parameters", "arguments"]) {
        Some(Value::Object(arguments)) => arguments,
        Some(_) => return None,
        None => Map::new(),
    };
    Some(Call { name, arguments })
}
