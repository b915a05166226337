//! A GPU backend as a module beside the worker: Vulkan, on any device that the system has.
//!
//! `./test.sh --vulkan` builds the module, names it in `RBEE_TEST_VULKAN_BACKEND`, and runs this.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{WorkerProcess, demo_model, tokens};

/// Shows Mesa's software driver to ggml, which passes over it by default.
const FIRST_DEVICE: (&str, &str) = ("GGML_VK_VISIBLE_DEVICES", "0");

/// The same device as two of them.
const FIRST_DEVICE_TWICE: (&str, &str) = ("GGML_VK_VISIBLE_DEVICES", "0,0");

/// A copy of the worker whose engine folder has the Vulkan module too.
struct Installed {
    _folder: tempfile::TempDir,
    worker: PathBuf,
}

fn install() -> Installed {
    let backend = std::env::var_os("RBEE_TEST_VULKAN_BACKEND");
    let backend = PathBuf::from(backend.expect("./test.sh --vulkan names the module"));
    let folder = tempfile::tempdir().unwrap();
    let worker = folder.path().join("llm-worker-rbee");
    let built = PathBuf::from(env!("CARGO_BIN_EXE_llm-worker-rbee"));
    std::fs::copy(&built, &worker).unwrap();
    let engine = folder.path().join("rbee-engine");
    std::fs::create_dir(&engine).unwrap();
    for entry in std::fs::read_dir(built.parent().unwrap().join("rbee-engine")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), engine.join(entry.file_name())).unwrap();
    }
    std::fs::copy(&backend, engine.join(backend.file_name().unwrap())).unwrap();
    Installed { _folder: folder, worker }
}

impl Installed {
    fn gpu(&self) -> Value {
        let run = Command::new(&self.worker)
            .args(["devices", "--json"])
            .env(FIRST_DEVICE.0, FIRST_DEVICE.1)
            .output()
            .unwrap();
        let devices: Value = serde_json::from_slice(&run.stdout).unwrap();
        let gpu = devices.as_array().unwrap().iter().find(|device| device["id"] == "GPU-0");
        gpu.unwrap_or_else(|| panic!("no Vulkan device is there: {devices}")).clone()
    }

    /// What two prompts are continued by.
    ///
    /// Devices round differently, so where two tokens are about equally likely their texts part.
    /// These have no such place.
    fn greedy(&self, args: &[&str], wanted_log: &str) -> [Vec<i64>; 2] {
        let mut worker = self.start(args, FIRST_DEVICE);
        worker.wait_for_log(wanted_log);
        Self::greedy_of(&worker)
    }

    fn start(&self, args: &[&str], devices: (&str, &str)) -> WorkerProcess {
        let model = demo_model();
        let common = ["--model", model.to_str().unwrap(), "--slots", "1", "--ctx-size", "512"];
        WorkerProcess::start_with(&self.worker, &[&common[..], args].concat(), &[devices])
    }

    fn greedy_of(worker: &WorkerProcess) -> [Vec<i64>; 2] {
        worker.wait_for_state("ready");
        ["Once upon a time, there was a", "1, 2, 3, 4, 5, 6, 7, 8,"].map(|prompt| {
            tokens(&worker.events(&json!({
                "task": {"type": "completion", "prompt": prompt},
                "sampling": {"temperature": 0, "max_tokens": 12, "ignore_eos": true},
            })))
        })
    }
}

#[test]
#[ignore = "needs the Vulkan module and a driver: ./test.sh --vulkan"]
fn vulkan_gives_the_same_first_greedy_tokens_as_the_processor() {
    let installed = install();
    assert_eq!(installed.gpu()["backend"], "Vulkan");
    let on_processor = installed.greedy(&["--device", "CPU-0"], "the model is loaded");
    assert!(on_processor.iter().all(|tokens| tokens.len() == 12), "{on_processor:?}");
    for (layers, wanted) in [("all", 31), ("auto", 31), ("15", 15)] {
        // 30 layers and the output layer
        let args = ["--device", "GPU-0", "--n-gpu-layers", layers];
        let on_gpu = installed.greedy(&args, &format!("layers_on_gpus={wanted} "));
        assert_eq!(on_gpu, on_processor, "{layers}");
    }
}

#[test]
#[ignore = "needs the Vulkan module and a driver: ./test.sh --vulkan"]
fn two_gpus_share_the_layers_as_they_are_told() {
    let installed = install();
    let on_processor = installed.greedy(&["--device", "CPU-0"], "the model is loaded");
    let args = ["--device", "GPU-0,GPU-1", "--tensor-split", "3,1"];
    let mut worker = installed.start(&args, FIRST_DEVICE_TWICE);
    // The cache lies with its layers: 24 and 6 of 30, for the output layer is with the last ones.
    let mib = [0, 1].map(|gpu| {
        let line = worker.wait_for_log(&format!("Vulkan{gpu} KV buffer size"));
        let size = line.split("KV buffer size =").nth(1).unwrap().trim();
        size.split(' ').next().unwrap().parse::<f32>().unwrap()
    });
    assert!((mib[0] / mib[1] - 4.0).abs() < 0.1, "{mib:?}");
    assert_eq!(Installed::greedy_of(&worker), on_processor);
}

#[test]
#[ignore = "needs the Vulkan module and a driver: ./test.sh --vulkan"]
fn a_gpu_that_cannot_hold_the_context_is_refused_and_nothing_goes_to_the_processor() {
    let installed = install();
    let free = installed.gpu()["memory_free_bytes"].as_u64().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("long.gguf");
    let most = 1_u32 << 24;
    let place = b"llama.context_length";
    crate::gguf::changed_copy(&demo_model(), &model, place, 4, &most.to_le_bytes());
    // Two vectors of 192 floats in each of 30 layers, for each token: twice what is free, in
    // tensors that the driver allows; and a tensor of 12 GiB.
    let twice = (2 * free / (2 * 192 * 4 * 30)).min(u64::from(most));
    for (tokens, wanted) in [
        (twice, "are needed"),
        (twice, "--n-gpu-layers auto leaves to the processor"),
        (u64::from(most), "a smaller --ctx-size"),
    ] {
        let tokens = tokens.to_string();
        let args = ["--model", model.to_str().unwrap(), "--device", "GPU-0", "--slots", "1"];
        let types = ["--cache-type-k", "f32", "--cache-type-v", "f32", "--ctx-size", &tokens];
        let args = [&args[..], &types].concat();
        let worker = WorkerProcess::start_with(&installed.worker, &args, &[FIRST_DEVICE]);
        worker.wait_for_state("failed");
        let said = worker.health()["reason"].as_str().unwrap().to_owned();
        assert!(said.starts_with("GPU-0 cannot hold this: "), "{said}");
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
}
