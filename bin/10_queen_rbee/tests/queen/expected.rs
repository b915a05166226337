//! Hives that the queen was told of and that have not reported: right after her start, and ever.

use std::time::{Duration, Instant};

use job_client::{JobClient, JobEnd};
use rbee_config::{Config, RemoteHive};
use rbee_operations::Operation;
use serde_json::{Value, json};

use crate::support::{HiveDouble, Queen, Reply};

/// For how long after her start the queen waits for hives that are expected.
const WARM_UP: Duration = Duration::from_secs(3);

#[tokio::test]
async fn models_and_lists_wait_for_the_hives_that_are_expected() {
    let hive = HiveDouble::start_as("nas".parse().unwrap(), false);
    let beat = hive.beat();
    let url = beat.address.clone().unwrap();
    let port = url.rsplit(':').next().unwrap().parse().unwrap();
    let queen = Queen::configured(|config| expects_nas_at(config, port)).await;
    let (list, one, all, hives, ()) = tokio::join!(
        Reply::read(queen.get("/v1/models")),
        Reply::read(queen.get("/v1/models/m")),
        run(&queen, json!({"ListAll": {"of": "models"}})),
        run(&queen, json!({"HiveList": {}})),
        queen.hive_beat(&beat),
    );
    assert_eq!(list.json()["data"][0]["id"], "m");
    assert_eq!(one.json()["id"], "m");
    assert_eq!(succeeded(all)["models"][0]["alias"], "m");
    assert_eq!(succeeded(hives)["hives"][0]["liveness"], "alive");
}

#[tokio::test]
async fn a_hive_that_stays_silent_is_waited_for_only_a_moment() {
    let began = Instant::now();
    let queen = Queen::configured(expects_nas).await;
    let (list, one) =
        tokio::join!(Reply::read(queen.get("/v1/models")), Reply::read(queen.get("/v1/models/m")),);
    assert!(began.elapsed() >= WARM_UP, "after {:?}", began.elapsed());
    assert_eq!(list.json()["data"], json!([]));
    one.error(404, "model_not_found");
}

#[tokio::test]
async fn a_hive_that_was_added_and_never_reported_is_known_everywhere() {
    let (queen, here) = (Queen::start().await, HiveDouble::start(false));
    queen.hive_beat(&here.beat()).await;
    succeeded(run(&queen, json!({"HiveAdd": {"hive_id": "g2", "ssh": "bee@g2"}})).await);
    for look in [
        json!({"WorkerList": {"hive_id": "g2"}}),
        json!({"WorkerSpawn": {"hive_id": "g2", "model": "m"}}),
        json!({"HiveRefresh": {"hive_id": "g2"}}),
    ] {
        let JobEnd::Failed(error) = run(&queen, look).await else { panic!("it cannot answer") };
        assert_eq!(error.code.as_deref(), Some("hive_silent"));
        assert_eq!(error.message, "hive g2 was added and has not reported yet");
        assert!(error.hint.unwrap().contains("rbee-keeper hive install g2"));
    }
    let all = succeeded(run(&queen, json!({"ListAll": {"of": "models"}})).await);
    let reason = all["unheard"][0]["reason"].as_str().unwrap();
    assert_eq!(reason, "it was added and has not reported yet: rbee-keeper hive install g2");

    let status = queen.status().await;
    let shown: Vec<_> = status["hives"].as_array().unwrap().iter().collect();
    let of = |hive: &&Value| (hive["hive_id"].clone(), hive["liveness"].clone());
    let expected = [("localhost", "alive"), ("g2", "gone")].map(|(a, b)| (json!(a), json!(b)));
    assert_eq!(shown.iter().map(of).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn the_hive_of_the_queens_machine_is_not_installed_and_nobody_is_told_to_add_it() {
    let queen = Queen::start().await;
    for look in [
        json!({"HiveInstall": {"hive_id": "localhost"}}),
        json!({"HiveUninstall": {"hive_id": "localhost", "purge": false}}),
    ] {
        let JobEnd::Failed(error) = run(&queen, look).await else { panic!("it is not installed") };
        assert_eq!(error.code.as_deref(), Some("hive_without_ssh"));
        let hint = error.hint.unwrap();
        assert!(hint.contains("`rbee-keeper hive start`") && !hint.contains("hive add"), "{hint}");
    }
}

#[tokio::test]
async fn a_copy_to_a_hive_that_there_is_not_says_so() {
    let (queen, here) = (Queen::start().await, HiveDouble::start(false));
    queen.hive_beat(&here.beat()).await;
    let copy = json!({"ModelCopy": {"from": "localhost", "hive_id": "zz", "model": "m"}});
    let JobEnd::Failed(error) = run(&queen, copy).await else { panic!("there is no zz") };
    assert_eq!(error.code.as_deref(), Some("hive_not_found"));
    assert!(error.message.starts_with("there is no hive zz"), "{error:?}");
}

fn expects_nas(config: &mut Config) {
    expects_nas_at(config, 9);
}

fn expects_nas_at(config: &mut Config, port: u16) {
    let nas = RemoteHive { host: "127.0.0.1".into(), port };
    config.hives.insert("nas".parse().unwrap(), nas);
}

async fn run(queen: &Queen, operation: Value) -> JobEnd {
    let operation: Operation = serde_json::from_value(operation).unwrap();
    JobClient::new(&queen.url, None).run(&operation, |_| {}).await.unwrap()
}

fn succeeded(end: JobEnd) -> Value {
    let JobEnd::Succeeded(last) = end else { panic!("{end:?}") };
    last.data.unwrap()
}
