//! The head of a request.

use std::fmt::{self, Write as _};

/// The head of a request, line by line.
#[derive(Clone)]
pub struct RequestHead {
    text: String,
}

/// A header's value, or the path, would end its line, or has what belongs in no line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} holds a control character or a blank that it must not hold")]
pub struct Unfit(&'static str);

impl RequestHead {
    /// A `POST` to a path at a host.
    ///
    /// # Errors
    /// When the path or the host has blanks or control characters.
    pub fn post(path: &str, host: &str) -> Result<Self, Unfit> {
        Self::new("POST", path, host)
    }

    /// A `GET` of a path at a host.
    ///
    /// # Errors
    /// When the path or the host has blanks or control characters.
    pub fn get(path: &str, host: &str) -> Result<Self, Unfit> {
        Self::new("GET", path, host)
    }

    fn new(method: &str, path: &str, host: &str) -> Result<Self, Unfit> {
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Unfit("the path"));
        }
        if !host.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Unfit("host"));
        }
        let mut text = String::with_capacity(256);
        text.extend([method, " ", path, " HTTP/1.1\r\nhost: ", host, "\r\n"]);
        Ok(Self { text })
    }

    /// Adds a header.
    ///
    /// # Errors
    /// When the value has anything but visible ASCII characters and blanks.
    pub fn header(mut self, name: &'static str, value: &str) -> Result<Self, Unfit> {
        if !value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            return Err(Unfit(name));
        }
        self.text.extend([name, ": ", value, "\r\n"]);
        Ok(self)
    }

    /// The bytes of the head of a request whose body has so many bytes.
    #[must_use]
    pub fn finish(mut self, body_bytes: usize) -> Vec<u8> {
        // Writing to a string does not fail.
        let _ = write!(self.text, "content-length: {body_bytes}\r\n\r\n");
        self.text.into_bytes()
    }
}

/// Headers carry secrets, so only the first line is shown.
impl fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestHead").field(&self.text.lines().next()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_its_lines_in_order() {
        let head = RequestHead::post("/v1/x", "a:1").unwrap();
        let head = head.header("x-request-id", "r 1").unwrap();
        let expected =
            b"POST /v1/x HTTP/1.1\r\nhost: a:1\r\nx-request-id: r 1\r\ncontent-length: 7\r\n\r\n";
        assert_eq!(head.finish(7), expected);
    }

    #[test]
    fn no_value_ends_its_line() {
        for bad in ["a\r\nb: c", "a\nb", "\0", "ü", "a\tb", "\u{7f}"] {
            assert!(RequestHead::post(bad, "h").is_err(), "{bad:?}");
            assert!(RequestHead::post("/", bad).is_err(), "{bad:?}");
            assert!(RequestHead::post("/", "h").unwrap().header("x", bad).is_err(), "{bad:?}");
        }
        assert!(RequestHead::post("/a b", "h").is_err());
    }

    #[test]
    fn secrets_are_not_shown() {
        let head = RequestHead::post("/", "h").unwrap();
        let head = head.header("authorization", "Bearer hush").unwrap();
        assert!(!format!("{head:?}").contains("hush"));
    }
}
