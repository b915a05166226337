//! What the text of an answer is: content, reasoning, or calls of functions.

use worker_contract::Delta;

/// Reads an answer's text piece by piece and sorts it into the parts of a [`Delta`].
#[derive(Debug, Default)]
pub struct OutputReader {}

impl OutputReader {
    /// All text is content.
    #[must_use]
    pub fn plain() -> Self {
        Self {}
    }

    /// Takes the next piece of text, stop texts removed.
    pub fn push(&mut self, piece: &str, delta: &mut Delta) {
        delta.text.push_str(piece);
    }

    /// Gives what was held back, at the end of the answer.
    pub fn finish(&mut self, _delta: &mut Delta) {}

    /// Whether the answer has called a function.
    #[must_use]
    pub fn has_tool_calls(&self) -> bool {
        false
    }

    /// Whether control tokens have to be in the text, because the model marks its calls or its
    /// reasoning by them.
    #[must_use]
    pub fn needs_control_tokens(&self) -> bool {
        false
    }
}
