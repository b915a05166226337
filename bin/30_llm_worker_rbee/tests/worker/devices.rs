//! Devices, cache types and memory: what is used, and what is refused in which words.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::gguf::changed_copy;
use crate::support::{WorkerProcess, demo_model, text, tokens};

/// Starts a worker that cannot work, and gives what it says of it.
fn refusal(model: &Path, args: &[&str]) -> String {
    let mut worker = WorkerProcess::start(model, args);
    worker.wait_for_state("failed");
    let reason = worker.health()["reason"].as_str().unwrap().to_owned();
    assert_eq!(worker.wait_for_end(), Some(1), "{reason}");
    reason
}

#[test]
fn a_quantised_cache_is_used_and_answers() {
    let args = ["--slots", "1", "--cache-type-k", "q8_0", "--cache-type-v", "q8_0"];
    let mut worker = WorkerProcess::start(&demo_model(), &args);
    let line = worker.wait_for_log("K (q8_0)");
    assert!(line.contains("V (q8_0)"), "{line}");
    worker.wait_for_state("ready");
    let events = worker.events(&json!({
        "task": {"type": "completion", "prompt": "Once upon a time, there was a"},
        "sampling": {"temperature": 0, "max_tokens": 24, "ignore_eos": true},
    }));
    assert_eq!(tokens(&events).len(), 24);
    assert!(text(&events).split_whitespace().count() > 8, "{}", text(&events));
}

#[test]
fn settings_that_contradict_each_other_end_the_process_before_it_listens() {
    let model = demo_model();
    let rows: [(&[&str], &str); 6] = [
        (
            &["--cache-type-v", "q8_0", "--flash-attention", "off"],
            "--cache-type-v q8_0 needs flash attention",
        ),
        (&["--cache-type-k", "q9"], "use one of f32, f16"),
        (&["--device", "CPU-0,GPU-0"], "name the GPUs only"),
        (&["--device", "GPU-0,GPU-1", "--tensor-split", "1"], "give one for each"),
        (&["--n-gpu-layers", "all"], "needs a GPU"),
        (&["--lora", "x.gguf:inf"], "finite"),
    ];
    for (args, wanted) in rows {
        let run = Command::new(env!("CARGO_BIN_EXE_llm-worker-rbee"))
            .args(["--port", "0", "--model"])
            .arg(&model)
            .args(args)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(!run.status.success(), "{args:?}: {said}");
        assert!(said.contains(wanted), "{args:?}: {said}");
        assert!(!said.contains("listening"), "{args:?}: {said}");
    }
}

#[test]
fn a_device_that_is_not_there_is_refused_with_those_that_are() {
    let said = refusal(&demo_model(), &["--device", "GPU-9"]);
    assert!(said.contains("there is no device GPU-9 here"), "{said}");
    assert!(said.contains("CPU-0"), "{said}");
}

#[test]
fn a_context_that_memory_cannot_hold_is_refused_with_what_is_needed_and_free() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("long.gguf");
    // The demo model, but it says that it was trained for 2^24 tokens.
    let most = 1_u32 << 24;
    changed_copy(&demo_model(), &model, b"llama.context_length", 4, &most.to_le_bytes());
    let most = most.to_string();
    let types = ["--cache-type-k", "f32", "--cache-type-v", "f32"];
    let said = refusal(&model, &[&["--slots", "1", "--ctx-size", &most], &types[..]].concat());
    assert!(said.starts_with("CPU-0 cannot hold this: "), "{said}");
    assert!(said.contains("context of 16777216 tokens"), "{said}");
    assert!(said.contains("a smaller --ctx-size"), "{said}");
    let bytes = said.split('(').skip(1).filter_map(|rest| rest.split(" bytes)").next());
    let bytes: Vec<u64> =
        bytes.filter_map(|number| number.rsplit('(').next()?.parse().ok()).collect();
    let (needed, free) = (bytes[0], *bytes.last().unwrap());
    // Two vectors of 192 floats in each of 30 layers, for each token.
    assert!(needed > (2 * 192 * 4 * 30) << 24, "{said}");
    assert!(free < needed, "{said}");
}

#[test]
fn what_llama_cpp_says_of_a_model_that_it_refuses_is_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("incomplete.gguf");
    changed_copy(&demo_model(), &model, b"output_norm.weigh", 0, b"x");
    let said = refusal(&model, &[]);
    assert!(said.contains("tensor 'output_norm.weight' not found"), "{said}");
}

#[test]
#[cfg(target_os = "linux")]
fn the_engines_threads_sleep_soon_when_they_wait_unless_the_user_says_otherwise() {
    let told = |variable: Option<&str>| {
        let mut run = Command::new(env!("CARGO_BIN_EXE_llm-worker-rbee"));
        run.arg("version").env("OMP_DISPLAY_ENV", "VERBOSE").env_remove("OMP_WAIT_POLICY");
        run.env_remove("GOMP_SPINCOUNT");
        run.envs(variable.map(|count| ("GOMP_SPINCOUNT", count)));
        let output = run.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    // The library tells what it was loaded with; the last process is the one that stays.
    let last = |text: &str| text.lines().rfind(|l| l.contains("GOMP_SPINCOUNT")).map(str::to_owned);
    let usual = told(None);
    assert!(last(&usual).is_some_and(|line| line.contains("'2000'")), "{usual}");
    let own = told(Some("77"));
    assert!(last(&own).is_some_and(|line| line.contains("'77'")), "{own}");
}
