//! The worker finds its engine wherever it is put.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_llm-worker-rbee"))
}

/// Runs a command of `worker` without any library path of the build, and gives its JSON.
fn run(worker: &Path, command: &str) -> Value {
    let run = Command::new(worker)
        .args([command, "--json"])
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}");
    serde_json::from_slice(&run.stdout).unwrap()
}

fn engine_folder(worker: &Path) -> PathBuf {
    PathBuf::from(run(worker, "version")["engine_folder"].as_str().unwrap()).canonicalize().unwrap()
}

#[test]
fn the_processor_is_a_device_with_memory() {
    let devices = run(&binary(), "devices");
    assert_eq!(devices[0]["id"], "CPU-0");
    assert!(devices[0]["memory_total_bytes"].as_u64().unwrap() > 1 << 28);
}

#[test]
fn a_copy_with_its_engine_folder_uses_that_folder() {
    let folder = tempfile::tempdir().unwrap();
    let worker = folder.path().join("llm-worker-rbee");
    std::fs::copy(binary(), &worker).unwrap();
    let engine = folder.path().join("rbee-engine");
    std::fs::create_dir(&engine).unwrap();
    for entry in std::fs::read_dir(binary().parent().unwrap().join("rbee-engine")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), engine.join(entry.file_name())).unwrap();
    }
    assert_eq!(engine_folder(&worker), engine.canonicalize().unwrap());
    assert_eq!(run(&worker, "devices")[0]["id"], "CPU-0");
}

#[test]
fn an_installed_binary_brings_its_engine_along_at_its_first_start() {
    let root = tempfile::tempdir().unwrap();
    let bin = root.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let worker = bin.join("llm-worker-rbee");
    std::fs::copy(binary(), &worker).unwrap();
    let library = root.path().join("lib/rbee-engine");
    assert_eq!(engine_folder(&worker), library.canonicalize().unwrap());
    assert!(library.join("libllama.so.0").is_file());
}

#[test]
fn inspecting_a_model_tells_what_it_is() {
    let run = Command::new(binary())
        .arg("inspect")
        .arg(crate::support::demo_model())
        .arg("--json")
        .output()
        .unwrap();
    let summary: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(summary["architecture"], "llama");
    assert_eq!(summary["quantization"], "Q4_1");
    assert_eq!(summary["parameters"], 134_515_008);
    assert_eq!(summary["context_length"], 8192);
    assert_eq!(summary["has_chat_template"], true);
}

#[test]
fn inspecting_what_is_no_model_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file.gguf");
    let whole = std::fs::read(crate::support::demo_model()).unwrap();
    let damaged = [b"GGUF".as_slice(), &[0xFF; 4096]].concat();
    let rows: [(&[u8], &str); 4] = [
        (b"", "not a GGUF file"),
        (b"hello, I am text", "not a GGUF file"),
        (&damaged, "damaged"),
        (&whole[..whole.len() - 1], "truncated"),
    ];
    for (content, wanted) in rows {
        std::fs::write(&file, content).unwrap();
        let run = Command::new(binary()).arg("inspect").arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(1), "{said}");
        assert!(said.contains(wanted), "{wanted}: {said}");
        assert!(run.stdout.is_empty());
    }
}
