//! The head of an answer.

use httparse::{EMPTY_HEADER, Header, Response, Status};

use crate::Malformed;

/// The most lines of a head.
const MAX_LINES: usize = 100;
/// The longest head, in bytes.
pub(crate) const MAX_BYTES: usize = 64 * 1024;

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    status: u16,
    bytes: Vec<u8>,
}

/// What a head says of the body after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) length: Length,
    /// Whether the connection can take another request afterwards.
    pub(crate) is_kept: bool,
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    Chunked,
    Bytes(u64),
    /// It ends with the connection.
    UntilClosed,
}

impl Head {
    /// The status: 100 to 999.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The value of the first header with a name, whose case does not matter; `None` also where the
    /// value is no text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = [EMPTY_HEADER; MAX_LINES];
        let mut response = Response::new(&mut lines);
        response.parse(&self.bytes).ok()?;
        let found = response.headers.iter().find(|line| line.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    }

    /// The head at the beginning of some bytes, what it says of its body, and its length; `None` while
    /// it is not whole.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Self, Facts, usize)>, Malformed> {
        let mut lines = [EMPTY_HEADER; MAX_LINES];
        let mut response = Response::new(&mut lines);
        let length = match response.parse(bytes) {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) if bytes.len() > MAX_BYTES => return Err(Malformed::LongHead),
            Ok(Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(Malformed::LongHead),
            Err(_) => return Err(Malformed::Head),
        };
        let status = response.code.unwrap_or_default();
        if status < 100 {
            return Err(Malformed::Head);
        }
        let facts = facts(status, response.version == Some(1), response.headers)?;
        Ok(Some((Self { status, bytes: bytes[..length].to_vec() }, facts, length)))
    }
}

/// The rules of RFC 9112, section 6.3, for an answer to a `POST`.
fn facts(status: u16, is_1_1: bool, lines: &[Header<'_>]) -> Result<Facts, Malformed> {
    let (mut is_chunked, mut bytes, mut closes, mut keeps) = (false, None, false, is_1_1);
    for line in lines {
        let value = || std::str::from_utf8(line.value).map(str::trim).unwrap_or_default();
        if line.name.eq_ignore_ascii_case("transfer-encoding") {
            // Other codings were not asked for, and `chunked` comes once.
            if is_chunked || !value().eq_ignore_ascii_case("chunked") {
                return Err(Malformed::Length);
            }
            is_chunked = true;
        } else if line.name.eq_ignore_ascii_case("content-length") {
            let digits = value();
            if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(Malformed::Length);
            }
            let told: u64 = digits.parse().map_err(|_| Malformed::Length)?;
            if bytes.is_some_and(|before| before != told) {
                return Err(Malformed::Length);
            }
            bytes = Some(told);
        } else if line.name.eq_ignore_ascii_case("connection") {
            let has = |word: &str| value().split(',').any(|w| w.trim().eq_ignore_ascii_case(word));
            closes |= has("close");
            keeps |= has("keep-alive");
        }
    }
    let length = match bytes {
        _ if matches!(status, 100..200 | 204 | 304) => Length::Bytes(0),
        // Two who read this differently could be made to see two different answers.
        Some(_) if is_chunked => return Err(Malformed::Length),
        None if is_chunked => Length::Chunked,
        Some(bytes) => Length::Bytes(bytes),
        None => Length::UntilClosed,
    };
    Ok(Facts { length, is_kept: keeps && !closes && length != Length::UntilClosed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_tells_where_the_body_ends() {
        use Length::{Bytes, Chunked, UntilClosed};

        let rows = [
            ("1.1 200 OK", "content-length: 5", Bytes(5), true),
            ("1.1 200 OK", "Content-Length: 5\r\ncontent-length: 5", Bytes(5), true),
            ("1.1 200 OK", "Transfer-Encoding: Chunked", Chunked, true),
            ("1.1 200 OK", "transfer-encoding: chunked\r\nconnection: x, Close", Chunked, false),
            ("1.1 200 OK", "x: y", UntilClosed, false),
            (
                "1.1 200 OK",
                "content-length: 5\r\nconnection: close\r\nconnection: x",
                Bytes(5),
                false,
            ),
            ("1.0 200 OK", "content-length: 5", Bytes(5), false),
            ("1.0 200 OK", "content-length: 5\r\nconnection: keep-alive", Bytes(5), true),
            ("1.1 204 No Content", "x: y", Bytes(0), true),
        ];
        for (first, lines, length, is_kept) in rows {
            let text = format!("HTTP/{first}\r\n{lines}\r\n\r\n");
            let (_, facts, used) = Head::parse(text.as_bytes()).unwrap().unwrap();
            assert_eq!((facts, used), (Facts { length, is_kept }, text.len()), "{text}");
        }
    }

    #[test]
    fn a_head_that_makes_no_sense_is_refused() {
        let rows = [
            ("content-length: 5\r\ncontent-length: 6", Malformed::Length),
            ("content-length: +5", Malformed::Length),
            ("content-length: 99999999999999999999", Malformed::Length),
            ("content-length: 5\r\ntransfer-encoding: chunked", Malformed::Length),
            ("transfer-encoding: gzip, chunked", Malformed::Length),
            ("transfer-encoding: chunked\r\ntransfer-encoding: chunked", Malformed::Length),
            ("no line", Malformed::Head),
        ];
        for (lines, error) in rows {
            let text = format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n");
            assert_eq!(Head::parse(text.as_bytes()).unwrap_err(), error, "{lines}");
        }
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(MAX_LINES + 1));
        assert_eq!(Head::parse(many.as_bytes()).unwrap_err(), Malformed::LongHead);
        let long = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(MAX_BYTES));
        assert_eq!(Head::parse(long.as_bytes()).unwrap_err(), Malformed::LongHead);
        for no_head in ["SSH-2.0-OpenSSH\r\n", "HTTP/1.1 099 x\r\n\r\n"] {
            assert_eq!(Head::parse(no_head.as_bytes()).unwrap_err(), Malformed::Head, "{no_head}");
        }
    }

    #[test]
    fn headers_are_found_whatever_their_case() {
        let text = b"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nx: \xff\r\n\r\n";
        let (head, ..) = Head::parse(text).unwrap().unwrap();
        assert_eq!((head.status(), head.header("retry-after")), (429, Some("7")));
        assert_eq!((head.header("x"), head.header("y")), (None, None));
    }
}
