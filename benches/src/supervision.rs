//! A hive's supervision: how soon an end is noticed and made good, what a start takes beyond the worker
//! alone, and what a hive takes that has nothing to do.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rbee_operations::{Operation, WorkerSpawn, WorkerTarget};
use serde_json::Value;
use test_cluster::{Api, Cluster, DEMO_ALIAS, Signal, demo_model, send_signal};
use worker_contract::{HiveAlias, SupervisedState, SupervisedWorker};

use crate::figures::{median, percentile, table};
use crate::worker::Worker;

/// How long a hive is watched that has nothing to do.
const REST: Duration = Duration::from_secs(20);
/// How often it is asked for its capabilities.
const CALLS: usize = 500;
/// The longest that anything may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// The clock ticks of a second, as the kernel counts the time of processes.
const TICKS_PER_SECOND: f64 = 100.0;

pub(crate) async fn measure(rounds: usize) -> Result<String> {
    let mut cluster = Cluster::builder().distributed().start().await?;
    cluster.wait_for_hive().await?;
    let (process, hive) = (cluster.hive()?.pid.to_string(), cluster.hive()?.api()?);
    let at_rest = at_rest(&process).await?;
    cluster.import_demo_model().await?;
    let capabilities = capabilities(&hive).await?;
    let starts = starts(&cluster, rounds).await?;
    let ends = ends(&cluster, &hive, rounds).await?;
    let row = |what: &str, figure: String, aim: &str| vec![what.to_owned(), figure, aim.to_owned()];
    let ms = |values: &[f64]| format!("{:.0} ms", median(values));
    let rows = vec![
        row("an end is noticed after", ms(&ends.noticed), "100 ms"),
        row("the next process runs after", ms(&ends.replaced), "1,000 ms"),
        row("spawn to ready", ms(&starts.by_hive), ""),
        row("the worker alone", ms(&starts.alone), ""),
        row("the difference", ms(&starts.differences), "150 ms"),
        row("/v1/capabilities, median", format!("{:.2} ms", median(&capabilities)), "2 ms"),
        row("/v1/capabilities, p99", format!("{:.2} ms", percentile(&capabilities, 0.99)), ""),
        row("memory at rest", format!("{:.1} MB", at_rest.resident_mb), "30 MB"),
        row("processor at rest", format!("{:.3} %", at_rest.busy_percent), "0.1 % of a core"),
    ];
    Ok(table("Supervision by a hive", &["", "median", "aim"], rows))
}

struct AtRest {
    resident_mb: f64,
    busy_percent: f64,
}

async fn at_rest(process: &str) -> Result<AtRest> {
    let before = ticks(process)?;
    tokio::time::sleep(REST).await;
    let busy_seconds = (ticks(process)? - before) / TICKS_PER_SECOND;
    let status = std::fs::read_to_string(Path::new("/proc").join(process).join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line.context("no VmRSS")?.trim().trim_end_matches("kB").trim().parse()?;
    let busy_percent = 100.0 * busy_seconds / REST.as_secs_f64();
    Ok(AtRest { resident_mb: kib * 1024.0 / 1e6, busy_percent })
}

/// The time that a process has used, in the kernel's ticks.
fn ticks(process: &str) -> Result<f64> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(process).join("stat"))?;
    let fields = stat.rsplit_once(')').context("no name")?.1;
    // The fields 14 and 15, of which the name is the second.
    let used: Vec<f64> =
        fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(used.iter().sum())
}

async fn capabilities(hive: &Api) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let begin = Instant::now();
        hive.get("/v1/capabilities").await?.expect_status(200)?;
        times.push(milliseconds(begin));
    }
    Ok(times)
}

#[derive(Default)]
struct Starts {
    by_hive: Vec<f64>,
    alone: Vec<f64>,
    differences: Vec<f64>,
}

/// Both with the same context and slots, in turns. What a model needs of memory is reckoned at its first
/// start, which does not count.
async fn starts(cluster: &Cluster, rounds: usize) -> Result<Starts> {
    let model = demo_model()?;
    let mut starts = Starts::default();
    for round in 0..=rounds {
        let begin = Instant::now();
        let worker = spawn(cluster).await?;
        let by_hive = milliseconds(begin);
        delete(cluster, &worker).await?;
        let (model, args) = (model.clone(), ["--ctx-size", "8192", "--slots", "4"]);
        let alone = tokio::task::spawn_blocking(move || Worker::start(&model, &args)).await??;
        let alone = alone.ready_after.as_secs_f64() * 1000.0;
        if round > 0 {
            starts.by_hive.push(by_hive);
            starts.alone.push(alone);
            starts.differences.push(by_hive - alone);
        }
    }
    Ok(starts)
}

#[derive(Default)]
struct Ends {
    noticed: Vec<f64>,
    replaced: Vec<f64>,
}

/// Kills a worker for the first time in its life, again and again.
async fn ends(cluster: &Cluster, hive: &Api, rounds: usize) -> Result<Ends> {
    let mut ends = Ends::default();
    for _ in 0..rounds {
        let worker = spawn(cluster).await?;
        let begin = Instant::now();
        send_signal(worker.pid, Signal::KILL);
        until(hive, |now| now.state != SupervisedState::Ready).await?;
        ends.noticed.push(milliseconds(begin));
        until(hive, |now| now.pid != worker.pid).await?;
        ends.replaced.push(milliseconds(begin));
        delete(cluster, &worker).await?;
    }
    Ok(ends)
}

/// Asks the hive without a pause until its only worker is as wished.
async fn until(hive: &Api, wanted: impl Fn(&SupervisedWorker) -> bool) -> Result<()> {
    let begin = Instant::now();
    loop {
        let answer: Value = hive.get("/v1/capabilities").await?.json()?;
        let worker: SupervisedWorker = serde_json::from_value(answer["workers"][0].clone())?;
        if wanted(&worker) {
            return Ok(());
        }
        ensure!(begin.elapsed() < DEADLINE, "the worker stays as it is: {worker:?}");
    }
}

async fn spawn(cluster: &Cluster) -> Result<SupervisedWorker> {
    let spawn = WorkerSpawn {
        hive_id: HiveAlias::localhost(),
        model: DEMO_ALIAS.parse()?,
        device: Some("CPU-0".parse()?),
        slots: Some(4),
        ctx_size: Some(8192),
    };
    cluster.api()?.run_job(&Operation::WorkerSpawn(spawn)).await?.result()
}

async fn delete(cluster: &Cluster, worker: &SupervisedWorker) -> Result<()> {
    let (hive_id, worker_id) = (HiveAlias::localhost(), worker.worker_id.clone());
    let operation = Operation::WorkerDelete(WorkerTarget { hive_id, worker_id });
    cluster.api()?.run_job(&operation).await?.result::<Value>()?;
    Ok(())
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}
