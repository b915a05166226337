//! What it saves to know a prompt already: alone, and shared by many requests at once.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::figures::{median, table};
use crate::worker::Worker;

/// Requests at once, and the tokens that each makes.
const REQUESTS: u32 = 16;
const ANSWER: u32 = 16;

pub(crate) fn measure(runtime: &Runtime, rounds: usize) -> Result<String> {
    let model = test_cluster::demo_model()?;
    let worker = Worker::start(&model, &["--slots", "4", "--ctx-size", "8192"])?;
    let (mut first, mut again, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let ask = body(&long_text(round, 1500), 1);
        let fresh = runtime.block_on(worker.ask(&ask))?;
        let known = runtime.block_on(worker.ask(&ask))?;
        ensure!(known["usage"]["cached_tokens"].as_u64() > Some(1400), "{known}");
        let ttft = |end: &Value| end["timings"]["ttft_ms"].as_f64().unwrap_or(f64::NAN);
        if round > 0 {
            first.push(ttft(&fresh));
            again.push(ttft(&known));
            parts.push(ttft(&known) / ttft(&fresh));
        }
    }
    let row = vec![
        format!("{:.0} ms", median(&first)),
        format!("{:.1} ms", median(&again)),
        format!("{:.4}", median(&parts)),
    ];
    let head = ["first time", "seen before", "ratio (median)"];
    let title = "Time to the first token of a prompt of 1,500 tokens (aim: 0.1)";
    let ttft = table(title, &head, vec![row]);
    drop(worker);

    let slots = REQUESTS.to_string();
    let shared = Worker::start(&model, &["--slots", &slots, "--ctx-size", "20480"])?;
    let own = Worker::start(&model, &["--slots", &slots, "--ctx-size", "20480"])?;
    let (mut rates, mut own_rates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let of = |text: &dyn Fn(usize) -> usize| -> Vec<Value> {
            let text = |n| format!("{} Question {n}:", long_text(text(n), 1000));
            (0..REQUESTS as usize).map(|n| body(&text(n), ANSWER)).collect()
        };
        let run = |worker: &Worker, bodies: &[Value]| -> Result<f64> {
            let begin = Instant::now();
            runtime.block_on(worker.ask_all(bodies))?;
            Ok(f64::from(REQUESTS) / begin.elapsed().as_secs_f64())
        };
        let rate = run(&shared, &of(&|_| 1000 + round))?;
        let own_rate = run(&own, &of(&|n| 100 * (1 + round) + n))?;
        if round > 0 {
            rates.push(rate);
            own_rates.push(own_rate);
            ratios.push(rate / own_rate);
        }
    }
    let row = vec![
        format!("{:.2}", median(&rates)),
        format!("{:.2}", median(&own_rates)),
        format!("{:.1}", median(&ratios)),
    ];
    let title = "Requests per second, 16 at once with a beginning of 1,000 tokens (aim: 3)";
    let head = ["the same beginning", "each its own", "ratio (median)"];
    Ok(format!("{ttft}\n\n{}", table(title, &head, vec![row])))
}

/// A text of about `tokens` tokens that no other number has.
fn long_text(number: usize, tokens: usize) -> String {
    let words = ["harbour", "lantern", "winter", "granite", "violin", "meadow", "copper", "river"];
    let word = |n: usize| words[(n * n + n / 8 + number) % words.len()];
    let text: Vec<&str> = (0..tokens).map(word).collect();
    format!("Report {number}. {}", text.join(" "))
}

fn body(text: &str, tokens: u32) -> Value {
    json!({
        "task": {"type": "completion", "prompt": text},
        "sampling": {"temperature": 0, "max_tokens": tokens, "ignore_eos": true},
    })
}
