//! Tokens per second of a worker over HTTP against llama.cpp's own loop, on the demo model.
//!
//! Both sides run the same prompt greedily for the same number of tokens, in contexts of the same
//! size, with the same number of threads, taking turns. The clock runs from the request to the last
//! token, so the prompt counts on both sides.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::bare_loop::Bare;
use crate::figures::{median, table};

const PROMPT: &str = "The lighthouse keeper looked at the sea and";
const TOKENS: usize = 128;
const KV_TOKENS: u32 = 4096;

pub(crate) fn measure(runtime: &Runtime, rounds: usize) -> Result<String> {
    let model = test_cluster::demo_model()?;
    let bare = Bare::load(&model, &llm_worker_rbee::engine::llama::engine_folder()?);
    let threads = i32::try_from(llm_worker_rbee::engine::llama::default_threads())?;
    let mut rows = Vec::new();
    for streams in [1_u32, 4] {
        let mut context = bare.context(streams, KV_TOKENS, threads);
        let prompts = vec![bare.tokenize(PROMPT); streams as usize];
        let worker = Worker::start(&model, streams)?;
        let (mut bare_rates, mut worker_rates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=rounds {
            let bare_rate = rate(streams, || {
                context.clear_kv_cache();
                let answers = bare.greedy(&mut context, &prompts, TOKENS, true);
                ensure!(answers.iter().all(|a| a.len() == TOKENS && !bare.text(a).is_empty()));
                Ok(())
            })?;
            let worker_rate = rate(streams, || runtime.block_on(worker.answer(streams)))?;
            // The first round warms both sides up.
            if round > 0 {
                bare_rates.push(bare_rate);
                worker_rates.push(worker_rate);
                ratios.push(worker_rate / bare_rate);
            }
        }
        rows.push(vec![
            streams.to_string(),
            format!("{:.1}", median(&worker_rates)),
            format!("{:.1}", median(&bare_rates)),
            format!("{:.3}", median(&ratios)),
        ]);
    }
    let head = ["streams", "worker, tokens/s", "llama.cpp's loop, tokens/s", "ratio (median)"];
    Ok(table("Tokens per second over HTTP against llama.cpp's own loop (aim: 0.97)", &head, rows))
}

/// Tokens per second of one run.
fn rate(streams: u32, run: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begin = Instant::now();
    run()?;
    Ok(f64::from(streams) * TOKENS as f64 / begin.elapsed().as_secs_f64())
}

/// A worker process; killed when dropped.
struct Worker {
    child: Child,
    url: String,
    client: reqwest::Client,
}

impl Worker {
    fn start(model: &std::path::Path, slots: u32) -> Result<Self> {
        let binary = std::env::current_exe()?.with_file_name("llm-worker-rbee");
        let mut child = Command::new(&binary)
            .arg("--model")
            .arg(model)
            .args(["--port", "0", "--ctx-size", &KV_TOKENS.to_string()])
            .args(["--slots", &slots.to_string()])
            .env("RBEE_LOG", "info")
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be started", binary.display()))?;
        let stderr = child.stderr.take().context("stderr is piped")?;
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let mut url = None;
        for line in lines.by_ref() {
            if let Some(address) = line.split("address=").nth(1) {
                url = address.split_whitespace().next().map(|a| format!("http://{a}"));
            }
            if line.contains("the model is loaded") {
                break;
            }
        }
        // Whatever the worker says later is read and thrown away, so that it never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        let url = url.context("the worker did not say where it listens")?;
        Ok(Self { child, url, client: reqwest::Client::new() })
    }

    async fn answer(&self, streams: u32) -> Result<()> {
        let body = json!({
            "task": {"type": "completion", "prompt": PROMPT},
            "sampling": {"temperature": 0, "max_tokens": TOKENS, "ignore_eos": true},
        });
        let asks = (0..streams).map(|_| async {
            let request = self.client.post(format!("{}/v1/inference", self.url)).json(&body);
            let text = request.send().await?.error_for_status()?.text().await?;
            let last = text.lines().rev().find_map(|line| line.strip_prefix("data: "));
            let last: Value = serde_json::from_str(last.context("no event")?)?;
            ensure!(last["usage"]["completion_tokens"] == TOKENS, "{last}");
            Ok(())
        });
        futures::future::try_join_all(asks).await?;
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
