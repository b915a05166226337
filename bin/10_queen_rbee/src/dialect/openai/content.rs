//! Messages: who speaks, and what is said.

use daemon_http::ApiError;
use serde_json::Value;
use worker_contract::{ChatMessage, Role};

use super::error::{empty_array, missing, unsupported, wrong_type, wrong_value};
use super::fields::{Fields, one_of};
use super::tools::read_calls;

/// The conversation of a chat request.
pub(super) fn read_messages(messages: Value) -> Result<Vec<ChatMessage>, ApiError> {
    let messages = match messages {
        Value::Array(messages) => messages,
        other => return Err(wrong_type("messages", "an array of objects", &other)),
    };
    if messages.is_empty() {
        return Err(empty_array("messages"));
    }
    let read = |(index, message)| read_message(format!("messages[{index}]"), message);
    messages.into_iter().enumerate().map(read).collect()
}

fn read_message(at: String, message: Value) -> Result<ChatMessage, ApiError> {
    let mut fields = Fields::of(at, message)?;
    let role = read_role(&fields.path("role"), &fields.required_text("role")?)?;
    let name = fields.text("name")?;
    let mut message = ChatMessage { name, ..ChatMessage::text(role, "") };
    match role {
        Role::Assistant => {
            let (deepseek, vllm) = ("reasoning_content", "reasoning");
            let (first, second) = (fields.text(deepseek)?, fields.text(vllm)?);
            message.reasoning =
                one_of((&fields.path(deepseek), first), (&fields.path(vllm), second))?;
            message.tool_calls = read_calls(&mut fields)?;
        }
        Role::Tool => message.tool_call_id = Some(fields.required_text("tool_call_id")?),
        Role::System | Role::User => {}
    }
    let path = fields.path("content");
    message.content = match fields.take("content") {
        Some(content) => read_content(&path, content)?,
        // Who calls a function, or thinks, need not speak as well.
        None if !message.tool_calls.is_empty() || message.reasoning.is_some() => String::new(),
        None => return Err(missing(&path)),
    };
    fields.finish_sent_back()?;
    Ok(message)
}

fn read_role(param: &str, role: &str) -> Result<Role, ApiError> {
    match role {
        "system" | "developer" => Ok(Role::System),
        "user" => Ok(Role::User),
        "assistant" => Ok(Role::Assistant),
        "tool" => Ok(Role::Tool),
        "function" => Err(unsupported(param, " as 'function'; use 'tool'")),
        other => {
            Err(wrong_value(param, other, "'system', 'developer', 'user', 'assistant' and 'tool'"))
        }
    }
}

/// A text, or parts of text, which are joined by line ends as llama.cpp and vLLM do.
fn read_content(param: &str, content: Value) -> Result<String, ApiError> {
    match content {
        Value::String(text) => Ok(text),
        Value::Array(parts) => {
            let read = |(index, part)| read_part(&format!("{param}[{index}]"), part);
            let texts: Vec<String> =
                parts.into_iter().enumerate().map(read).collect::<Result<_, _>>()?;
            Ok(texts.join("\n"))
        }
        other => Err(wrong_type(param, "a string or an array of parts", &other)),
    }
}

fn read_part(param: &str, part: Value) -> Result<String, ApiError> {
    let mut fields = Fields::of(param, part)?;
    match fields.required_text("type")?.as_str() {
        "text" => fields.required_text("text"),
        kind @ ("image_url" | "input_audio" | "video_url" | "audio_url" | "file" | "refusal") => {
            Err(unsupported(param, &format!(" as {kind}: only text is")))
        }
        other => Err(wrong_value(&fields.path("type"), other, "'text'")),
    }
}
