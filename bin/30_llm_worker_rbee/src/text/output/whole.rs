//! Calls that are read when they are complete, by the crate `tool-parser`.
//!
//! Its parsers know many formats. Their streaming halves are not used: they read all of a call again
//! with each piece, so that long arguments take quadratic time; what they give depends on where the
//! pieces end; and some drop text. So the text from a call's first marker to its last is collected
//! here, and read once.

use std::panic::{AssertUnwindSafe, catch_unwind};

use futures::FutureExt as _;
use tool_parser::parsers::{
    CohereParser, Gemma4Parser, Glm4MoeParser, KimiK2Parser, MinimaxM2Parser, QwenXmlParser,
};
use tool_parser::{FunctionCall, ToolParser};
use worker_contract::Delta;

use super::calls::CallWriter;
use super::scan::{Markers, Spaced};

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

    fn parser(self) -> Box<dyn ToolParser> {
        match self {
            Self::QwenXml => Box::new(QwenXmlParser::new()),
            Self::Glm => Box::new(Glm4MoeParser::glm47()),
            Self::Gemma4 => Box::new(Gemma4Parser::new()),
            Self::KimiK2 => Box::new(KimiK2Parser::new()),
            Self::MiniMax => Box::new(MinimaxM2Parser::new()),
            Self::Cohere => Box::new(CohereParser::new()),
        }
    }
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
            call.push_str(end);
            self.read_call(delta);
        } else if call.len() > LONGEST_CALL {
            self.show_call(delta);
        }
    }

    /// Gives what was held back, at the end of the answer.
    pub(super) fn finish(&mut self, delta: &mut Delta) {
        let partial = self.markers.take();
        match &mut self.call {
            // The answer can end at a token that stands for the last marker.
            Some(call) => {
                call.push_str(&partial);
                let without_end = call.len();
                call.push_str(self.syntax.markers().1);
                if !self.try_call(delta) {
                    self.call.iter_mut().for_each(|call| call.truncate(without_end));
                    self.show_call(delta);
                }
            }
            None => self.text.push_str(&partial, &mut delta.text),
        }
        self.text.finish(&mut delta.text);
    }

    fn read_call(&mut self, delta: &mut Delta) {
        if !self.try_call(delta) {
            self.show_call(delta);
        }
    }

    /// Reads what was collected; `false` where it is no call of an offered function.
    fn try_call(&mut self, delta: &mut Delta) -> bool {
        let Some(text) = &self.call else { return false };
        let calls = self.parse(text);
        let offered = |call: &FunctionCall| self.writer.offer().contains(&call.name);
        if calls.is_empty() || !calls.iter().all(offered) {
            return false;
        }
        self.call = None;
        self.text.interrupt();
        for call in calls {
            self.writer.begin(&call.name, delta);
            self.writer.arguments(&call.arguments, delta);
        }
        true
    }

    /// The calls in a text; none where the parser fails.
    ///
    /// A parser is other people's code on text that a model made: if it panics, or waits for
    /// something, the text is no call.
    fn parse(&self, text: &str) -> Vec<FunctionCall> {
        let parser = self.syntax.parser();
        let tools = self.writer.offer().declarations();
        let parsed = catch_unwind(AssertUnwindSafe(|| {
            parser.parse_complete_with_tools(text, &tools).now_or_never()
        }));
        match parsed {
            Ok(Some(Ok((_, calls)))) => calls.into_iter().map(|call| call.function).collect(),
            _ => Vec::new(),
        }
    }

    fn show_call(&mut self, delta: &mut Delta) {
        let call = self.call.take().unwrap_or_default();
        self.text.push_str(&call, &mut delta.text);
    }
}
