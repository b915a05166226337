//! Server-sent events out of bytes, as they come in. Pure.
//!
//! Only what is used is understood: `data:` lines, and whether `event:` names a type of its own; comments and
//! other fields are skipped, and so is an event without data. An event of a single line, the usual one, is
//! given without a copy.

use memchr::memchr;

/// The longest event of a worker of rbee, in bytes.
pub(super) const MAX_EVENT: usize = 1 << 20;

/// Cuts bytes into the data of events.
#[derive(Debug)]
pub(super) struct EventCutter {
    /// The longest event, in bytes.
    most: usize,
    buffer: Vec<u8>,
    /// The bytes of the buffer that were given.
    done: usize,
    /// The bytes of the buffer in which no end of a line is.
    searched: usize,
    /// The data of an event of which more lines come.
    data: Vec<u8>,
    /// Whether that event has a type of its own.
    is_other: bool,
    /// Whether the first line has come, before which a mark of the order of bytes may stand.
    has_begun: bool,
}

/// A whole event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event<'a> {
    /// What it says.
    pub(super) data: &'a [u8],
    /// Whether it has a type of its own, such as `ping`: neither a message nor an error.
    pub(super) is_other: bool,
}

/// The mark of the order of bytes.
pub(super) const MARK: &[u8] = "\u{feff}".as_bytes();

/// An event is longer than so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it sent an event of more than {0} bytes")]
pub(super) struct TooLong(pub(super) usize);

impl EventCutter {
    /// Nothing has come of events of so many bytes at most.
    pub(super) fn new(most: usize) -> Self {
        let (buffer, data) = (Vec::new(), Vec::new());
        let (is_other, has_begun) = (false, false);
        Self { most, buffer, done: 0, searched: 0, data, is_other, has_begun }
    }

    /// Takes bytes in.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if self.done > 0 {
            self.buffer.drain(..self.done);
            self.searched -= self.done;
            self.done = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Calls `with` with the next whole event; `None` if more bytes are needed.
    pub(super) fn next<T>(
        &mut self,
        with: impl FnOnce(Event<'_>) -> T,
    ) -> Result<Option<T>, TooLong> {
        loop {
            let Some(length) = memchr(b'\n', &self.buffer[self.searched..]) else {
                self.searched = self.buffer.len();
                let pending = self.buffer.len() - self.done + self.data.len();
                return if pending > self.most { Err(TooLong(self.most)) } else { Ok(None) };
            };
            let (begin, end) = (self.done, self.searched + length);
            self.done = end + 1;
            self.searched = self.done;
            let mut line =
                self.buffer[begin..end].strip_suffix(b"\r").unwrap_or(&self.buffer[begin..end]);
            if !std::mem::replace(&mut self.has_begun, true) {
                line = line.strip_prefix(MARK).unwrap_or(line);
            }
            if line.is_empty() {
                let is_other = std::mem::take(&mut self.is_other);
                if self.data.is_empty() {
                    continue;
                }
                let result = with(Event { data: &self.data, is_other });
                self.data.clear();
                return Ok(Some(result));
            }
            if let Some(kind) = line.strip_prefix(b"event:") {
                self.is_other = !matches!(kind.trim_ascii(), b"" | b"message" | b"error");
            }
            let Some(value) = line.strip_prefix(b"data:") else { continue };
            let value = value.strip_prefix(b" ").unwrap_or(value);
            if self.data.len() + value.len() > self.most {
                return Err(TooLong(self.most));
            }
            let is_whole = self.data.is_empty() && self.buffer.get(self.done) == Some(&b'\n');
            // Without data it is no event, in one piece as in several.
            if is_whole && !value.is_empty() {
                self.done += 1;
                self.searched = self.done;
                let is_other = std::mem::take(&mut self.is_other);
                return Ok(Some(with(Event { data: value, is_other })));
            }
            if !self.data.is_empty() {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_become_events() {
        check("data: a\n\ndata:b\n\n", &["a", "b"]);
        check("data: a\r\n\r\n", &["a"]);
        check(": comment\n\nid: x\ndata: 1\ndata: 2\n\n", &["1\n2"]);
        check("\u{feff}data: a\n\ndata: b\n\n", &["a", "b"]);
        check("\u{feff}\u{feff}data: a\n\n\u{feff}data: b\n\ndata: c\n\n", &["c"]);
        check("\n\n\ndata: a\n\ndata: incomplete\n", &["a"]);
        check("event: x\n\nevent: message\ndata: a\n\n", &["a"]);
        check("data:\n\ndata: \n\ndata: a\n\ndata:\ndata:\n\n", &["a"]);
    }

    #[test]
    fn events_of_a_type_of_their_own_are_told_apart() {
        check("event: ping\ndata: a\n\ndata: b\n\n", &["other a", "b"]);
        check("data: a\nevent:ping\n\ndata: b\n\n", &["other a", "b"]);
        check("event: ping\n\ndata: a\n\n", &["a"]);
        check("event: ping\ndata:\n\ndata: a\n\n", &["a"]);
        check("event: error\r\ndata: a\r\n\r\nevent:\ndata: b\n\n", &["a", "b"]);
    }

    #[test]
    fn an_event_without_an_end_is_refused() {
        let mut cutter = EventCutter::new(MAX_EVENT);
        let mut refused = false;
        let piece = vec![b'x'; 64 * 1024];
        for _ in 0..40 {
            cutter.feed(&piece);
            refused |= cutter.next(|_| ()).is_err();
        }
        assert!(refused);
        let mut cutter = EventCutter::new(MAX_EVENT);
        let line = format!("data: {}\n", "x".repeat(64 * 1024));
        assert!((0..40).any(|_| {
            cutter.feed(line.as_bytes());
            cutter.next(|_| ()).is_err()
        }));
    }

    #[test]
    fn an_event_is_as_long_as_it_may_be_and_no_longer() {
        for (most, is_fine) in [(1000, true), (999, false)] {
            let mut cutter = EventCutter::new(most);
            cutter.feed(format!("data: {}\n\n", "x".repeat(1000)).as_bytes());
            let length = cutter.next(|event| event.data.len());
            assert_eq!(length, if is_fine { Ok(Some(1000)) } else { Err(TooLong(999)) });
        }
    }

    proptest! {
        #[test]
        fn events_are_the_same_however_the_bytes_are_cut(
            events in prop::collection::vec("[a-z ]{0,20}", 0..8),
            cuts in prop::collection::vec(1_usize..12, 1..40),
            crlf in any::<bool>(),
        ) {
            let end = if crlf { "\r\n" } else { "\n" };
            let text = events.iter().fold(String::new(), |all, event| {
                format!("{all}data: {event}{end}{end}")
            });
            let mut pieces = Vec::new();
            let mut rest = text.as_bytes();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece.to_vec());
                rest = after;
            }
            let told = events.into_iter().filter(|event| !event.is_empty());
            prop_assert_eq!(cut(&pieces), told.collect::<Vec<_>>());
        }
    }

    fn check(text: &str, expected: &[&str]) {
        assert_eq!(cut(&[text.as_bytes().to_vec()]), expected);
    }

    fn cut(pieces: &[Vec<u8>]) -> Vec<String> {
        let mut cutter = EventCutter::new(MAX_EVENT);
        let mut events = Vec::new();
        for piece in pieces {
            cutter.feed(piece);
            while let Some(event) = cutter.next(told).unwrap() {
                events.push(event);
            }
        }
        events
    }

    fn told(event: Event<'_>) -> String {
        let kind = if event.is_other { "other " } else { "" };
        format!("{kind}{}", str::from_utf8(event.data).unwrap())
    }
}
