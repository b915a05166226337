//! LoRA adapters on the demo model.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::gguf::{self, Tensor, Value};
use crate::support::{WorkerProcess, demo_model, tokens};

/// Writes an adapter of rank 4 for each layer's attention output of the demo model.
fn adapter(folder: &Path, name: &str, mut seed: u64) -> PathBuf {
    const WIDTH: u64 = 576;
    const RANK: u64 = 4;
    let mut tensors = Vec::new();
    for layer in 0..30 {
        let name = |part: &str| format!("blk.{layer}.attn_output.weight.lora_{part}");
        tensors.push(Tensor::noise(name("a"), [WIDTH, RANK], 0.3, &mut seed));
        tensors.push(Tensor::noise(name("b"), [RANK, WIDTH], 0.3, &mut seed));
    }
    let file = folder.join(name);
    gguf::write(&file, &header("adapter", "llama", "lora"), &tensors);
    file
}

fn header(
    kind: &'static str,
    architecture: &'static str,
    adapter: &'static str,
) -> [(&'static str, Value); 4] {
    [
        ("general.type", Value::Text(kind)),
        ("general.architecture", Value::Text(architecture)),
        ("adapter.type", Value::Text(adapter)),
        ("adapter.lora.alpha", Value::Number(4.0)),
    ]
}

fn greedy(adapters: &[String]) -> Vec<i64> {
    let mut args = vec!["--slots", "1"];
    for adapter in adapters {
        args.extend(["--lora", adapter]);
    }
    let worker = WorkerProcess::ready(&args);
    tokens(&worker.events(&json!({
        "task": {"type": "completion", "prompt": "Once upon a time, there was a"},
        "sampling": {"temperature": 0, "max_tokens": 16, "ignore_eos": true},
    })))
}

#[test]
fn adapters_change_the_text_by_their_scale_and_all_of_them_apply() {
    let folder = tempfile::tempdir().unwrap();
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let a = text(adapter(folder.path(), "a.gguf", 1));
    let b = text(adapter(folder.path(), "b.gguf", 2));
    let plain = greedy(&[]);
    assert_eq!(plain.len(), 16);
    assert_eq!(greedy(&[format!("{a}:0")]), plain);
    let with_a = greedy(std::slice::from_ref(&a));
    let with_b = greedy(std::slice::from_ref(&b));
    let with_both = greedy(&[a.clone(), b.clone()]);
    for (one, other) in [
        (&plain, &with_a),
        (&plain, &with_b),
        (&with_a, &with_b),
        (&with_a, &with_both),
        (&with_b, &with_both),
    ] {
        assert_ne!(one, other);
    }
    assert_eq!(greedy(&[a.clone(), format!("{b}:0")]), with_a);
    assert_eq!(greedy(&[format!("{a}:0"), b]), with_b);
}

#[test]
fn a_file_that_is_no_adapter_for_the_model_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("adapter.gguf");
    let path = file.to_str().unwrap();
    let refused = |wanted: &str| {
        let mut worker = WorkerProcess::start(&demo_model(), &["--lora", path]);
        worker.wait_for_state("failed");
        let reason = worker.health()["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains(wanted), "{wanted}: {reason}");
        assert!(reason.contains("adapter.gguf"), "{wanted}: {reason}");
        assert_eq!(worker.wait_for_end(), Some(1));
    };
    let noise = |name: &str, shape| Tensor::noise(name.to_owned(), shape, 0.1, &mut 7);
    let pair = |width| {
        let name = |part: &str| format!("blk.0.attn_output.weight.lora_{part}");
        [noise(&name("a"), [width, 4]), noise(&name("b"), [4, 576])]
    };
    refused("cannot read");
    std::fs::write(&file, "hello").unwrap();
    refused("not a GGUF file");
    gguf::write(&file, &header("model", "llama", "lora"), &pair(576));
    refused("no LoRA adapter: its general.type is model");
    gguf::write(&file, &header("adapter", "llama", "control_vector"), &pair(576));
    refused("only lora can be used");
    gguf::write(&file, &header("adapter", "qwen2", "lora"), &pair(576));
    refused("for qwen2 models, and this model is llama");
    gguf::write(&file, &header("adapter", "llama", "lora"), &pair(512));
    refused("incorrect shape");
}
