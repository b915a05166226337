//! The client against real servers: one that serves jobs, and ones that misbehave.
#![expect(clippy::unwrap_used, reason = "in a test, what is missing fails the test")]

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use access_tokens::{Authenticator, Secret};
use axum::Router;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use daemon_http::{Edge, bind, edge, serve};
use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _};
use job_client::{ClientError, FollowedEvent, JobClient, JobEnd};
use job_server::{Executor, JobContext, JobError, JobRegistry, Limits, Outcome, routes};
use rbee_operations::{JobState, Operation};
use reqwest::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use worker_contract::JobId;

const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_job_is_run_to_each_of_its_ends() {
    let server = Server::with_jobs(Authenticator::open(), Limits::default());
    let client = server.client(None);
    let mut told = Vec::new();
    let operation = named("fine");
    let end = within(client.run(&operation, |event| told.push(event.message.clone()))).await;
    let JobEnd::Succeeded(last) = end.unwrap() else { panic!("not succeeded") };
    assert_eq!((last.message.as_str(), told), ("done", vec!["fine".to_owned(), "done".to_owned()]));

    let end = within(client.run(&named("bad"), |_| {})).await.unwrap();
    let JobEnd::Failed(error) = end else { panic!("not failed") };
    assert_eq!(error.code.as_deref(), Some("no_room"));
    assert_eq!(error.hint.as_deref(), Some("stop a worker"));
}

#[tokio::test]
async fn a_job_that_its_caller_ends_is_cancelled_at_the_server() {
    let server = Server::with_jobs(Authenticator::open(), Limits::default());
    let client = server.client(None);
    let cancel = CancellationToken::new();
    let operation = named("endless");
    let end = client.run_until(&operation, &cancel, |event| {
        if event.message == "endless" {
            cancel.cancel();
        }
    });
    assert_eq!(within(end).await.unwrap(), JobEnd::Cancelled);
    let jobs = within(client.list(10)).await.unwrap().jobs;
    assert_eq!(jobs.iter().map(|job| job.state).collect::<Vec<_>>(), [JobState::Cancelled]);
    assert_eq!(within(client.get(&jobs[0].job_id)).await.unwrap(), jobs[0]);
    assert_eq!(within(client.cancel(&jobs[0].job_id)).await.unwrap(), jobs[0]);
}

#[tokio::test]
async fn the_token_goes_with_every_call() {
    let secret = Secret::from("rbee_test".to_owned());
    let server = Server::with_jobs(Authenticator::fixed(secret.clone()), Limits::default());
    let client = server.client(Some(secret));
    let id = within(client.submit(&named("fine"))).await.unwrap();
    let events: Vec<_> = within(client.follow(&id, None).try_collect()).await.unwrap();
    assert_eq!(events.len(), 2);
    within(client.get(&id)).await.unwrap();
    within(client.list(10)).await.unwrap();
    within(client.cancel(&id)).await.unwrap();

    let stranger = server.client(None);
    let refused = [
        within(stranger.submit(&named("fine"))).await.map(drop),
        within(stranger.follow(&id, None).try_collect::<Vec<_>>()).await.map(drop),
        within(stranger.list(10)).await.map(drop),
        within(stranger.cancel(&id)).await.map(drop),
    ];
    for refused in refused {
        let Err(ClientError::Api { status, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn errors_of_the_server_arrive_with_their_hints() {
    let server =
        Server::with_jobs(Authenticator::open(), Limits { running: 0, ..Limits::default() });
    let client = server.client(None);
    let unknown = within(client.get(&job())).await.unwrap_err();
    let ClientError::Api { status, detail } = &unknown else { panic!("{unknown:?}") };
    assert_eq!((*status, detail.code.as_deref()), (StatusCode::NOT_FOUND, Some("job_not_found")));
    assert!(unknown.hint().unwrap().contains("rbee-keeper job list"));
    let unknown = within(client.follow(&job(), None).try_collect::<Vec<_>>()).await.unwrap_err();
    assert!(unknown.to_string().contains("no-such-job"), "{unknown}");
    let busy = within(client.submit(&named("fine"))).await.unwrap_err();
    assert!(matches!(busy, ClientError::Api { status, .. } if status == 429), "{busy:?}");
}

#[tokio::test]
async fn a_daemon_that_does_not_run_is_named_with_what_to_do() {
    let (listener, address) = bind(([127, 0, 0, 1], 0).into()).unwrap();
    drop(listener);
    let client = JobClient::new(&format!("http://{address}/"), None);
    for error in [
        within(client.list(10)).await.unwrap_err(),
        within(client.follow(&job(), None).try_collect::<Vec<_>>()).await.unwrap_err(),
    ] {
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&format!("http://{address};")), "{text}");
        assert!(text.contains("`rbee-keeper queen start`"), "{text}");
    }
    let hive = client.with_advice("start the hive with `rbee-keeper hive start gpu-1`");
    let error = within(hive.list(10)).await.unwrap_err();
    assert_eq!(error.hint(), Some("start the hive with `rbee-keeper hive start gpu-1`"));

    let error = within(JobClient::new("not a url", None).list(10)).await.unwrap_err();
    assert!(matches!(error, ClientError::InvalidUrl { .. }), "{error:?}");
}

#[tokio::test]
async fn answers_that_are_not_of_rbee_are_errors_that_say_so() {
    let app = Router::new()
        .route("/v1/jobs", post(async || (StatusCode::BAD_GATEWAY, "<html>proxy</html>")))
        .route("/v1/jobs", get(async || "hello"))
        .route("/v1/jobs/{id}/stream", get(async || "hello"))
        .route("/v1/jobs/{id}", get(async || (StatusCode::IM_A_TEAPOT, "x".repeat(1 << 20))));
    let server = Server::start(app);
    let client = server.client(None);
    let error = within(client.submit(&named("x"))).await.unwrap_err();
    assert_eq!(error.to_string(), "HTTP 502 Bad Gateway: <html>proxy</html>");
    let error = within(client.list(10)).await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol { .. }), "{error:?}");
    let error = within(client.follow(&job(), None).try_collect::<Vec<_>>()).await.unwrap_err();
    assert!(error.to_string().contains("text/event-stream"), "{error}");
    let error = within(client.get(&job())).await.unwrap_err();
    assert!(error.to_string().len() < 1000, "an endless error is shown whole");
}

#[tokio::test]
async fn an_event_without_end_and_one_that_is_none_end_the_stream_with_an_error() {
    let endless = "x".repeat(20 << 20);
    for (stream, named) in [
        (format!("id: 1\ndata: {endless}"), "bytes"),
        ("id: 1\ndata: {\"event\": \"SECRET\"}\n\n".to_owned(), "column"),
        ("id: 1\ndata: {\"level\":\"SECRET\"}\n\n".to_owned(), "column"),
        (format!("data: {}\n\n", event_json("no id")), "id"),
    ] {
        let app = Router::new().route("/v1/jobs/{id}/stream", get(async || event_stream(stream)));
        let server = Server::start(app);
        let events = server.client(None).follow(&job(), None).try_collect::<Vec<_>>();
        let error = within(events).await.unwrap_err();
        assert!(matches!(error, ClientError::Protocol { .. }), "{error:?}");
        assert!(error.to_string().contains(named), "{error}");
        assert!(!error.to_string().contains("SECRET"), "{error}");
    }
}

#[tokio::test]
async fn who_may_not_read_any_more_is_told_so_and_does_not_come_again() {
    let revoked = r#"{"event":"revoked","message":"not any more","at":"","hint":"ask"}"#;
    let body = format!("id: 1\ndata: {}\n\nid: 1\ndata: {revoked}\n\n", event_json("one"));
    let app = Router::new().route("/v1/jobs/{id}/stream", get(async || event_stream(body)));
    let server = Server::start(app);
    let mut events = Box::pin(server.client(None).follow(&job(), None));
    assert_eq!(within(events.next()).await.unwrap().unwrap().event.message, "one");
    let error = within(events.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Revoked(_)), "{error:?}");
    assert_eq!((error.to_string().as_str(), error.hint()), ("not any more", Some("ask")));
    assert!(within(events.next()).await.is_none());
}

#[tokio::test]
async fn a_stream_that_breaks_anywhere_goes_on_without_loss_or_repetition() {
    // All bytes of the stream of a job with three events, cut after every possible number of bytes.
    let whole = whole_stream(3);
    let cuts = (0..whole.len()).step_by(7).chain([whole.len() - 1]).collect::<Vec<_>>();
    let mut clients = JoinSet::new();
    for cut in cuts {
        clients.spawn(async move {
            let server = Cutting::start(vec![Some(cut), Some(0), None]).await;
            let client = JobClient::new(&server.url, None);
            let events = within(client.follow(&job(), None).try_collect::<Vec<_>>()).await;
            let ids: Vec<_> = events.unwrap().iter().map(|followed| followed.id).collect();
            assert_eq!(ids, [1, 2, 3], "cut after {cut} bytes");
        });
    }
    while let Some(client) = within(clients.join_next()).await {
        client.unwrap();
    }
}

#[tokio::test]
async fn a_connection_is_opened_again_behind_the_last_event() {
    let first_two = whole_stream(3).find("id: 3").unwrap();
    let server = Cutting::start(vec![Some(first_two), None]).await;
    let client = JobClient::new(&server.url, None);
    let events: Vec<FollowedEvent> =
        within(client.follow(&job(), None).try_collect()).await.unwrap();
    assert_eq!(events.len(), 3);
    assert_eq!(*server.asked_after.lock().unwrap(), [None, Some(2)]);
}

#[tokio::test]
async fn what_a_server_gives_twice_is_passed_on_once() {
    let app = Router::new().route(
        "/v1/jobs/{id}/stream",
        // It ignores Last-Event-ID, and the first connection ends early.
        get(async |headers: HeaderMap| {
            let whole = whole_stream(3);
            let again = headers.contains_key("last-event-id");
            event_stream(if again { whole } else { whole[..whole.find("id: 3").unwrap()].into() })
        }),
    );
    let server = Server::start(app);
    let events: Vec<FollowedEvent> =
        within(server.client(None).follow(&job(), None).try_collect()).await.unwrap();
    assert_eq!(events.iter().map(|e| e.id).collect::<Vec<_>>(), [1, 2, 3]);
}

#[tokio::test]
async fn a_job_is_followed_over_a_restart_of_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("state.db");
    let (process, address) = serve_in_a_process(&db).await;
    let client = JobClient::new(&format!("http://{address}"), None);
    let id = within(client.submit(&named("endless"))).await.unwrap();
    let mut events = Box::pin(client.follow(&id, None));
    assert_eq!(within(events.next()).await.unwrap().unwrap().event.message, "endless");

    // Its connections break, and another process takes over, as after a kill.
    process.shutdown_background();
    let (listener, address) = within(async {
        loop {
            match bind(address) {
                Ok(bound) => return bound,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await;
    let registry = JobRegistry::open(Limits::default(), &db).unwrap();
    let routes = routes(registry, Arc::new(Script), Authenticator::open());
    let _server = Server::on(listener, address, routes);
    let rest: Vec<FollowedEvent> = within(events.try_collect()).await.unwrap();
    let last = &rest.last().unwrap().event;
    assert_eq!((last.event.as_str(), last.code.as_deref()), ("error", Some("interrupted")));
}

#[tokio::test]
async fn a_stream_that_stays_broken_is_given_up_after_bounded_retries() {
    let server = Cutting::start(vec![Some(whole_stream(3).find("id: 2").unwrap())]).await;
    let client = JobClient::new(&server.url, None).with_retries(3);
    let mut events = Box::pin(client.follow(&job(), None));
    assert_eq!(within(events.next()).await.unwrap().unwrap().id, 1);
    let lost = within(events.next()).await.unwrap().unwrap_err();
    let ClientError::StreamLost { retries, source, .. } = &lost else { panic!("{lost:?}") };
    assert_eq!(*retries, 3);
    assert!(matches!(**source, ClientError::Unreachable { .. }), "{source:?}");
    assert!(events.next().await.is_none());
}

/// An executor that does what the model's name says.
struct Script;

impl Executor for Script {
    fn execute(
        &self,
        operation: Operation,
        job: JobContext,
    ) -> BoxFuture<'static, Result<Outcome, JobError>> {
        let Operation::Infer(infer) = operation else { panic!("only Infer is scripted") };
        Box::pin(async move {
            let name = infer.model.as_str();
            job.say(name);
            match name {
                "fine" => Ok(Outcome::said("done")),
                "bad" => Err(JobError::new("no_room", "no room").hint("stop a worker")),
                _ => {
                    job.cancelled().cancelled().await;
                    Err(JobError::cancelled())
                }
            }
        })
    }
}

fn named(model: &str) -> Operation {
    let json = serde_json::json!({"Infer": {"model": model, "prompt": "p"}});
    serde_json::from_value(json).unwrap()
}

fn job() -> JobId {
    "no-such-job".parse().unwrap()
}

fn event_json(message: &str) -> String {
    format!(r#"{{"event":"infer","message":"{message}","at":"2026-11-23T18:00:00Z"}}"#)
}

/// A stream with that many events, comments in it, and its end.
fn whole_stream(events: u64) -> String {
    let frame = |id| format!("id: {id}\ndata: {}\n\n: keep-alive\n\n", event_json("ümläut"));
    (1..=events).map(frame).chain(["data: [DONE]\n\n".to_owned()]).collect()
}

fn event_stream(body: String) -> Response {
    ([("content-type", "text/event-stream")], body).into_response()
}

/// A runtime of its own is as near to a process as a test gets: all its tasks end at once.
async fn serve_in_a_process(db: &Path) -> (Runtime, SocketAddr) {
    let process = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let db = db.to_owned();
    let (bound, wait) = oneshot::channel();
    process.spawn(async move {
        let (listener, address) = bind(([127, 0, 0, 1], 0).into()).unwrap();
        let registry = JobRegistry::open(Limits::default(), &db).unwrap();
        bound.send(address).unwrap();
        let app = routes(registry, Arc::new(Script), Authenticator::open());
        serve(listener, app, CancellationToken::new(), Duration::ZERO).await;
    });
    let address = within(wait).await.unwrap();
    (process, address)
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.expect("the client answers in time")
}

struct Server {
    url: String,
    _serving: JoinSet<()>,
}

impl Server {
    fn with_jobs(auth: Authenticator, limits: Limits) -> Self {
        let routes = routes(JobRegistry::in_memory(limits), Arc::new(Script), auth.clone());
        Self::start(edge(routes, Edge { auth, max_body_bytes: 1 << 20 }))
    }

    fn start(app: impl daemon_http::Routes) -> Self {
        let (listener, address) = bind(([127, 0, 0, 1], 0).into()).unwrap();
        Self::on(listener, address, app)
    }

    fn on(listener: TcpListener, address: SocketAddr, app: impl daemon_http::Routes) -> Self {
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, app, CancellationToken::new(), Duration::ZERO));
        Self { url: format!("http://{address}"), _serving: serving }
    }

    fn client(&self, token: Option<Secret>) -> JobClient {
        JobClient::new(&self.url, token)
    }
}

/// A server of one stream that honours Last-Event-ID and cuts its connections: the n-th after as many
/// bytes of the body as `cuts[n]` says, all after the last of `cuts` at once.
struct Cutting {
    url: String,
    asked_after: Arc<Mutex<Vec<Option<usize>>>>,
    _serving: JoinSet<()>,
}

impl Cutting {
    async fn start(cuts: Vec<Option<usize>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked_after = Arc::new(Mutex::new(Vec::new()));
        let asked = Arc::clone(&asked_after);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut cuts = cuts.into_iter();
            while let Ok((socket, _)) = listener.accept().await {
                match cuts.next() {
                    Some(cut) => {
                        let after = serve_cut(socket, cut).await;
                        asked.lock().unwrap().push(after);
                    }
                    None => drop(socket),
                }
            }
        });
        Self { url, asked_after, _serving: serving }
    }
}

/// Answers one request with a chunked body that ends without an end; gives its Last-Event-ID.
async fn serve_cut(mut socket: TcpStream, cut: Option<usize>) -> Option<usize> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let after: Option<usize> =
        head.lines().find_map(|line| line.strip_prefix("last-event-id: ")?.parse().ok());
    let whole = whole_stream(3);
    let start = whole.find(&format!("id: {}\n", after.unwrap_or(0) + 1));
    let rest = &whole.as_bytes()[start.unwrap_or(whole.find("data: [DONE]").unwrap())..];
    let body = &rest[..cut.unwrap_or(rest.len()).min(rest.len())];
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    if !body.is_empty() {
        socket.write_all(format!("{:x}\r\n", body.len()).as_bytes()).await.unwrap();
        socket.write_all(body).await.unwrap();
        socket.write_all(b"\r\n").await.unwrap();
    }
    socket.shutdown().await.unwrap();
    after
}
