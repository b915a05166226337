//! Messages: who speaks, and what is said.

use daemon_http::ApiError;
use serde_json::{Map, Value};
use worker_contract::{ChatMessage, Role};

use super::error::{missing, unsupported, wrong_type, wrong_value};
use super::fields::is_empty;

/// The conversation of a chat request.
pub(super) fn read_messages(messages: Value) -> Result<Vec<ChatMessage>, ApiError> {
    let messages = match messages {
        Value::Array(messages) => messages,
        other => return Err(wrong_type("messages", "an array of objects", &other)),
    };
    if messages.is_empty() {
        let message = "Invalid 'messages': empty array. Expected an array with minimum length 1.";
        return Err(ApiError::bad_request("empty_array", message).param("messages"));
    }
    let read = |(index, message)| read_message(&format!("messages[{index}]"), message);
    messages.into_iter().enumerate().map(read).collect()
}

fn read_message(param: &str, message: Value) -> Result<ChatMessage, ApiError> {
    let mut message = match message {
        Value::Object(message) => message,
        other => return Err(wrong_type(param, "an object", &other)),
    };
    let role = read_role(&format!("{param}.role"), message.remove("role"))?;
    let content = read_content(&format!("{param}.content"), message.remove("content"))?;
    let name = match message.remove("name") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name),
        Some(other) => return Err(wrong_type(&format!("{param}.name"), "a string", &other)),
    };
    match message.into_iter().find(|(_, value)| !is_empty(value)) {
        // An answer that is sent back carries fields that are empty as long as tools are not served.
        Some((field, _)) => Err(unsupported(&format!("{param}.{}", shown(&field)), "")),
        None => Ok(ChatMessage { name, ..ChatMessage::text(role, content) }),
    }
}

fn read_role(param: &str, role: Option<Value>) -> Result<Role, ApiError> {
    match role {
        None | Some(Value::Null) => Err(missing(param)),
        Some(Value::String(role)) => match role.as_str() {
            "system" | "developer" => Ok(Role::System),
            "user" => Ok(Role::User),
            "assistant" => Ok(Role::Assistant),
            "tool" | "function" => Err(unsupported(param, " with the results of tools")),
            other => {
                Err(wrong_value(param, other, "'system', 'developer', 'user' and 'assistant'"))
            }
        },
        Some(other) => Err(wrong_type(param, "a string", &other)),
    }
}

/// A text, or parts of text, which are joined by line ends as llama.cpp and vLLM do.
fn read_content(param: &str, content: Option<Value>) -> Result<String, ApiError> {
    match content {
        None | Some(Value::Null) => Err(missing(param)),
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(parts)) => {
            let read = |(index, part)| read_part(&format!("{param}[{index}]"), part);
            let texts: Vec<String> =
                parts.into_iter().enumerate().map(read).collect::<Result<_, _>>()?;
            Ok(texts.join("\n"))
        }
        Some(other) => Err(wrong_type(param, "a string or an array of parts", &other)),
    }
}

fn read_part(param: &str, part: Value) -> Result<String, ApiError> {
    let mut part: Map<String, Value> = match part {
        Value::Object(part) => part,
        other => return Err(wrong_type(param, "an object", &other)),
    };
    match part.remove("type") {
        Some(Value::String(kind)) if kind == "text" => {}
        Some(Value::String(kind)) if is_known_part(&kind) => {
            return Err(unsupported(param, &format!(" as {kind}: only text is")));
        }
        Some(Value::String(kind)) => {
            return Err(wrong_value(&format!("{param}.type"), &kind, "'text'"));
        }
        None | Some(Value::Null) => return Err(missing(&format!("{param}.type"))),
        Some(other) => return Err(wrong_type(&format!("{param}.type"), "a string", &other)),
    }
    match part.remove("text") {
        Some(Value::String(text)) => Ok(text),
        None | Some(Value::Null) => Err(missing(&format!("{param}.text"))),
        Some(other) => Err(wrong_type(&format!("{param}.text"), "a string", &other)),
    }
}

fn is_known_part(kind: &str) -> bool {
    matches!(kind, "image_url" | "input_audio" | "video_url" | "audio_url" | "file" | "refusal")
}

fn shown(field: &str) -> String {
    field.chars().filter(|c| !c.is_control()).take(40).collect()
}
