//! A GPU backend as a module beside the worker: Vulkan, on any device that the system has.
//!
//! `./test.sh --vulkan` builds the module, names it in `RBEE_TEST_VULKAN_BACKEND`, and runs this.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{WorkerProcess, demo_model, tokens};

/// Shows Mesa's software driver to ggml, which passes over it by default.
const FIRST_DEVICE: (&str, &str) = ("GGML_VK_VISIBLE_DEVICES", "0");

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
    fn greedy(&self, args: &[&str], wanted_log: &str) -> Vec<i64> {
        let model = demo_model();
        let common = ["--model", model.to_str().unwrap(), "--slots", "1", "--ctx-size", "512"];
        let args = [&common[..], args].concat();
        let mut worker = WorkerProcess::start_with(&self.worker, &args, &[FIRST_DEVICE]);
        worker.wait_for_log(wanted_log);
        worker.wait_for_state("ready");
        tokens(&worker.events(&json!({
            "task": {"type": "completion", "prompt": "The capital of France is"},
            "sampling": {"temperature": 0, "max_tokens": 12, "ignore_eos": true},
        })))
    }
}

#[test]
#[ignore = "needs the Vulkan module and a driver: ./test.sh --vulkan"]
fn vulkan_gives_the_same_first_greedy_tokens_as_the_processor() {
    let installed = install();
    let run = Command::new(&installed.worker)
        .args(["devices", "--json"])
        .env(FIRST_DEVICE.0, FIRST_DEVICE.1)
        .output()
        .unwrap();
    let devices: Value = serde_json::from_slice(&run.stdout).unwrap();
    let gpu = devices.as_array().unwrap().iter().find(|device| device["id"] == "GPU-0");
    let gpu = gpu.unwrap_or_else(|| panic!("no Vulkan device is there: {devices}"));
    assert_eq!(gpu["backend"], "Vulkan", "{devices}");

    let on_processor = installed.greedy(&["--device", "CPU-0"], "the model is loaded");
    assert_eq!(on_processor.len(), 12);
    for args in [&["--device", "GPU-0"][..], &["--device", "GPU-0", "--n-gpu-layers", "auto"]] {
        // 30 layers and the output layer
        assert_eq!(installed.greedy(args, "layers_on_gpus=31"), on_processor, "{args:?}");
    }
    let half = ["--device", "GPU-0", "--n-gpu-layers", "15"];
    assert_eq!(installed.greedy(&half, "layers_on_gpus=15"), on_processor);
}

#[test]
#[ignore = "needs the Vulkan module and a driver: ./test.sh --vulkan"]
fn a_gpu_that_cannot_hold_the_context_is_refused_and_nothing_goes_to_the_processor() {
    let installed = install();
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("long.gguf");
    let most = 1_u32 << 24;
    let place = b"llama.context_length";
    crate::gguf::changed_copy(&demo_model(), &model, place, 4, &most.to_le_bytes());
    let most = most.to_string();
    let args = ["--model", model.to_str().unwrap(), "--device", "GPU-0", "--ctx-size", &most];
    let args =
        [&args[..], &["--slots", "1", "--cache-type-k", "f32", "--cache-type-v", "f32"]].concat();
    let worker = WorkerProcess::start_with(&installed.worker, &args, &[FIRST_DEVICE]);
    worker.wait_for_state("failed");
    let said = worker.health()["reason"].as_str().unwrap().to_owned();
    assert!(said.starts_with("GPU-0 cannot hold this: "), "{said}");
    assert!(said.contains("--n-gpu-layers auto"), "{said}");
}
