//! Requests that cannot be served as they are.

use serde_json::json;

use crate::support::{Queen, Reply, Script, WorkerDouble, chat, completion};

#[tokio::test]
async fn what_cannot_be_right_is_refused_with_an_error_object() {
    let queen = Queen::start().await;
    for (body, code, param) in [
        (r#"{"model": "m""#, "invalid_json", json!(null)),
        ("", "invalid_json", json!(null)),
        ("[]", "invalid_type", json!(null)),
        (r#"{"model":"m"}"#, "missing_required_parameter", json!("messages")),
        (
            r#"{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":-1}"#,
            "integer_below_min_value",
            json!("max_tokens"),
        ),
        (
            r#"{"model":"m","messages":[{"role":"user","content":"x"}],"functions":[{"name":"f"}]}"#,
            "unsupported_parameter",
            json!("functions"),
        ),
    ] {
        let request = queen.post("/v1/chat/completions").body(body);
        let error = Reply::read(request).await.error(400, code);
        assert_eq!(error["param"], param, "{body}: {error}");
        assert_eq!(error["type"], "invalid_request_error", "{body}: {error}");
    }
}

#[tokio::test]
async fn an_unknown_model_is_not_found_whatever_its_name_looks_like() {
    let queen = Queen::start().await;
    let worker = WorkerDouble::start("w-1", []);
    queen.worker_beat(&worker.beat()).await;
    for model in ["n", "../../etc/passwd", "", "gpt-4o"] {
        let mut body = chat();
        body["model"] = json!(model);
        for stream in [false, true] {
            body["stream"] = json!(stream);
            let error =
                queen.ask("/v1/chat/completions", &body).await.error(404, "model_not_found");
            let message = error["message"].as_str().unwrap();
            assert!(message.contains("Available: m."), "{message}");
        }
    }
}

#[tokio::test]
async fn what_the_worker_refuses_as_too_long_is_passed_on_with_both_lengths() {
    let too_long = || Script::Refuses(400, "context_length_exceeded");
    let worker = WorkerDouble::start("w-1", [too_long(), too_long(), too_long()]);
    let queen = Queen::start().await;
    queen.worker_beat(&worker.beat()).await;

    let whole = queen.ask("/v1/chat/completions", &chat()).await;
    let error = whole.error(400, "context_length_exceeded");
    assert_eq!(
        (&error["param"], &error["type"]),
        (&json!("messages"), &json!("invalid_request_error"))
    );
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("9000") && message.contains("2048"), "{message}");

    let stream = queen.stream("/v1/chat/completions", &chat()).await.refused().await;
    stream.error(400, "context_length_exceeded");

    let prompt = queen.ask("/v1/completions", &completion()).await;
    assert_eq!(prompt.error(400, "context_length_exceeded")["param"], "prompt");
    assert_eq!(worker.requests().len(), 3, "nothing is tried again that cannot be served");
}

#[tokio::test]
async fn an_endpoint_that_is_not_served_says_what_serves_the_same_if_anything_does() {
    let queen = Queen::start().await;
    for (path, instead) in [
        ("/v1/responses", "use /v1/chat/completions;"),
        ("/v1/threads/t-1/runs", "use /v1/chat/completions;"),
        ("/v1/batches", "send the requests one by one with the header `x-rbee-priority: batch`;"),
        ("/v1/moderations", "rbee does not serve it;"),
        ("/v1/audio/speech", "rbee does not serve it;"),
    ] {
        let error = queen.ask(path, &json!({})).await.error(404, "unknown_route");
        assert_eq!(error["message"], format!("there is no route {path}"));
        assert!(error["hint"].as_str().unwrap().starts_with(instead), "{error}");
    }
    // What is served in another way says so as before.
    Reply::read(queen.get("/v1/chat/completions")).await.error(405, "method_not_allowed");
}

#[tokio::test]
async fn a_deadline_that_is_no_time_is_refused() {
    let queen = Queen::start().await;
    for deadline in ["0", "-1", "soon"] {
        let request = queen.post("/v1/chat/completions").header("x-rbee-deadline-ms", deadline);
        let error = Reply::read(request.json(&chat())).await.error(400, "invalid_value");
        assert_eq!(error["param"], "x-rbee-deadline-ms");
    }
    let longest = queen.post("/v1/chat/completions").header("x-rbee-deadline-ms", "9".repeat(20));
    Reply::read(longest.json(&chat())).await.error(404, "model_not_found");
}

#[tokio::test]
async fn more_requests_than_may_wait_are_told_to_come_back() {
    let hang = || Script::Hangs(&[]);
    let worker = WorkerDouble::start("w-1", [hang(), hang(), hang()]);
    let queen = Queen::configured(|config| config.queen.max_queue_per_model = 1).await;
    let mut beat = worker.beat();
    beat.slots.total = 1;
    queen.worker_beat(&beat).await;
    let (path, body) = ("/v1/chat/completions", chat());
    let waiting = async {
        tokio::join!(queen.ask(path, &body), queen.ask(path, &body), queen.ask(path, &body))
    };
    let one_more = async {
        crate::support::until("one request waits", async || queen.status().await["waiting"] == 1)
            .await;
        queen.ask(path, &body).await
    };
    tokio::select! {
        _ = waiting => panic!("nobody answers these"),
        reply = one_more => {
            let error = reply.error(429, "queue_full");
            assert_eq!(error["message"], "as many requests wait for m already as may wait (1)");
            assert!(error["hint"].as_str().unwrap().contains("[queen] max_queue_per_model"), "{error}");
            assert_eq!(reply.header("retry-after"), "1");
        }
    }
}

#[tokio::test]
async fn a_report_without_the_secret_is_refused_although_nobody_has_made_a_token() {
    let queen = Queen::start().await;
    let worker = WorkerDouble::start("w-1", []);
    for path in ["/v1/worker-heartbeat", "/v1/hive-heartbeat"] {
        let report = json!(worker.beat());
        let error = queen.ask(path, &report).await.error(401, "invalid_api_key");
        let hint = error["hint"].as_str().unwrap();
        assert!(hint.contains("hive add") && !hint.contains("secrets/local.token"), "{hint}");
        let guess = queen.post(path).bearer_auth("rbee_guess").json(&report);
        Reply::read(guess).await.error(401, "invalid_api_key");
    }
    assert_eq!(queen.status().await["workers"], json!([]));
    queen.worker_beat(&worker.beat()).await;
    assert_eq!(queen.status().await["workers"][0]["worker_id"], "w-1");
}
