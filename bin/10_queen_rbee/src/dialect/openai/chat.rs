//! `POST /v1/chat/completions`: the request.

use daemon_http::ApiError;
use serde_json::{Value, json};
use worker_contract::{Chat, ChatMessage, InferenceRequest, RequestId, Role, Task};

use super::content::read_messages;
use super::error::{conflict, invalid};
use super::fields::{Fields, is_empty};
use super::format::read_format;
use super::sampling::{read_n, read_sampling, read_streaming, refuse_unserved};
use super::tools::read_tools;
use super::{Body, FieldNames, Understood};

/// The field that says how much is thought before an answer,
pub const REASONING_EFFORT: &str = "reasoning_effort";
/// what it says where nothing is to be thought,
pub const NO_EFFORT: &str = "none";
/// and the variable of a template that says whether anything is.
pub const ENABLE_THINKING: &str = "enable_thinking";

/// As many likely tokens as can be told with each token.
const MAX_TOP_LOGPROBS: u32 = 20;

/// Understands a chat request, or says which field is wrong.
pub fn read_chat(body: Body, request_id: RequestId) -> Result<Understood, ApiError> {
    let mut fields = Fields::new(body)?;
    let model = fields.required_text("model")?;
    let messages = read_messages(fields.required("messages")?)?;
    let mut sampling = read_sampling(&mut fields)?;
    sampling.logprobs = read_logprobs(&mut fields)?;
    let (format, format_field) = read_format(&mut fields)?;
    let tools = read_tools(&mut fields)?;
    let streaming = read_streaming(&mut fields)?;
    let n = read_n(&mut fields)?;
    let deterministic = fields.flag("deterministic")?;
    let mut template_variables = fields.object("chat_template_kwargs")?;
    read_effort(&mut fields, &mut template_variables)?;
    let chat = Chat {
        continue_last: read_continuation(&mut fields, &messages)?,
        template_variables,
        messages,
        tools: tools.list,
        tool_choice: tools.choice,
        parallel_tool_calls: tools.parallel,
    };
    refuse_unserved(&mut fields)?;
    refuse_unserved_chat(&mut fields)?;
    fields.finish()?;
    let request = InferenceRequest {
        sampling,
        format,
        n,
        deterministic,
        ..InferenceRequest::new(request_id, Task::Chat(chat))
    };
    Ok(Understood {
        model,
        request,
        fields: FieldNames::of("messages").with_format(format_field),
        stream: streaming.stream,
        include_usage: streaming.include_usage,
    })
}

/// `logprobs` switches them on; `top_logprobs` says how many others come with each.
fn read_logprobs(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let is_on = fields.flag("logprobs")?;
    let top = fields.count_to("top_logprobs", 0, MAX_TOP_LOGPROBS)?;
    match top {
        Some(1..) if !is_on => {
            let message = "'top_logprobs' is only allowed when 'logprobs' is true.";
            Err(conflict("top_logprobs", message))
        }
        top => Ok(is_on.then(|| top.unwrap_or(0))),
    }
}

/// How much is thought before an answer is up to the model's template, which is told it by the same name. For not
/// at all most templates know another word.
fn read_effort(fields: &mut Fields, variables: &mut Body) -> Result<(), ApiError> {
    let effort = fields.text(REASONING_EFFORT)?;
    if let Some(effort) = effort.filter(|effort| !effort.is_empty()) {
        if effort == NO_EFFORT {
            variables.entry(ENABLE_THINKING).or_insert(false.into());
        }
        variables.entry(REASONING_EFFORT).or_insert(effort.into());
    }
    Ok(())
}

/// Whether the last message is the beginning of the answer: by itself where it is the assistant's, as
/// in llama-server; vLLM's two fields can say something else.
fn read_continuation(fields: &mut Fields, messages: &[ChatMessage]) -> Result<bool, ApiError> {
    const CONTINUE: &str = "continue_final_message";
    const GENERATE: &str = "add_generation_prompt";
    let (goes_on, begins) = (fields.choice(CONTINUE)?, fields.choice(GENERATE)?);
    if goes_on == Some(true) && begins == Some(true) {
        let message = format!("'{CONTINUE}' and '{GENERATE}' cannot both be true.");
        return Err(conflict(CONTINUE, message));
    }
    let (last, others) = messages.split_last().map_or((None, messages), |(l, o)| (Some(l), o));
    // A call is complete: its results come next.
    let is_open =
        |message: &ChatMessage| message.role == Role::Assistant && message.tool_calls.is_empty();
    let can_go_on = last.is_some_and(is_open);
    if goes_on == Some(true) && !can_go_on {
        return Err(invalid(CONTINUE, "the last message is not a text of the assistant"));
    }
    let goes_on = can_go_on && goes_on != Some(false) && begins != Some(true);
    if begins == Some(false) && !goes_on {
        let why = "without it there is nothing to answer, unless the last message is continued";
        return Err(invalid(GENERATE, why));
    }
    if goes_on && others.last().is_some_and(is_open) {
        let why = "the last two messages are the assistant's, and only one can be continued";
        return Err(invalid("messages", why));
    }
    Ok(goes_on)
}

fn refuse_unserved_chat(fields: &mut Fields) -> Result<(), ApiError> {
    fields.harmless(&["prediction"]);
    fields.only("modalities", |modalities| *modalities == json!(["text"]), " but as text")?;
    for name in ["audio", "web_search_options", "verbosity", "reasoning", "chat_template"] {
        fields.only(name, |value: &Value| is_empty(value), "")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
