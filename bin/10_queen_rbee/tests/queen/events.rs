//! The stream of everything that changes.

use access_tokens::{Secret, TokenStore};
use reqwest::{RequestBuilder, Response};
use serde_json::Value;
use worker_contract::{Device, DeviceLoad, HiveHeartbeat, WorkerState};

use crate::support::{HiveDouble, Queen, Reply, Script, WorkerDouble, chat, until};

const CHAT: &str = "/v1/chat/completions";
const MIB: usize = 1 << 20;
/// How many may read at once.
const READERS: usize = 1024;

#[tokio::test]
async fn a_snapshot_comes_first_and_then_what_changes_and_nothing_else() {
    let queen = Queen::start().await;
    let (worker, hive) = (WorkerDouble::start("w-1", []), HiveDouble::start(false));
    queen.worker_beat(&worker.beat()).await;
    queen.hive_beat(&hive.beat()).await;
    let mut events = Events::open(&queen, None).await;
    let (name, all) = events.next().await;
    assert_eq!(name, "snapshot");
    assert_eq!(all["workers"][0]["worker_id"], "w-1", "{all}");
    assert_eq!(all["workers"][0]["slots"], 4);
    assert_eq!(
        (&all["hives"][0]["models"][0], &all["hives"][0]["has_reported"]),
        (&"m".into(), &true.into())
    );
    assert_eq!((&all["models"][0]["id"], &all["jobs"]), (&"m".into(), &Value::Array(vec![])));

    queen.worker_beat(&worker.beat()).await;
    queen.hive_beat(&hive.beat()).await;
    let draining =
        worker_contract::WorkerHeartbeat { state: WorkerState::Draining, ..worker.beat() };
    queen.worker_beat(&draining).await;
    let (name, changed) = events.next().await;
    assert_eq!((name.as_str(), &changed["state"]), ("worker", &"draining".into()), "{changed}");

    let mut troubled = hive.beat();
    troubled.trouble = Some("its worker is missing".into());
    queen.hive_beat(&troubled).await;
    let changed = events.until("hive").await;
    assert_eq!(changed["trouble"], "its worker is missing", "{changed}");

    queen.ask(CHAT, &serde_json::json!({"model": "x", "messages": []})).await;
    queen
        .ask(
            CHAT,
            &serde_json::json!({"model": "x", "messages": [{"role": "user", "content": "a"}]}),
        )
        .await;
    let refused = events.until("decision").await;
    assert_eq!((&refused["kind"], &refused["model"]), (&"reject".into(), &"x".into()));

    let job = serde_json::json!({"operation": {"HiveList": {}}});
    assert_eq!(queen.ask("/v1/jobs", &job).await.status, 202);
    let told = events.until("job").await;
    assert_eq!(told["operation"], "hive_list", "{told}");
}

#[tokio::test]
async fn a_hive_that_was_added_and_is_silent_is_shown_as_in_the_status() {
    let queen = Queen::start().await;
    let mut events = Events::open(&queen, None).await;
    events.next().await;
    let url = "http://127.0.0.1:1";
    let add = serde_json::json!({"operation": {"HiveAdd": {
        "hive_id": "gpu-1", "url": url, "secret": "the-secret-of-gpu-1-and-of-nobody-else",
    }}});
    assert_eq!(queen.ask("/v1/jobs", &add).await.status, 202);
    let told = events.until("hive").await;
    assert_eq!((&told["hive_id"], &told["has_reported"]), (&"gpu-1".into(), &false.into()));
    let in_status = queen.status().await["hives"][0].clone();
    for field in ["hive_id", "liveness", "address"] {
        assert_eq!(told[field], in_status[field], "{field}: {told}");
    }
    let (name, all) = Events::open(&queen, None).await.next().await;
    assert_eq!((name.as_str(), &all["hives"][0]), ("snapshot", &told));
}

#[tokio::test]
async fn of_a_job_everybody_learns_that_it_runs_and_not_what_it_is_about() {
    let queen = Queen::start().await;
    let mut events = Events::open(&queen, None).await;
    events.next().await;
    let job = serde_json::json!({"operation": {"WorkerDetach": {"name": "hush"}}});
    assert_eq!(queen.ask("/v1/jobs", &job).await.status, 202);
    let failed = loop {
        let told = events.until("job").await;
        if told["state"] == "failed" {
            break told;
        }
    };
    let fields: Vec<_> = failed.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["job_id", "operation", "state", "created_at", "ended_at"]);
    let (name, all) = Events::open(&queen, None).await.next().await;
    assert_eq!((name.as_str(), &all["jobs"][0]), ("snapshot", &failed));
    let own = Reply::read(queen.get("/v1/jobs")).await.text;
    assert!(own.contains("hush"), "its caller may know: {own}");
}

#[tokio::test]
async fn a_reader_goes_on_after_the_last_event_it_has_and_a_stranger_begins_anew() {
    let queen = Queen::start().await;
    let (first, second) = (WorkerDouble::start("w-1", []), WorkerDouble::start("w-2", []));
    queen.worker_beat(&first.beat()).await;
    let mut events = Events::open(&queen, None).await;
    assert_eq!(events.next().await.0, "snapshot");
    let last = events.last_id.clone();
    drop(events);
    queen.worker_beat(&second.beat()).await;
    let mut events = Events::open(&queen, Some(&last)).await;
    let (name, new) = events.next().await;
    assert_eq!((name.as_str(), &new["worker_id"]), ("worker", &"w-2".into()));
    for stranger in ["00000000-1", "nonsense", "999"] {
        let mut events = Events::open(&queen, Some(stranger)).await;
        let (name, all) = events.next().await;
        assert_eq!((name.as_str(), all["workers"].as_array().unwrap().len()), ("snapshot", 2));
    }
}

#[tokio::test]
async fn events_decisions_metrics_and_trials_of_rules_are_for_holders_of_a_token() {
    let queen = Queen::start().await;
    let hive = Secret::from("the-secret-of-gpu-1-and-of-nobody-else".to_owned());
    let add = serde_json::json!({"operation": {"HiveAdd": {
        "hive_id": "gpu-1", "url": "http://gpu-1:9000", "secret": hive.expose(),
    }}});
    queen.ask("/v1/jobs", &add).await;
    until("the hive is known", async || {
        Reply::read(queen.get("/v1/decisions").bearer_auth(hive.expose())).await.status == 403
    })
    .await;
    let token = TokenStore::open(&queen.secrets()).create("test").unwrap().secret;
    for path in ["/v1/events", "/v1/decisions", "/metrics"] {
        Reply::read(queen.get(path)).await.error(401, "invalid_api_key");
        let refused = Reply::read(queen.get(path).bearer_auth(hive.expose())).await;
        refused.error(403, "hive_secret");
        let answer = queen.get(path).bearer_auth(token.expose()).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
    }
    let body = serde_json::json!({"script": "fn filter(request, worker) { true }"});
    queen.ask("/v1/policy/test", &body).await.error(401, "invalid_api_key");
}

#[tokio::test]
async fn a_stream_ends_when_its_token_is_revoked_or_one_is_needed_that_it_has_not() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    let without = Events::open(&queen, None).await;
    let tokens = TokenStore::open(&queen.secrets());
    let [revoked, kept] = ["revoked", "kept"].map(|name| tokens.create(name).unwrap().secret);
    let with = async |token: &Secret| {
        Events::of(queen.get("/v1/events").bearer_auth(token.expose())).await
    };
    let (first, mut second) = (with(&revoked).await, with(&kept).await);
    tokens.revoke("revoked").unwrap();
    let changes = async {
        for number in 0_u32.. {
            let version = number.to_string();
            queen.hive_beat(&HiveHeartbeat { version: version.clone(), ..hive.beat() }).await;
            while second.until("hive").await["version"] != version.as_str() {}
        }
    };
    tokio::select! {
        (one, other) = async { tokio::join!(without.end(), first.end()) } => {
            assert_eq!((&one["reason"], &other["reason"]), (&"revoked".into(), &"revoked".into()));
        }
        () = changes => unreachable!("there is always another change"),
    }
    Events::of(queen.get("/v1/events").bearer_auth(kept.expose())).await;
}

#[tokio::test]
async fn who_does_not_read_is_cut_off_and_told_so_while_others_get_everything() {
    let (queen, hive) = (Queen::start().await, HiveDouble::start(false));
    let slow = Events::open(&queen, None).await;
    let mut other = Events::open(&queen, None).await;
    for number in 0..25 {
        let version = number.to_string();
        let devices = vec![large_device()];
        queen.hive_beat(&HiveHeartbeat { version: version.clone(), devices, ..hive.beat() }).await;
        while other.until("hive").await["version"] != version.as_str() {}
    }
    let end = slow.end().await;
    assert_eq!(end["reason"], "too_slow", "{end}");
    assert!(end["missed"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn as_many_read_as_may_and_the_next_one_is_told_so_until_somebody_leaves() {
    // Each reader is two files of this process.
    daemon_lifecycle::raise_file_limit();
    let queen = Queen::start().await;
    let mut readers = Vec::new();
    for _ in 0..READERS {
        readers.push(Events::open(&queen, None).await);
    }
    let refused = Reply::read(queen.get("/v1/events")).await;
    let error = refused.error(429, "too_many_readers");
    assert_eq!(error["message"], "1024 read the events already, as many as may", "{error}");
    assert_eq!(refused.header("retry-after"), "10");
    assert_eq!(queen.status().await["waiting"], 0, "all else goes on");
    readers.pop();
    until("there is room for another one", async || {
        queen.get("/v1/events").send().await.unwrap().status() == 200
    })
    .await;
    for reader in &mut readers {
        assert_eq!(reader.next().await.0, "snapshot");
    }
}

#[tokio::test]
async fn what_a_worker_does_is_told_too() {
    let worker = WorkerDouble::start("w-1", [Script::Hangs(&["Hello"])]);
    let queen = Queen::start().await;
    queen.worker_beat(&worker.beat()).await;
    let mut events = Events::open(&queen, None).await;
    events.next().await;
    let mut stream = queen.stream(CHAT, &chat()).await.begun().await;
    stream.until_text().await;
    assert_eq!(events.until("worker").await["in_flight"], 1);
    drop(stream);
    assert_eq!(events.until("worker").await["in_flight"], 0);
}

#[tokio::test]
async fn a_queen_that_stops_ends_the_stream_and_does_not_wait_for_its_reader() {
    let mut queen = Queen::start().await;
    let events = Events::open(&queen, None).await;
    assert_eq!(Reply::read(queen.post("/v1/shutdown")).await.status, 202);
    assert_eq!(events.end().await["reason"], "stopping");
    queen.ended().await;
}

fn large_device() -> Device {
    Device {
        id: "CPU-0".parse().unwrap(),
        backend: "CPU".into(),
        name: "x".repeat(MIB),
        memory_total_bytes: 1,
        memory_free_bytes: 1,
        pci_address: None,
        load: DeviceLoad::default(),
        is_gone: false,
    }
}

struct Events {
    response: Response,
    buffer: Vec<u8>,
    last_id: String,
}

impl Events {
    async fn open(queen: &Queen, last_id: Option<&str>) -> Self {
        let mut request = queen.get("/v1/events");
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        Self::of(request).await
    }

    async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        Self { response, buffer: Vec::new(), last_id: String::new() }
    }

    /// The next event; `None` at the end.
    async fn try_next(&mut self) -> Option<(String, Value)> {
        loop {
            let end = self.buffer.windows(2).position(|two| two == b"\n\n");
            if let Some(end) = end {
                let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let event = String::from_utf8(event).unwrap();
                let field = |name| event.lines().find_map(|line| line.strip_prefix(name));
                if let Some(id) = field("id: ") {
                    id.clone_into(&mut self.last_id);
                }
                match (field("event: "), field("data: ")) {
                    (Some(name), Some(data)) => {
                        return Some((name.to_owned(), serde_json::from_str(data).unwrap()));
                    }
                    _ => continue,
                }
            }
            self.buffer.extend_from_slice(&self.response.chunk().await.unwrap()?);
        }
    }

    async fn next(&mut self) -> (String, Value) {
        self.try_next().await.expect("the stream has ended")
    }

    async fn until(&mut self, wanted: &str) -> Value {
        loop {
            let (name, data) = self.next().await;
            if name == wanted {
                return data;
            }
        }
    }

    /// Reads to the end; gives the event that says why.
    async fn end(mut self) -> Value {
        let mut last = None;
        while let Some(event) = self.try_next().await {
            last = Some(event);
        }
        let (name, why) = last.expect("an event");
        assert_eq!(name, "end");
        why
    }
}
