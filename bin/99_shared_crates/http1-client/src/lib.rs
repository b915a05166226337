//! HTTP/1.1 as a client of long answers needs it: requests into bytes, answers out of bytes. No
//! connection and no task is in here, so whoever reads an answer drives its connection himself and keeps
//! nothing for it while nothing comes.
//!
//! What is understood of answers is [RFC 9112](https://www.rfc-editor.org/rfc/rfc9112): interim
//! answers, `chunked`, `content-length`, and bodies that end with their connection.

mod chunked;
mod head;
mod reader;
mod request;

pub use self::head::Head;
pub use self::reader::AnswerReader;
pub use self::request::{RequestHead, Unfit};

/// What came is no answer of HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The head cannot be read.
    #[error("the head of the answer makes no sense")]
    Head,
    /// The head has too many bytes or lines.
    #[error("the head of the answer does not end")]
    LongHead,
    /// The head does not tell where the answer ends, or tells it in two ways.
    #[error("the answer does not say where it ends")]
    Length,
    /// A chunk cannot be read.
    #[error("the answer's chunks make no sense")]
    Chunk,
    /// The connection ended before the head of an answer was there.
    #[error("the connection was closed without an answer")]
    NoAnswer,
    /// The connection ended before the answer did.
    #[error("the connection ended in the middle of the answer")]
    Incomplete,
}
