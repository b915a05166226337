//! What one decision takes: 100 hives, 1,000 workers, 1,000 requests in flight.
//!
//! `./bench.sh decision`. A decision is all that happens under the registry's lock: the look at what
//! is known, the schedule, and the place that is taken and given back.
#![expect(clippy::print_stdout, reason = "printing figures is what this is for")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use mimalloc::MiMalloc;
use queen_rbee::prompt::PromptChain;
use queen_rbee::registry::{Ask, Place, Placed, Registry};
use queen_rbee::scheduler::{Decision, Demand};
use worker_contract::{
    Device, DeviceId, DeviceKind, DeviceLoad, GgufSummary, HiveHeartbeat, InferenceRequest,
    KvCacheUse, ModelAlias, ModelEntry, ModelInUse, ModelKind, Prompt, Sha256Digest, Slots, Task,
    WorkerHeartbeat, WorkerState,
};

/// As in the queen.
#[global_allocator]
static MEMORY: MiMalloc = MiMalloc;

const HIVES: usize = 100;
const WORKERS: usize = 1000;
const IN_FLIGHT: usize = 1000;
const SLOTS: u32 = 4;
/// The most that a decision may take at the median, in microseconds.
const AIM: f64 = 50.0;
/// How long each case is measured.
const TIME: Duration = Duration::from_secs(2);

fn main() -> Result<()> {
    println!("One decision: {HIVES} hives, {WORKERS} workers, {IN_FLIGHT} requests in flight\n");
    println!("| workers a model | prompt, KiB | median µs | p99 µs |");
    println!("|-----------------|-------------|-----------|--------|");
    let mut worst: f64 = 0.0;
    for models in [100, 10, 1] {
        for prompt_kib in [1, 64] {
            let times = measure(models, prompt_kib)?;
            let at = |part: usize| times[(times.len() - 1) * part / 100];
            worst = worst.max(at(50));
            let each = WORKERS / models;
            println!("| {each:15} | {prompt_kib:11} | {:9.1} | {:6.1} |", at(50), at(99));
        }
    }
    let verdict = if worst <= AIM { "reached" } else { "missed" };
    println!("\nAim: {AIM} µs at the median: {verdict}");

    println!("\nA model that no worker runs and every catalog has: where one is started\n");
    let now = Instant::now();
    let there_is_room = registry(100, now)?;
    println!("with room everywhere: median {:.1} µs", unused(&there_is_room, false, now)?);
    let (full, _in_flight) = full(now)?;
    println!("where it must wait for memory: median {:.1} µs", unused(&full, true, now)?);
    Ok(())
}

/// Microseconds of a decision on a model that no worker runs, at the median.
fn unused(registry: &Registry, must_wait: bool, now: Instant) -> Result<f64> {
    let (model, prompt) = (alias("unused")?, PromptChain::default());
    let (mut times, started) = (Vec::new(), Instant::now());
    while started.elapsed() < TIME {
        let begin = Instant::now();
        let ask = Ask::of(Demand::of(&model), &prompt);
        let placed = black_box(registry.place(&ask, now));
        times.push(begin.elapsed().as_secs_f64() * 1e6);
        // A hive is asked first whether it is true that it is full.
        let is_full = match &placed {
            Placed::Not(Decision::Spawn(spawn)) => spawn.asks,
            Placed::Not(Decision::Wait(_)) => true,
            _ => bail!("{placed:?}"),
        };
        ensure!(is_full == must_wait, "{placed:?}");
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Hives without free memory, whose workers all have requests.
fn full(now: Instant) -> Result<(Registry, Vec<Place>)> {
    let registry = registry(HIVES, now)?;
    for hive in 0..HIVES {
        let mut beat = hive_beat(hive)?;
        beat.catalog.push(entry(&format!("m-{hive}"))?);
        for device in &mut beat.devices {
            device.memory_free_bytes = 0;
        }
        registry.hive_beat(beat, now)?;
    }
    let mut in_flight = Vec::new();
    // Of each model there are as many workers as of any other, and the idle one is taken.
    for number in 0..WORKERS {
        let model = alias(&format!("m-{}", number % HIVES))?;
        in_flight.push(place(&registry, &model, &PromptChain::default(), now)?);
    }
    Ok((registry, in_flight))
}

/// Microseconds of each decision, the shortest first.
fn measure(models: usize, prompt_kib: usize) -> Result<Vec<f64>> {
    let now = Instant::now();
    let registry = registry(models, now)?;
    let names =
        (0..models).map(|model| alias(&format!("m-{model}"))).collect::<Result<Vec<_>>>()?;
    // A quarter of the requests begin as others do.
    let prompts: Vec<_> = (0..IN_FLIGHT).map(|n| prompt(n / 4, prompt_kib)).collect();
    let mut in_flight = Vec::new();
    for number in 0..IN_FLIGHT {
        in_flight.push(place(&registry, &names[number % models], &prompts[number], now)?);
    }
    let mut times = Vec::new();
    for number in (0..IN_FLIGHT).cycle() {
        let begin = Instant::now();
        let place = place(&registry, &names[number % models], &prompts[number], now)?;
        drop(black_box(place));
        times.push(begin.elapsed().as_secs_f64() * 1e6);
        if now.elapsed() > TIME {
            break;
        }
    }
    times.sort_by(f64::total_cmp);
    drop(in_flight);
    Ok(times)
}

fn place(
    registry: &Registry,
    model: &ModelAlias,
    prompt: &PromptChain,
    now: Instant,
) -> Result<Place> {
    match registry.place(&Ask::of(Demand::of(model), prompt), now) {
        Placed::At(place) => Ok(place),
        Placed::Not(decision) => bail!("{decision:?}"),
    }
}

/// Hives with so many models among them, all running.
fn registry(models: usize, now: Instant) -> Result<Registry> {
    let registry = Registry::new(Duration::from_secs(2), Vec::new(), now);
    for hive in 0..HIVES {
        registry.hive_beat(hive_beat(hive)?, now)?;
    }
    for model in 0..models {
        registry.catalogued(&"hive-0".parse()?, entry(&format!("m-{model}"))?);
    }
    for worker in 0..WORKERS {
        registry.worker_beat(worker_beat(worker, worker % models)?, now)?;
    }
    Ok(registry)
}

fn prompt(number: usize, kib: usize) -> PromptChain {
    let text = format!("{number} and so on, ").repeat(1 + kib * 1024 / 16);
    let task = Task::Completion { prompt: Prompt::Text(text) };
    let id = "bench".parse().unwrap_or_else(|_| worker_contract::RequestId::random());
    PromptChain::of(&InferenceRequest::new(id, task))
}

fn alias(name: &str) -> Result<ModelAlias> {
    Ok(name.parse()?)
}

fn hive_beat(hive: usize) -> Result<HiveHeartbeat> {
    let device = |kind, backend: &str| Device {
        id: DeviceId { kind, index: 0 },
        backend: backend.to_owned(),
        name: "a device".to_owned(),
        memory_total_bytes: 64 << 30,
        memory_free_bytes: 32 << 30,
        pci_address: None,
        load: DeviceLoad::default(),
        is_gone: false,
    };
    Ok(HiveHeartbeat {
        hive_id: format!("hive-{hive}").parse()?,
        address: Some(format!("http://127.0.0.1:{}", 20_000 + hive)),
        version: "1".to_owned(),
        devices: vec![device(DeviceKind::Cpu, "CPU"), device(DeviceKind::Gpu, "CUDA")],
        catalog: vec![entry("unused")?],
        workers: Vec::new(),
        trouble: None,
    })
}

fn worker_beat(worker: usize, model: usize) -> Result<WorkerHeartbeat> {
    Ok(WorkerHeartbeat {
        worker_id: format!("w-{worker}").parse()?,
        hive_id: format!("hive-{}", worker % HIVES).parse()?,
        address: format!("http://127.0.0.1:{}", 30_000 + worker),
        model: ModelInUse {
            name: alias(&format!("m-{model}"))?,
            digest: Some(digest(&format!("m-{model}"))?),
            context_length: 8192,
            kind: ModelKind::Generative,
        },
        device: DeviceId { kind: DeviceKind::Gpu, index: 0 },
        state: WorkerState::Ready,
        slots: Slots { total: SLOTS, busy: 0 },
        queued: 0,
        kv_cache: KvCacheUse { used_tokens: 0, capacity_tokens: 32_768 },
        tokens_per_second: 0.0,
        engine_build: "bench".to_owned(),
        pid: 1,
    })
}

/// Each name is another file.
fn digest(name: &str) -> Result<Sha256Digest> {
    let number: u32 = name.strip_prefix("m-").map_or(Ok(u32::MAX), str::parse)?;
    format!("{number:064x}").parse().map_err(anyhow::Error::msg)
}

fn entry(name: &str) -> Result<ModelEntry> {
    Ok(ModelEntry {
        alias: alias(name)?,
        sha256: digest(name)?,
        source: "file:/model.gguf".to_owned(),
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
