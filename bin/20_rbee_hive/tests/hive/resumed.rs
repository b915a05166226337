//! Downloads that one hive begins and the next one goes on with.

use std::sync::Arc;

use futures::StreamExt as _;
use job_server::{Executor, JobRegistry, Limits, Replayed};
use test_cluster::{ModelHub, sha256_hex, wait_until};

use crate::hub::{MIB, body, cancel_download, download, has_sent, start};
use crate::support::{Home, SOON, TestHive};

/// How much a model has in these tests.
const SIZE: usize = 16 * MIB;

#[tokio::test]
async fn a_hive_that_is_stopped_beside_its_jobs_leaves_its_downloads_to_its_next_life() {
    let (hub, home) = (slow_hub().await, Home::new());
    let hive = start(&home, &hub).await;
    let (outcome, ()) = tokio::join!(hive.told(download("hf:me/m", None)), stop_later(&hive, &hub));
    assert_eq!(outcome.0.unwrap_err().code, "hive_stopping");
    hub.faults().slow = None;
    let before = hub.sent();

    let hive = start(&home, &hub).await;
    let _jobs = hive.resume();
    hive.has_the_model().await;
    assert!(hub.sent() - before < SIZE as u64, "it went on with what was there");
    hive.hive.shutdown().await;
    let hive = start(&home, &hub).await;
    assert!(hive.resume().list().is_empty(), "nothing is left to do");
}

#[tokio::test]
async fn a_download_whose_job_is_dropped_is_not_gone_on_with() {
    let (hub, home) = (slow_hub().await, Home::new());
    let hive = start(&home, &hub).await;
    let noted = || {
        let database = rusqlite::Connection::open(home.path().join("data/hive.db")).unwrap();
        let count = |table: &str| {
            let select = format!("SELECT count(*) FROM {table}");
            database.query_row(&select, [], |row| row.get::<_, i64>(0)).unwrap()
        };
        (count("downloads"), count("download_parts"))
    };
    tokio::select! {
        ended = hive.run(download("hf:me/m", None)) => panic!("it is slow: {ended:?}"),
        () = has_sent(&hub, MIB) => {}
    }
    let is_forgotten = async || (noted() == (0, 0)).then_some(());
    wait_until("the end of the download", SOON, is_forgotten).await.unwrap();
    hive.hive.shutdown().await;
}

#[tokio::test]
async fn a_download_that_is_gone_on_with_before_the_network_is_there_waits_for_it_and_keeps_what_it_has()
 {
    let (hub, home) = (slow_hub().await, Home::new());
    let hive = start(&home, &hub).await;
    let (outcome, ()) = tokio::join!(hive.told(download("hf:me/m", None)), stop_later(&hive, &hub));
    outcome.0.unwrap_err();
    hub.stop().await;

    let hive = start(&home, &hub).await;
    let jobs = hive.resume();
    let job = jobs.list().remove(0).job_id;
    let mut told = Box::pin(jobs.follow(&job, None).unwrap());
    // The request itself is made again a few times; that ends before long.
    let waits = async {
        while let Some(replayed) = told.next().await {
            let Replayed::Event { event, .. } = replayed else { continue };
            if event.message.contains("cannot be reached; trying again") {
                return true;
            }
        }
        false
    };
    assert!(tokio::time::timeout(SOON, waits).await.expect("it says why it waits"));
    assert_eq!(hive.garbage(true).await, [serde_json::Value::Null; 0]);
    hub.start_again().await.unwrap();
    hub.faults().slow = None;
    let before = hub.sent();
    hive.has_the_model().await;
    assert!(hub.sent() - before < SIZE as u64, "it went on with what was there");
}

#[tokio::test]
async fn a_download_that_an_earlier_hive_began_is_seen_and_ended_by_command() {
    let (hub, home) = (slow_hub().await, Home::new());
    let hive = start(&home, &hub).await;
    let (outcome, ()) = tokio::join!(hive.told(download("hf:me/m", None)), stop_later(&hive, &hub));
    outcome.0.unwrap_err();

    let hive = start(&home, &hub).await;
    let jobs = hive.resume();
    let running = async || {
        let found = hive.downloads().await;
        found.first()?["total"].as_u64().filter(|total| *total == SIZE as u64)?;
        Some(found)
    };
    let found = wait_until("the download in the list", SOON, running).await.unwrap();
    assert_eq!((found.len(), &found[0]["reference"]), (1, &"hf:me/m".into()));
    assert!(found[0]["bytes"].as_u64() > Some(0), "{found:?}");

    let unknown = hive.run(cancel_download("hf:me/other")).await.unwrap_err();
    assert_eq!(unknown.code, "download_not_found");
    let cancelled = hive.run(cancel_download("hf:me/m")).await.unwrap();
    assert!(cancelled.message.contains("what arrived is kept"), "{}", cancelled.message);
    assert_eq!(hive.downloads().await, [serde_json::Value::Null; 0]);
    let job = jobs.list().remove(0).job_id;
    let has_ended = async || jobs.get(&job)?.error;
    let why = wait_until("the end of the job", SOON, has_ended).await.unwrap();
    assert!(why.contains("somebody cancelled this download"), "{why}");
    let is_left = async || (!hive.garbage(false).await.is_empty()).then_some(());
    wait_until("what arrived", SOON, is_left).await.unwrap();

    hive.hive.shutdown().await;
    let hive = start(&home, &hub).await;
    assert!(hive.resume().list().is_empty(), "it is not gone on with");
    hive.hive.shutdown().await;
}

async fn slow_hub() -> ModelHub {
    let hub = ModelHub::start().await.unwrap();
    hub.put("m.gguf", body(SIZE));
    hub.faults().slow = Some(64 << 10);
    hub
}

/// Stops the hive as a queen does that has it in her process: its jobs are hers.
async fn stop_later(hive: &TestHive, hub: &ModelHub) {
    has_sent(hub, 2 * MIB).await;
    hive.hive.leave_downloads();
    hive.hive.shutdown().await;
}

impl TestHive {
    fn resume(&self) -> JobRegistry {
        let jobs = JobRegistry::in_memory(Limits::default());
        let executor: Arc<dyn Executor> = Arc::new(self.hive.clone());
        self.hive.resume_downloads(&jobs, &executor);
        jobs
    }

    async fn has_the_model(&self) {
        let digest = sha256_hex(&body(SIZE));
        let is_there = async || {
            let models = self.hive.models();
            models.iter().any(|model| model.sha256.as_hex() == digest).then_some(())
        };
        wait_until("the model", SOON, is_there).await.unwrap();
    }
}
