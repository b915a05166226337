//! Reads a call written as a JSON object while it is being written.
//!
//! `{"name": "f", "arguments": {…}}`, with `parameters` for `arguments`, `function` for `name`, or
//! the whole as the value of `function`: models write all of these. The arguments are passed on as
//! they are, character by character; whether they are valid JSON is for the caller of the endpoint
//! to see, as with OpenAI's. One character costs the same whatever came before it.

/// What a character meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Part of the frame.
    Frame,
    /// The name is complete.
    Name,
    /// Part of the arguments.
    Argument(char),
    /// The object is complete.
    End,
    /// This cannot be a call. The character is not part of what was read.
    Foreign,
}

/// The longest name or key that is read, in bytes.
const LONGEST_WORD: usize = 256;

#[derive(Debug, Clone, Copy)]
enum State {
    Begin,
    Key,
    InKey {
        escaped: bool,
    },
    Colon,
    Value,
    InName,
    Arguments(Nesting),
    /// Arguments that are a JSON text inside a string.
    ArgumentText(Escapes),
    /// Arguments that are a number or a literal; `null` stands for none.
    ArgumentWord {
        shown: bool,
    },
    Skip(Nesting),
    SkipWord,
    AfterValue,
}

/// Reads one call.
#[derive(Debug)]
pub(super) struct CallJson {
    state: State,
    key: String,
    name: String,
    has_name: bool,
    has_arguments: bool,
    /// Whether the object is inside the value of `function`.
    nested: bool,
    /// Whether any key that a call does not have means that this is no call.
    strict: bool,
}

impl CallJson {
    /// `strict`: nothing but its shape tells that the object is a call.
    pub(super) fn new(strict: bool) -> Self {
        Self {
            state: State::Begin,
            key: String::new(),
            name: String::new(),
            has_name: false,
            has_arguments: false,
            nested: false,
            strict,
        }
    }

    /// The name, once it is complete.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether any of the arguments was given.
    pub(super) fn has_arguments(&self) -> bool {
        self.has_arguments
    }

    /// Takes the next character.
    pub(super) fn push(&mut self, c: char) -> Seen {
        let is_space = c.is_ascii_whitespace();
        match self.state {
            State::Begin if c == '{' => self.frame(State::Key),
            State::Key if is_space || c == ',' => Seen::Frame,
            State::Key if c == '"' => {
                self.key.clear();
                self.frame(State::InKey { escaped: false })
            }
            State::Key | State::AfterValue if c == '}' => {
                if std::mem::take(&mut self.nested) {
                    return self.frame(State::AfterValue);
                }
                Seen::End
            }
            State::InKey { escaped } => self.push_key(c, escaped),
            State::Colon | State::Value | State::AfterValue if is_space => Seen::Frame,
            State::Colon if c == ':' => self.frame(State::Value),
            State::Value => self.begin_value(c),
            State::InName => self.push_name(c),
            State::Arguments(nesting) => self.push_arguments(c, nesting),
            State::ArgumentText(escapes) => self.push_argument_text(c, escapes),
            State::ArgumentWord { .. } | State::SkipWord if c == ',' || c == '}' || is_space => {
                self.state = State::AfterValue;
                self.push(c)
            }
            State::ArgumentWord { shown } => self.argument_if(shown, c),
            State::SkipWord if c == '<' => Seen::Foreign,
            State::SkipWord => Seen::Frame,
            State::Skip(nesting) => match nesting.step(c) {
                Step::Inside(nesting) => self.frame(State::Skip(nesting)),
                Step::Closed => self.frame(State::AfterValue),
                Step::Foreign => Seen::Foreign,
            },
            State::AfterValue if c == ',' => self.frame(State::Key),
            State::Begin | State::Key | State::Colon | State::AfterValue => Seen::Foreign,
        }
    }

    fn frame(&mut self, state: State) -> Seen {
        self.state = state;
        Seen::Frame
    }

    fn push_key(&mut self, c: char, escaped: bool) -> Seen {
        if c == '"' && !escaped {
            return self.frame(State::Colon);
        }
        if self.key.len() >= LONGEST_WORD {
            return Seen::Foreign;
        }
        self.key.push(c);
        self.frame(State::InKey { escaped: c == '\\' && !escaped })
    }

    fn begin_value(&mut self, c: char) -> Seen {
        match self.key.as_str() {
            "name" | "function" | "tool_name" if !self.has_name && c == '"' => {
                self.name.clear();
                self.frame(State::InName)
            }
            "function" if !self.has_name && !self.nested && c == '{' => {
                self.nested = true;
                self.frame(State::Key)
            }
            "name" | "function" | "tool_name" if !self.has_name => Seen::Foreign,
            "arguments" | "parameters" if !self.has_arguments => match c {
                '{' | '[' => {
                    self.state = State::Arguments(Nesting::inside());
                    self.argument_if(true, c)
                }
                '"' => self.frame(State::ArgumentText(Escapes::None)),
                ',' | '}' | '<' => Seen::Foreign,
                _ => {
                    self.state = State::ArgumentWord { shown: c != 'n' };
                    self.argument_if(c != 'n', c)
                }
            },
            key => {
                let known = ["id", "type", "name", "function", "arguments", "parameters"];
                if self.strict && !self.has_name && !known.contains(&key) {
                    return Seen::Foreign;
                }
                match c {
                    '{' | '[' => self.frame(State::Skip(Nesting::inside())),
                    '"' => self.frame(State::Skip(Nesting::string())),
                    ',' | '}' | '<' => Seen::Foreign,
                    _ => self.frame(State::SkipWord),
                }
            }
        }
    }

    fn push_name(&mut self, c: char) -> Seen {
        if c == '"' {
            self.has_name = true;
            self.state = State::AfterValue;
            return Seen::Name;
        }
        if self.name.len() >= LONGEST_WORD {
            return Seen::Foreign;
        }
        self.name.push(c);
        Seen::Frame
    }

    fn push_arguments(&mut self, c: char, nesting: Nesting) -> Seen {
        self.state = match nesting.step(c) {
            Step::Inside(nesting) => State::Arguments(nesting),
            Step::Closed => State::AfterValue,
            Step::Foreign => return Seen::Foreign,
        };
        self.argument_if(true, c)
    }

    fn push_argument_text(&mut self, c: char, escapes: Escapes) -> Seen {
        if c == '"' && matches!(escapes, Escapes::None | Escapes::High(_)) {
            return self.frame(State::AfterValue);
        }
        let (escapes, decoded) = escapes.step(c);
        self.state = State::ArgumentText(escapes);
        decoded.map_or(Seen::Frame, |c| self.argument_if(true, c))
    }

    fn argument_if(&mut self, shown: bool, c: char) -> Seen {
        if !shown {
            return Seen::Frame;
        }
        self.has_arguments = true;
        Seen::Argument(c)
    }
}

/// How deep in brackets and strings a JSON value is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nesting {
    depth: u32,
    in_string: bool,
    escaped: bool,
}

/// What a character did to a nesting.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Inside(Nesting),
    Closed,
    /// A character that no JSON has outside of strings and all markers begin with.
    Foreign,
}

impl Nesting {
    /// After the first bracket.
    pub(super) fn inside() -> Self {
        Self { depth: 1, in_string: false, escaped: false }
    }

    /// After the first quotation mark of a string.
    fn string() -> Self {
        Self { depth: 0, in_string: true, escaped: false }
    }

    /// Takes the next character.
    pub(super) fn step(mut self, c: char) -> Step {
        if self.in_string {
            self.in_string = self.escaped || c != '"';
            self.escaped = c == '\\' && !self.escaped;
        } else {
            match c {
                '"' => self.in_string = true,
                '{' | '[' => self.depth = self.depth.saturating_add(1),
                '}' | ']' => self.depth -= 1,
                '<' => return Step::Foreign,
                _ => {}
            }
        }
        if self.depth == 0 && !self.in_string { Step::Closed } else { Step::Inside(self) }
    }
}

/// Where in an escape sequence of a JSON string the text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escapes {
    None,
    Backslash {
        high: Option<u16>,
    },
    Hex {
        digits: u8,
        value: u16,
        high: Option<u16>,
    },
    /// After the first half of a surrogate pair.
    High(u16),
}

impl Escapes {
    /// The character that is complete with `c`, if one is.
    fn step(self, c: char) -> (Self, Option<char>) {
        match self {
            Self::None if c == '\\' => (Self::Backslash { high: None }, None),
            Self::High(high) if c == '\\' => (Self::Backslash { high: Some(high) }, None),
            Self::None | Self::High(_) => (Self::None, Some(c)),
            Self::Backslash { high } if c == 'u' => (Self::Hex { digits: 0, value: 0, high }, None),
            Self::Backslash { .. } => {
                let decoded = match c {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    other => other,
                };
                (Self::None, Some(decoded))
            }
            Self::Hex { digits, value, high } => {
                let digit = c.to_digit(16).and_then(|d| u16::try_from(d).ok());
                let Some(digit) = digit else { return (Self::None, Some(c)) };
                let value = value << 4 | digit;
                if digits < 3 {
                    return (Self::Hex { digits: digits + 1, value, high }, None);
                }
                if (0xd800..0xdc00).contains(&value) {
                    return (Self::High(value), None);
                }
                let units = high.into_iter().chain([value]);
                let decoded = char::decode_utf16(units).last().and_then(Result::ok);
                (Self::None, Some(decoded.unwrap_or(char::REPLACEMENT_CHARACTER)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, arguments, and how the reading ended.
    fn read(strict: bool, text: &str) -> (String, String, Option<Seen>) {
        let mut json = CallJson::new(strict);
        let mut arguments = String::new();
        for c in text.chars() {
            match json.push(c) {
                Seen::Argument(c) => arguments.push(c),
                end @ (Seen::End | Seen::Foreign) => {
                    return (json.name.clone(), arguments, Some(end));
                }
                Seen::Frame | Seen::Name => {}
            }
        }
        (json.name.clone(), arguments, None)
    }

    #[test]
    fn all_shapes_of_a_call_are_read() {
        let cases = [
            (r#"{"name": "f", "arguments": {"a": [1, "}"]}}"#, r#"{"a": [1, "}"]}"#),
            (r#"{"name":"f","parameters":{}}"#, "{}"),
            (r#"{"arguments": {"a": "\"\\"}, "name": "f"}"#, r#"{"a": "\"\\"}"#),
            (r#"{"type": "function", "function": {"name": "f", "arguments": {}}}"#, "{}"),
            (r#"{"function": "f", "parameters": {"x": 1.5e3}}"#, r#"{"x": 1.5e3}"#),
            (
                r#"{"name": "f", "arguments": "{\"a\": \"\u00e9\ud83e\udd80\n\"}"}"#,
                "{\"a\": \"é🦀\n\"}",
            ),
            (r#"{"name": "f", "arguments": null}"#, ""),
            (r#"{"name": "f"}"#, ""),
            (r#"{"id": "x", "name": "f", "arguments": 7}"#, "7"),
            (r#"{"name": "f", "arguments": {}, "more": {"z": "}"}, "k": 1}"#, "{}"),
        ];
        for (text, arguments) in cases {
            let read = read(true, text);
            assert_eq!(read, ("f".into(), arguments.into(), Some(Seen::End)), "{text}");
        }
    }

    #[test]
    fn what_is_no_call_is_seen_as_soon_as_it_can_be() {
        for text in ["[", "x", r#"{"name": 1"#, r#"{"items": [1"#, "{ x", r#"{"name" x"#] {
            let (_, _, end) = read(true, text);
            assert_eq!(end, Some(Seen::Foreign), "{text}");
        }
        assert_eq!(read(false, r#"{"items": [1], "name": "f"}"#).2, Some(Seen::End));
    }

    #[test]
    fn a_marker_ends_arguments_that_were_not_closed() {
        let read = read(false, r#"{"name": "f", "arguments": {"a": 1</tool_call>"#);
        assert_eq!(read, ("f".into(), r#"{"a": 1"#.into(), Some(Seen::Foreign)));
    }
}
