//! Jobs over HTTP, behind the edge that every daemon has.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use access_tokens::{Authenticator, NewToken, Secret, TokenStore, local_secret};
use daemon_http::{Edge, bind, edge, serve};
use job_server::{Executor, JobError, JobRegistry, Limits, Outcome, routes};
use rbee_operations::JobState;
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::{draining, ended, endless, looking, operation, scripted, within};

#[tokio::test]
async fn a_job_is_submitted_followed_shown_and_listed() {
    let server = Server::start(Limits::default(), two_steps());
    let submitted = server.submit().await;
    assert_eq!(submitted.status(), StatusCode::ACCEPTED);
    let id = json(submitted).await["job_id"].as_str().unwrap().to_owned();

    let stream = server.get(&format!("/v1/jobs/{id}/stream")).await;
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let text = within("the stream's end", stream.text()).await.unwrap();
    let frames: Vec<_> = text.split_terminator("\n\n").collect();
    assert_eq!(frames.len(), 3, "{text}");
    let first: Value =
        serde_json::from_str(frames[0].strip_prefix("id: 1\ndata: ").unwrap()).unwrap();
    let at = first["at"].as_str().unwrap();
    assert_eq!(
        first,
        json!({"event": "hive_list", "message": "looking", "level": "info", "at": at})
    );
    assert!(frames[1].starts_with("id: 2\ndata: {\"event\":\"hive_list\",\"message\":\"found\""));
    assert_eq!(frames[2], "data: [DONE]");

    let shown = json(server.get(&format!("/v1/jobs/{id}")).await).await;
    assert_eq!((&shown["state"], &shown["caller"]), (&json!("succeeded"), &json!("local")));
    assert_eq!(shown["detail"], json!({"HiveList": {}}));
    assert_eq!(json(server.get("/v1/jobs").await).await, json!({"jobs": [shown]}));
}

#[tokio::test]
async fn a_look_is_shown_and_followed_and_listed_only_for_who_asks() {
    let server = Server::start(Limits::default(), looking(two_steps()));
    let stream = server.path_of_a_stream().await;
    let text = within("the stream's end", server.get(&stream).await.text()).await.unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let shown = json(server.get(stream.strip_suffix("/stream").unwrap()).await).await;
    assert_eq!(shown["state"], "succeeded");
    for path in ["/v1/jobs", "/v1/jobs?all=false"] {
        assert_eq!(json(server.get(path).await).await, json!({"jobs": []}), "{path}");
    }
    assert_eq!(json(server.get("/v1/jobs?all=true").await).await, json!({"jobs": [shown]}));
    let refused = server.get("/v1/jobs?al=true").await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    let hint = json(refused).await["error"]["hint"].take();
    assert!(hint.as_str().unwrap().contains("all=true"), "{hint}");
}

#[tokio::test]
async fn a_stream_goes_on_behind_the_last_event_id() {
    let server = Server::start(Limits::default(), two_steps());
    let stream = server.path_of_a_stream().await;
    let whole = server.get(&stream).await.text().await.unwrap();
    let rest = server.get_after(&stream, "1").await.text().await.unwrap();
    assert!(rest.starts_with("id: 2\n"), "{rest}");
    assert!(whole.ends_with(&rest));
    assert_eq!(server.get_after(&stream, "2").await.text().await.unwrap(), "data: [DONE]\n\n");

    for bad in ["3", "-1", "x", "", "99999999999999999999999"] {
        let refused = server.get_after(&stream, bad).await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{bad:?}");
        let error = json(refused).await;
        assert_eq!(error["error"]["code"], "invalid_last_event_id", "{bad:?}");
        assert_eq!(error["error"]["param"], "Last-Event-ID", "{bad:?}");
    }
}

#[tokio::test]
async fn a_delete_cancels_and_the_open_stream_says_so() {
    let server = Server::start(Limits::default(), endless());
    let stream = server.path_of_a_stream().await;
    let job = stream.strip_suffix("/stream").unwrap();
    let mut following = server.get(&stream).await;
    let first = within("the first event", following.chunk()).await.unwrap().unwrap();
    assert!(first.starts_with(b"id: 1\n"));

    let cancelled = server.http.delete(server.url(job)).send().await.unwrap();
    assert_eq!(cancelled.status(), StatusCode::ACCEPTED);
    let rest = within("the stream's end", following.text()).await.unwrap();
    assert!(
        rest.contains(r#"{"event":"cancelled""#) && rest.ends_with("data: [DONE]\n\n"),
        "{rest}"
    );

    let again = server.http.delete(server.url(job)).send().await.unwrap();
    assert_eq!(again.status(), StatusCode::OK);
    assert_eq!(json(again).await["state"], "cancelled");
}

#[tokio::test]
async fn bad_requests_are_refused_with_an_error_object_that_names_the_fault() {
    let server = Server::start(Limits::default(), two_steps());
    let check = async |body: &str, status: u16, named: &str| {
        let request = server.http.post(server.url("/v1/jobs")).body(body.to_owned());
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{body}");
        let error = json(response).await["error"].take();
        assert!(error["message"].as_str().unwrap().contains(named), "{body}: {error}");
    };
    check("{", 400, "JSON").await;
    check("{}", 400, "operation").await;
    check(r#"{"operation":{"HiveExplode":{}}}"#, 400, "HiveExplode").await;
    check(r#"{"operation":{"HiveList":{}},"x":1}"#, 400, "x").await;
    check(r#"{"operation":{"WorkerGet":{"worker_id":"../etc"}}}"#, 400, "worker_id").await;
    check(&format!(r#"{{"x":"{}"}}"#, "x".repeat(2 << 20)), 413, "larger").await;

    for path in ["/v1/jobs/no-such-job", "/v1/jobs/no-such-job/stream"] {
        let unknown = server.get(path).await;
        assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
        let error = json(unknown).await;
        assert_eq!(error["error"]["code"], "job_not_found");
        assert!(error["error"]["hint"].as_str().unwrap().contains("rbee-keeper job list"));
    }
    let malformed = server.get("/v1/jobs/..%2Fx").await;
    assert_eq!(malformed.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_list_has_all_that_runs_and_the_latest_that_ended_and_says_what_it_leaves_out() {
    let quick = scripted(|_| async { Ok(Outcome::said("done")) });
    let server = Server::start(Limits::default(), quick);
    for _ in 0..3 {
        let id = json(server.submit().await).await["job_id"].as_str().unwrap().parse().unwrap();
        ended(&server.registry, &id).await;
    }
    server.registry.submit(&operation(), "local", &endless()).unwrap();
    for (query, listed, left_out) in [
        ("", 4, Value::Null),
        ("?limit=3", 4, Value::Null),
        ("?limit=1", 2, 2.into()),
        ("?limit=0", 1, 3.into()),
    ] {
        let list = json(server.get(&format!("/v1/jobs{query}")).await).await;
        assert_eq!(list["jobs"].as_array().unwrap().len(), listed, "{query:?}");
        assert_eq!(list["left_out"], left_out, "{query:?}");
        assert_ne!(list["jobs"][0]["state"], "succeeded", "the latest is the first: {query:?}");
    }
    for query in ["?limit=", "?limit=-1", "?limit=10001", "?limit=x"] {
        let refused = server.get(&format!("/v1/jobs{query}")).await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{query:?}");
    }
}

#[tokio::test]
async fn a_flood_of_jobs_is_refused_with_429_and_retry_after() {
    let server = Server::start(Limits { running: 3, ..Limits::default() }, endless());
    for _ in 0..3 {
        assert_eq!(server.submit().await.status(), StatusCode::ACCEPTED);
    }
    let refused = server.submit().await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers()["retry-after"].to_str().unwrap().parse::<u64>().is_ok());
    assert_eq!(json(refused).await["error"]["type"], "rate_limit_error");
}

#[tokio::test]
async fn a_reader_that_takes_no_bytes_does_not_hold_the_job_up() {
    let executor = scripted(|job| async move {
        for _ in 0..20_000 {
            job.say("x".repeat(1000));
            tokio::task::yield_now().await;
        }
        Ok(Outcome::said("done"))
    });
    let server = Server::start(Limits::default(), executor);
    let stream = server.path_of_a_stream().await;
    // Its body is never read: the socket's buffers fill up, and writing stops.
    let _stuck = server.get(&stream).await;
    let job = stream.strip_suffix("/stream").unwrap();
    let ended = async {
        while json(server.get(job).await).await["state"] != "succeeded" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("the job's end", ended).await;
}

fn two_steps() -> Arc<dyn Executor> {
    scripted(|job| async move {
        job.say("looking");
        Ok(Outcome::new("found", json!({"hives": []})))
    })
}

#[tokio::test]
async fn the_job_of_somebody_else_is_none_also_to_who_guesses_its_id() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = TokenStore::open(folder.path());
    let [ann, bob] = ["ann", "bob"].map(|name| tokens.create(name).unwrap().secret);
    let home = local_secret(folder.path()).unwrap();
    let auth = Authenticator::from_store(folder.path()).unwrap();
    let server = Server::behind(auth, Limits::default(), endless());
    let ask = async |method: Method, path: &str, secret: &Secret| {
        let request = server.http.request(method, server.url(path)).bearer_auth(secret.expose());
        let body = json!({"operation": {"HiveList": {}}});
        within(path, request.json(&body).send()).await.unwrap()
    };
    let submitted = json(ask(Method::POST, "/v1/jobs", &ann).await).await;
    let job = format!("/v1/jobs/{}", submitted["job_id"].as_str().unwrap());
    let stream = format!("{job}/stream");

    let missing = "/v1/jobs/j-00000000-0000-0000-0000-000000000000";
    let unknown = json(ask(Method::GET, missing, &bob).await).await["error"]["code"].clone();
    for (method, path) in [(Method::GET, &job), (Method::DELETE, &job), (Method::GET, &stream)] {
        let refused = ask(method.clone(), path, &bob).await;
        assert_eq!(refused.status(), StatusCode::NOT_FOUND, "{method} {path}");
        assert_eq!(json(refused).await["error"]["code"], unknown, "{method} {path}");
    }
    let listed =
        async |secret| json(ask(Method::GET, "/v1/jobs", secret).await).await["jobs"].clone();
    assert_eq!(listed(&bob).await, json!([]));
    for secret in [&ann, &home] {
        assert_eq!(listed(secret).await[0]["job_id"], submitted["job_id"]);
        assert_eq!(ask(Method::GET, &job, secret).await.status(), StatusCode::OK);
    }
    assert_eq!(ask(Method::DELETE, &job, &ann).await.status(), StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_revoked_token_reads_no_more_of_a_job_that_goes_on_and_ends_one_that_only_looks() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = TokenStore::open(folder.path());
    for (executor, goes_on) in [(talking(), true), (looking(talking()), false)] {
        let name = format!("reader {goes_on}");
        let NewToken { secret, info, .. } = tokens.create(&name).unwrap();
        let auth = Authenticator::from_store(folder.path()).unwrap();
        let server = Server::behind(auth, Limits::default(), Arc::clone(&executor));
        let job = server.registry.submit(&operation(), &info.fingerprint, &executor).unwrap();
        let stream = server.http.get(server.url(&format!("/v1/jobs/{job}/stream")));
        let stream =
            within("the stream", stream.bearer_auth(secret.expose()).send()).await.unwrap();
        assert_eq!(stream.status(), StatusCode::OK);
        tokens.revoke(&name).unwrap();
        let text = within("the stream's end", stream.text()).await.unwrap();
        let mut frames = text.rsplit_terminator("\n\n");
        let (id, data) = frames.next().unwrap().split_once("\ndata: ").unwrap();
        let before = frames.next().unwrap();
        assert!(before.starts_with(&format!("{id}\n")), "it is of the last that came: {before}");
        let last: Value = serde_json::from_str(data).unwrap();
        assert_eq!((&last["event"], &last["code"]), (&json!("revoked"), &json!("revoked")));
        assert_eq!(last["message"].as_str().unwrap().contains("the job goes on"), goes_on);
        if goes_on {
            assert_eq!(server.registry.get(&job).unwrap().state, JobState::Running);
        } else {
            assert_eq!(ended(&server.registry, &job).await.state, JobState::Cancelled);
        }
    }
}

#[tokio::test]
async fn an_answer_is_read_to_its_end_by_who_began_it() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = TokenStore::open(folder.path());
    let token = tokens.create("reader").unwrap().secret;
    let auth = Authenticator::from_store(folder.path()).unwrap();
    let server = Server::behind(auth, Limits::default(), draining(talking()));
    let request = server.http.post(server.url("/v1/jobs")).bearer_auth(token.expose());
    let body = json!({"operation": {"HiveList": {}}});
    let job = json(request.json(&body).send().await.unwrap()).await["job_id"].take();
    let stream = server.url(&format!("/v1/jobs/{}/stream", job.as_str().unwrap()));
    let mut stream = server.http.get(stream).bearer_auth(token.expose()).send().await.unwrap();
    tokens.revoke("reader").unwrap();
    // Other streams are looked at after a second.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1500) {
        within("more of the answer", stream.chunk()).await.unwrap().unwrap();
    }
    server.registry.cancel(&job.as_str().unwrap().parse().unwrap()).unwrap();
    let rest = within("the stream's end", stream.text()).await.unwrap();
    assert!(rest.ends_with("data: [DONE]\n\n") && !rest.contains("revoked"), "{rest}");
}

/// An executor that says something all the time, until it is cancelled.
fn talking() -> Arc<dyn Executor> {
    scripted(|job| async move {
        while !job.cancelled().is_cancelled() {
            job.say("and on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(JobError::cancelled())
    })
}

async fn json(response: Response) -> Value {
    response.json().await.unwrap()
}

struct Server {
    address: SocketAddr,
    registry: JobRegistry,
    http: Client,
    _serving: JoinSet<()>,
}

impl Server {
    fn start(limits: Limits, executor: Arc<dyn Executor>) -> Self {
        Self::behind(Authenticator::open(), limits, executor)
    }

    fn behind(auth: Authenticator, limits: Limits, executor: Arc<dyn Executor>) -> Self {
        let registry = JobRegistry::in_memory(limits);
        let routes = routes(registry.clone(), executor, auth.clone());
        let app = edge(routes, Edge { auth, max_body_bytes: 1 << 20 });
        let (listener, address) = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, app, CancellationToken::new(), Duration::ZERO));
        let http = Client::builder().no_proxy().build().unwrap();
        Self { address, registry, http, _serving: serving }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn get(&self, path: &str) -> Response {
        within(path, self.http.get(self.url(path)).send()).await.unwrap()
    }

    async fn get_after(&self, path: &str, id: &str) -> Response {
        self.http.get(self.url(path)).header("last-event-id", id).send().await.unwrap()
    }

    async fn submit(&self) -> Response {
        let body = json!({"operation": {"HiveList": {}}});
        self.http.post(self.url("/v1/jobs")).json(&body).send().await.unwrap()
    }

    /// Submits a job and waits for nothing.
    async fn path_of_a_stream(&self) -> String {
        let id = json(self.submit().await).await["job_id"].as_str().unwrap().to_owned();
        format!("/v1/jobs/{id}/stream")
    }
}
