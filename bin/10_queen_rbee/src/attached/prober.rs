//! One look at a server: `GET /v1/models`, and what it says of itself elsewhere: `GET /props` of a
//! llama-server, `GET /api/version` of an Ollama that its list does not show to be one.

use std::io;
use std::time::Duration;

use access_tokens::Secret;
use axum::http::StatusCode;
use bytes::Bytes;
use http1_client::{Malformed, RequestHead, Unfit};
use rbee_operations::without_user;
use reqwest::Url;
use tokio::time::timeout;

use super::health::Probe;
use super::listing::{Listing, Told, is_ollamas_version, is_router, read_listing, read_slots};
use super::{Engine, ServerUrl, VIA, compresses, detail_of};
use crate::clock::unix_seconds;
use crate::connection::{Broken, Outgoing, Pool, lacks_trust, retry_after_s};
use crate::keyring::bearer;
use crate::remote_hive::with_causes;

/// Where a server lists its models.
const LIST: &str = "/v1/models";
/// How long the whole look may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest error, in bytes.
const MAX_ERROR: usize = 64 << 10;
/// How much of a redirection is told, in characters.
const MAX_LOCATION: usize = 200;
/// The longest list of models, in bytes.
const MAX_LIST: usize = 4 << 20;
/// The longest that a server may say of itself, in bytes: the template of a llama-server's model is in it.
const MAX_SAID: usize = 1 << 20;
/// How long it may take to.
const SAYS_PATIENCE: Duration = Duration::from_secs(1);

/// So llama-server says that it loads its model, with a 503. That of somebody else may be for ever.
const LOADING: &str = "Loading model";

/// A server to look at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sight<'a> {
    /// Which queen looks.
    pub(super) own_id: &'a str,
    pub(super) url: &'a ServerUrl,
    pub(super) token: Option<&'a Secret>,
    /// It is asked what it is and how many slots it has, too, where its list does not tell.
    pub(super) with_itself: bool,
}

/// Looks at a server.
pub(super) async fn probe(pool: &Pool, sight: Sight<'_>) -> Probe {
    let request = match sight.request(LIST) {
        Ok(request) => request,
        Err(unfit) => return Probe::Wrong(format!("it cannot be asked: {unfit}")),
    };
    match timeout(PATIENCE, look(pool, &request, sight.url, sight.token.is_some())).await {
        Ok(Ok(Probe::Listing(listing))) if sight.with_itself => itself(pool, sight, listing).await,
        Ok(Ok(probe)) => probe,
        Ok(Err(broken)) if broken.is_own_limit() => Probe::OwnLimit(broken.to_string()),
        Err(_) => Probe::Slow,
        Ok(Err(broken)) => of_broken(&broken, sight.url),
    }
}

/// What a connection that broke, or could not be made, tells of a server.
fn of_broken(broken: &Broken, url: &ServerUrl) -> Probe {
    let other = or_other_scheme(url);
    match broken {
        Broken::HandshakeTimeout => {
            let what = "it accepts connections and does not begin to speak TLS";
            Probe::Mute(format!("{what}{other}"))
        }
        // It spoke, and was stopped: a server that is started again, or what is in front of one.
        Broken::Malformed(Malformed::Incomplete) => Probe::Unreachable(with_causes(broken)),
        Broken::Malformed(malformed) if *malformed != Malformed::NoAnswer => {
            Probe::Wrong(format!("what it speaks is no HTTP: {}{other}", with_causes(broken)))
        }
        _ if broken.is_untrusted() => Probe::Untrusted(broken.to_string()),
        _ if broken.is_no_tls() => {
            Probe::Wrong(format!("it does not speak TLS: try {}", url.in_other_scheme()))
        }
        Broken::Connect(error) => {
            let (kind, reason) = (error.kind(), with_causes(error));
            let reason = format!("it cannot be reached: {reason}");
            match kind {
                io::ErrorKind::ConnectionRefused => Probe::Shut(reason),
                // So ends who is there and understands nothing of TLS.
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
                    if url.address().is_secure =>
                {
                    Probe::Unreachable(format!("{reason}{other}"))
                }
                _ => match lacks_trust(error) {
                    Some(hint) => Probe::NoTrust { reason, hint },
                    None => Probe::Unreachable(reason),
                },
            }
        }
        Broken::Ended(_) | Broken::Malformed(_) if !url.address().is_secure => {
            Probe::Unreachable(format!("{}{other}", with_causes(broken)))
        }
        _ => Probe::Unreachable(with_causes(broken)),
    }
}

/// What to try where the scheme of its URL may be the wrong one.
fn or_other_scheme(url: &ServerUrl) -> String {
    let speaks = if url.address().is_secure { "no TLS" } else { "TLS" };
    format!("; if it speaks {speaks}: {}", url.in_other_scheme())
}

impl Sight<'_> {
    fn request(&self, path: &str) -> Result<Outgoing, Unfit> {
        let path = self.url.path(path);
        let head = RequestHead::get(&path, &self.url.address().authority)?;
        let mut head = head.header(VIA, self.own_id)?;
        if let Some(token) = self.token {
            head = head.header("authorization", bearer(token).to_str().unwrap_or_default())?;
        }
        Ok(Outgoing { head: head.finish(0), body: Bytes::new() })
    }
}

/// What a server has and is, with what it says of itself where its list does not tell. Where that comes
/// to nothing, it is asked again with the next look.
async fn itself(pool: &Pool, sight: Sight<'_>, listing: Listing) -> Probe {
    let (engine, slots) = match listing.engine {
        Engine::LlamaServer => match said(pool, sight, "/props").await {
            // Something in front of it may forbid the path with a 403.
            Some((StatusCode::UNAUTHORIZED, _)) => {
                return Probe::Locked(locked(StatusCode::UNAUTHORIZED, sight.token.is_some()));
            }
            Some((StatusCode::OK, props)) if is_router(&props) => {
                match slots_of_loaded(pool, sight, &listing).await {
                    Some(slots) => (listing.engine, Some(slots)),
                    None => return Probe::Listing(listing),
                }
            }
            Some((StatusCode::OK, props)) => (listing.engine, read_slots(&props)),
            Some((
                StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED,
                _,
            )) => (listing.engine, None),
            _ => return Probe::Listing(listing),
        },
        Engine::Unknown => match said(pool, sight, "/api/version").await {
            Some((StatusCode::OK, version)) if is_ollamas_version(&version) => {
                (Engine::Ollama, None)
            }
            Some((
                StatusCode::OK
                | StatusCode::FORBIDDEN
                | StatusCode::NOT_FOUND
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::NOT_IMPLEMENTED,
                _,
            )) => (Engine::Unknown, None),
            _ => return Probe::Listing(listing),
        },
        known => (known, None),
    };
    Probe::Listing(Listing { engine, told: Told::Slots(slots), ..listing })
}

/// How many slots a llama-server with several models gives each, told by one that is loaded: it starts
/// them all alike. None is loaded for that.
async fn slots_of_loaded(pool: &Pool, sight: Sight<'_>, listing: &Listing) -> Option<u32> {
    let asked = [("model", listing.loaded.as_deref()?), ("autoload", "false")];
    let url = Url::parse_with_params("http://server/props", asked).ok()?;
    let (_, props) = said(pool, sight, &format!("/props?{}", url.query()?)).await?;
    read_slots(&props)
}

/// What a server says at a path, as far as it is read; `None` if it does not answer in time.
async fn said(pool: &Pool, sight: Sight<'_>, path: &str) -> Option<(StatusCode, Vec<u8>)> {
    let request = sight.request(path).ok()?;
    let asked = async {
        let mut exchange = pool.send(sight.url.address(), None, &request).await.ok()?;
        let status = StatusCode::from_u16(exchange.head()?.status()).ok()?;
        let mut said = Vec::new();
        if status != StatusCode::OK {
            return Some((status, said));
        }
        while said.len() <= MAX_SAID
            && exchange.read(&mut |part| said.extend_from_slice(part)).await.ok()?
        {}
        exchange.keep();
        Some((status, said))
    };
    timeout(SAYS_PATIENCE, asked).await.ok()?
}

/// What a server is that sends whoever asks for its list to a place: that of a list tells its base URL.
fn redirected(location: &str, url: &ServerUrl) -> Probe {
    let location = without_user(location);
    let from = format!("{}{}", url.address().url(), url.path(LIST));
    let to = Url::parse(&from).and_then(|from| from.join(&location)).ok();
    match to.as_ref().and_then(base_of).filter(|base| base.len() <= MAX_LOCATION) {
        Some(base) if base.parse::<ServerUrl>().as_ref() == Ok(url) => {
            Probe::Wrong("it redirects to itself".to_owned())
        }
        Some(base) => Probe::Moved(base.to_owned()),
        None => {
            let to = to.map_or(location, |to| without_user(to.as_str()));
            let shown: String = to.chars().take(MAX_LOCATION).collect();
            Probe::Wrong(format!(
                "it redirects to {shown}, which is no list of models: a login page?"
            ))
        }
    }
}

/// The base URL of a server by where its list of models is.
fn base_of(list: &Url) -> Option<&str> {
    let is_bare = list.query().is_none() && list.fragment().is_none();
    let base = list.as_str().strip_suffix(LIST).filter(|_| is_bare)?;
    base.parse::<ServerUrl>().is_ok().then_some(base)
}

fn locked(status: StatusCode, has_token: bool) -> String {
    let wants = if has_token { "refuses the token" } else { "demands a token" };
    format!("it {wants} (HTTP {status})")
}

/// What a server is that answers with an error in place of its list.
fn refused(status: StatusCode, said: &[u8], at: &str, url: &ServerUrl) -> Probe {
    let message = detail_of(said).map(|detail| detail.message).unwrap_or_default();
    if status == StatusCode::SERVICE_UNAVAILABLE && message == LOADING {
        return Probe::Loading;
    }
    let words = if message.is_empty() { message } else { format!(": {message}") };
    // So answers who speaks TLS, and is asked without.
    let is_misread = status == StatusCode::BAD_REQUEST && !url.address().is_secure;
    let other = if is_misread { or_other_scheme(url) } else { String::new() };
    let reason = format!("it answered GET {at} with HTTP {status}{words}{other}");
    match status.as_u16() {
        429 | 502..=504 => Probe::Busy { reason, retry_after_s: None },
        _ => Probe::Wrong(reason),
    }
}

async fn look(
    pool: &Pool,
    request: &Outgoing,
    url: &ServerUrl,
    has_token: bool,
) -> Result<Probe, Broken> {
    let mut exchange = pool.send(url.address(), None, request).await?;
    let at = url.path(LIST);
    let at = format!("{}{at}", url.address().url());
    let status = exchange.head().and_then(|head| StatusCode::from_u16(head.status()).ok());
    match status {
        Some(StatusCode::OK) => {}
        Some(StatusCode::LOOP_DETECTED) => return Ok(Probe::Herself),
        Some(status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) => {
            return Ok(Probe::Locked(locked(status, has_token)));
        }
        Some(status) if matches!(status.as_u16(), 301..=303 | 307 | 308) => {
            let to = exchange.head().and_then(|head| head.header("location"));
            let nowhere = || Probe::Wrong("it redirects, and does not say where to".to_owned());
            return Ok(to.map_or_else(nowhere, |to| redirected(to, url)));
        }
        Some(status) => {
            let told = exchange.head().and_then(|head| head.header("retry-after"));
            let retry_after_s = told.and_then(|told| retry_after_s(told, unix_seconds()));
            let mut said = Vec::new();
            while said.len() < MAX_ERROR
                && exchange.read(&mut |part| said.extend_from_slice(part)).await?
            {}
            return Ok(match refused(status, &said, &at, url) {
                Probe::Busy { reason, .. } => Probe::Busy { reason, retry_after_s },
                probe => probe,
            });
        }
        None => return Ok(Probe::Wrong(format!("it answered GET {at} with no status of HTTP"))),
    }
    let encoding = exchange.head().and_then(|head| head.header("content-encoding"));
    if let Some(reason) = compresses(encoding) {
        return Ok(Probe::Wrong(format!("asked for GET {at}, {reason}")));
    }
    let mut list = Vec::new();
    while exchange.read(&mut |part| list.extend_from_slice(part)).await? {
        if list.len() > MAX_LIST {
            return Ok(Probe::Wrong(format!("its list of models has more than {MAX_LIST} bytes")));
        }
    }
    exchange.keep();
    Ok(match read_listing(&list) {
        Some(listing) => Probe::Listing(listing),
        None => Probe::Wrong(format!("what it answered at {at} is no list of models")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_path_of_a_list_of_models_is_taken_for_another_base_url() {
        for (location, moved_to) in [
            ("https://llm.example/openai/v1/models", Some("https://llm.example/openai")),
            ("/openai/v1/models", Some("http://me:1/openai")),
            ("//other:2/v1/models", Some("http://other:2")),
            ("https://u:hush@other/v1/models", Some("https://other")),
            ("../../v1/models", Some("http://me:1")),
            ("/login?next=/v1/models", None),
            ("/login#/v1/models", None),
            ("/v1/models?key=1", None),
            ("/api/v1/models", None),
            ("ftp://other/v1/models", None),
            ("", None),
        ] {
            let found = redirected(location, &url("http://me:1/api"));
            match (&found, moved_to) {
                (Probe::Moved(to), Some(expected)) => assert_eq!(to, expected, "{location}"),
                (Probe::Wrong(_), None) => {}
                _ => panic!("{location}: {found:?}"),
            }
        }
        let found = redirected("/login?next=/v1/models", &url("http://me:1"));
        let words = "it redirects to http://me:1/login?next=/v1/models, which is no list of models: a login page?";
        assert_eq!(found, Probe::Wrong(words.to_owned()));
    }

    #[test]
    fn who_does_not_begin_to_speak_tls_may_speak_none() {
        let words = "it accepts connections and does not begin to speak TLS; if it speaks no TLS: http://me:1";
        let found = of_broken(&Broken::HandshakeTimeout, &url("https://me:1"));
        assert_eq!(found, Probe::Mute(words.to_owned()));
    }

    #[test]
    fn who_breaks_off_is_out_of_reach_and_speaks_http() {
        let tls = "; if it speaks TLS: https://me:1";
        let wrong = |words: &str| Probe::Wrong(format!("what it speaks is no HTTP: {words}{tls}"));
        for (malformed, expected) in [
            (
                Malformed::Incomplete,
                Probe::Unreachable("the connection ended in the middle of the answer".to_owned()),
            ),
            (
                Malformed::NoAnswer,
                Probe::Unreachable(format!("the connection was closed without an answer{tls}")),
            ),
            (Malformed::Head, wrong("the head of the answer makes no sense")),
            (Malformed::Chunk, wrong("the answer's chunks make no sense")),
        ] {
            assert_eq!(of_broken(&Broken::Malformed(malformed), &url("http://me:1")), expected);
        }
    }

    #[test]
    fn who_has_no_time_to_list_its_models_is_not_wrong() {
        let wrong = |words: &str| Probe::Wrong(format!("it answered GET L with HTTP {words}"));
        let busy = |words: &str| {
            let reason = format!("it answered GET L with HTTP {words}");
            Probe::Busy { reason, retry_after_s: None }
        };
        let loading = r#"{"error":{"message":"Loading model"}}"#;
        for (status, said, expected) in [
            (429, r#"{"detail":"slow down"}"#, busy("429 Too Many Requests: slow down")),
            (502, "<html>", busy("502 Bad Gateway")),
            (503, "", busy("503 Service Unavailable")),
            (504, "", busy("504 Gateway Timeout")),
            (503, loading, Probe::Loading),
            (500, "", wrong("500 Internal Server Error")),
            (404, "", wrong("404 Not Found")),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let found = refused(status, said.as_bytes(), "L", &url("http://me:1"));
            assert_eq!(found, expected);
        }
    }

    fn url(text: &str) -> ServerUrl {
        text.parse().unwrap()
    }
}
