//! What the events cost while nothing happens.

use worker_contract::{
    Device, DeviceLoad, GgufSummary, HiveHeartbeat, KvCacheUse, ModelEntry, ModelInUse, ModelKind,
    Slots, WorkerHeartbeat, WorkerState,
};

use super::*;

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
    assert!(look_at_fleet(&registry, &mut views.0, &mut views.1, &mut ring, now, true));
    assert_eq!(ring.close(), 2100);
    let (looks, began) = (50, Instant::now());
    for _ in 0..looks {
        assert!(!look_at_fleet(&registry, &mut views.0, &mut views.1, &mut ring, now, true));
    }
    assert_eq!(ring.close(), 2100, "nothing is told");
    let each = began.elapsed() / looks;
    println!("a look at 100 hives and 2,000 workers takes {each:?}");
    assert!(each < Duration::from_millis(25), "{each:?}");
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
