//! Whether an answer is what was ordered: every token once, in order, of this answer. Pure.

use anyhow::{Context as _, Result, bail, ensure};
use memchr::memmem;

use crate::order::{Order, Token};

/// Checks one answer.
#[derive(Debug)]
pub(super) struct Check {
    order: Order,
    /// How many tokens have come.
    seen: u32,
    is_done: bool,
}

impl Check {
    pub(super) fn new(order: Order) -> Self {
        Self { order, seen: 0, is_done: false }
    }

    /// Takes all whole events off `body`; calls `with` with each token.
    pub(super) fn events(&mut self, body: &mut Vec<u8>, mut with: impl FnMut(Token)) -> Result<()> {
        let mut begin = 0;
        while let Some(length) = memmem::find(&body[begin..], b"\n\n") {
            self.event(&body[begin..begin + length], &mut with)?;
            begin += length + 2;
        }
        if begin == body.len() {
            body.clear();
        } else {
            body.drain(..begin);
        }
        Ok(())
    }

    /// Takes the text of an answer that is no stream.
    pub(super) fn whole(&mut self, body: &[u8], with: impl FnMut(Token)) -> Result<()> {
        self.text(body, with)?;
        self.is_done = true;
        Ok(())
    }

    /// Whether nothing is missing.
    pub(super) fn end(&self) -> Result<()> {
        let Self { order, seen, .. } = self;
        ensure!(*seen == order.tokens, "{seen} of {} tokens came", order.tokens);
        ensure!(self.is_done, "the stream ended without its end");
        Ok(())
    }

    fn event(&mut self, event: &[u8], with: &mut impl FnMut(Token)) -> Result<()> {
        // Comments keep a connection alive.
        if event.first() == Some(&b':') {
            return Ok(());
        }
        let shown = || String::from_utf8_lossy(event).into_owned();
        let data = event.strip_prefix(b"data: ").with_context(shown)?;
        ensure!(!self.is_done, "after the end came {}", shown());
        if data == b"[DONE]" {
            self.is_done = true;
            return Ok(());
        }
        if data.starts_with(b"{\"error\"") {
            bail!("{}", shown());
        }
        self.text(data, with)
    }

    /// The tokens in the text of a message or a chunk of it.
    fn text(&mut self, data: &[u8], mut with: impl FnMut(Token)) -> Result<()> {
        const CONTENT: &[u8] = b"\"content\":";
        let Some(begin) = memmem::find(data, CONTENT) else { return Ok(()) };
        let Some(mut rest) = data[begin + CONTENT.len()..].trim_ascii_start().strip_prefix(b"\"")
        else {
            return Ok(());
        };
        while rest.first() != Some(&b'"') {
            let read = Token::read(rest);
            let (token, after) = read.with_context(|| {
                format!("no token: {}", String::from_utf8_lossy(&rest[..rest.len().min(80)]))
            })?;
            ensure!(token.tag == self.order.tag, "token {token:?} is of another answer");
            self.seen += 1;
            ensure!(token.number == self.seen, "token {} came as {}", token.number, self.seen);
            rest = after;
            with(token);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_answer_that_is_whole_passes_however_it_is_cut() {
        let all = format!("{}{}: comment\n\n{}{DONE}", chunk(""), chunk("7.1@5 "), chunk("7.2@6 "));
        for length in 1..=all.len() {
            let (mut check, mut body, mut seen) = (check(), Vec::new(), Vec::new());
            for piece in all.as_bytes().chunks(length) {
                body.extend_from_slice(piece);
                check.events(&mut body, |token| seen.push(token.written)).unwrap();
            }
            assert!(check.end().is_ok() && seen == [5, 6], "pieces of {length}");
        }
        let mut whole = check();
        let text = r#"{"choices":[{"message":{"content": "7.1@5 7.2@6 "}}]}"#;
        whole.whole(text.as_bytes(), |_| ()).unwrap();
        assert!(whole.end().is_ok());
    }

    #[test]
    fn an_answer_that_is_not_what_was_ordered_is_found_out() {
        let one = chunk("7.1@5 ");
        for (what, stream) in [
            ("a token is missing at the end", format!("{one}{DONE}")),
            ("a token is missing between", format!("{}{DONE}", chunk("7.2@5 "))),
            ("a token comes twice", format!("{one}{one}{DONE}")),
            ("a token too many", format!("{one}{}{}{DONE}", chunk("7.2@5 "), chunk("7.3@5 "))),
            ("another answer's token", format!("{}{DONE}", chunk("8.1@5 "))),
            ("no end", format!("{one}{}", chunk("7.2@5 "))),
            ("an error", format!("{one}data: {{\"error\":{{}}}}\n\n{DONE}")),
            ("other text", format!("{}{DONE}", chunk("Hello"))),
            ("after the end", format!("{one}{}{DONE}{one}", chunk("7.2@5 "))),
        ] {
            let mut check = check();
            let read = check.events(&mut stream.into_bytes(), |_| ());
            assert!(read.and_then(|()| check.end()).is_err(), "{what}");
        }
    }

    const DONE: &str = "data: [DONE]\n\n";

    fn chunk(text: &str) -> String {
        format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
    }

    fn check() -> Check {
        Check::new(Order { tag: 7, tokens: 2, pace: Duration::ZERO })
    }
}
