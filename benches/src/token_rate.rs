//! Tokens per second of a worker over HTTP against llama.cpp's own loop, on the demo model.
//!
//! Both sides run the same prompt greedily for the same number of tokens, in contexts of the same
//! size, with the same number of threads, taking turns. The clock runs from the request to the last
//! token, so the prompt counts on both sides: each request has a number in its first words, so that
//! nothing is reused from an earlier one. Guessing ahead is off, as it is in the other loop.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::bare_loop::Bare;
use crate::figures::{median, table};
use crate::worker::Worker;

const TOKENS: usize = 128;
const KV_TOKENS: u32 = 8192;

/// The worker's rate against the bare loop's, and its rate where answers depend on nothing else.
pub(crate) fn measure(runtime: &Runtime, rounds: usize) -> Result<String> {
    let model = test_cluster::demo_model()?;
    let bare = Bare::load(&model, &llm_worker_rbee::engine::llama::engine_folder()?);
    let threads = i32::try_from(llm_worker_rbee::engine::llama::default_threads())?;
    let mut rows = Vec::new();
    let mut asked = 0;
    for streams in [1_u32, 4, 16] {
        let mut context = bare.context(streams, KV_TOKENS, threads);
        let (slots, kv_tokens) = (streams.to_string(), KV_TOKENS.to_string());
        let common = ["--ctx-size", &kv_tokens, "--slots", &slots, "--draft", "off"];
        let worker = Worker::start(&model, &common)?;
        let alone = Worker::start(&model, &[&common[..], &["--batch-invariant"]].concat())?;
        let (mut bare_rates, mut rates, mut ratios, mut alone_ratios) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for round in 0..=rounds {
            let texts: Vec<String> = (0..streams).map(|n| prompt(asked + n)).collect();
            asked += streams;
            let prompts: Vec<_> = texts.iter().map(|text| bare.tokenize(text)).collect();
            let bare_rate = rate(streams, || {
                context.clear_kv_cache();
                let answers = bare.greedy(&mut context, &prompts, TOKENS, true);
                ensure!(answers.iter().all(|a| a.len() == TOKENS && !bare.text(a).is_empty()));
                Ok(())
            })?;
            let bodies: Vec<Value> = texts.iter().map(|text| body(text)).collect();
            let asks = |worker: &Worker| {
                let ends = runtime.block_on(worker.ask_all(&bodies))?;
                ensure!(ends.iter().all(|e| e["usage"]["completion_tokens"] == TOKENS));
                Ok(())
            };
            let worker_rate = rate(streams, || asks(&worker))?;
            let alone_rate = rate(streams, || asks(&alone))?;
            // The first round warms both sides up.
            if round > 0 {
                bare_rates.push(bare_rate);
                rates.push(worker_rate);
                ratios.push(worker_rate / bare_rate);
                alone_ratios.push(alone_rate / worker_rate);
            }
        }
        rows.push(vec![
            streams.to_string(),
            format!("{:.1}", median(&rates)),
            format!("{:.1}", median(&bare_rates)),
            format!("{:.3}", median(&ratios)),
            format!("{:.3}", median(&alone_ratios)),
        ]);
    }
    let head = [
        "streams",
        "worker, tokens/s",
        "llama.cpp's loop, tokens/s",
        "ratio (median)",
        "--batch-invariant against the worker without",
    ];
    Ok(table("Tokens per second over HTTP against llama.cpp's own loop (aim: 0.97)", &head, rows))
}

fn prompt(number: u32) -> String {
    format!("Log entry {number}. The lighthouse keeper looked at the sea and")
}

fn body(text: &str) -> Value {
    json!({
        "task": {"type": "completion", "prompt": text},
        "sampling": {"temperature": 0, "max_tokens": TOKENS, "ignore_eos": true},
    })
}

/// Tokens per second of one run.
fn rate(streams: u32, run: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begin = Instant::now();
    run()?;
    Ok(f64::from(streams) * TOKENS as f64 / begin.elapsed().as_secs_f64())
}
