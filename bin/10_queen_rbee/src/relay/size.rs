//! How much has come of one answer. Pure.

use std::io;

use serde::Serialize;
use worker_contract::Delta;

use super::Part;
use crate::dialect::openai::Aside;

/// The most text of one answer, in bytes: more than any model gives.
pub(crate) const MAX_TEXT: usize = 64 << 20;
/// The most that may come in all, what is said of each token and beside it included.
pub(crate) const MAX_ALL: usize = 4 * MAX_TEXT;

/// What has come of an answer, from all workers that were asked for it.
#[derive(Debug, Default)]
pub(super) struct Size {
    text: usize,
    all: usize,
}

impl Size {
    /// So many bytes came.
    pub(super) fn came(&mut self, bytes: usize) {
        self.all = self.all.saturating_add(bytes);
    }

    /// A part came.
    pub(super) fn said(&mut self, delta: &Delta) {
        self.text = self.text.saturating_add(text_bytes(delta));
    }

    /// What is said of a worker that gives more than there can be.
    pub(super) fn excess(&self) -> Option<String> {
        let most = match self {
            Self { text, .. } if *text > MAX_TEXT => MAX_TEXT,
            Self { all, .. } if *all > MAX_ALL => MAX_ALL,
            _ => return None,
        };
        Some(too_much(most))
    }
}

/// What is said of a worker that gives more than so many bytes of an answer.
pub(super) fn too_much(most: usize) -> String {
    format!("it gave more than {} MiB of one answer", most >> 20)
}

/// How much of the bytes that an answer may have a part takes while it is held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    /// Of the text.
    pub(crate) text: usize,
    /// Of all: as it is written, and what it takes in any case.
    pub(crate) all: usize,
}

impl Weight {
    pub(crate) fn of(part: &Part) -> Self {
        let (text, written) = match part {
            Part::Delta(delta) => (text_bytes(delta), written_bytes(delta)),
            Part::Aside(Aside::Answer(fields) | Aside::Usage(fields)) => (0, written_bytes(fields)),
            Part::Aside(Aside::Choice { choice, message, .. }) => {
                (0, written_bytes(choice) + written_bytes(message))
            }
            _ => (0, 0),
        };
        Self { text, all: size_of::<Part>() + written }
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self { text: self.text + other.text, all: self.all + other.all }
    }
}

/// How long something is as JSON.
fn written_bytes(value: &impl Serialize) -> usize {
    let mut counted = Counted(0);
    // What cannot be written is nothing that could be passed on.
    let _ = serde_json::to_writer(&mut counted, value);
    counted.0
}

/// Counts what is written to it.
struct Counted(usize);

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How much a part says, in bytes.
fn text_bytes(delta: &Delta) -> usize {
    let arguments = delta.tool_calls.iter().map(|call| call.arguments.len()).sum::<usize>();
    delta.text.len() + delta.reasoning.len() + arguments
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use worker_contract::{FinishReason, TokenLogprob, TokenLogprobs, ToolCallDelta};

    use super::*;

    #[test]
    fn text_reasoning_and_arguments_count_together_and_whatever_comes_counts_too() {
        let third = "x".repeat(MAX_TEXT / 3);
        let call = ToolCallDelta { index: 0, id: None, name: None, arguments: third.clone() };
        let call = Delta { tool_calls: vec![call], ..Delta::default() };
        let reasoning = Delta { reasoning: third.clone(), ..Delta::default() };
        let text = Delta { text: third, ..Delta::default() };
        let mut size = Size::default();
        for part in [&call, &reasoning, &text] {
            size.said(part);
            assert_eq!(size.excess(), None);
        }
        size.said(&text);
        assert_eq!(size.excess().unwrap(), "it gave more than 64 MiB of one answer");

        let mut size = Size::default();
        size.came(MAX_ALL);
        assert_eq!(size.excess(), None);
        size.came(1);
        assert_eq!(size.excess().unwrap(), "it gave more than 256 MiB of one answer");
    }

    #[test]
    fn what_is_said_of_tokens_and_beside_the_answer_has_its_weight() {
        let text = || Delta { text: "four".into(), ..Delta::default() };
        let likely = || TokenLogprob { token: 1, logprob: -0.5, bytes: b"four".to_vec() };
        let top: Vec<_> = std::iter::repeat_with(likely).take(20).collect();
        let logprobs = vec![TokenLogprobs { chosen: likely(), top }];
        let fields = json!({"more": "x".repeat(1000)}).as_object().unwrap().clone();
        let (choice, message) = (fields.clone(), fields.clone());
        // The part, its text, and the least and the most that it weighs beside what each part does.
        let rows = [
            (Part::Delta(text()), 4, 4, 100),
            (Part::Delta(Delta { logprobs, ..text() }), 4, 20 * 40, 21 * 100),
            (Part::Aside(Aside::Answer(fields.clone())), 0, 1000, 1100),
            (Part::Aside(Aside::Usage(fields)), 0, 1000, 1100),
            (Part::Aside(Aside::Choice { index: 0, choice, message }), 0, 2000, 2200),
            (Part::ChoiceDone { index: 0, finish_reason: FinishReason::Stop }, 0, 0, 0),
        ];
        for (part, text, least, most) in rows {
            let weight = Weight::of(&part);
            assert_eq!(weight.text, text, "{part:?}");
            let more = weight.all - size_of::<Part>();
            assert!((least..=most).contains(&more), "{more}: {part:?}");
        }
    }
}
