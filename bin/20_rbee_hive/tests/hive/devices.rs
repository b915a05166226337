//! Devices that come and go while the hive runs, as its heartbeats tell.

use rbee_hive::HeartbeatSink;
use rbee_operations::Operation;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use worker_contract::{Device, HiveHeartbeat};

use crate::support::{Home, SOON, TestHive, hive_target, spawn_request};

/// How much memory a test takes, in bytes.
const TAKEN: usize = 512 << 20;

#[tokio::test]
async fn a_refresh_asks_the_engine_and_the_next_heartbeat_tells_what_it_sees() {
    let home = Home::new();
    let (hive, mut heard) = start(&home).await;
    let beat = next(&mut heard, |devices| ids(devices) == ["CPU-0"]).await;
    assert!(!beat[0].is_gone);

    home.tell_double("devices", &json!([device("CPU-0"), device("GPU-0")]).to_string());
    let outcome = hive.run(Operation::HiveRefresh(hive_target())).await.unwrap();
    assert_eq!(outcome.data["devices"][1]["id"], "GPU-0");
    next(&mut heard, |devices| ids(devices) == ["CPU-0", "GPU-0"]).await;

    home.untell_double("devices");
    hive.run(Operation::HiveRefresh(hive_target())).await.unwrap();
    let beat = next(&mut heard, |devices| devices.get(1).is_some_and(|gpu| gpu.is_gone)).await;
    assert_eq!((ids(&beat), beat[0].is_gone), (vec!["CPU-0".into(), "GPU-0".into()], false));
    hive.import(&home.double_model(), "m").await.unwrap();
    let mut on_gpu = spawn_request("m");
    on_gpu.device = Some("GPU-0".parse().unwrap());
    let error = hive.run(Operation::WorkerSpawn(on_gpu.clone())).await.unwrap_err();
    assert_eq!(error.code, "device_gone", "{}", error.message);

    // It is back: whoever asks for it has the engine asked.
    home.tell_double("devices", &json!([device("CPU-0"), device("GPU-0")]).to_string());
    hive.run(Operation::WorkerSpawn(on_gpu)).await.unwrap();
    next(&mut heard, |devices| devices.iter().all(|device| !device.is_gone)).await;
    hive.hive.shutdown().await;
}

#[tokio::test]
async fn what_is_free_is_looked_at_again_and_again() {
    let home = Home::new();
    let (hive, mut heard) = start(&home).await;
    let before = next(&mut heard, |devices| !devices.is_empty()).await[0].clone();
    let taken = std::hint::black_box(vec![1_u8; TAKEN]);
    // Other programs may give something back meanwhile.
    let least = before.memory_free_bytes.saturating_sub(TAKEN as u64 / 2);
    let beat = next(&mut heard, |devices| devices[0].memory_free_bytes < least).await;
    assert_eq!(beat[0].memory_total_bytes, before.memory_total_bytes);
    assert!(beat[0].load.busy_percent.is_some());
    drop(std::hint::black_box(taken));
    hive.hive.shutdown().await;
}

#[tokio::test]
async fn a_hive_whose_workers_program_is_missing_or_broken_says_so_until_it_is_mended() {
    let home = Home::new();
    let (program, place) = (home.path().join("program"), home.path().display().to_string());
    let (hive, mut heard) = start_with(&home, program.clone()).await;
    let trouble = |beat: &HiveHeartbeat, words: &str| {
        let told = beat.trouble.as_ref();
        told.is_some_and(|told| told.contains(words) && !told.contains(&place))
    };
    let beat = next_beat(&mut heard, |beat| trouble(beat, "cannot be run: No such file")).await;
    assert!(beat.devices.is_empty());
    let wanted = hive.run(Operation::HiveRefresh(hive_target())).await.unwrap_err();
    assert!(!wanted.message.contains(&place), "{}", wanted.message);

    put_program(
        &program,
        "echo \"$0: error while loading shared libraries: libx.so\" >&2; exit 127",
    );
    next_beat(&mut heard, |beat| trouble(beat, "does not work here: llm-worker-rbee: error")).await;

    std::fs::copy(home.double("serves"), &program).unwrap();
    let beat = next_beat(&mut heard, |beat| beat.trouble.is_none()).await;
    assert_eq!(ids(&beat.devices), ["CPU-0"]);

    std::fs::remove_file(&program).unwrap();
    let beat = next_beat(&mut heard, |beat| trouble(beat, "No such file")).await;
    assert_eq!(ids(&beat.devices), ["CPU-0"], "its workers run on");
    hive.hive.shutdown().await;
}

fn put_program(place: &std::path::Path, body: &str) {
    use std::os::unix::fs::PermissionsExt as _;

    std::fs::write(place, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(place, std::fs::Permissions::from_mode(0o755)).unwrap();
}

async fn start(home: &Home) -> (TestHive, mpsc::Receiver<HiveHeartbeat>) {
    start_with(home, home.double("serves")).await
}

async fn start_with(
    home: &Home,
    program: std::path::PathBuf,
) -> (TestHive, mpsc::Receiver<HiveHeartbeat>) {
    let (sender, heard) = mpsc::channel(1);
    let mut settings = home.settings(program).unwrap();
    settings.heartbeats = HeartbeatSink::Channel(sender);
    (TestHive { hive: rbee_hive::Hive::start(settings).await.unwrap() }, heard)
}

/// The devices of the next heartbeat in which they are as wanted.
async fn next(
    heard: &mut mpsc::Receiver<HiveHeartbeat>,
    is_wanted: impl Fn(&[Device]) -> bool,
) -> Vec<Device> {
    next_beat(heard, |beat| is_wanted(&beat.devices)).await.devices
}

/// The next heartbeat that is as wanted.
async fn next_beat(
    heard: &mut mpsc::Receiver<HiveHeartbeat>,
    is_wanted: impl Fn(&HiveHeartbeat) -> bool,
) -> HiveHeartbeat {
    let mut last = None;
    let wanted = tokio::time::timeout(SOON, async {
        loop {
            let beat = heard.recv().await.expect("the hive beats on");
            if is_wanted(&beat) {
                return beat;
            }
            last = Some(beat);
        }
    });
    let wanted = wanted.await.ok();
    wanted.unwrap_or_else(|| panic!("no such heartbeat; the last one was {last:?}"))
}

fn ids(devices: &[Device]) -> Vec<String> {
    devices.iter().map(|device| device.id.to_string()).collect()
}

fn device(id: &str) -> Value {
    json!({"id": id, "name": "a double", "backend": "double",
        "memory_total_bytes": 1_u64 << 40, "memory_free_bytes": 1_u64 << 40})
}
