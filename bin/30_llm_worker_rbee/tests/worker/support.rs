//! A real worker process on a free port, with the real model.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use llm_worker_rbee::engine::llama::{
    AttentionSettings, ContextSettings, Model, ModelSettings, Placement, Runtime, SplitMode,
};
use serde_json::Value;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A worker process; killed when dropped.
pub struct WorkerProcess {
    child: Child,
    pub url: String,
    lines: mpsc::Receiver<String>,
    pub log: Vec<String>,
}

impl WorkerProcess {
    /// Starts `binary` with arguments and waits until it listens.
    pub fn start_binary(binary: &Path, args: &[&str]) -> Self {
        Self::start_with(binary, args, &[])
    }

    /// The same with more variables in its environment.
    pub fn start_with(binary: &Path, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(binary)
            .args(["--port", "0"])
            .args(args)
            .envs(environment.iter().copied())
            .env("RBEE_LOG", "info")
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the worker starts");
        let stderr = child.stderr.take().expect("stderr is piped");
        let (lines_in, lines) = mpsc::sync_channel(10_000);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if lines_in.send(line).is_err() {
                    return;
                }
            }
        });
        let mut worker = Self { child, url: String::new(), lines, log: Vec::new() };
        let line = worker.wait_for_log("listening");
        let address = line.split("address=").nth(1).expect("the log line has the address");
        let address = address.split_whitespace().next().expect("the address is a word");
        worker.url = format!("http://{address}");
        worker
    }

    /// Starts the worker with a model file.
    pub fn start(model: &Path, args: &[&str]) -> Self {
        let model = model.to_str().expect("a plain path");
        // One thread each: tests run side by side.
        let args = [&["--model", model, "--threads", "1"], args].concat();
        Self::start_binary(Path::new(env!("CARGO_BIN_EXE_llm-worker-rbee")), &args)
    }

    /// Starts the worker with the demo model and waits until it is ready.
    pub fn ready(args: &[&str]) -> Self {
        Self::ready_with(&demo_model(), args)
    }

    /// Starts the worker with a model file and waits until it is ready.
    pub fn ready_with(model: &Path, args: &[&str]) -> Self {
        let worker = Self::start(model, args);
        worker.wait_for_state("ready");
        worker
    }

    /// The next log line that has `text` in it.
    pub fn wait_for_log(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) =
            self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            self.log.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
        panic!("no log line with {text:?}; the log is:\n{}", self.log.join("\n"));
    }

    pub fn health(&self) -> Value {
        let answer = block_on(async { client().get(format!("{}/health", self.url)).send().await });
        let answer = answer.expect("the worker answers");
        block_on(answer.json()).expect("health is JSON")
    }

    /// What Prometheus reads.
    pub fn metrics(&self) -> String {
        let answer = block_on(async { client().get(format!("{}/metrics", self.url)).send().await });
        block_on(answer.expect("the worker answers").text()).expect("metrics are text")
    }

    pub fn wait_for_state(&self, state: &str) {
        self.wait_until(&format!("state {state}"), |health| health["state"] == state);
    }

    pub fn wait_until(&self, what: &str, condition: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let health = self.health();
            if condition(&health) {
                return;
            }
            assert!(Instant::now() < deadline, "still missing: {what}; health is {health}");
            std::thread::yield_now();
        }
    }

    /// Sends a request and gives the status and the whole body.
    pub fn post(&self, body: &Value) -> (u16, String) {
        let url = format!("{}/v1/inference", self.url);
        block_on(async {
            let answer = client().post(url).json(body).send().await.expect("an answer");
            (answer.status().as_u16(), answer.text().await.expect("a body"))
        })
    }

    /// Sends a request and gives its events.
    pub fn events(&self, body: &Value) -> Vec<Value> {
        let (status, text) = self.post(body);
        assert_eq!(status, 200, "{text}");
        events(&text)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let done = Command::new("kill").args([signal, &pid]).status().expect("kill runs");
        assert!(done.success());
    }

    /// Waits for the end of the process and gives its exit code.
    pub fn wait_for_end(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be asked") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the worker does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn demo_model() -> PathBuf {
    test_cluster::demo_model().expect("the demo model is there")
}

pub fn client() -> reqwest::Client {
    reqwest::Client::new()
}

pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

/// The events of a body.
pub fn events(body: &str) -> Vec<Value> {
    let data = body.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|json| serde_json::from_str(json).expect("an event is JSON")).collect()
}

/// The text of an answer.
pub fn text(events: &[Value]) -> String {
    events.iter().filter_map(|e| e["text"].as_str()).collect()
}

/// The tokens of an answer.
pub fn tokens(events: &[Value]) -> Vec<i64> {
    let lists = events.iter().filter_map(|e| e["tokens"].as_array());
    lists.flatten().filter_map(Value::as_i64).collect()
}

/// llama.cpp in this process, with the demo model on the processor, one thread.
pub fn model_here(slots: u32, kv_tokens: u32) -> (Runtime, Model, ContextSettings) {
    let runtime = Runtime::init().expect("llama.cpp starts");
    let (model, context) = model_of(&runtime, demo_model(), slots, kv_tokens);
    (runtime, model, context)
}

/// The same with any model.
pub fn model_of(
    runtime: &Runtime,
    file: PathBuf,
    slots: u32,
    kv_tokens: u32,
) -> (Model, ContextSettings) {
    let context = ContextSettings {
        slots,
        kv_tokens,
        threads: Some(1),
        batch_invariant: false,
        attention: AttentionSettings::default(),
    };
    let settings = ModelSettings {
        file,
        placement: Placement {
            devices: vec!["CPU-0".parse().expect("a device")],
            gpu_layers: None,
            split_mode: SplitMode::default(),
            tensor_split: Vec::new(),
        },
        adapters: Vec::new(),
        pooling: None,
    };
    let model = Model::load(runtime, &settings, &context, |_| {}).expect("the model loads");
    (model, context)
}
