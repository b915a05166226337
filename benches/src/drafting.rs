//! What guessing ahead gives where a text repeats its prompt, and what it costs where none does.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::figures::{median, table};
use crate::worker::Worker;

const TOKENS: u32 = 256;

/// A piece of code that is to be copied with a small change.
const CODE: &str = "\
fn total(orders: &[Order]) -> u64 {\n    let mut total = 0;\n    for order in orders {\n        \
if order.is_paid {\n            total += order.price * order.count;\n        }\n    }\n    total\n}\n\n\
fn unpaid(orders: &[Order]) -> Vec<&Order> {\n    let mut unpaid = Vec::new();\n    \
for order in orders {\n        if !order.is_paid {\n            unpaid.push(order);\n        }\n    }\n    \
unpaid\n}\n";

pub(crate) fn measure(runtime: &Runtime, rounds: usize) -> Result<String> {
    let model = test_cluster::demo_model()?;
    let common = ["--slots", "1", "--ctx-size", "4096"];
    let with = Worker::start(&model, &common)?;
    let without = Worker::start(&model, &[&common[..], &["--draft", "off"]].concat())?;
    let copies =
        format!("The file again:\n\n{CODE}\nThe file again:\n\n{CODE}\nThe file again:\n\n");
    let mut rows = Vec::new();
    for (what, prompt, temperature) in [
        ("repeats its prompt, greedy", copies.as_str(), 0.0),
        ("repeats nothing, temperature 1", "My dream last night was about", 1.0),
    ] {
        let (mut ratios, mut hits) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            let body = json!({
                "task": {"type": "completion", "prompt": prompt},
                "sampling": {
                    "temperature": temperature, "seed": round, "max_tokens": TOKENS,
                    "ignore_eos": true,
                },
            });
            let (fast, end) = rate(runtime, &with, &body)?;
            let (slow, _) = rate(runtime, &without, &body)?;
            let count = |name: &str| end["timings"][name].as_f64().unwrap_or(f64::NAN);
            if round > 0 {
                ratios.push(fast / slow);
                hits.push(count("accepted_tokens") / count("drafted_tokens").max(1.0));
            }
        }
        rows.push(vec![
            what.to_owned(),
            format!("{:.2}", median(&ratios)),
            format!("{:.2}", median(&hits)),
        ]);
    }
    let head = ["text", "tokens/s with against without (median)", "guesses that were right"];
    Ok(table("Guessing ahead (aim: 1.5 where a text repeats its prompt)", &head, rows))
}

/// Tokens per second of one answer, and its last event.
fn rate(runtime: &Runtime, worker: &Worker, body: &Value) -> Result<(f64, Value)> {
    let begin = Instant::now();
    let end = runtime.block_on(worker.ask(body))?;
    ensure!(end["usage"]["completion_tokens"] == TOKENS, "{end}");
    Ok((f64::from(TOKENS) / begin.elapsed().as_secs_f64(), end))
}
