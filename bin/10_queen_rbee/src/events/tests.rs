//! What the events cost while nothing happens, and who gets them from the start.

use std::collections::BTreeMap;

use job_server::Limits;
use tokio_util::task::TaskTracker;
use worker_contract::{
    Device, DeviceLoad, GgufSummary, HiveHeartbeat, KvCacheUse, ModelEntry, ModelInUse, ModelKind,
    Slots, WorkerHeartbeat, WorkerState,
};

use super::*;
use crate::decisions::{Decided, Kind};
use crate::doubles::Nowhere;
use crate::policy::Policies;
use crate::spawner::Spawner;

#[tokio::test]
async fn who_comes_back_gets_the_decisions_that_were_missed_or_where_some_are_lost_a_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let policies = Policies::open(&folder.path().join("policies.db"), BTreeMap::new(), 0).unwrap();
    let registry = Registry::new(Duration::from_secs(2), Vec::new(), Instant::now());
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let hives = Arc::new(Nowhere);
    let spawner = Spawner::new(hives, registry.clone(), policies, tasks, stop.clone());
    let decisions = Decisions::in_memory();
    let dispatcher = Dispatcher::new(registry, spawner, decisions.clone(), 8);
    let jobs = JobRegistry::in_memory(Limits::default());
    let inventory = Inventory::open(folder.path().join("hives.json"), &BTreeMap::new()).unwrap();
    let feed = Feed::new(dispatcher, inventory, jobs, decisions.clone(), stop);
    let mut last_id = None;
    for (decided, expected, count) in
        [(0, "snapshot", 1), (3, "decision", 3), (4096, "decision", 4096), (4097, "snapshot", 1)]
    {
        for _ in 0..decided {
            decisions.record(Decided::told(
                Kind::Reject,
                "unknown_model",
                "there is no such model",
            ));
        }
        let mut reader = feed.read(last_id.as_deref()).unwrap();
        let mut names = Vec::new();
        while reader.at < *reader.last.borrow() || names.is_empty() {
            let told = reader.next().await.unwrap();
            let told = std::str::from_utf8(&told).unwrap();
            let of = |name: &'static str| told.lines().filter_map(move |l| l.strip_prefix(name));
            names.extend(of("event: ").map(str::to_owned));
            last_id = of("id: ").next_back().map(str::to_owned);
        }
        assert_eq!(names, vec![expected; count], "{decided} were missed");
    }
}

#[test]
fn a_hundred_hives_and_two_thousand_workers_that_report_the_same_again_send_nothing_and_cost_little()
 {
    let now = Instant::now();
    let registry = Registry::new(Duration::from_secs(2), Vec::new(), now);
    for hive in 0..100 {
        registry.hive_beat(hive_beat(hive), now).unwrap();
    }
    for worker in 0..2000 {
        registry.worker_beat(worker_beat(worker), now).unwrap();
    }
    let mut views = (
        Views::new("hive", "hive_gone", "hive_id"),
        Views::new("worker", "worker_gone", "worker_id"),
    );
    let mut ring = Ring::new("a".into());
    assert!(look_at_fleet(&registry, &[], &mut views.0, &mut views.1, &mut ring, now, true));
    assert_eq!(ring.close(), 2100);
    let (looks, began) = (50, Instant::now());
    for _ in 0..looks {
        assert!(!look_at_fleet(&registry, &[], &mut views.0, &mut views.1, &mut ring, now, true));
    }
    assert_eq!(ring.close(), 2100, "nothing is told");
    let each = began.elapsed() / looks;
    println!("a look at 100 hives and 2,000 workers takes {each:?}");
    assert!(each < Duration::from_millis(25), "{each:?}");
}

#[test]
fn a_hive_that_has_never_reported_is_shown_as_such_until_it_reports_or_is_removed() {
    let now = Instant::now();
    let registry = Registry::new(Duration::from_secs(2), Vec::new(), now);
    let told = |number: u32| -> (HiveAlias, Option<String>) {
        (format!("hive-{number}").parse().unwrap(), None)
    };
    let (mut hives, mut workers) = (
        Views::new("hive", "hive_gone", "hive_id"),
        Views::new("worker", "worker_gone", "worker_id"),
    );
    let mut ring = Ring::new("a".into());
    let mut look = |told: &[_]| {
        look_at_fleet(&registry, told, &mut hives, &mut workers, &mut ring, now, true);
        let mut all = Vec::new();
        hives.write(&mut all);
        let all: Vec<serde_json::Value> = serde_json::from_slice(&all).unwrap();
        let hive = |hive: &serde_json::Value| {
            let fields = ["hive_id", "liveness", "has_reported"].map(|field| &hive[field]);
            fields.map(ToString::to_string).join(" ").replace('"', "")
        };
        (all.iter().map(hive).collect::<Vec<_>>(), ring.close())
    };
    let silent = |number: u32| format!("hive-{number} gone false");
    assert_eq!(look(&[told(0), told(1)]), (vec![silent(0), silent(1)], 2));
    assert_eq!(look(&[told(0), told(1)]).1, 2, "nothing has changed");
    registry.hive_beat(hive_beat(0), now).unwrap();
    let reports = "hive-0 alive true".to_owned();
    assert_eq!(look(&[told(0), told(1)]), (vec![reports.clone(), silent(1)], 3));
    assert_eq!(look(&[told(0)]), (vec![reports], 4));
}

fn hive_beat(number: u32) -> HiveHeartbeat {
    let device = |name: &str| Device {
        id: name.parse().unwrap(),
        backend: "CUDA".into(),
        name: "a graphics card of some kind".into(),
        memory_total_bytes: 24 << 30,
        memory_free_bytes: 8 << 30,
        pci_address: None,
        load: DeviceLoad::default(),
        is_gone: false,
    };
    let entry = |number: u32| ModelEntry {
        alias: format!("model-{number}").parse().unwrap(),
        sha256: "0".repeat(64).parse().unwrap(),
        source: String::new(),
        added_at: 0,
        shards: Vec::new(),
        projector: None,
        gguf: GgufSummary {
            architecture: "llama".into(),
            name: None,
            license: None,
            quantization: "Q4_K_M".into(),
            parameters: 1,
            context_length: 1,
            embedding_length: None,
            kind: None,
            has_chat_template: true,
            size_bytes: 1,
        },
    };
    HiveHeartbeat {
        hive_id: format!("hive-{number}").parse().unwrap(),
        address: Some(format!("http://10.0.0.{number}:9000")),
        version: "0.1.0".into(),
        devices: ["CPU-0", "GPU-0", "GPU-1"].map(device).into(),
        catalog: (0..20).map(entry).collect(),
        workers: Vec::new(),
        trouble: None,
    }
}

fn worker_beat(number: u32) -> WorkerHeartbeat {
    WorkerHeartbeat {
        worker_id: format!("w-{number}").parse().unwrap(),
        hive_id: format!("hive-{}", number % 100).parse().unwrap(),
        address: format!("http://10.0.0.{}:{}", number % 100, 9300 + number / 100),
        model: ModelInUse {
            name: format!("model-{}", number % 20).parse().unwrap(),
            digest: None,
            context_length: 8192,
            kind: ModelKind::Generative,
        },
        device: "GPU-0".parse().unwrap(),
        state: WorkerState::Ready,
        slots: Slots { total: 4, busy: 1 },
        queued: 0,
        kv_cache: KvCacheUse::default(),
        tokens_per_second: 12.5,
        engine_build: "x".into(),
        pid: number,
    }
}
