//! The answers of gpt-oss, in the harmony format
//! (<https://cookbook.openai.com/articles/openai-harmony>).
//!
//! ```text
//! <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>commentary
//!     to=functions.NAME <|constrain|>json<|message|>{…}<|call|>
//! ```
//! A message has a header and a body. The header's channel and recipient say what the body is:
//! reasoning, a call's arguments, or content.

use worker_contract::Delta;

use super::calls::CallWriter;
use super::scan::{Markers, Spaced};

const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const START: &str = "<|start|>";
const CONSTRAIN: &str = "<|constrain|>";
/// The markers of the format.
pub(in crate::text) const MARKERS: &[&str] =
    &[CHANNEL, MESSAGE, START, CONSTRAIN, "<|end|>", "<|call|>", "<|return|>"];

/// Between two messages of one kind.
const PARAGRAPH: &str = "\n\n";

/// The longest header, in bytes.
const LONGEST_HEADER: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first marker, where a header goes on that the prompt began.
    Beginning,
    Header,
    Reasoning,
    Call,
    Content,
}

/// Reads answers in the harmony format.
#[derive(Debug)]
pub(super) struct Harmony {
    writer: Option<CallWriter>,
    state: State,
    markers: Markers,
    header: String,
    body: Spaced,
    has_arguments: bool,
    has_reasoned: bool,
    has_spoken: bool,
}

impl Harmony {
    /// `writer`: where functions are offered.
    pub(super) fn new(writer: Option<CallWriter>) -> Self {
        Self {
            writer,
            state: State::Beginning,
            markers: Markers::default(),
            header: String::new(),
            body: Spaced::default(),
            has_arguments: false,
            has_reasoned: false,
            has_spoken: false,
        }
    }

    pub(super) fn has_called(&self) -> bool {
        self.writer.as_ref().is_some_and(CallWriter::has_called)
    }

    /// Takes the next character.
    pub(super) fn push(&mut self, c: char, delta: &mut Delta) {
        let mut text = String::new();
        let found = self.markers.push(c, MARKERS, &mut text);
        for c in text.chars() {
            self.push_text(c, delta);
        }
        match found {
            Some(MESSAGE) => self.begin_body(delta),
            Some(START) => {
                self.end_body(delta);
                self.header.clear();
            }
            Some(CHANNEL) => {
                self.end_body(delta);
                self.header.push_str(" channel=");
            }
            Some(CONSTRAIN) if self.state == State::Header => self.header.push_str(" constrain="),
            Some(CONSTRAIN) | None => {}
            Some(_) => self.end_body(delta),
        }
    }

    /// The text so far was the prompt's: nothing of it is to be shown later.
    pub(super) fn settle(&mut self) {
        self.body.finish(&mut String::new());
    }

    /// Gives what was held back, at the end of the answer.
    pub(super) fn finish(&mut self, delta: &mut Delta) {
        for c in self.markers.take().chars() {
            self.push_text(c, delta);
        }
        let is_text = self.state == State::Beginning
            || self.state == State::Header && !is_header(&self.header);
        if is_text {
            self.show_header(delta);
        }
        if self.state == State::Content {
            self.body.finish(&mut delta.text);
        }
    }

    fn push_text(&mut self, c: char, delta: &mut Delta) {
        match self.state {
            State::Beginning => {
                self.header.push(c);
                let begun = self.header.trim_start();
                let header = ["assistant", "to="];
                if !header.iter().any(|h| h.starts_with(begun) || begun.starts_with(h)) {
                    self.show_header(delta);
                }
            }
            State::Header => {
                self.header.push(c);
                if self.header.len() > LONGEST_HEADER {
                    self.show_header(delta);
                }
            }
            State::Reasoning => self.body.push(c, &mut delta.reasoning),
            State::Content => self.body.push(c, &mut delta.text),
            State::Call => {
                let mut shown = String::new();
                self.body.push(c, &mut shown);
                if let Some(writer) = &mut self.writer {
                    self.has_arguments |= !shown.is_empty();
                    writer.arguments(&shown, delta);
                }
            }
        }
    }

    /// What looked like a header is content.
    fn show_header(&mut self, delta: &mut Delta) {
        self.state = State::Content;
        self.body = Spaced::default();
        let header = std::mem::take(&mut self.header);
        self.body.push_str(&header, &mut delta.text);
    }

    fn begin_body(&mut self, delta: &mut Delta) {
        if !matches!(self.state, State::Beginning | State::Header) {
            return;
        }
        let header = std::mem::take(&mut self.header);
        let word = |key: &str| header.split_whitespace().find_map(|word| word.strip_prefix(key));
        let function = word("to=").map(|to| to.strip_prefix("functions.").unwrap_or(to));
        let writer = self.writer.as_mut();
        let call = function.zip(writer).filter(|(name, writer)| writer.offer().contains(name));
        if let Some((name, writer)) = call {
            writer.begin(name, delta);
            self.has_arguments = false;
            self.body = Spaced::trimmed();
            self.state = State::Call;
        } else if function.is_none() && word("channel=") == Some("analysis") {
            if std::mem::replace(&mut self.has_reasoned, true) {
                delta.reasoning.push_str(PARAGRAPH);
            }
            self.body = Spaced::trimmed();
            self.state = State::Reasoning;
        } else {
            if std::mem::replace(&mut self.has_spoken, true) {
                delta.text.push_str(PARAGRAPH);
            }
            self.body = Spaced::default();
            self.state = State::Content;
        }
    }

    /// A header follows; what it says so far is kept if it has begun already.
    fn end_body(&mut self, delta: &mut Delta) {
        match self.state {
            State::Beginning | State::Header => {}
            State::Reasoning => self.header.clear(),
            State::Content => {
                self.body.finish(&mut delta.text);
                self.header.clear();
            }
            State::Call => {
                if let Some(writer) = self.writer.as_mut().filter(|_| !self.has_arguments) {
                    writer.arguments("{}", delta);
                }
                self.header.clear();
            }
        }
        self.state = State::Header;
    }
}

/// Whether a text is a header, whole or in part.
fn is_header(text: &str) -> bool {
    let text = text.trim_start();
    text.contains("channel=") || text.starts_with("assistant") || "assistant".starts_with(text)
}
