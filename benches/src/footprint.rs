//! Memory and start of a worker against a process that does nothing but llama.cpp's own loop.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::bare_loop::Bare;
use crate::figures::{median, table};
use crate::worker::{Worker, peak_memory};

const STREAMS: u32 = 4;
const TOKENS: usize = 64;
const KV_TOKENS: u32 = 8192;
const PROMPT: &str = "The lighthouse keeper looked at the sea and";

pub(crate) fn measure(runtime: &Runtime, rounds: usize) -> Result<String> {
    let model = test_cluster::demo_model()?;
    let (slots, kv_tokens) = (STREAMS.to_string(), KV_TOKENS.to_string());
    let body = json!({
        "task": {"type": "completion", "prompt": PROMPT},
        "sampling": {"temperature": 0, "max_tokens": TOKENS, "ignore_eos": true},
    });
    let bodies = vec![body; STREAMS as usize];
    let (mut memory, mut bare_memory, mut memory_ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut start, mut bare_start, mut start_ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let worker = Worker::start(&model, &["--ctx-size", &kv_tokens, "--slots", &slots])?;
        runtime.block_on(worker.ask_all(&bodies))?;
        let (ready, peak) = (worker.ready_after.as_secs_f64(), worker.peak_memory()?);
        drop(worker);
        let (bare_ready, bare_peak) = bare_process()?;
        if round > 0 {
            memory.push(peak / f64::from(1 << 20));
            bare_memory.push(bare_peak / f64::from(1 << 20));
            memory_ratios.push(peak / bare_peak);
            start.push(ready * 1000.0);
            bare_start.push(bare_ready * 1000.0);
            start_ratios.push(ready / bare_ready);
        }
    }
    let row = |what: &str, unit: &str, one: &[f64], other: &[f64], ratios: &[f64]| {
        let figure = |values: &[f64]| format!("{:.0} {unit}", median(values));
        let ratio = format!("{:.3}", median(ratios));
        vec![what.to_owned(), figure(one), figure(other), ratio]
    };
    let rows = vec![
        row("most memory (aim: 1.05)", "MiB", &memory, &bare_memory, &memory_ratios),
        row("start to ready (aim: 1.1)", "ms", &start, &bare_start, &start_ratios),
    ];
    let head = ["", "worker", "llama.cpp's loop", "ratio (median)"];
    Ok(table("A worker of 4 slots against llama.cpp's own loop of 4 streams", &head, rows))
}

/// Runs the other side in a process of its own: the seconds until it was loaded, and its memory.
fn bare_process() -> Result<(f64, f64)> {
    let output = Command::new(std::env::current_exe()?).arg("--bare-process").output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout)?;
    let figure = |name: &str| told[name].as_f64().with_context(|| format!("no {name}"));
    Ok((figure("ready_seconds")?, figure("peak_bytes")?))
}

/// The other side: loads, runs the same requests, tells its figures.
pub(crate) fn run_bare(begin: Instant) -> Result<String> {
    let model = test_cluster::demo_model()?;
    let bare = Bare::load(&model, &llm_worker_rbee::engine::llama::engine_folder()?);
    let threads = i32::try_from(llm_worker_rbee::engine::llama::default_threads())?;
    let mut context = bare.context(STREAMS, KV_TOKENS, threads);
    let ready_seconds = begin.elapsed().as_secs_f64();
    let prompts = vec![bare.tokenize(PROMPT); STREAMS as usize];
    bare.greedy(&mut context, &prompts, TOKENS, true);
    let peak_bytes = peak_memory("self")?;
    Ok(json!({"ready_seconds": ready_seconds, "peak_bytes": peak_bytes}).to_string())
}
