//! From a conversation to a prompt, a grammar, and a reader of the answer.

use std::sync::Arc;

use serde_json::Value;
use worker_contract::{Chat, ChatMessage, RequestId, Role};

use super::call_grammar::{arguments_grammar, calls_grammar, forced_syntax};
use super::family::CallSyntax;
use super::output::{AnswerShape, CallIds, OutputReader, Syntax};
use super::template::{ChatTemplate, Conversation, OWN_VARIABLES, TemplateError};
use super::tools::{InvalidChat, Offer};

/// A conversation cannot be answered; it is the request's fault.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// A field is out of its range.
    #[error(transparent)]
    Invalid(#[from] InvalidChat),
    /// The template refuses it.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

/// The assistant's next turn.
#[derive(Debug)]
pub struct ChatTurn {
    /// The text in front of it, which the model goes on with.
    pub prompt: String,
    /// What holds the model to calls, where it must make one: a grammar in llguidance's dialect of
    /// Lark.
    pub grammar: Option<String>,
    shape: AnswerShape,
    short_ids: bool,
}

const HARMONY_MESSAGE: &str = "<|start|>assistant";

impl ChatTurn {
    /// Prepares the answer to a conversation. `is_formatted`: the answer is held to a form from its
    /// first character on, so that there is no room for thinking.
    pub fn new(
        template: &ChatTemplate,
        chat: &Chat,
        is_formatted: bool,
    ) -> Result<Self, ChatError> {
        check(chat)?;
        let offer = Offer::of(chat)?;
        let continued = chat.continue_last && chat.messages.last().is_some_and(has_text);
        let messages = match chat.messages.split_last() {
            // Nothing is there yet that could be continued.
            Some((_, rest)) if chat.continue_last && !continued => rest,
            _ => &chat.messages,
        };
        let conversation =
            Conversation { messages, offer: offer.as_ref(), variables: &chat.template_variables };
        let prompt = if continued {
            template.render_continued(conversation)?
        } else {
            template.render(conversation)?
        };
        let family = *template.family();
        let last = chat.messages.last().filter(|_| continued);
        let inside_thinking = family.thinking.is_some_and(|tags| match last {
            Some(last) => last.content.rfind(tags.open) > last.content.rfind(tags.close),
            None => prompt.trim_end().ends_with(tags.open),
        });
        let mut turn = Self {
            prompt,
            grammar: None,
            short_ids: family.wants_short_ids(),
            shape: AnswerShape {
                family,
                offer: offer.map(Arc::new),
                inside_thinking,
                begun: String::new(),
                at_beginning: !continued,
            },
        };
        turn.hold_to_form(is_formatted, continued)?;
        if turn.shape.family.calls == CallSyntax::Harmony {
            let begun = turn.prompt.rfind(HARMONY_MESSAGE);
            let begun = begun.map_or("", |at| &turn.prompt[at + HARMONY_MESSAGE.len()..]);
            turn.shape.begun = begun.to_owned();
        }
        Ok(turn)
    }

    /// A reader for one of the answers.
    #[must_use]
    pub fn reader(&self, request_id: &RequestId, choice: u32) -> OutputReader {
        let ids = CallIds::new(&request_id.to_string(), choice, self.short_ids);
        OutputReader::for_chat(&self.shape, ids)
    }

    /// The functions that the answer may call.
    #[must_use]
    pub fn offer(&self) -> Option<&Offer> {
        self.shape.offer.as_deref()
    }

    /// Where the answer is held to a form, the prompt ends where that form can begin.
    fn hold_to_form(&mut self, is_formatted: bool, continued: bool) -> Result<(), InvalidChat> {
        let must_call = self.shape.offer.as_ref().filter(|offer| offer.must_call).cloned();
        if must_call.is_none() && !is_formatted {
            return Ok(());
        }
        if must_call.is_some() && continued {
            let reason = "a message that must be a call cannot be continued: drop one of the two";
            return Err(InvalidChat::new("tool_choice", reason));
        }
        if let Some(tags) = self.shape.family.thinking.take() {
            if self.shape.inside_thinking {
                self.prompt.extend(["\n", tags.close, "\n\n"]);
            }
            self.shape.inside_thinking = false;
        }
        let is_harmony = self.shape.family.calls == CallSyntax::Harmony;
        let opens_message = is_harmony && self.prompt.ends_with(HARMONY_MESSAGE);
        let Some(offer) = must_call else {
            if opens_message {
                self.prompt.push_str("<|channel|>final<|message|>");
            }
            return Ok(());
        };
        if let Some(grammar) = arguments_grammar(&offer).filter(|_| opens_message) {
            let name = &offer.tools()[0].name;
            let header =
                ["<|channel|>commentary to=functions.", name, " <|constrain|>json<|message|>"];
            self.prompt.extend(header);
            self.grammar = Some(grammar);
            return Ok(());
        }
        if opens_message {
            self.prompt.push_str("<|channel|>commentary<|message|>");
        }
        let syntax = forced_syntax(self.shape.family.calls);
        self.grammar = Some(calls_grammar(&offer, syntax));
        self.shape.family.calls = CallSyntax::Marked(syntax);
        self.shape.family.calls_are_control &= syntax == Syntax::Hermes;
        Ok(())
    }
}

fn has_text(message: &ChatMessage) -> bool {
    !message.content.trim().is_empty()
}

fn check(chat: &Chat) -> Result<(), InvalidChat> {
    for (index, message) in chat.messages.iter().enumerate() {
        let calls = !message.tool_calls.is_empty();
        if calls && message.role != Role::Assistant {
            let reason = "only the assistant calls functions";
            return Err(InvalidChat::new(format!("messages[{index}].tool_calls"), reason));
        }
    }
    if chat.continue_last {
        let last = chat.messages.last().filter(|last| last.role == Role::Assistant);
        if !last.is_some_and(|last| last.tool_calls.is_empty()) {
            let reason = "the last message must be the assistant's, without calls";
            return Err(InvalidChat::new("continue_last", reason));
        }
    }
    let own = |name: &&String| OWN_VARIABLES.contains(&name.as_str());
    if let Some(name) = chat.template_variables.keys().find(own) {
        let reason = "this variable of the template is made from the request";
        return Err(InvalidChat::new(format!("template_variables.{name}"), reason));
    }
    let depth = chat.template_variables.values().map(depth).max().unwrap_or(0);
    if depth > DEEPEST_VARIABLE {
        let reason = format!("values can be {DEEPEST_VARIABLE} levels deep");
        return Err(InvalidChat::new("template_variables", reason));
    }
    Ok(())
}

const DEEPEST_VARIABLE: usize = 16;

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(values) => 1 + values.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
