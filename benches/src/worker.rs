//! A worker process that is measured.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// A worker process; killed when dropped.
pub(crate) struct Worker {
    child: Child,
    url: String,
    client: reqwest::Client,
    /// The time from its start to its being ready.
    pub(crate) ready_after: Duration,
}

impl Worker {
    /// Starts a worker with the model and more arguments, and waits until it is ready.
    pub(crate) fn start(model: &Path, args: &[&str]) -> Result<Self> {
        let binary = std::env::current_exe()?.with_file_name("llm-worker-rbee");
        let begin = Instant::now();
        let mut child = Command::new(&binary)
            .arg("--model")
            .arg(model)
            .args(["--port", "0"])
            .args(args)
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
        let ready_after = begin.elapsed();
        // Whatever the worker says later is read and thrown away, so that it never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        let url = url.context("the worker did not say where it listens")?;
        Ok(Self { child, url, client: reqwest::Client::new(), ready_after })
    }

    /// Sends a request and gives the answer's last event.
    pub(crate) async fn ask(&self, body: &Value) -> Result<Value> {
        let request = self.client.post(format!("{}/v1/inference", self.url)).json(body);
        let text = request.send().await?.error_for_status()?.text().await?;
        let last = text.lines().rev().find_map(|line| line.strip_prefix("data: "));
        let last: Value = serde_json::from_str(last.context("no event")?)?;
        ensure!(last["type"] == "done", "{last}");
        Ok(last)
    }

    /// Sends requests at once and gives the last event of each answer.
    pub(crate) async fn ask_all(&self, bodies: &[Value]) -> Result<Vec<Value>> {
        futures::future::try_join_all(bodies.iter().map(|body| self.ask(body))).await
    }

    /// The most memory that it has used so far, in bytes, where the kernel tells.
    pub(crate) fn peak_memory(&self) -> Result<f64> {
        peak_memory(&self.child.id().to_string())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The most memory that a process has used so far, in bytes.
pub(crate) fn peak_memory(process: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.context("no VmHWM")?.trim().trim_end_matches("kB").trim();
    Ok(kib.parse::<f64>()? * 1024.0)
}
