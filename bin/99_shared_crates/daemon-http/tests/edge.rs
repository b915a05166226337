//! The edge as clients see it, over real sockets.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use access_tokens::{Authenticator, Secret, TokenStore, local_secret};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use daemon_http::{ApiError, ApiJson, CallerExt, Edge, Edged, edge, serve};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use worker_contract::{ApiErrorBody, RequestId};

const MAX_BODY: u64 = 64 * 1024;

#[tokio::test]
async fn each_route_but_health_needs_a_token_where_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let token = TokenStore::open(folder.path()).create("laptop").unwrap();
    let revoked = TokenStore::open(folder.path()).create("phone").unwrap();
    let server = Server::start(Authenticator::from_store(folder.path()).unwrap());
    TokenStore::open(folder.path()).revoke("phone").unwrap();
    let right = format!("Bearer {}", token.secret.expose());
    let local = format!("bearer  {}", local_secret(folder.path()).unwrap().expose());
    let basic = format!("Basic {}", token.secret.expose());
    let revoked = format!("Bearer {}", revoked.secret.expose());
    for (path, authorization, status) in [
        ("/health", None, 200),
        ("/health", Some("Bearer wrong"), 200),
        ("/who", None, 401),
        ("/who", Some("Bearer wrong"), 401),
        ("/who", Some("Bearer "), 401),
        ("/who", Some("Bearer"), 401),
        ("/who", Some(token.secret.expose()), 401),
        ("/who", Some(&*basic), 401),
        ("/who", Some(&*revoked), 401),
        ("/who", Some(&*right), 200),
        ("/who", Some(&*local), 200),
        ("/health/x", None, 401),
        ("/Health", None, 401),
        ("//health", None, 401),
        ("/nothing", None, 401),
        ("/nothing", Some(&*right), 404),
    ] {
        let mut request = server.get(path);
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{path} {authorization:?}");
        let challenge = response.headers().get("www-authenticate").is_some_and(|c| c == "Bearer");
        assert_eq!(challenge, status == 401, "{path} {authorization:?}");
        if status == 401 {
            let error = error_of(response).await;
            assert_eq!(error["code"], "invalid_api_key");
            assert_eq!(error["type"], "authentication_error");
        }
    }
    let caller = server.get("/who").header("authorization", &right).send().await.unwrap();
    assert_eq!(caller.text().await.unwrap(), token.info.fingerprint);
}

#[tokio::test]
async fn a_fixed_secret_is_the_only_one_that_a_worker_takes() {
    let server = Server::start(Authenticator::fixed(Secret::from("the-secret".to_owned())));
    let who = async |token| server.get("/who").bearer_auth(token).send().await.unwrap().status();
    assert_eq!(who("the-secret").await, 200);
    assert_eq!(who("another").await, 401);
    let wrong = server.get("/who").bearer_auth("another");
    for (asked, told) in [
        (server.get("/who"), "the secret of this worker's hive is needed"),
        (wrong, "this is not the secret of this worker's hive"),
    ] {
        let refused = asked.send().await.unwrap();
        assert_eq!(refused.status(), 401);
        let error = error_of(refused).await;
        assert_eq!(error["message"], told);
        assert!(error["hint"].as_str().unwrap().contains("docs/observing.md#metrics"), "{error}");
    }
}

#[tokio::test]
async fn without_tokens_a_page_of_another_site_gets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(Authenticator::from_store(folder.path()).unwrap());
    let local = local_secret(folder.path()).unwrap();
    for (header, value, token, status) in [
        ("x-nothing", "", None, 200),
        ("authorization", "Bearer any-key-that-a-client-insists-on", None, 200),
        ("host", "localhost:8500", None, 200),
        ("origin", "http://localhost:3000", None, 200),
        ("host", "evil.example:8500", None, 403),
        ("origin", "https://evil.example", None, 403),
        ("origin", "null", None, 403),
        ("origin", "https://evil.example", Some("wrong"), 403),
        ("origin", "https://evil.example", Some(local.expose()), 200),
        ("host", "queen.home.arpa:8500", Some(local.expose()), 200),
    ] {
        for method in [Method::GET, Method::POST] {
            let mut request = server.request(method, "/who").header(header, value);
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), status, "{header}: {value}, token {token:?}");
            if status == 403 {
                let error = error_of(response).await;
                assert_eq!(error["code"], "foreign_origin");
                assert!(error["hint"].as_str().unwrap().contains("rbee-keeper token create"));
            }
        }
    }
}

#[tokio::test]
async fn the_browser_of_a_page_is_told_whether_the_page_may_ask_and_read() {
    const HERE: &str = "http://localhost:3000";
    const ELSEWHERE: &str = "https://app.example";
    let open = Server::start(Authenticator::open());
    let guarded = Server::start(Authenticator::fixed(Secret::from("the-secret".to_owned())));
    // Where, from which origin, with which token: the preflight's status, the request's, and whether it is read.
    for (server, path, origin, token, asked, status, is_readable) in [
        (&open, "/who", HERE, None, 204, 200, true),
        (&open, "/who", "http://127.0.0.1", None, 204, 200, true),
        (&open, "/who", "http://[::1]:5173", None, 204, 200, true),
        (&open, "/nothing", HERE, None, 204, 404, true),
        (&open, "/busy", HERE, Some("any"), 204, 429, true),
        (&open, "/panic", HERE, None, 204, 500, true),
        (&open, "/who", ELSEWHERE, None, 403, 403, false),
        (&open, "/who", ELSEWHERE, Some("any"), 403, 403, false),
        (&open, "/who", "http://localhost.app.example", None, 403, 403, false),
        (&open, "/who", "null", None, 403, 403, false),
        (&open, "/health", ELSEWHERE, None, 405, 200, false),
        (&guarded, "/who", HERE, None, 204, 401, true),
        (&guarded, "/who", HERE, Some("the-secret"), 204, 200, true),
        (&guarded, "/who", ELSEWHERE, None, 204, 401, true),
        (&guarded, "/who", ELSEWHERE, Some("wrong"), 204, 401, true),
        (&guarded, "/who", ELSEWHERE, Some("the-secret"), 204, 200, true),
        (&guarded, "/nothing", ELSEWHERE, Some("the-secret"), 204, 404, true),
        (&guarded, "/health", ELSEWHERE, None, 204, 200, false),
        (&guarded, "/own/door", ELSEWHERE, Some("the-secret"), 405, 200, false),
        (&guarded, "/own/door", HERE, None, 405, 200, false),
    ] {
        let case = format!("{path} from {origin}, token {token:?}");
        let preflight = preflight(server, path, origin).send().await.unwrap();
        assert_eq!(preflight.status(), asked, "preflight of {case}");
        assert_eq!(is_told(&preflight, origin), asked == 204, "preflight of {case}");
        let mut request = server.get(path).header("origin", origin);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{case}");
        assert_eq!(is_told(&response, origin), is_readable, "{case}");
        let exposed = response.headers().get("access-control-expose-headers");
        assert_eq!(exposed.is_some_and(|names| names == "*"), is_readable, "{case}");
    }
}

#[tokio::test]
async fn a_preflight_allows_what_is_asked_for_and_no_cookies() {
    let server = Server::start(Authenticator::fixed(Secret::from("the-secret".to_owned())));
    let response = preflight(&server, "/echo", "https://app.example").send().await.unwrap();
    let headers = response.headers();
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example"),
        ("access-control-allow-headers", "authorization,content-type,x-stainless-os"),
        ("access-control-allow-methods", "GET, POST, PUT, PATCH, DELETE"),
        ("vary", "Origin"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    assert!(headers.contains_key("access-control-max-age"));
    assert!(headers.contains_key("x-request-id"));
    assert!(!headers.contains_key("access-control-allow-credentials"));
    let other = server.request(Method::OPTIONS, "/echo").bearer_auth("the-secret");
    let other = other.header("origin", "http://localhost:3000").send().await.unwrap();
    assert_eq!(other.status(), 405, "without a method that is asked for it is no preflight");
}

#[tokio::test]
async fn a_page_that_reaches_the_daemon_by_a_name_is_told_nothing_without_tokens() {
    let server = Server::start(Authenticator::open());
    for origin in ["http://evil.example:8500", "http://localhost:3000"] {
        let request = server.get("/who").header("origin", origin);
        for request in [request, preflight(&server, "/who", origin)] {
            let response = request.header("host", "evil.example:8500").send().await.unwrap();
            assert_eq!(response.status(), 403, "{origin}");
            assert!(!is_told(&response, origin), "{origin}");
        }
    }
}

#[tokio::test]
async fn who_names_no_page_is_told_nothing_of_pages_and_only_daemons_that_are_open_to_them_tell() {
    let open = Server::start(Authenticator::open());
    let response = open.get("/who").send().await.unwrap();
    let is_about_pages = |name: &str| name == "vary" || name.starts_with("access-control");
    assert!(!response.headers().keys().any(|name| is_about_pages(name.as_str())));

    let closed = Server::without_pages(Authenticator::open());
    let here = "http://localhost:3000";
    let response = closed.get("/who").header("origin", here).send().await.unwrap();
    assert!(!is_told(&response, here));
    assert_eq!(preflight(&closed, "/who", here).send().await.unwrap().status(), 405);
}

#[tokio::test]
async fn every_answer_has_the_id_of_its_request() {
    let folder = tempfile::tempdir().unwrap();
    let token = TokenStore::open(folder.path()).create("laptop").unwrap();
    let server = Server::start(Authenticator::from_store(folder.path()).unwrap());
    let large = "x".repeat(usize::try_from(MAX_BODY).unwrap() + 1);
    for (method, path, is_known, status) in [
        (Method::GET, "/health", false, 200),
        (Method::GET, "/who", false, 401),
        (Method::GET, "/id", true, 200),
        (Method::GET, "/nothing", true, 404),
        (Method::DELETE, "/who", true, 405),
        (Method::POST, "/echo", true, 413),
        (Method::GET, "/panic", true, 500),
    ] {
        for given in [Some("req:1.2_3-4"), None] {
            let mut request = server.request(method.clone(), path);
            if let Some(given) = given {
                request = request.header("x-request-id", given);
            }
            if is_known {
                request = request.bearer_auth(token.secret.expose());
            }
            if method == Method::POST {
                request = request.body(large.clone());
            }
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), status, "{path}");
            let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
            match given {
                Some(given) => assert_eq!(id, given, "{path}"),
                None => assert!(id.parse::<RequestId>().is_ok(), "{path}: {id}"),
            }
            match path {
                "/id" => assert_eq!(response.text().await.unwrap(), id),
                _ if status >= 400 => drop(error_of(response).await),
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn routes_that_look_at_who_comes_themselves_have_all_else_of_the_edge() {
    let server = Server::start(Authenticator::fixed(Secret::from("the-secret".to_owned())));
    let large = "x".repeat(usize::try_from(MAX_BODY).unwrap() + 1);
    for (method, path, status) in [
        (Method::GET, "/own/door", 200),
        (Method::GET, "/own/nothing", 404),
        (Method::POST, "/own/door", 405),
        (Method::POST, "/own/raw", 413),
        (Method::GET, "/own/panic", 500),
        (Method::GET, "/own", 401),
        (Method::GET, "/%6Fwn/door", 401),
        (Method::GET, "//own/door", 401),
        (Method::GET, "/own/../who", 401),
    ] {
        let mut request = server.request(method.clone(), path);
        if path == "/own/raw" {
            request = request.body(large.clone());
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{method} {path}");
        assert!(response.headers().contains_key("x-request-id"), "{path}");
        if status >= 400 {
            drop(error_of(response).await);
        }
    }
}

#[tokio::test]
async fn a_request_id_that_could_be_something_else_is_refused() {
    let server = Server::start(Authenticator::open());
    for bad in ["", "a b", "../x", "-rf", "\u{e4}", &"x".repeat(129)] {
        let response = server.get("/id").header("x-request-id", bad).send().await.unwrap();
        assert_eq!(response.status(), 400, "{bad:?}");
        assert_ne!(response.headers()["x-request-id"], bad);
        assert_eq!(error_of(response).await["code"], "invalid_request_id", "{bad:?}");
    }
}

#[tokio::test]
async fn what_there_is_not_is_told_as_an_object() {
    let server = Server::start(Authenticator::open());
    let response = server.get("/nothing/here").send().await.unwrap();
    assert_eq!(response.status(), 404);
    let error = error_of(response).await;
    assert_eq!(
        (&error["code"], &error["message"]),
        (&json!("unknown_route"), &json!("there is no route /nothing/here"),)
    );
    let response = server.request(Method::PUT, "/echo").send().await.unwrap();
    assert_eq!(response.status(), 405);
    assert_eq!(response.headers()["allow"], "POST");
    assert_eq!(error_of(response).await["code"], "method_not_allowed");
    let long = format!("/{}", "x".repeat(10_000));
    let error = error_of(server.get(&long).send().await.unwrap()).await;
    assert!(error["message"].as_str().unwrap().len() < 300, "{error}");
}

#[tokio::test]
async fn a_body_that_is_wrong_is_refused_with_its_field() {
    let server = Server::start(Authenticator::open());
    for (body, code, param) in [
        (r#"{"count": }"#, "invalid_json", Value::Null),
        (r#"{"count": 1}{"#, "invalid_json", Value::Null),
        (r#"{"count": -1}"#, "invalid_type", json!("count")),
        ("[[[[", "invalid_type", json!("[0]")),
        ("\u{0}", "invalid_json", Value::Null),
    ] {
        let response = server.request(Method::POST, "/echo").body(body).send().await.unwrap();
        assert_eq!(response.status(), 400, "{body:?}");
        let error = error_of(response).await;
        assert_eq!((&error["code"], &error["param"]), (&json!(code), &param), "{body:?}: {error}");
    }
    let response = server.request(Method::POST, "/echo").body(r#"{"count": 7}"#).send().await;
    assert_eq!(response.unwrap().text().await.unwrap(), "7");
}

#[tokio::test]
async fn a_body_of_50_mb_is_refused_so_that_the_client_sees_why() {
    let server = Server::start(Authenticator::open());
    for path in ["/echo", "/raw"] {
        for is_chunked in [false, true] {
            let response = server
                .request(Method::POST, path)
                .body(body_of(50_000_000, is_chunked))
                .send()
                .await
                .unwrap_or_else(|error| panic!("{path} chunked {is_chunked}: {error:?}"));
            assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE, "{path} {is_chunked}");
            let error = error_of(response).await;
            assert_eq!(error["code"], "body_too_large");
            assert!(error["message"].as_str().unwrap().contains("65536"), "{error}");
        }
    }
    let status = server.get("/health").send().await.unwrap().status();
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_body_at_the_limit_is_taken() {
    let server = Server::start(Authenticator::open());
    for is_chunked in [false, true] {
        for (length, status) in [(MAX_BODY, 200), (MAX_BODY + 1, 413)] {
            let length = usize::try_from(length).unwrap();
            let request = server.request(Method::POST, "/raw").body(body_of(length, is_chunked));
            assert_eq!(request.send().await.unwrap().status(), status, "{length} {is_chunked}");
        }
    }
}

#[tokio::test]
async fn who_asks_before_sending_is_refused_without_sending() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let server = Server::start(Authenticator::open());
    let mut client = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let head = "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000000\r\n\
                Expect: 100-continue\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let end = tokio::time::timeout(Duration::from_secs(20), client.read_to_string(&mut answer));
    end.await.expect("an answer at once").unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("body_too_large"), "{answer}");
}

#[tokio::test]
async fn a_panic_is_an_error_object_without_its_words() {
    let server = Server::start(Authenticator::open());
    let response = server.get("/panic").send().await.unwrap();
    assert_eq!(response.status(), 500);
    let error = error_of(response).await;
    assert_eq!(error["code"], "internal");
    assert!(!error.to_string().contains("/etc/secret"), "{error}");
}

#[tokio::test]
async fn an_error_says_when_to_come_back() {
    let server = Server::start(Authenticator::open());
    let response = server.get("/busy").send().await.unwrap();
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "7");
    assert_eq!(error_of(response).await["type"], "rate_limit_error");
}

#[derive(Deserialize)]
struct Counted {
    count: u32,
}

struct Server {
    address: SocketAddr,
    client: reqwest::Client,
    _stop: DropGuard,
    _running: JoinSet<()>,
}

impl Server {
    fn start(auth: Authenticator) -> Self {
        Self::serving(auth, Edged::open_to_pages)
    }

    fn without_pages(auth: Authenticator) -> Self {
        Self::serving(auth, |routes| routes)
    }

    fn serving(auth: Authenticator, opened: impl FnOnce(Edged) -> Edged) -> Self {
        let (listener, address) = daemon_http::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let who = async |Extension(CallerExt(caller)): Extension<CallerExt>| caller.to_string();
        let routes = Router::new()
            .route("/health", get(async || Json(json!({ "status": "ok" }))))
            .route("/who", get(who).post(who))
            .route("/id", get(async |Extension(id): Extension<RequestId>| id.to_string()))
            .route("/echo", post(async |ApiJson(c): ApiJson<Counted>| c.count.to_string()))
            .route("/raw", post(async |bytes: axum::body::Bytes| bytes.len().to_string()))
            .route("/busy", get(async || ApiError::too_many_requests("busy", "too busy", 7)))
            .route("/panic", get(panics));
        let own = Router::new()
            .route("/own/door", get(async || "open"))
            .route("/own/panic", get(panics))
            .route("/own/raw", post(async |bytes: axum::body::Bytes| bytes.len().to_string()));
        let routes = edge(routes, Edge { auth, max_body_bytes: MAX_BODY })
            .with_self_guarded(|path| path.starts_with("/own/"), own);
        let routes = opened(routes);
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(serve(listener, routes, stop.clone(), Duration::from_secs(1)));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { address, client, _stop: stop.drop_guard(), _running: running }
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address))
    }
}

/// What a browser asks before a request of OpenAI's client.
fn preflight(server: &Server, path: &str, origin: &str) -> RequestBuilder {
    server
        .request(Method::OPTIONS, path)
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type,x-stainless-os")
}

/// Whether the browser gives a page of this origin the answer.
fn is_told(response: &Response, origin: &str) -> bool {
    response.headers().get("access-control-allow-origin").is_some_and(|told| told == origin)
}

async fn panics() {
    let lost = Path::new("/etc/secret").join("key");
    panic!("cannot read {}", lost.display());
}

fn body_of(length: usize, is_chunked: bool) -> reqwest::Body {
    if !is_chunked {
        return vec![b' '; length].into();
    }
    let chunks = vec![b' '; length];
    let chunks = chunks.chunks(60_000).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec()));
    reqwest::Body::wrap_stream(futures::stream::iter(chunks.collect::<Vec<_>>()))
}

/// The `error` of a body that is an error object.
async fn error_of(response: Response) -> Value {
    assert_eq!(response.headers()["content-type"], "application/json");
    let text = response.text().await.unwrap();
    let body: ApiErrorBody =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    json!(body.error)
}
