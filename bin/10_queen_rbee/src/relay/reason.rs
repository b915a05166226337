//! Why a worker failed a request: in full for who asked, and as it may be recorded. A server of somebody
//! else may repeat the prompt in what it says, so of that nothing but its status and code is recorded.

use std::fmt;

use axum::http::StatusCode;
use worker_contract::ErrorDetail;

use crate::registry::Place;

/// The longest code that is recorded, in bytes: a longer one is no name.
const MAX_CODE: usize = 48;

/// Why a worker failed a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    words: String,
    /// What is recorded in place of the words, where they are a stranger's.
    recorded: Option<String>,
}

impl Reason {
    /// A stranger's words, of which the rest is recorded.
    pub(super) fn of_stranger(words: String, recorded: impl Into<String>) -> Self {
        Self { words, recorded: Some(recorded.into()) }
    }

    /// What the worker of a place said.
    pub(super) fn said(place: &Place, status: StatusCode, detail: &ErrorDetail) -> Self {
        let words = detail.message.clone();
        match place.target.server {
            Some(_) => Self::of_stranger(words, status_and_code(status, detail.code.as_deref())),
            None => words.into(),
        }
    }

    /// The same with more of rbee's own words.
    pub(super) fn and(self, more: &str) -> Self {
        let Self { words, recorded } = self;
        let recorded = recorded.map(|recorded| format!("{recorded}; {more}"));
        Self { words: format!("{words}; {more}"), recorded }
    }

    /// The same after rbee's own words.
    pub(super) fn after(self, head: &str) -> Self {
        let Self { words, recorded } = self;
        let recorded = recorded.map(|recorded| format!("{head}{recorded}"));
        Self { words: format!("{head}{words}"), recorded }
    }

    /// For logs and decisions.
    #[must_use]
    pub fn recorded(&self) -> &str {
        self.recorded.as_deref().unwrap_or(&self.words)
    }
}

impl fmt::Display for Reason {
    /// For who asked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl From<String> for Reason {
    /// Words of rbee.
    fn from(words: String) -> Self {
        Self { words, recorded: None }
    }
}

impl From<&str> for Reason {
    fn from(words: &str) -> Self {
        words.to_owned().into()
    }
}

/// What is recorded of a stranger's answer.
pub(super) fn status_and_code(status: StatusCode, code: Option<&str>) -> String {
    match code.filter(|code| is_name(code)) {
        Some(code) => format!("HTTP {} ({code})", status.as_u16()),
        None => format!("HTTP {}", status.as_u16()),
    }
}

/// Whether a code is the name of a mistake, and no text.
pub(crate) fn is_name(code: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=MAX_CODE).contains(&code.len()) && code.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_strangers_words_nothing_is_recorded_but_status_and_code() {
        for (code, expected) in [
            (None, "HTTP 500"),
            (Some("out_of_memory"), "HTTP 500 (out_of_memory)"),
            (Some("my secret plan"), "HTTP 500"),
            (Some(""), "HTTP 500"),
            (Some(&*"x".repeat(49)), "HTTP 500"),
        ] {
            let recorded = status_and_code(StatusCode::INTERNAL_SERVER_ERROR, code);
            assert_eq!(recorded, expected);
            let reason = Reason::of_stranger("my secret plan".into(), recorded).and("so it ends");
            assert_eq!(reason.recorded(), format!("{expected}; so it ends"));
            assert_eq!(reason.to_string(), "my secret plan; so it ends", "who asked is told");
        }
        assert_eq!(Reason::from("it was silent").recorded(), "it was silent");
    }
}
