//! How lists look.

use serde_json::{Value, json};
use worker_contract::HiveAlias;

use super::*;
use crate::command::read;

const NOW: u64 = 1_700_007_860;

fn supervised_workers() -> Vec<SupervisedWorker> {
    let mut ready = json!({
        "worker_id": "w-1a2b3c4d", "hive_id": "localhost", "model": "smollm2-135m",
        "device": "CPU-0", "address": "http://127.0.0.1:9300", "port": 9300, "pid": 4242,
        "started_at": 1_700_000_000, "state": "ready",
    });
    let mut failed = ready.clone();
    failed["worker_id"] = "w-2".into();
    failed["device"] = "GPU-0".into();
    failed["state"] = "failed".into();
    failed["reason"] = "exit status 1: not enough memory on GPU-0, 8.1 GiB are missing\nlog".into();
    let starting = json!({ "worker_id": "w-3", "state": "starting", "progress": 0.5 });
    let mut third = ready.clone();
    if let (Value::Object(third), Value::Object(starting)) = (&mut third, starting) {
        third.extend(starting);
    }
    ready["started_at"] = 1_700_007_855.into();
    read(&json!([ready, failed, third])).unwrap()
}

#[test]
fn a_policy_that_prefers_nothing_says_so_and_one_that_says_nothing_has_a_dash() {
    let of = |model: &str| json!({ "model": model, "min": 0, "max": 4, "pin": false });
    let (silent, mut any) = (of("silent"), of("anywhere"));
    any["hive"] = "any".into();
    any["device"] = "any".into();
    let table =
        policies(&read::<Vec<view::Policy>>(&json!([silent, any])).unwrap(), Style::default());
    let places: Vec<Vec<_>> =
        table.lines().map(|line| line.split_whitespace().skip(5).take(2).collect()).collect();
    assert_eq!(places, [["HIVE", "DEVICE"], ["-", "-"], ["any", "any"]], "{table}");
}

#[test]
fn a_pipe_has_every_column_and_one_line_a_row() {
    insta::assert_snapshot!(workers(&supervised_workers(), false, NOW, Style::default()), @r"
    WORKER      MODEL         DEVICE  STATE                                                       ADDRESS                PID   AGE
    w-1a2b3c4d  smollm2-135m  CPU-0   ready                                                       http://127.0.0.1:9300  4242  5s
    w-2         smollm2-135m  GPU-0   failed (exit status 1: not enough memory on GPU-0, 8.1 G…)  http://127.0.0.1:9300  4242  2h11m
    w-3         smollm2-135m  CPU-0   starting (50%)                                              http://127.0.0.1:9300  4242  2h11m
    ");
}

#[test]
fn a_narrow_terminal_has_fewer_columns_and_nothing_wider_than_itself() {
    for width in [30, 60, 80, 200] {
        let style = Style { color: false, width: Some(width) };
        let table = workers(&supervised_workers(), false, NOW, style);
        assert!(table.lines().all(|line| line.chars().count() <= width.into()), "{table}");
    }
    let style = Style { color: false, width: Some(100) };
    insta::assert_snapshot!(workers(&supervised_workers(), false, NOW, style), @r"
    WORKER      MODEL         DEVICE  STATE
    w-1a2b3c4d  smollm2-135m  CPU-0   ready
    w-2         smollm2-135m  GPU-0   failed (exit status 1: not enough memory on GPU-0, 8.1 G…)
    w-3         smollm2-135m  CPU-0   starting (50%)
    ");
}

#[test]
fn colours_tell_good_from_bad() {
    let style = Style { color: true, width: None };
    let table = workers(&supervised_workers(), false, NOW, style);
    assert!(table.contains("\x1b["), "{table:?}");
}

#[test]
fn a_worker_that_failed_and_one_that_is_started_again_say_why() {
    let worker = |state: serde_json::Value, restarts: serde_json::Value| {
        let mut worker = json!({
            "worker_id": "w-1", "hive_id": "localhost", "model": "m", "device": "CPU-0",
            "address": "http://127.0.0.1:9300", "port": 9300, "pid": 7, "started_at": NOW - 60,
            "restarts": restarts,
        });
        worker.as_object_mut().unwrap().extend(state.as_object().unwrap().clone());
        read::<SupervisedWorker>(&worker).unwrap()
    };
    let starting = json!({"state": "starting", "progress": 0.0});
    let between = json!({"count": 1, "reason": "signal 9\n  a line", "waiting": true});
    let once = json!({"count": 1, "reason": "signal 9\n  a line"});
    let too_often =
        json!({"state": "failed", "reason": "5 failures within 10 min, the last one: no"});
    let list = [
        worker(starting, between),
        worker(json!({"state": "ready"}), once.clone()),
        worker(too_often, once),
    ];
    insta::assert_snapshot!(workers(&list, false, NOW, Style::default()), @r"
    WORKER  MODEL  DEVICE  STATE                                                ADDRESS                PID  AGE
    w-1     m      CPU-0   restarting (signal 9)                                http://127.0.0.1:9300  7    1m
    w-1     m      CPU-0   ready                                                http://127.0.0.1:9300  7    1m
    w-1     m      CPU-0   failed (5 failures within 10 min, the last one: no)  http://127.0.0.1:9300  7    1m
    ");
    insta::assert_snapshot!(crate::render::detail::worker(&list[1], NOW), @r"
    worker    w-1
    hive      localhost
    model     m
    device    CPU-0
    state     ready
    address   http://127.0.0.1:9300
    pid       7
    started   1m ago
    restarts  1, the last one after: signal 9
    ");
    insta::assert_snapshot!(crate::render::detail::worker(&list[2], NOW), @r"
    worker     w-1
    hive       localhost
    model      m
    device     CPU-0
    state      failed (5 failures within 10 min, the last one: no)
    address    http://127.0.0.1:9300
    pid        7
    started    1m ago
    try again  rbee-keeper worker restart w-1
    ");
}

#[test]
fn models_are_told_apart_at_a_glance() {
    let model = json!({
        "alias": "smollm2-135m", "sha256": "b".repeat(64), "source": "file:/models/m.gguf",
        "added_at": 1_700_000_000, "architecture": "llama", "quantization": "Q4_1",
        "parameters": 134_515_008, "context_length": 8192, "has_chat_template": true,
        "size_bytes": 98_362_432,
    });
    let list: Vec<ModelEntry> = read(&json!([model])).unwrap();
    insta::assert_snapshot!(models(&list, None, NOW, Style::default()), @r"
    MODEL         ARCHITECTURE  PARAMETERS  QUANT  CONTEXT  SIZE     ADDED
    smollm2-135m  llama         135M        Q4_1   8192     98.4 MB  2h11m ago
    ");
    insta::assert_snapshot!(crate::render::detail::model(&list[0], &HiveAlias::localhost(), NOW), @r"
    model          smollm2-135m
    hive           localhost
    name           -
    architecture   llama
    kind           -
    parameters     135M
    quantization   Q4_1
    context        8192 tokens
    chat template  yes
    license        -
    size           98.4 MB
    sha256         bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
    source         file:/models/m.gguf
    added          2h11m ago
    ");
    let with_kind = |kind: &str| {
        let mut list = list.clone();
        list[0].gguf.kind = read(&json!(kind)).unwrap();
        models(&list, None, NOW, Style::default())
    };
    insta::assert_snapshot!(with_kind("embedding"), @r"
    MODEL         KIND       ARCHITECTURE  PARAMETERS  QUANT  CONTEXT  SIZE     ADDED
    smollm2-135m  embedding  llama         135M        Q4_1   8192     98.4 MB  2h11m ago
    ");
    assert!(!with_kind("generative").contains("KIND"), "where all make text, none needs to say so");
}

#[test]
fn what_several_hives_have_says_whose_it_is() {
    let mut list = supervised_workers();
    list.truncate(2);
    list[1].hive_id = "nas".parse().unwrap();
    let style = Style { color: false, width: Some(110) };
    insta::assert_snapshot!(workers(&list, true, NOW, style), @r"
    WORKER      HIVE       MODEL         DEVICE  STATE
    w-1a2b3c4d  localhost  smollm2-135m  CPU-0   ready
    w-2         nas        smollm2-135m  GPU-0   failed (exit status 1: not enough memory on GPU-0, 8.1 G…)
    ");
    let running = json!([{ "hive_id": "nas", "reference": "hf:o/r:Q4_1", "bytes": 3_000_000 }]);
    let left = json!([{
        "hive_id": "localhost", "name": "partial/a.part", "what": "m.gguf", "bytes": 1_000_000,
        "total": 2_000_000, "changed_at": 1_700_000_000,
    }]);
    let (running, left): (Vec<_>, Vec<_>) = (read(&running).unwrap(), read(&left).unwrap());
    insta::assert_snapshot!(downloads(&running, &left, true, NOW, Style::default()), @r"
    WHAT         HIVE       STATE    THERE   OF      CHANGED    FILE
    hf:o/r:Q4_1  nas        running  3.0 MB  -       -          -
    m.gguf       localhost  left     1.0 MB  2.0 MB  2h11m ago  partial/a.part
    ");
}

#[test]
fn a_hive_that_can_start_no_worker_says_why() {
    let trouble = "the worker's program llm-worker-rbee is missing";
    let hive: view::Hive = read(&json!({
        "hive_id": "localhost", "version": "0.1.0", "liveness": "alive", "last_seen_ms": 1000,
        "trouble": trouble,
    }))
    .unwrap();
    let told = crate::render::detail::hive(&hive, NOW, Style::default());
    assert!(told.contains(&format!("no worker can be started: {trouble}")), "{told}");
    insta::assert_snapshot!(hives(&[hive], Style::default()), @r"
    HIVE       STATE                                                    SEEN    ADDRESS       DEVICES  MEMORY FREE  MODELS  WORKERS  VERSION
    localhost  alive (the worker's program llm-worker-rbee is missing)  1s ago  in the queen           -            0       0        0.1.0
    ");
}

#[test]
fn jobs_show_when_they_began_and_how_long_they_took() {
    let job = |state: &str, ended: Option<&str>| {
        json!({
            "job_id": "0f3c2b1a-0000-4000-8000-000000000000", "operation": "worker_spawn",
            "detail": {}, "caller": "local", "state": state,
            "created_at": "2026-11-24T10:00:00Z", "ended_at": ended,
        })
    };
    let list: Vec<JobSummary> =
        read(&json!([job("running", None), job("failed", Some("2026-11-24T10:01:30.5Z"))]))
            .unwrap();
    let now = "2026-11-24T12:11:00Z".parse().unwrap();
    insta::assert_snapshot!(jobs(&list, now, Style::default()), @r"
    JOB       OPERATION     STATE    CREATED    TOOK  CALLER
    0f3c2b1a  worker_spawn  running  2h11m ago  -     local
    0f3c2b1a  worker_spawn  failed   2h11m ago  1m    local
    ");
}

#[test]
fn a_name_of_somebody_else_breaks_no_row() {
    let worker = json!({
        "worker_id": "nas-a-b", "server": "nas", "url": "http://nas:8000", "engine": "vllm",
        "model": "a-b", "original": "a\nb\tc\u{1b}[2J", "slots": 4, "state": "ready",
    });
    let workers: Vec<AttachedWorker> = read(&json!([worker])).unwrap();
    insta::assert_snapshot!(attached(&workers, Style::default()), @r"
    WORKER   MODEL  SERVER      STATE  SLOTS  URL              CALLED THERE
    nas-a-b  a-b    nas (vllm)  ready  4      http://nas:8000  a�b�c�[2J
    ");
}

#[test]
fn attached_servers_are_shown_with_the_names_that_they_use() {
    let worker = json!({
        "worker_id": "nas-org-m", "server": "nas", "url": "http://nas:8000", "engine": "vllm",
        "model": "org-m", "original": "org/m", "slots": 4, "state": "failed",
        "reason": "it cannot be reached",
    });
    let workers: Vec<AttachedWorker> = read(&json!([worker])).unwrap();
    insta::assert_snapshot!(attached(&workers, Style::default()), @r"
    WORKER     MODEL  SERVER      STATE                          SLOTS  URL              CALLED THERE
    nas-org-m  org-m  nas (vllm)  failed (it cannot be reached)  4      http://nas:8000  org/m
    ");
}

#[test]
fn the_speed_of_a_server_that_tells_none_is_not_said_to_be_nothing() {
    let worker = |id: &str, hive: &str| {
        json!({
            "worker_id": id, "hive_id": hive, "device": "CPU-0", "state": "ready",
            "model": { "name": "m", "context_length": 2048 }, "slots": { "total": 4, "busy": 1 },
        })
    };
    let mut theirs = worker("nas-m", "nas");
    theirs["server"] = json!({ "engine": "ollama" });
    let list: Vec<view::Worker> = read(&json!([worker("w-1", "localhost"), theirs])).unwrap();
    insta::assert_snapshot!(live_workers(&list, Style::default()), @r"
    WORKER  HIVE       MODEL  DEVICE  STATE  SLOTS  QUEUE  KV  TOK/S
    w-1     localhost  m      CPU-0   ready  1/4    0      -   0.0
    nas-m   nas        m      ollama  ready  1/4    0      -   -
    ");
}
