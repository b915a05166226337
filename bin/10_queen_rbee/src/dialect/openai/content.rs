//! Messages: who speaks, and what is said.

use daemon_http::ApiError;
use serde_json::Value;
use worker_contract::{ChatMessage, Image, Role};

use super::error::{empty_array, invalid, missing, unsupported, wrong_type, wrong_value};
use super::fields::{Fields, is_empty, one_of};
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
    let role = read_role(&mut fields)?;
    let name = fields.text("name")?;
    let mut message = ChatMessage { name, ..ChatMessage::text(role, "") };
    match role {
        Role::Assistant => {
            let (deepseek, vllm) = ("reasoning_content", "reasoning");
            let (first, second) = (fields.text(deepseek)?, fields.text(vllm)?);
            message.reasoning = if first.is_some() && second.is_some() {
                one_of((&fields.path(deepseek), first), (&fields.path(vllm), second))?
            } else {
                first.or(second)
            };
            message.tool_calls = read_calls(&mut fields)?;
            for (name, instead) in [("function_call", "; use 'tool_calls'"), ("audio", "")] {
                fields.only(name, is_empty, instead)?;
            }
        }
        Role::Tool => message.tool_call_id = Some(fields.required_text("tool_call_id")?),
        Role::System | Role::User => {}
    }
    let shows_images = matches!(role, Role::User | Role::Tool);
    (message.content, message.images) = match fields.take("content") {
        Some(Value::String(text)) => (text, Vec::new()),
        Some(content) => read_parts(&fields.path("content"), content, shows_images)?,
        // Who calls a function, or thinks, need not speak as well.
        None if !message.tool_calls.is_empty() || message.reasoning.is_some() => {
            (String::new(), Vec::new())
        }
        None => return Err(missing(&fields.path("content"))),
    };
    // An answer is sent back with whatever the server that gave it had to say beside it.
    if role != Role::Assistant {
        fields.finish_sent_back()?;
    }
    Ok(message)
}

fn read_role(fields: &mut Fields) -> Result<Role, ApiError> {
    let role = fields.required_text("role")?;
    let param = || fields.path("role");
    match role.as_str() {
        "system" | "developer" => Ok(Role::System),
        "user" => Ok(Role::User),
        "assistant" => Ok(Role::Assistant),
        "tool" => Ok(Role::Tool),
        "function" => Err(unsupported(&param(), " as 'function'; use 'tool'")),
        other => {
            let known = "'system', 'developer', 'user', 'assistant' and 'tool'";
            Err(wrong_value(&param(), other, known))
        }
    }
}

/// A content in parts. Parts of text are joined by line ends, and images stand between them without any,
/// as llama.cpp has it.
fn read_parts(
    param: &str,
    content: Value,
    shows_images: bool,
) -> Result<(String, Vec<Image>), ApiError> {
    let parts = match content {
        Value::Array(parts) => parts,
        other => return Err(wrong_type(param, "a string or an array of parts", &other)),
    };
    let (mut text, mut images) = (String::new(), Vec::new());
    let mut follows_text = false;
    for (index, part) in parts.into_iter().enumerate() {
        let path = format!("{param}[{index}]");
        let is_text = match read_part(&path, part)? {
            Part::Text(more) => {
                if follows_text {
                    text.push('\n');
                }
                text.push_str(&more);
                true
            }
            Part::Image(_) if !shows_images => {
                return Err(unsupported(&path, " as image_url: only users and tools show images"));
            }
            Part::Image(data) => {
                images.push(Image { at: text.len() as u64, data });
                false
            }
        };
        follows_text = is_text;
    }
    Ok((text, images))
}

enum Part {
    Text(String),
    /// In base64.
    Image(String),
}

fn read_part(param: &str, part: Value) -> Result<Part, ApiError> {
    let mut fields = Fields::of(param, part)?;
    match fields.required_text("type")?.as_str() {
        "text" => fields.required_text("text").map(Part::Text),
        "image_url" => read_image(&mut fields).map(Part::Image),
        kind @ ("input_audio" | "video_url" | "audio_url" | "file" | "refusal") => {
            Err(unsupported(param, &format!(" as {kind}: text and image_url are")))
        }
        other => Err(wrong_value(&fields.path("type"), other, "'text' and 'image_url'")),
    }
}

/// An image's data, from `{"url": "data:image/png;base64,…", "detail": "auto"}`. `detail` is for models
/// that scale images in more than one way: the model's projector alone decides here.
fn read_image(fields: &mut Fields) -> Result<String, ApiError> {
    let path = fields.path("image_url");
    let mut url = match fields.take("image_url") {
        Some(Value::String(url)) => return image_data(&path, url),
        Some(image) => Fields::of(&path, image)?,
        None => return Err(missing(&path)),
    };
    let path = url.path("url");
    let text = url.required_text("url")?;
    image_data(&path, text)
}

fn image_data(param: &str, mut url: String) -> Result<String, ApiError> {
    let wanted = "a data URL: 'data:image/png;base64,…'";
    let start = url.get(..5).unwrap_or_default().to_ascii_lowercase();
    if start.starts_with("http") {
        let why = format!(
            "rbee fetches nothing from the network for a request; send the image itself as {wanted}"
        );
        return Err(invalid(param, &why));
    }
    let marker = ";base64,";
    let at = url.find(marker).filter(|at| start == "data:" && *at < 100);
    let Some(at) = at else {
        let shown: String = url.chars().take(32).collect();
        return Err(wrong_value(param, &shown, wanted));
    };
    url.drain(..at + marker.len());
    Ok(url)
}
