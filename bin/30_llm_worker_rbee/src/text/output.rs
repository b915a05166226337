//! What the text of an answer is: content, reasoning, or calls of functions.
//!
//! The reader goes character by character, so that what it gives depends on the text and not on
//! the pieces that the text comes in: a resumed answer is read again, in other pieces, and goes on
//! with the same calls under the same ids. What it cannot read as a call stays content: no text is
//! lost but markers and the space around them.

mod call_json;
mod calls;
mod harmony;
mod marked;
mod reasoning;
mod scan;
mod whole;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use worker_contract::{Delta, ToolCallDelta};

use super::family::{CallSyntax, Family};
use super::tools::Offer;
use calls::CallWriter;
use harmony::Harmony;
use marked::MarkedCalls;
use reasoning::Reasoning;
use whole::WholeCalls;

pub use calls::CallIds;
pub(super) use calls::nine_letters;
pub(super) use harmony::MARKERS as HARMONY_MARKERS;
pub use marked::Syntax;
pub use reasoning::ThinkTags;
pub use whole::WholeSyntax;

/// How an answer begins, and what it can be.
#[derive(Debug, Clone)]
pub struct AnswerShape {
    /// How the model writes.
    pub family: Family,
    /// The functions that it may call, where it may.
    pub offer: Option<Arc<Offer>>,
    /// Whether the prompt ends within the model's thinking.
    pub inside_thinking: bool,
    /// What the prompt says of the message that the answer goes on with, for formats whose messages
    /// have headers.
    pub begun: String,
    /// Whether the answer's first character is the message's first.
    pub at_beginning: bool,
}

/// Reads an answer's text piece by piece and sorts it into the parts of a [`Delta`].
#[derive(Debug, Default)]
pub struct OutputReader {
    reasoning: Option<Reasoning>,
    answer: AnswerReader,
    needs_control_tokens: bool,
    /// Text between the two.
    between: String,
    /// Calls that the prompt began, and nobody was told of yet.
    begun: Vec<ToolCallDelta>,
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Where the model ended it, or a stop text did.
    Said,
    /// Where no more tokens were allowed.
    Cut,
}

#[derive(Debug, Default)]
enum AnswerReader {
    #[default]
    Plain,
    Marked(Box<MarkedCalls>),
    Harmony(Box<Harmony>),
    Whole(Box<WholeCalls>),
}

impl OutputReader {
    /// All text is content.
    #[must_use]
    pub fn plain() -> Self {
        Self::default()
    }

    /// A reader for the next message of a conversation.
    #[must_use]
    pub fn for_chat(shape: &AnswerShape, ids: CallIds) -> Self {
        let family = &shape.family;
        let writer = shape.offer.clone().map(|offer| CallWriter::new(offer, ids));
        let mut seen = Delta::default();
        let answer = match (family.calls, writer) {
            (CallSyntax::Harmony, writer) => {
                let mut harmony = Harmony::new(writer);
                shape.begun.chars().for_each(|c| harmony.push(c, &mut seen));
                harmony.settle();
                AnswerReader::Harmony(Box::new(harmony))
            }
            (CallSyntax::Marked(syntax), Some(writer)) => {
                AnswerReader::Marked(Box::new(MarkedCalls::new(syntax, writer, shape.at_beginning)))
            }
            (CallSyntax::Whole(syntax), Some(writer)) => {
                AnswerReader::Whole(Box::new(WholeCalls::new(syntax, writer)))
            }
            (CallSyntax::Marked(_) | CallSyntax::Whole(_), None) => AnswerReader::Plain,
        };
        let interrupts = match &answer {
            AnswerReader::Plain => &[],
            _ => family.calls.begin(),
        };
        let thinks = shape.inside_thinking || shape.at_beginning;
        Self {
            reasoning: family
                .thinking
                .filter(|_| thinks)
                .map(|tags| Reasoning::new(tags, shape.inside_thinking, interrupts)),
            needs_control_tokens: match &answer {
                AnswerReader::Plain => family.thinking_is_control && family.thinking.is_some(),
                _ => family.thinking_is_control || family.calls_are_control,
            },
            answer,
            between: String::new(),
            begun: seen.tool_calls,
        }
    }

    /// Takes the next piece of text, stop texts removed.
    pub fn push(&mut self, piece: &str, delta: &mut Delta) {
        if self.reasoning.is_none() && matches!(self.answer, AnswerReader::Plain) {
            delta.text.push_str(piece);
            return;
        }
        delta.tool_calls.append(&mut self.begun);
        for c in piece.chars() {
            let Some(reasoning) = &mut self.reasoning else {
                self.answer.push(c, delta);
                continue;
            };
            reasoning.push(c, &mut delta.reasoning, &mut self.between);
            self.answer.push_str(&self.between, delta);
            self.between.clear();
        }
    }

    /// Gives what was held back, at the end of the answer. What a cut left of a call is no text.
    pub fn finish(&mut self, ending: Ending, delta: &mut Delta) {
        delta.tool_calls.append(&mut self.begun);
        if let Some(reasoning) = &mut self.reasoning {
            reasoning.finish(&mut delta.reasoning, &mut self.between);
            self.answer.push_str(&self.between, delta);
            self.between.clear();
        }
        self.answer.finish(ending, delta);
    }

    /// Whether the answer has called a function. Known for certain after [`Self::finish`].
    #[must_use]
    pub fn has_tool_calls(&self) -> bool {
        match &self.answer {
            AnswerReader::Plain => false,
            AnswerReader::Marked(reader) => reader.writer().has_called(),
            AnswerReader::Harmony(reader) => reader.has_called(),
            AnswerReader::Whole(reader) => reader.writer().has_called(),
        }
    }

    /// Whether control tokens have to be in the text, because the model marks its calls or its
    /// reasoning by them. Tokens that end the text are never needed.
    #[must_use]
    pub fn needs_control_tokens(&self) -> bool {
        self.needs_control_tokens
    }
}

impl AnswerReader {
    fn push(&mut self, c: char, delta: &mut Delta) {
        match self {
            Self::Plain => delta.text.push(c),
            Self::Marked(reader) => reader.push(c, delta),
            Self::Harmony(reader) => reader.push(c, delta),
            Self::Whole(reader) => reader.push(c, delta),
        }
    }

    fn push_str(&mut self, text: &str, delta: &mut Delta) {
        text.chars().for_each(|c| self.push(c, delta));
    }

    fn finish(&mut self, ending: Ending, delta: &mut Delta) {
        match self {
            Self::Plain => {}
            Self::Marked(reader) => reader.finish(ending, delta),
            Self::Harmony(reader) => reader.finish(delta),
            Self::Whole(reader) => reader.finish(ending, delta),
        }
    }
}
