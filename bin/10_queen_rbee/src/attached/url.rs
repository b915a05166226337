//! Where a server is. Pure.

use rbee_operations::without_user;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use worker_contract::HiveAlias;

use crate::registry::Address;

/// The base URL of a server, without `/v1` and without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerUrl {
    address: Address,
    /// What stands between authority and `/v1`.
    path: String,
}

/// A text is not the base URL of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    /// It is no URL, or has parts that a base URL has not.
    #[error("{0:?} is not a base URL such as http://nas:11434")]
    NoBase(String),
    /// It has a user or a password, which would be shown and stored with it.
    #[error("{0:?} was given with a user or a password, which a server's URL may not have")]
    WithUser(String),
}

impl InvalidUrl {
    /// What to do.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoBase(_) => "give scheme, host and port: http://HOST:PORT, or https://HOST",
            Self::WithUser(_) => "leave them out; a token is given in a file: --secret-file FILE",
        }
    }
}

impl ServerUrl {
    /// Where connections go.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// A path of the server's, such as `/v1/models`.
    #[must_use]
    pub fn path(&self, path: &str) -> String {
        format!("{}{path}", self.path)
    }

    /// The same with `http` for `https`, or the other way round.
    #[must_use]
    pub fn in_other_scheme(&self) -> String {
        let shown = self.to_string();
        match shown.split_once("://") {
            Some(("https", rest)) => format!("http://{rest}"),
            Some((_, rest)) => format!("https://{rest}"),
            None => shown,
        }
    }

    /// The name of a server that was given none: its host's, if that can be a name.
    #[must_use]
    pub fn name(&self) -> Option<HiveAlias> {
        let Address { host, port, .. } = &self.address;
        let is_here = host == "localhost" || host.starts_with("127.");
        let name =
            if is_here || host.contains(':') { format!("server-{port}") } else { host.clone() };
        name.parse().ok()
    }
}

impl std::str::FromStr for ServerUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let shown = || without_user(text).chars().take(80).collect::<String>();
        let refused = || InvalidUrl::NoBase(shown());
        let url = Url::parse(text).map_err(|_| refused())?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidUrl::WithUser(shown()));
        }
        let is_secure = url.scheme() == "https";
        let is_base = (is_secure || url.scheme() == "http")
            && url.query().is_none()
            && url.fragment().is_none();
        let host = url.host_str().filter(|_| is_base).ok_or_else(refused)?;
        let port = url.port_or_known_default().ok_or_else(refused)?;
        let path = url.path().trim_end_matches('/');
        let path = path.strip_suffix("/v1").unwrap_or(path).trim_end_matches('/').to_owned();
        // An IPv6 address is in brackets in a URL only.
        let name = host.trim_matches(['[', ']']);
        let authority = format!("{host}:{port}");
        Ok(Self { address: Address { host: name.to_owned(), port, authority, is_secure }, path })
    }
}

impl TryFrom<String> for ServerUrl {
    type Error = InvalidUrl;

    fn try_from(text: String) -> Result<Self, InvalidUrl> {
        text.parse()
    }
}

impl From<ServerUrl> for String {
    fn from(url: ServerUrl) -> Self {
        url.to_string()
    }
}

impl std::fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.address.url(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_found_whichever_way_its_url_is_written() {
        for (text, url, models, name) in [
            ("http://nas:11434", "http://nas:11434", "/v1/models", "nas"),
            ("http://nas:11434/v1", "http://nas:11434", "/v1/models", "nas"),
            ("http://nas/", "http://nas:80", "/v1/models", "nas"),
            ("http://h:1/openai/v1/", "http://h:1/openai", "/openai/v1/models", "h"),
            ("http://10.0.0.7:8000", "http://10.0.0.7:8000", "/v1/models", "10.0.0.7"),
            ("http://localhost:1234", "http://localhost:1234", "/v1/models", "server-1234"),
            ("https://llm.example/v1", "https://llm.example:443", "/v1/models", "llm.example"),
            ("https://h:8443/x", "https://h:8443/x", "/x/v1/models", "h"),
            ("http://[fd00::1]:8080", "http://[fd00::1]:8080", "/v1/models", "server-8080"),
        ] {
            let read: ServerUrl = text.parse().unwrap();
            assert_eq!(read.to_string(), url);
            assert_eq!(read.path("/v1/models"), models);
            assert_eq!(read.name().unwrap().as_str(), name);
            assert_eq!(url.parse::<ServerUrl>().unwrap(), read, "it is read back as it was");
        }
    }

    #[test]
    fn what_is_no_base_url_is_refused_and_no_password_is_told() {
        for bad in [
            "nas:11434",
            "ftp://nas",
            "http://",
            "http://h?x",
            "http://u:p@h:1",
            "https://u:hush@h/v1",
            "x",
        ] {
            let refused = bad.parse::<ServerUrl>().unwrap_err().to_string();
            assert!(!refused.contains("hush"), "{refused}");
            assert_eq!(refused.contains("a user or a password"), bad.contains('@'), "{refused}");
        }
    }
}
