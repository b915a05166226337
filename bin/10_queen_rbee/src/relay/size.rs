//! How much has come of one answer. Pure.

use worker_contract::Delta;

/// The most text of one answer, in bytes: more than any model gives.
pub(crate) const MAX_TEXT: usize = 64 << 20;
/// The most that may come in all, what is said of each token and beside it included.
const MAX_ALL: usize = 4 * MAX_TEXT;

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
        Some(format!("it gave more than {} MiB of one answer", most >> 20))
    }
}

/// How much a part says, in bytes.
pub(crate) fn text_bytes(delta: &Delta) -> usize {
    let arguments = delta.tool_calls.iter().map(|call| call.arguments.len()).sum::<usize>();
    delta.text.len() + delta.reasoning.len() + arguments
}

#[cfg(test)]
mod tests {
    use worker_contract::ToolCallDelta;

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
}
