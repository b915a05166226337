//! Calls that are read when they are complete.
//!
//! These formats say what a value is only when it has ended, or need the function's schema to tell a
//! number from a text. So the text from a call's first marker to its last is collected here, and read
//! once, by a reader for each kind of format: from a text to its calls, or to nothing where one of
//! them is not as the format says. Then all of it is content.

mod gemma;
mod json;
mod tagged;
mod value;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value};
use worker_contract::Delta;

use super::Ending;
use super::calls::CallWriter;
use super::scan::{Markers, Spaced};
use crate::text::tools::Offer;

/// A format whose calls are read whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WholeSyntax {
    /// `<tool_call><function=f><parameter=p>…`: Qwen3-Coder.
    QwenXml,
    /// `<tool_call>f<arg_key>…`: GLM 4.5 and later.
    Glm,
    /// `<|tool_call>call:f{…}<tool_call|>`: Gemma 4.
    Gemma4,
    /// `<|tool_calls_section_begin|>…`: Kimi K2.
    KimiK2,
    /// `<minimax:tool_call><invoke …>`: MiniMax M2.
    MiniMax,
    /// `<|START_ACTION|>[…]<|END_ACTION|>`: Cohere's Command.
    Cohere,
}

impl WholeSyntax {
    /// The markers around calls.
    fn markers(self) -> (&'static str, &'static str) {
        match self {
            Self::QwenXml | Self::Glm => ("<tool_call>", "</tool_call>"),
            Self::Gemma4 => ("<|tool_call>", "<tool_call|>"),
            Self::KimiK2 => ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
            Self::MiniMax => ("<minimax:tool_call>", "</minimax:tool_call>"),
            Self::Cohere => ("<|START_ACTION|>", "<|END_ACTION|>"),
        }
    }

    /// All markers that can stand in text: those that begin no call are dropped.
    fn text_markers(self) -> &'static [&'static str] {
        match self {
            Self::Cohere => &[
                "<|START_ACTION|>",
                "<|START_RESPONSE|>",
                "<|END_RESPONSE|>",
                "<|START_TEXT|>",
                "<|END_TEXT|>",
            ],
            Self::Gemma4 => &["<|tool_call>", "<|tool_response>", "<turn|>"],
            other => other.begin(),
        }
    }

    /// The markers that begin calls.
    pub(in crate::text) fn begin(self) -> &'static [&'static str] {
        match self {
            Self::QwenXml | Self::Glm => &["<tool_call>"],
            Self::Gemma4 => &["<|tool_call>"],
            Self::KimiK2 => &["<|tool_calls_section_begin|>"],
            Self::MiniMax => &["<minimax:tool_call>"],
            Self::Cohere => &["<|START_ACTION|>"],
        }
    }

    /// The calls in the text between the markers.
    fn read(self, text: &str, offer: &Offer) -> Option<Vec<Call>> {
        match self {
            Self::QwenXml => tagged::read(&tagged::QWEN, text, offer),
            Self::MiniMax => tagged::read(&tagged::MINIMAX, text, offer),
            Self::Glm => tagged::read_glm(text, offer).map(|call| vec![call]),
            Self::Gemma4 => gemma::read(text, offer).map(|call| vec![call]),
            Self::KimiK2 => json::read_kimi(text),
            Self::Cohere => json::read_cohere(text),
        }
    }

    /// Whether a call can be told to be complete without the last marker, so that an answer may end
    /// at a token that stands for it. One of GLM's could have gone on with another argument.
    fn ends_by_itself(self) -> bool {
        self != Self::Glm
    }
}

/// A call as it was read.
#[derive(Debug, Clone, PartialEq)]
struct Call {
    name: String,
    arguments: Map<String, Value>,
}

/// The most text that is collected for one call, in bytes; more than that is text.
const LONGEST_CALL: usize = 1024 * 1024;

/// Reads an answer in one of the [`WholeSyntax`]es.
#[derive(Debug)]
pub(super) struct WholeCalls {
    syntax: WholeSyntax,
    writer: CallWriter,
    markers: Markers,
    text: Spaced,
    /// The call's text so far, first marker included.
    call: Option<String>,
}

impl WholeCalls {
    pub(super) fn new(syntax: WholeSyntax, writer: CallWriter) -> Self {
        Self { syntax, writer, markers: Markers::default(), text: Spaced::default(), call: None }
    }

    pub(super) fn writer(&self) -> &CallWriter {
        &self.writer
    }

    /// Takes the next character.
    pub(super) fn push(&mut self, c: char, delta: &mut Delta) {
        let (begin, end) = self.syntax.markers();
        let mut text = String::new();
        let Some(call) = &mut self.call else {
            let found = self.markers.push(c, self.syntax.text_markers(), &mut text);
            self.text.push_str(&text, &mut delta.text);
            self.call = found.filter(|found| *found == begin).map(str::to_owned);
            return;
        };
        let found = self.markers.push(c, &[end], &mut text);
        call.push_str(&text);
        if let Some(end) = found {
            if !self.read_call(delta) {
                self.show_call(end, delta);
            }
        } else if call.len() > LONGEST_CALL {
            self.show_call("", delta);
        }
    }

    /// Gives what was held back, at the end of the answer. What a cut left of a call is not told.
    pub(super) fn finish(&mut self, ending: Ending, delta: &mut Delta) {
        let partial = self.markers.take();
        if self.call.is_none() {
            self.text.push_str(&partial, &mut delta.text);
        } else if !(self.syntax.ends_by_itself() && self.read_call(delta)) && ending == Ending::Said
        {
            self.show_call(&partial, delta);
        }
        self.text.finish(&mut delta.text);
    }

    /// Reads what was collected; `false` where it is no call of an offered function.
    fn read_call(&mut self, delta: &mut Delta) -> bool {
        let (begin, _) = self.syntax.markers();
        let text = self.call.as_deref().and_then(|call| call.strip_prefix(begin));
        let offer = self.writer.offer();
        let calls = text.and_then(|text| self.syntax.read(text, offer)).unwrap_or_default();
        if calls.is_empty() || !calls.iter().all(|call| offer.contains(&call.name)) {
            return false;
        }
        self.call = None;
        self.text.interrupt();
        for Call { name, arguments } in calls {
            self.writer.begin(&name, delta);
            self.writer.arguments(&Value::Object(arguments).to_string(), delta);
        }
        true
    }

    /// What was collected is text, and so is what follows it.
    fn show_call(&mut self, rest: &str, delta: &mut Delta) {
        let call = self.call.take().unwrap_or_default();
        self.text.push_str(&call, &mut delta.text);
        self.text.push_str(rest, &mut delta.text);
    }
}
