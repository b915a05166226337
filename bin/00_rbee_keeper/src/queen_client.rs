//! A queen that was reached: the calls that are not jobs, and the client for those that are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use access_tokens::Secret;
use job_client::{ClientError, JobClient};
use reqwest::{Response, Url};
use serde_json::Value;
use worker_contract::ApiErrorBody;

use crate::failure::{Failure, innermost};
use crate::view;

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 32 << 20;
/// The deadline of a call, answer included.
const CALL: Duration = Duration::from_secs(10);
/// The deadline of a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// A queen that has said who it is.
pub(crate) struct Queen {
    /// Its base URL, without a slash at the end.
    pub(crate) url: String,
    /// Who it says it is.
    pub(crate) build: view::BuildInfo,
    /// The client for its jobs.
    pub(crate) jobs: JobClient,
    http: reqwest::Client,
    token: Option<Secret>,
}

impl Queen {
    /// Reaches the queen at `url` and asks who it is.
    pub(crate) async fn connect(url: &str, token: Option<Secret>) -> Result<Self, Failure> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT)
            .timeout(CALL)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Failure::caused("cannot make an HTTP client", error))?;
        let mut queen = Self {
            url: url.to_owned(),
            build: view::BuildInfo::default(),
            jobs: JobClient::new(url, token.clone()),
            http,
            token,
        };
        queen.build = queen.introduce().await?;
        Ok(queen)
    }

    /// `GET path`, as JSON.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        let request = self.http.get(format!("{}{path}", self.url));
        let (status, body) = self.send(request).await?;
        self.answer(status, &body)
    }

    /// `POST path` with a body, both as JSON.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let request = self.http.post(format!("{}{path}", self.url)).json(body);
        let (status, body) = self.send(request).await?;
        self.answer(status, &body)
    }

    /// An error of this queen's job client.
    pub(crate) fn failure(&self, error: ClientError) -> Failure {
        Failure::client(error, &self.url, self.token.is_some())
    }

    /// `GET /v1/build-info`, from something that may not be a queen at all.
    async fn introduce(&self) -> Result<view::BuildInfo, Failure> {
        let request = self.http.get(format!("{}/v1/build-info", self.url));
        let (status, body) = self.send(request).await?;
        let stranger = |found: String| Failure::NotAQueen { url: self.url.clone(), found };
        if status == 401 {
            return Err(self.answer(status, &body).map_or_else(
                |failure| match failure {
                    Failure::Protocol(_) => stranger(format!("HTTP {status}")),
                    other => other,
                },
                |_| stranger(format!("HTTP {status}")),
            ));
        }
        if status != 200 {
            return Err(stranger(format!("HTTP {status} to GET /v1/build-info")));
        }
        let build: view::BuildInfo = serde_json::from_slice(&body).map_err(|_| {
            stranger("its answer to GET /v1/build-info is no JSON object".to_owned())
        })?;
        match build.name.as_str() {
            "queen-rbee" => Ok(build),
            "" => Err(stranger("its answer to GET /v1/build-info has no name".to_owned())),
            other => Err(stranger(format!("it says that it is {other:?}"))),
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<(u16, Vec<u8>), Failure> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        };
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        let status = response.status().as_u16();
        Ok((status, self.body(response).await?))
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.unreachable(&e))? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(Failure::Protocol(format!("it is longer than {MAX_ANSWER} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn answer(&self, status: u16, body: &[u8]) -> Result<Value, Failure> {
        if (200..300).contains(&status) {
            return serde_json::from_slice(body)
                .map_err(|error| Failure::Protocol(format!("HTTP {status}, {error}")));
        }
        match serde_json::from_slice::<ApiErrorBody>(body) {
            Ok(body) => Err(Failure::refused(status, body.error, &self.url, self.token.is_some())),
            Err(_) => Err(Failure::Protocol(format!("HTTP {status} without an error object"))),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let url = self.url.clone();
        let reason = if error.is_timeout() {
            format!("no answer within {} s", CALL.as_secs())
        } else {
            innermost(error)
        };
        // A server that speaks another protocol answers, but nothing that HTTP can parse.
        if error.is_request()
            && !error.is_connect()
            && !error.is_timeout()
            && reason.contains("pars")
        {
            return Failure::NotAQueen { url, found: reason };
        }
        Failure::Unreachable { url, reason }
    }
}

/// Whether a daemon answers at `url` and is well. It is asked without a token.
pub(crate) async fn is_healthy(url: &str) -> bool {
    let Ok(http) = reqwest::Client::builder().no_proxy().timeout(CONNECT).build() else {
        return false;
    };
    let answer = http.get(format!("{url}/health")).send().await;
    answer.is_ok_and(|answer| answer.status().is_success())
}

/// Whether a daemon takes a call at `url` and does not answer it in time. One that takes no call any more,
/// because it is ending, does not hang.
pub(crate) async fn hangs(url: &str, patience: Duration) -> bool {
    let Ok(http) = reqwest::Client::builder().no_proxy().timeout(patience).build() else {
        return false;
    };
    let answer = http.get(format!("{url}/health")).send().await;
    answer.is_err_and(|error| error.is_timeout())
}

/// The base URL that a person gave.
pub(crate) fn parse_url(text: &str) -> Result<String, Failure> {
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let refused = |why: &str| {
        Err(Failure::usage(format!("{text:?} is not the URL of a queen: {why}"))
            .with_hint("write it like http://127.0.0.1:8500"))
    };
    match Url::parse(&with_scheme) {
        Err(error) => refused(&error.to_string()),
        Ok(url) if url.scheme() != "http" => refused("only http:// is spoken"),
        Ok(url) if url.query().is_some() || url.fragment().is_some() => {
            refused("it has a query or a fragment")
        }
        Ok(url) => Ok(url.as_str().trim_end_matches('/').to_owned()),
    }
}

/// The URL at which this machine reaches a daemon that listens on `addr`.
pub(crate) fn local_url(addr: SocketAddr) -> String {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, addr.port()))
}

/// Whether the URL names this machine, so that paths and secrets of this machine mean something there.
pub(crate) fn is_loopback(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_becomes_a_base_url() {
        for (given, url) in [
            ("http://127.0.0.1:8500", "http://127.0.0.1:8500"),
            ("http://127.0.0.1:8500/", "http://127.0.0.1:8500"),
            ("gpu-box:8500", "http://gpu-box:8500"),
            ("http://[::1]:8500", "http://[::1]:8500"),
            ("http://proxy/rbee/", "http://proxy/rbee"),
        ] {
            assert_eq!(parse_url(given).unwrap(), url);
        }
        for bad in ["", "http://", "https://x", "ftp://x", "http://x:99999", "http://x?y=1"] {
            assert_eq!(parse_url(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn a_wildcard_address_is_reached_over_loopback() {
        for (addr, url) in [
            ("0.0.0.0:8500", "http://127.0.0.1:8500"),
            ("[::]:8500", "http://[::1]:8500"),
            ("192.168.1.7:1", "http://192.168.1.7:1"),
        ] {
            assert_eq!(local_url(addr.parse().unwrap()), url);
        }
    }

    #[test]
    fn only_loopback_urls_are_this_machine() {
        for url in
            ["http://127.0.0.1:8500", "http://localhost", "http://[::1]:1", "http://127.9.9.9"]
        {
            assert!(is_loopback(url), "{url}");
        }
        for url in
            ["http://192.168.1.7", "http://localhost.evil.org", "http://127.0.0.1.nip.io", "x"]
        {
            assert!(!is_loopback(url), "{url}");
        }
    }
}
