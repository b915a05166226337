//! Splits what the model thinks off what it answers.
//!
//! ```text
//!            open tag            close tag, or a call begins
//! beginning ─────────► thinking ─────────────────────────────► answer
//!      └───────────────── any other text ────────────────────────┘
//! ```
//! Tags in the middle of an answer are text of the answer: it may be about them.

use super::scan::{Markers, Spaced};

/// The tags around what a model thinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThinkTags {
    /// Where it begins.
    pub open: &'static str,
    /// Where it ends.
    pub close: &'static str,
}

/// Where the text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Beginning,
    Thinking,
    Answer,
}

/// Reads the beginning of an answer.
#[derive(Debug)]
pub(super) struct Reasoning {
    tags: ThinkTags,
    /// What is looked for within the thinking.
    markers_inside: Vec<&'static str>,
    state: State,
    markers: Markers,
    lead: String,
    thought: Spaced,
    drop_leading: bool,
}

impl Reasoning {
    /// `inside`: the prompt ends within the thinking; `interrupts`: markers that end it though it was
    /// not closed, because a call begins.
    pub(super) fn new(tags: ThinkTags, inside: bool, interrupts: &[&'static str]) -> Self {
        let mut markers_inside = vec![tags.close, tags.open];
        markers_inside.extend(interrupts);
        Self {
            tags,
            markers_inside,
            state: if inside { State::Thinking } else { State::Beginning },
            markers: Markers::default(),
            lead: String::new(),
            thought: Spaced::trimmed(),
            drop_leading: false,
        }
    }

    /// Takes a character: appends to `reasoning` what is thought, to `answer` what is not.
    pub(super) fn push(&mut self, c: char, reasoning: &mut String, answer: &mut String) {
        match self.state {
            State::Beginning if c.is_whitespace() && self.markers.is_empty() => self.lead.push(c),
            State::Beginning => {
                let mut text = String::new();
                if self.markers.push(c, &[self.tags.open], &mut text).is_some() {
                    self.lead.clear();
                    self.state = State::Thinking;
                } else if !text.is_empty() {
                    self.state = State::Answer;
                    answer.push_str(&std::mem::take(&mut self.lead));
                    answer.push_str(&text);
                    answer.push_str(&self.markers.take());
                }
            }
            State::Thinking => {
                let mut text = String::new();
                let found = self.markers.push(c, &self.markers_inside, &mut text);
                self.thought.push_str(&text, reasoning);
                match found {
                    Some(tag) if tag == self.tags.close => {
                        self.state = State::Answer;
                        self.drop_leading = true;
                    }
                    Some(tag) if tag != self.tags.open => {
                        self.state = State::Answer;
                        answer.push_str(tag);
                    }
                    _ => {}
                }
            }
            State::Answer if self.drop_leading && c.is_whitespace() => {}
            State::Answer => {
                self.drop_leading = false;
                answer.push(c);
            }
        }
    }

    /// Gives what was held back.
    pub(super) fn finish(&mut self, reasoning: &mut String, answer: &mut String) {
        let held = self.markers.take();
        match self.state {
            State::Beginning => {
                answer.push_str(&self.lead);
                answer.push_str(&held);
            }
            State::Thinking => self.thought.push_str(&held, reasoning),
            State::Answer => {}
        }
        self.state = State::Answer;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THINK: ThinkTags = ThinkTags { open: "<think>", close: "</think>" };

    fn split(inside: bool, text: &str) -> (String, String) {
        let mut reader = Reasoning::new(THINK, inside, &["<tool_call>"]);
        let (mut reasoning, mut answer) = Default::default();
        text.chars().for_each(|c| reader.push(c, &mut reasoning, &mut answer));
        reader.finish(&mut reasoning, &mut answer);
        (reasoning, answer)
    }

    #[test]
    fn thinking_is_split_off_the_answer() {
        let cases = [
            (false, "<think>\nhm\n</think>\n\nYes. ", "hm", "Yes. "),
            (false, "\n<think>a</think>b", "a", "b"),
            (true, "hm\n</think>\n\nYes.", "hm", "Yes."),
            (true, "<think>hm</think>Yes.", "hm", "Yes."),
            (false, " <thin air>", "", " <thin air>"),
            (false, "In <think>, you </think>", "", "In <think>, you </think>"),
            (false, "<think>no end </thi", "no end </thi", ""),
            (false, "<thi", "", "<thi"),
            (true, "now <tool_call>x", "now", "<tool_call>x"),
        ];
        for (inside, text, reasoning, answer) in cases {
            assert_eq!(split(inside, text), (reasoning.into(), answer.into()), "{text}");
        }
    }
}
