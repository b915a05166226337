//! What the queen adds to the first token and to each further one.
//!
//! A stand-in worker writes the time into each token. The same client reads answers straight from
//! it and through a real queen, taking turns; the difference of the medians is what the queen adds.

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use serde_json::{Value, json};
use test_cluster::{Api, Cluster};
use worker_contract::{
    DeviceId, DeviceKind, HiveAlias, KvCacheUse, ModelInUse, ModelKind, Slots, WorkerHeartbeat,
    WorkerId, WorkerState,
};

use crate::figures::{median, percentile, table};
use crate::stand_in::{StandIn, TOKENS, micros};

const MODEL: &str = "stand-in";

pub(crate) async fn measure(rounds: usize) -> Result<String> {
    let stand_in = StandIn::start().await?;
    let cluster = Cluster::builder().integrated().start().await?;
    let api = cluster.api()?;
    let secret = std::fs::read_to_string(cluster.home().path().join("data/secrets/local.token"))?;
    let reports = Api::new(api.base(), Some(secret.trim()))?;
    let client = reqwest::Client::builder().tcp_nodelay(true).build()?;
    let direct_body = json!({"task": {"type": "completion", "prompt": "x"}});
    let queen_body = json!({"model": MODEL, "prompt": "x", "stream": true, "max_tokens": TOKENS});
    let direct_url = format!("{}/v1/inference", stand_in.url);
    let queen_url = format!("{}/v1/completions", api.base());
    let mut rows = Vec::new();
    for streams in [1_usize, 16, 64] {
        let (mut direct, mut queen) = (Samples::default(), Samples::default());
        for round in 0..=rounds {
            let beat = serde_json::to_value(heartbeat(&stand_in.url)?)?;
            reports.post("/v1/worker-heartbeat", &beat).await?.expect_status(204)?;
            let one = run(&client, &direct_url, &direct_body, streams).await?;
            let two = run(&client, &queen_url, &queen_body, streams).await?;
            // The first round opens connections.
            if round > 0 {
                direct.add(one);
                queen.add(two);
            }
        }
        let added = |part| {
            let of = |samples: &Samples| percentile(&samples.tokens, part);
            format!("{:.3}", (of(&queen) - of(&direct)) / 1000.0)
        };
        rows.push(vec![
            streams.to_string(),
            format!("{:.3}", (median(&queen.first) - median(&direct.first)) / 1000.0),
            added(0.5),
            added(0.99),
            format!("{:.3}", median(&direct.tokens) / 1000.0),
        ]);
    }
    let head = [
        "streams",
        "first token, ms",
        "each token, median ms",
        "each token, p99 ms",
        "(direct, median ms)",
    ];
    Ok(table("What the queen adds (aim: below 0.2 ms at the median)", &head, rows))
}

/// Times in microseconds.
#[derive(Default)]
struct Samples {
    /// From the request to the first token.
    first: Vec<f64>,
    /// From the worker's writing of a token to its reading.
    tokens: Vec<f64>,
}

impl Samples {
    fn add(&mut self, more: Self) {
        self.first.extend(more.first);
        self.tokens.extend(more.tokens);
    }
}

async fn run(client: &reqwest::Client, url: &str, body: &Value, streams: usize) -> Result<Samples> {
    let answers = (0..streams).map(|_| read_answer(client, url, body));
    let mut samples = Samples::default();
    for answer in futures::future::try_join_all(answers).await? {
        samples.add(answer);
    }
    Ok(samples)
}

/// Reads one answer. Each token's text is the time at which it was written.
async fn read_answer(client: &reqwest::Client, url: &str, body: &Value) -> Result<Samples> {
    let begin = micros();
    let answer = client.post(url).json(body).send().await?;
    ensure!(answer.status().is_success(), "{}: {}", url, answer.text().await?);
    let mut bytes = answer.bytes_stream();
    let mut samples = Samples::default();
    let mut text = String::new();
    while let Some(piece) = bytes.next().await {
        let now = micros();
        text.push_str(std::str::from_utf8(&piece?).context("whole events")?);
        while let Some(end) = text.find("\n\n") {
            let event: String = text.drain(..end + 2).collect();
            let Some(written) = written_at(&event) else { continue };
            samples.tokens.push(now.saturating_sub(written) as f64);
            if samples.first.is_empty() {
                samples.first.push(now.saturating_sub(begin) as f64);
            }
        }
    }
    ensure!(samples.tokens.len() as u64 == TOKENS, "{} tokens came", samples.tokens.len());
    Ok(samples)
}

fn written_at(event: &str) -> Option<u64> {
    let event: Value = serde_json::from_str(event.trim().strip_prefix("data: ")?).ok()?;
    let text = event["text"].as_str().or_else(|| event["choices"][0]["text"].as_str())?;
    text.trim().parse().ok()
}

fn heartbeat(address: &str) -> Result<WorkerHeartbeat> {
    Ok(WorkerHeartbeat {
        worker_id: "w-stand-in".parse::<WorkerId>()?,
        hive_id: HiveAlias::localhost(),
        address: address.to_owned(),
        model: ModelInUse {
            name: MODEL.parse()?,
            digest: None,
            context_length: 8192,
            kind: ModelKind::Generative,
        },
        device: DeviceId { kind: DeviceKind::Cpu, index: 0 },
        state: WorkerState::Ready,
        slots: Slots { total: 256, busy: 0 },
        queued: 0,
        kv_cache: KvCacheUse { used_tokens: 0, capacity_tokens: 8192 },
        tokens_per_second: 0.0,
        engine_build: "stand-in".to_owned(),
        pid: std::process::id(),
    })
}
