//! Calls that a model writes as JSON behind a marker of its own.
//!
//! ```text
//!        marker        `{`         name        last `}`
//! Text ──────────► … ──────► Call ──────► Call ─────────► Text, or the next call
//!   ▲                          │ (held)     (shown)
//!   └──────────────────────────┘ no call after all: what was held is text
//! ```
//! Text that may become a call is held until the name of an offered function is read. From there
//! on the arguments are passed on as they come, and a broken end leaves a partial call.

use worker_contract::Delta;

use super::Ending;
use super::call_json::{CallJson, Nesting, Seen, Step};
use super::calls::CallWriter;
use super::scan::{Markers, Spaced};

/// How a family of models writes its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`: Qwen, Hermes and many others.
    Hermes,
    /// `{"name": …, "parameters": …}` as the whole answer, or behind `<|python_tag|>`: Llama 3.
    Llama,
    /// `[TOOL_CALLS][{"name": …, "arguments": …}]` or `[TOOL_CALLS]name[ARGS]{…}`: Mistral.
    Mistral,
    /// Name and arguments between five markers: DeepSeek V3, R1 and V3.1.
    DeepSeek,
    /// `[{"name": …, "arguments": …}]` as the whole answer: what a grammar can hold any model to.
    Array,
}

const CALLS_BEGIN: &str = "<｜tool▁calls▁begin｜>";
const CALL_BEGIN: &str = "<｜tool▁call▁begin｜>";
const SEPARATOR: &str = "<｜tool▁sep｜>";
const CALL_END: &str = "<｜tool▁call▁end｜>";
const CALLS_END: &str = "<｜tool▁calls▁end｜>";

impl Syntax {
    /// The markers that begin calls.
    pub(in crate::text) fn begin(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &["<tool_call>"],
            Self::Llama => &["<|python_tag|>"],
            Self::Mistral => &["[TOOL_CALLS]"],
            // The second pair is what distilled models write, which have no tokens for the first.
            Self::DeepSeek => {
                &[CALLS_BEGIN, CALL_BEGIN, "<｜tool_calls_begin｜>", "<｜tool_call_begin｜>"]
            }
            Self::Array => &[],
        }
    }

    /// All markers that can stand in text.
    fn markers(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &["<tool_call>", "</tool_call>"],
            Self::DeepSeek => &[
                CALLS_BEGIN,
                CALL_BEGIN,
                CALL_END,
                CALLS_END,
                "<｜tool_calls_begin｜>",
                "<｜tool_call_begin｜>",
                "<｜tool_call_end｜>",
                "<｜tool_calls_end｜>",
            ],
            other => other.begin(),
        }
    }
}

/// The longest text between a marker and the arguments, in bytes.
const LONGEST_HEADER: usize = 256;

#[derive(Debug, Clone, Copy)]
enum State {
    /// The answer has not begun: a bracket here begins a call without any marker.
    Beginning,
    Text,
    /// Behind a marker.
    Behind,
    /// Between the calls of an array.
    InArray,
    /// In a call that is an object.
    Call,
    /// Behind a call that may be followed by one without a marker.
    Between,
    /// In what stands in front of a call's arguments.
    Header,
    /// In the name's line of DeepSeek V3.
    NameLine,
    /// In an id that the model gives its call (Mistral).
    CallId,
    BeforeArguments,
    Arguments(Nesting),
    /// Behind the arguments of DeepSeek V3, where a code fence ends.
    Fence,
}

/// Reads an answer in one of the [`Syntax`]es.
#[derive(Debug)]
pub(super) struct MarkedCalls {
    syntax: Syntax,
    writer: CallWriter,
    state: State,
    markers: Markers,
    text: Spaced,
    call: CallJson,
    /// Text that is a call or not.
    held: String,
    /// Arguments that came before their name.
    early: String,
    header: String,
    /// Whether the call in progress is one.
    is_call: bool,
    /// Whether what is held began by a marker, which models write for calls alone.
    is_marked: bool,
    in_array: bool,
}

impl MarkedCalls {
    /// `at_beginning`: the answer's first character is still to come.
    pub(super) fn new(syntax: Syntax, writer: CallWriter, at_beginning: bool) -> Self {
        let bare = matches!(syntax, Syntax::Llama | Syntax::Array);
        Self {
            syntax,
            writer,
            state: if at_beginning && bare { State::Beginning } else { State::Text },
            markers: Markers::default(),
            text: Spaced::default(),
            call: CallJson::new(false),
            held: String::new(),
            early: String::new(),
            header: String::new(),
            is_call: false,
            is_marked: false,
            in_array: false,
        }
    }

    pub(super) fn writer(&self) -> &CallWriter {
        &self.writer
    }

    /// Takes the next character.
    pub(super) fn push(&mut self, c: char, delta: &mut Delta) {
        let is_space = c.is_whitespace();
        match self.state {
            State::Beginning => match c {
                _ if is_space => self.text.push(c, &mut delta.text),
                '{' => self.begin_object(c, true, delta),
                '[' if self.syntax == Syntax::Array => self.begin_array(c),
                _ => self.again(State::Text, c, delta),
            },
            State::Text => self.push_text(c, delta),
            State::Behind => match c {
                _ if is_space => self.held.push(c),
                '{' => self.begin_object(c, false, delta),
                '[' if self.syntax == Syntax::Mistral => self.begin_array(c),
                _ if self.syntax == Syntax::Mistral => self.again(State::Header, c, delta),
                _ => self.fail(Some(c), delta),
            },
            State::InArray => match c {
                _ if is_space || c == ',' => self.hold(c),
                '{' => self.begin_object(c, false, delta),
                ']' => {
                    self.hold(c);
                    self.fail(None, delta);
                }
                _ => self.fail(Some(c), delta),
            },
            State::Call => self.push_call(c, delta),
            State::Between => match c {
                _ if is_space || c == ';' => {}
                '{' => self.begin_object(c, true, delta),
                _ => self.again(State::Text, c, delta),
            },
            State::Header if self.syntax == Syntax::Mistral => {
                self.push_mistral_header(c, delta);
            }
            State::Header => self.push_deepseek_header(c, delta),
            State::CallId => self.push_call_id(c, delta),
            State::NameLine => {
                if matches!(c, '\n' | '`' | '{') {
                    self.end_header(Some(c), delta);
                } else {
                    self.add_to_header(c, delta);
                }
            }
            State::BeforeArguments => match c {
                '{' => {
                    self.state = State::Arguments(Nesting::inside());
                    self.writer.argument(c, delta);
                }
                _ if is_space || "`json".contains(c) => {}
                _ => {
                    self.writer.arguments("{}", delta);
                    self.end_call();
                    self.push(c, delta);
                }
            },
            State::Arguments(nesting) => match nesting.step(c) {
                Step::Inside(nesting) => {
                    self.state = State::Arguments(nesting);
                    self.writer.argument(c, delta);
                }
                Step::Closed => {
                    self.writer.argument(c, delta);
                    self.end_call();
                }
                Step::Foreign => {
                    self.end_call();
                    self.push(c, delta);
                }
            },
            State::Fence => {
                if !is_space && c != '`' {
                    self.again(State::Text, c, delta);
                }
            }
        }
    }

    /// Gives what was held back, at the end of the answer. Where it was cut, the beginning of a call
    /// is not told: it has no name, or not all of it. Behind a call a beginning is one of a mark.
    pub(super) fn finish(&mut self, ending: Ending, delta: &mut Delta) {
        let partial = self.markers.take();
        if self.is_call {
            return;
        }
        let held = std::mem::take(&mut self.held);
        let is_about_calls = self.writer.offer().must_call || self.writer.has_called();
        let is_begun_call = self.is_marked || is_about_calls;
        if ending == Ending::Cut && is_begun_call {
            return;
        }
        self.text.push_str(&held, &mut delta.text);
        self.text.push_str(&partial, &mut delta.text);
        self.text.finish(&mut delta.text);
        self.state = State::Text;
    }

    fn push_text(&mut self, c: char, delta: &mut Delta) {
        let mut text = String::new();
        let found = self.markers.push(c, self.syntax.markers(), &mut text);
        self.text.push_str(&text, &mut delta.text);
        let Some(marker) = found.filter(|m| self.syntax.begin().contains(m)) else { return };
        self.header.clear();
        self.is_marked = true;
        match self.syntax {
            Syntax::DeepSeek => self.state = State::Header,
            syntax => {
                // Only this marker is ordinary text to the model.
                if syntax == Syntax::Hermes {
                    self.held.push_str(marker);
                }
                self.state = State::Behind;
            }
        }
    }

    fn begin_array(&mut self, c: char) {
        self.hold(c);
        self.in_array = true;
        self.state = State::InArray;
    }

    fn begin_object(&mut self, c: char, strict: bool, delta: &mut Delta) {
        self.call = CallJson::new(strict);
        self.again(State::Call, c, delta);
    }

    fn push_call(&mut self, c: char, delta: &mut Delta) {
        match self.call.push(c) {
            Seen::Frame => self.hold(c),
            Seen::Name => {
                self.hold(c);
                let name = self.call.name().to_owned();
                self.begin_call(&name, delta);
            }
            Seen::Argument(argument) if self.is_call => self.writer.argument(argument, delta),
            Seen::Argument(argument) => {
                self.early.push(argument);
                self.hold(c);
            }
            Seen::End if self.is_call => {
                if !self.call.has_arguments() {
                    self.writer.arguments("{}", delta);
                }
                self.end_call();
            }
            Seen::End => {
                self.hold(c);
                self.fail(None, delta);
            }
            Seen::Foreign if self.is_call => {
                self.in_array = false;
                self.end_call();
                self.again(State::Text, c, delta);
            }
            Seen::Foreign => self.fail(Some(c), delta),
        }
    }

    fn push_mistral_header(&mut self, c: char, delta: &mut Delta) {
        if c == '{' && self.markers.is_empty() {
            return self.end_header(Some(c), delta);
        }
        let mut text = String::new();
        let found = self.markers.push(c, &["[ARGS]", "[CALL_ID]", "[TOOL_CALLS]"], &mut text);
        for c in text.chars() {
            self.add_to_header(c, delta);
        }
        match found {
            Some("[ARGS]") => self.end_header(None, delta),
            Some("[CALL_ID]") => self.state = State::CallId,
            Some(_) => {
                self.fail(None, delta);
                self.state = State::Behind;
            }
            None => {}
        }
    }

    fn push_call_id(&mut self, c: char, delta: &mut Delta) {
        let mut text = String::new();
        let found = self.markers.push(c, &["[ARGS]"], &mut text);
        self.held.push_str(&text);
        if found.is_some() {
            self.end_header(None, delta);
        } else if self.held.len() > LONGEST_HEADER {
            self.fail(None, delta);
        }
    }

    fn push_deepseek_header(&mut self, c: char, delta: &mut Delta) {
        const MARKERS: &[&str] = &[
            CALL_BEGIN,
            SEPARATOR,
            CALL_END,
            CALLS_END,
            "<｜tool_call_begin｜>",
            "<｜tool_sep｜>",
            "<｜tool_call_end｜>",
            "<｜tool_calls_end｜>",
        ];
        let mut text = String::new();
        let found = self.markers.push(c, MARKERS, &mut text);
        for c in text.chars() {
            self.add_to_header(c, delta);
        }
        match found {
            Some(CALL_BEGIN | "<｜tool_call_begin｜>") => self.header.clear(),
            Some(SEPARATOR | "<｜tool_sep｜>") if self.header.trim() == "function" => {
                self.header.clear();
                self.state = State::NameLine;
            }
            Some(SEPARATOR | "<｜tool_sep｜>") => self.end_header(None, delta),
            Some(_) => self.fail(None, delta),
            None => {}
        }
    }

    fn add_to_header(&mut self, c: char, delta: &mut Delta) {
        self.held.push(c);
        self.header.push(c);
        if self.header.len() > LONGEST_HEADER {
            self.fail(None, delta);
        }
    }

    /// The name is complete; `next` is the character behind it.
    fn end_header(&mut self, next: Option<char>, delta: &mut Delta) {
        let name = self.header.trim().to_owned();
        self.begin_call(&name, delta);
        if self.is_call {
            self.state = State::BeforeArguments;
        }
        if let Some(c) = next {
            self.push(c, delta);
        }
    }

    /// What is held is a call if the function is offered.
    fn begin_call(&mut self, name: &str, delta: &mut Delta) {
        if !self.writer.offer().contains(name) {
            return self.fail(None, delta);
        }
        self.is_call = true;
        self.is_marked = false;
        self.held.clear();
        self.text.interrupt();
        self.writer.begin(name, delta);
        let early = std::mem::take(&mut self.early);
        self.writer.arguments(&early, delta);
    }

    fn end_call(&mut self) {
        self.is_call = false;
        self.state = match self.syntax {
            _ if self.in_array => State::InArray,
            Syntax::Llama => State::Between,
            Syntax::DeepSeek => State::Fence,
            _ => State::Text,
        };
    }

    /// What is held is no call: it is text, and so is all up to the next marker.
    fn fail(&mut self, next: Option<char>, delta: &mut Delta) {
        let mut held = std::mem::take(&mut self.held);
        held.push_str(&self.markers.take());
        self.text.push_str(&held, &mut delta.text);
        self.early.clear();
        self.is_marked = false;
        self.in_array = false;
        self.state = State::Text;
        if let Some(c) = next {
            self.push(c, delta);
        }
    }

    /// Text that is shown if no call was made of it.
    fn hold(&mut self, c: char) {
        let between_calls = self.in_array && self.writer.has_called();
        if !self.is_call && !between_calls {
            self.held.push(c);
        }
    }

    fn again(&mut self, state: State, c: char, delta: &mut Delta) {
        self.state = state;
        self.push(c, delta);
    }
}
