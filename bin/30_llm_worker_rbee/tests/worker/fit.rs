//! What a model would take of memory, against what llama.cpp takes.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{WorkerProcess, demo_model};
use crate::tiny_vision::{Sight, write_pair};

fn fit(model: &Path, args: &[&str]) -> Value {
    let model = model.to_str().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_llm-worker-rbee"))
        .args(["fit", "--json", "--model", model, "--threads", "1"])
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The buffers that llama.cpp says that it took, in MiB: `CPU KV buffer size = 180.00 MiB`.
fn taken(worker: &mut WorkerProcess) -> f64 {
    worker.wait_for_log("the model is loaded");
    let sizes = worker.log.iter().filter_map(|line| {
        let after = line.split("buffer size =").nth(1)?;
        after.split("MiB").next()?.trim().parse::<f64>().ok()
    });
    sizes.sum()
}

fn check(model: &Path, args: &[&str]) {
    let told = fit(model, args);
    let bytes = |need: &Value| {
        ["weights_bytes", "mapped_bytes", "context_bytes", "compute_bytes"]
            .map(|part| need[part].as_u64().unwrap())
            .iter()
            .sum::<u64>()
    };
    let told: u64 = told.as_array().unwrap().iter().map(bytes).sum();
    let told = told as f64 / f64::from(1 << 20);
    let taken = taken(&mut WorkerProcess::start(model, args));
    assert!(taken > 0.0);
    let ratio = told / taken;
    assert!((0.9..=1.1).contains(&ratio), "told {told:.1}, taken {taken:.1} MiB, {args:?}");
}

#[test]
fn what_is_told_before_is_what_llama_cpp_takes() {
    let folder = tempfile::tempdir().unwrap();
    let (tiny, _): (PathBuf, _) = write_pair(folder.path(), Sight::Row);
    for (model, args) in [
        (demo_model(), &["--ctx-size", "1024", "--slots", "1"][..]),
        (demo_model(), &["--ctx-size", "8192", "--slots", "4"]),
        (demo_model(), &["--ctx-size", "16384", "--slots", "2", "--cache-type-k", "q8_0"]),
        (demo_model(), &["--ctx-size", "4096", "--slots", "4", "--batch-invariant"]),
        (tiny.clone(), &["--ctx-size", "512", "--slots", "1"]),
        (tiny, &["--ctx-size", "4096", "--slots", "4"]),
        (test_cluster::embedding_model().unwrap(), &["--ctx-size", "512"]),
    ] {
        check(&model, args);
    }
}

#[test]
fn a_file_that_cannot_be_loaded_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.gguf");
    test_cluster::write_truncated_model(&file).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_llm-worker-rbee"))
        .args(["fit", "--model", file.to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("truncated"), "{said}");
}
