//! The worker as a server: bind, load, report, serve, drain.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use access_tokens::{Authenticator, Secret};
use anyhow::Context as _;
use daemon_http::Edge;
use llm_worker_rbee::engine::llama::{
    AttentionSettings, Model, Placement, Runtime, engine_folder, parts,
};
use llm_worker_rbee::heartbeat::{self, HeartbeatSettings};
use llm_worker_rbee::http::router;
use llm_worker_rbee::sandbox::{Needs, QueenAddress, Sandbox};
use llm_worker_rbee::worker::{Identity, LoadSettings, Worker};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use worker_contract::{DeviceKind, MemoryNeed, ModelAlias, WorkerId, WorkerState};

use crate::cli::{Draft, Serve};

/// How long running requests may take to end after SIGTERM.
const DRAIN: Duration = Duration::from_secs(30);

/// How long a worker that failed stays, so that its hive sees why.
const SHOW_FAILURE: Duration = Duration::from_secs(2);

/// The largest request.
const MAX_BODY_BYTES: u64 = 64 * 1024 * 1024;

pub(crate) fn run(args: Serve) -> anyhow::Result<()> {
    let token = args.token_file.as_deref().map(read_token).transpose()?;
    // Before there is a second thread: it binds those that are started afterwards.
    let sandbox = Sandbox::enter(args.sandbox, needs(&args));
    // It is written by a second thread. Held to the end, so that the last lines are.
    let _log = narration::init("llm-worker-rbee");
    sandbox.tell();
    // The engine's threads do the work; two are enough to talk.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(serve(args, token, sandbox))
}

async fn serve(args: Serve, token: Option<Secret>, sandbox: Sandbox) -> anyhow::Result<()> {
    let settings = load_settings(&args, sandbox)?;
    let signal = daemon_lifecycle::shutdown_token()?;
    let bind = SocketAddr::new(args.bind, args.port);
    daemon_http::require_safe_bind(bind, token.is_some())?;
    let (listener, address) = daemon_http::bind(bind)?;
    let identity = identity(&args, address)?;
    tracing::info!(%address, worker_id = %identity.worker_id, model = %identity.alias, "listening");

    let worker = Worker::new(identity, settings);
    let engine_ended = CancellationToken::new();
    let engine = worker.start_engine({
        let ended = engine_ended.clone();
        move || ended.cancel()
    })?;

    let tasks = TaskTracker::new();
    let stop = CancellationToken::new();
    let auth = token.clone().map_or_else(Authenticator::open, Authenticator::fixed);
    let edge = Edge { auth, max_body_bytes: MAX_BODY_BYTES };
    let routes = daemon_http::edge(router(Arc::clone(&worker)), edge);
    tasks.spawn(daemon_http::serve(listener, routes, stop.clone(), Duration::from_secs(1)));
    if let Some(queen) = args.queen {
        let interval = Duration::from_millis(args.heartbeat_interval_ms);
        let settings = HeartbeatSettings { queen, token, interval };
        tasks.spawn(heartbeat::run(Arc::clone(&worker), settings, stop.clone()));
    }

    tokio::select! {
        () = signal.cancelled() => {
            tracing::info!("draining");
            worker.drain();
            let idle = tokio::time::timeout(DRAIN, until_idle(&worker));
            if idle.await.is_err() {
                tracing::warn!("requests still run at the end of the drain time");
            }
        }
        () = engine_ended.cancelled() => {
            tokio::select! {
                () = tokio::time::sleep(SHOW_FAILURE) => {}
                () = signal.cancelled() => {}
            }
        }
    }
    worker.close();
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    if let WorkerState::Failed { reason } = worker.health().state {
        anyhow::bail!("{reason}");
    }
    if engine.is_finished() || tokio::task::spawn_blocking(move || engine.join()).await.is_ok() {
        tracing::info!("ended");
    }
    Ok(())
}

/// Waits until nothing runs and nothing waits.
async fn until_idle(worker: &Worker) {
    while !worker.is_idle() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn identity(args: &Serve, address: SocketAddr) -> anyhow::Result<Identity> {
    let alias = match &args.alias {
        Some(alias) => alias.clone(),
        None => alias_of(&args.model)?,
    };
    Ok(Identity {
        worker_id: args.worker_id.clone().unwrap_or_else(WorkerId::random),
        hive_id: args.hive_id.clone(),
        address: args.advertise.clone().unwrap_or_else(|| format!("http://{address}")),
        alias,
        digest: args.digest.clone(),
    })
}

fn alias_of(file: &Path) -> anyhow::Result<ModelAlias> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    stem.parse().with_context(|| {
        format!("the file name {stem:?} is no name for requests; give one with --alias")
    })
}

fn load_settings(args: &Serve, sandbox: Sandbox) -> anyhow::Result<LoadSettings> {
    let placement = Placement {
        devices: args.device.clone(),
        gpu_layers: args.n_gpu_layers,
        split_mode: args.split_mode,
        tensor_split: args.tensor_split.clone(),
    };
    placement.check()?;
    let attention = AttentionSettings {
        cache_type_k: args.cache_type_k,
        cache_type_v: args.cache_type_v,
        flash_attention: args.flash_attention,
    };
    attention.check()?;
    Ok(LoadSettings {
        file: args.model.clone(),
        placement,
        adapters: args.lora.clone(),
        attention,
        slots: args.slots,
        ctx_size: args.ctx_size,
        pooling: args.pooling,
        threads: args.threads,
        max_queue: args.max_queue,
        batch_invariant: args.batch_invariant,
        prompt_cache_mib: args.prompt_cache_mib,
        drafts: args.draft == Draft::Ngram,
        draft_model: args.draft_model.clone(),
        projector: args.mmproj.clone(),
        sandbox,
    })
}

/// What a worker with these arguments would take of each device.
pub(crate) fn memory_needs(args: &Serve) -> anyhow::Result<Vec<MemoryNeed>> {
    let settings = load_settings(args, Sandbox::enter(args.sandbox, needs(args)))?;
    let (runtime, context) = (Runtime::init()?, settings.context());
    let mut needs = Model::memory_needs(&runtime, &settings.model(), &context)?;
    let mut add = |device, weights_bytes, more: &MemoryNeed| {
        if let Some(need) = needs.iter_mut().find(|need| need.device == device) {
            need.weights_bytes += weights_bytes + more.weights_bytes;
            need.mapped_bytes += more.mapped_bytes;
            need.context_bytes += more.context_bytes;
            need.compute_bytes += more.compute_bytes;
        }
    };
    if let Some(small) = settings.draft_model() {
        for need in Model::memory_needs(&runtime, &small, &context)? {
            add(need.device, 0, &need);
        }
    }
    if let Some(projector) = &settings.projector {
        let size = std::fs::metadata(projector).map_or(0, |file| file.len());
        let device = settings.placement.main_device();
        let nothing = MemoryNeed {
            device,
            weights_bytes: 0,
            mapped_bytes: 0,
            context_bytes: 0,
            compute_bytes: 0,
        };
        add(device, size, &nothing);
    }
    Ok(needs)
}

/// What the process goes on needing once it has read its arguments.
fn needs(args: &Serve) -> Needs {
    let has_gpu = args.device.iter().any(|device| device.kind == DeviceKind::Gpu);
    Needs {
        files: files_to_read(args),
        // Where there is none, the engine says so when it starts. After `cargo install` the first
        // look copies the libraries, which is not possible later.
        engine: engine_folder().ok(),
        listen: args.port,
        queen: args.queen.as_deref().and_then(QueenAddress::of),
        device: if has_gpu { DeviceKind::Gpu } else { DeviceKind::Cpu },
    }
}

/// The model, what it is used with, and the other parts of those that are split.
fn files_to_read(args: &Serve) -> Vec<PathBuf> {
    let models = [Some(&args.model), args.draft_model.as_ref()].into_iter().flatten();
    let adapters = args.lora.iter().map(|adapter| adapter.file.clone());
    models.flat_map(|model| parts(model)).chain(adapters).chain(args.mmproj.clone()).collect()
}

fn read_token(file: &Path) -> anyhow::Result<Secret> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the token file {}", file.display()))?;
    let text = text.trim();
    anyhow::ensure!(!text.is_empty(), "the token file {} is empty", file.display());
    Ok(Secret::from(text.to_owned()))
}
