//! What the chunks of a stream and a whole answer are made of.

use serde::{Serialize, Serializer};
use uuid::Uuid;
use worker_contract::ToolCallDelta;

use super::logprobs::Logprobs;

/// Same program, same words: what answers with the same seed can be compared by.
pub(super) const FINGERPRINT: &str = concat!("rbee-", env!("CARGO_PKG_VERSION"));

/// Which of the two endpoints answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completion,
}

/// What is the same in all parts of an answer.
#[derive(Debug, Clone)]
pub struct Head {
    /// The answer's id.
    pub id: String,
    /// When it began: seconds since the Unix epoch.
    pub created: u64,
    /// The model.
    pub model: String,
}

impl Head {
    /// A head with a fresh id.
    #[must_use]
    pub fn new(kind: Kind, model: String, created: u64) -> Self {
        let prefix = match kind {
            Kind::Chat => "chatcmpl",
            Kind::Completion => "cmpl",
        };
        let mut room = Uuid::encode_buffer();
        let number = Uuid::new_v4().simple().encode_lower(&mut room);
        Self { id: [prefix, "-", number].concat(), created, model }
    }
}

/// One of the answers, or a part of it.
#[derive(Serialize)]
pub(super) struct Choice<'a> {
    pub(super) index: u32,
    #[serde(flatten)]
    pub(super) content: Content<'a>,
    pub(super) logprobs: Option<Logprobs<'a>>,
    pub(super) finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Content<'a> {
    Delta(Piece<'a>),
    Message(Message<'a>),
    Text(&'a str),
}

/// A piece of a message; what is not in it is left out.
#[derive(Default, Serialize)]
pub(super) struct Piece<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<&'a str>,
    #[serde(skip_serializing_if = "CallPieces::is_empty")]
    pub(super) tool_calls: CallPieces<'a>,
}

/// Pieces of calls.
#[derive(Default)]
pub(super) struct CallPieces<'a>(pub(super) &'a [ToolCallDelta]);

impl CallPieces<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for CallPieces<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|delta| CallPiece {
            index: delta.index,
            id: delta.id.as_deref(),
            kind: delta.id.is_some().then_some(FUNCTION),
            function: FunctionPiece { name: delta.name.as_deref(), arguments: &delta.arguments },
        }))
    }
}

/// The type of a call.
const FUNCTION: &str = "function";

#[derive(Serialize)]
struct CallPiece<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: FunctionPiece<'a>,
}

#[derive(Serialize)]
struct FunctionPiece<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

/// A whole message.
#[derive(Serialize)]
pub(super) struct Message<'a> {
    pub(super) role: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) reasoning_content: &'a str,
    /// `None` where there are calls and no text.
    pub(super) content: Option<&'a str>,
    pub(super) refusal: (),
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) tool_calls: &'a [Call],
}

/// A whole call.
#[derive(Debug, Serialize)]
pub(super) struct Call {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function,
}

#[derive(Debug, Serialize)]
struct Function {
    name: String,
    arguments: String,
}

impl Call {
    /// The call that begins with a first piece.
    pub(super) fn begin(first: ToolCallDelta) -> Self {
        let ToolCallDelta { id, name, arguments, .. } = first;
        let function = Function { name: name.unwrap_or_default(), arguments };
        Self { id: id.unwrap_or_default(), kind: FUNCTION, function }
    }

    /// Adds the next piece.
    pub(super) fn push(&mut self, arguments: &str) {
        self.function.arguments.push_str(arguments);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_tell_the_endpoint_and_are_fresh() {
        let id = |kind| Head::new(kind, "m".into(), 5).id;
        assert!(
            id(Kind::Chat).starts_with("chatcmpl-") && id(Kind::Completion).starts_with("cmpl-")
        );
        assert_ne!(id(Kind::Chat), id(Kind::Chat));
    }
}
