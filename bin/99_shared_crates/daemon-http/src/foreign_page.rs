//! Requests that a web page of another site could have made.
//!
//! A browser sends requests to `127.0.0.1` for any page that asks it to, so a daemon without
//! tokens would obey every page that its user looks at. Two things give such a request away:
//! - its `Origin` is not this machine; browsers add it to each request that can change something;
//! - its `Host` is a name that somebody pointed at this machine (DNS rebinding): then the page and
//!   the daemon are the same site for the browser. Daemons are reached by address or `localhost`.

use std::net::IpAddr;

use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName};

/// Whether a page of another site could have made a request with these headers.
pub(crate) fn could_have_sent(headers: &HeaderMap) -> bool {
    let host = text(headers, &HOST);
    let origin = text(headers, &ORIGIN);
    let is_foreign_host = host.is_some_and(|host| !names_machine(host, |_| true));
    let is_foreign_origin = origin.is_some_and(|origin| {
        // "null" is the origin of sandboxed pages and files.
        let (_, host) = origin.split_once("://").unwrap_or_default();
        !names_machine(host, |address| address.is_loopback())
    });
    is_foreign_host || is_foreign_origin
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

/// Whether `host[:port]` is `localhost` or an address that is allowed.
fn names_machine(host: &str, allowed: impl Fn(IpAddr) -> bool) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_page_of_another_site_is_told_from_this_machine() {
        let own = Some("127.0.0.1:8500");
        for (host, origin, is_foreign) in [
            (own, None, false),
            (own, Some("http://localhost:3000"), false),
            (own, Some("http://127.0.0.1:8500"), false),
            (own, Some("http://[::1]:3000"), false),
            (Some("LOCALHOST:8500"), Some("tauri://localhost"), false),
            (Some("localhost"), None, false),
            (Some("[::1]:8500"), None, false),
            (Some("192.168.1.7:8500"), None, false),
            (None, None, false),
            (Some("evil.example:8500"), None, true),
            (Some("localhost.evil.example"), None, true),
            (Some("127.0.0.1.evil.example:8500"), None, true),
            (Some(""), None, true),
            (own, Some("https://evil.example"), true),
            (own, Some("https://localhost.evil.example"), true),
            (own, Some("null"), true),
            (own, Some(""), true),
            (own, Some("http://203.0.113.9"), true),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [(HOST, host), (ORIGIN, origin)] {
                if let Some(value) = value {
                    headers.insert(name, HeaderValue::from_static(value));
                }
            }
            assert_eq!(could_have_sent(&headers), is_foreign, "{host:?} {origin:?}");
        }
    }

    #[test]
    fn a_header_that_is_no_text_is_nobodys() {
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_bytes(b"\xFF").unwrap())]);
        assert!(could_have_sent(&headers));
    }
}
