//! Reports to a queen, as many workers and hives.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::task::AbortOnDropHandle;
use worker_contract::{
    Device, DeviceId, DeviceKind, DeviceLoad, GgufSummary, HiveAlias, HiveHeartbeat, KvCacheUse,
    ModelEntry, ModelInUse, ModelKind, Slots, SupervisedState, SupervisedWorker, WorkerHeartbeat,
    WorkerState,
};

/// Sends reports, over a connection for each reporter, as real ones do.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    authority: String,
    authorization: HeaderValue,
}

impl Reporter {
    /// Reports to a queen, proved by her local secret.
    pub(crate) fn new(queen: &str, secret: &str) -> Result<Self> {
        let authority = queen.trim_end_matches('/').strip_prefix("http://");
        let authority = authority.context("the queen's URL begins with http://")?.to_owned();
        let authorization = HeaderValue::from_str(&format!("Bearer {secret}"))?;
        Ok(Self { authority, authorization })
    }

    /// Reports a worker again and again, first after `delay`.
    pub(crate) async fn report_worker(
        self,
        beat: WorkerHeartbeat,
        interval: Duration,
        delay: Duration,
    ) -> Result<()> {
        let body = serde_json::to_vec(&beat)?.into();
        self.report("/v1/worker-heartbeat", body, interval, delay).await
    }

    /// Reports a hive again and again, first after `delay`.
    pub(crate) async fn report_hive(
        self,
        beat: HiveHeartbeat,
        interval: Duration,
        delay: Duration,
    ) -> Result<()> {
        let body = serde_json::to_vec(&beat)?.into();
        self.report("/v1/hive-heartbeat", body, interval, delay).await
    }

    async fn report(
        self,
        path: &'static str,
        body: Bytes,
        interval: Duration,
        delay: Duration,
    ) -> Result<()> {
        let mut ticks = interval_at(Instant::now() + delay, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // A queen that is away comes back; only what she refuses is an error.
            if let Ok(mut line) = Line::open(&self.authority).await {
                while let Ok((status, text)) = line.post(path, &self, &body).await {
                    ensure!(status.is_success(), "the queen refused a report: {status} {text}");
                    ticks.tick().await;
                }
            }
        }
    }
}

/// A connection for reports.
struct Line {
    sender: http1::SendRequest<Full<Bytes>>,
    _driver: AbortOnDropHandle<hyper::Result<()>>,
}

impl Line {
    async fn open(authority: &str) -> Result<Self> {
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        #[expect(clippy::disallowed_methods, reason = "the handle aborts the task when dropped")]
        let driver = AbortOnDropHandle::new(tokio::spawn(driver));
        Ok(Self { sender, _driver: driver })
    }

    async fn post(
        &mut self,
        path: &str,
        reporter: &Reporter,
        body: &Bytes,
    ) -> Result<(StatusCode, String)> {
        self.sender.ready().await?;
        let request = Request::post(path)
            .header(HOST, &reporter.authority)
            .header(AUTHORIZATION, &reporter.authorization)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body.clone()))?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let text = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&text).into_owned()))
    }
}

/// A report of the worker with this number, of the hive with that one.
pub(crate) fn of_worker(
    number: usize,
    hive: usize,
    address: SocketAddr,
    model: &str,
    slots: u32,
) -> Result<WorkerHeartbeat> {
    Ok(WorkerHeartbeat {
        worker_id: format!("w-stand-in-{number}").parse()?,
        hive_id: hive_alias(hive)?,
        address: format!("http://{address}"),
        model: ModelInUse {
            name: model.parse()?,
            digest: None,
            context_length: 8192,
            kind: ModelKind::Generative,
        },
        device: cpu(),
        state: WorkerState::Ready,
        slots: Slots { total: slots, busy: 0 },
        queued: 0,
        kv_cache: KvCacheUse { used_tokens: 0, capacity_tokens: 8192 },
        tokens_per_second: 0.0,
        engine_build: "stand-in".to_owned(),
        pid: std::process::id(),
    })
}

/// A report of a hive with two devices, three models and these workers.
pub(crate) fn of_hive(hive: usize, workers: &[WorkerHeartbeat]) -> Result<HiveHeartbeat> {
    let port = u16::try_from(20_000 + hive)?;
    let device = |kind, backend: &str| Device {
        id: DeviceId { kind, index: 0 },
        backend: backend.to_owned(),
        name: "a stand-in".to_owned(),
        memory_total_bytes: 24 << 30,
        memory_free_bytes: 12 << 30,
        pci_address: None,
        load: DeviceLoad::default(),
        is_gone: false,
    };
    let workers = workers.iter().map(|worker| SupervisedWorker {
        worker_id: worker.worker_id.clone(),
        hive_id: worker.hive_id.clone(),
        model: worker.model.name.clone(),
        device: worker.device,
        address: worker.address.clone(),
        port: 9300,
        pid: worker.pid,
        started_at: 1,
        state: SupervisedState::Ready,
        restarts: None,
        memory_bytes: None,
    });
    Ok(HiveHeartbeat {
        hive_id: hive_alias(hive)?,
        address: Some(format!("http://127.0.0.1:{port}")),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        devices: vec![device(DeviceKind::Cpu, "CPU"), device(DeviceKind::Gpu, "CUDA")],
        catalog: (0..3).map(catalogued).collect::<Result<_>>()?,
        workers: workers.collect(),
        trouble: None,
    })
}

fn hive_alias(hive: usize) -> Result<HiveAlias> {
    Ok(format!("stand-in-{hive}").parse()?)
}

fn cpu() -> DeviceId {
    DeviceId { kind: DeviceKind::Cpu, index: 0 }
}

fn catalogued(number: usize) -> Result<ModelEntry> {
    let digest: std::result::Result<_, String> = "0".repeat(64).parse();
    Ok(ModelEntry {
        alias: format!("catalogued-{number}").parse()?,
        sha256: digest.map_err(anyhow::Error::msg)?,
        source: "hf:example/model:Q4_K_M".to_owned(),
        added_at: 1,
        shards: Vec::new(),
        projector: None,
        gguf: GgufSummary {
            architecture: "llama".to_owned(),
            name: None,
            license: None,
            quantization: "Q4_K_M".to_owned(),
            parameters: 8_000_000_000,
            context_length: 8192,
            embedding_length: None,
            kind: None,
            has_chat_template: true,
            size_bytes: 5 << 30,
        },
    })
}
