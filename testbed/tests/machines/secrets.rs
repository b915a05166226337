//! What a hive's secret opens: its own reports, and nothing else.

use testbed::{DESK, Testbed};

#[tokio::test]
async fn the_secret_of_one_machine_opens_neither_the_queen_nor_another_machine() {
    let Some(bed) = Testbed::start(&["gpu-1", "gpu-2"]).unwrap() else { return };
    bed.start_queen().await.unwrap();
    bed.settle("gpu-1").await.unwrap();
    bed.settle("gpu-2").await.unwrap();
    let file = ".local/share/rbee-hive/data/secrets/local.token";
    let secret = |machine| bed.sh(machine, &format!("cat {file}")).unwrap().trim().to_owned();
    let (one, two) = (secret("gpu-1"), secret("gpu-2"));
    let own = bed.sh(DESK, "cat .local/share/rbee/secrets/local.token").unwrap().trim().to_owned();
    assert!(one != two && one != own && two != own, "each has its own");
    assert_eq!(bed.sh("gpu-1", &format!("stat -c %a {file}")).unwrap().trim(), "600");

    let ask = |machine: &str, secret: &str, what: &str| {
        let line = format!(
            "curl -s -o /dev/null -w '%{{http_code}}' -H 'Authorization: Bearer {secret}' {what}"
        );
        bed.sh(machine, &line).unwrap().trim().to_owned()
    };
    let queen = "http://10.77.0.1:8500";
    for path in ["/v1/status", "/v1/models", "/v1/jobs", "/v1/build-info"] {
        assert_eq!(ask("gpu-1", &one, &format!("{queen}{path}")), "403", "{path}");
    }
    let job = "-H 'Content-Type: application/json' -d '{\"operation\":{\"HiveList\":{}}}'";
    assert_eq!(ask("gpu-1", &one, &format!("{queen}/v1/jobs {job}")), "403");
    let beat = |hive: &str| {
        format!(
            "{queen}/v1/hive-heartbeat -H 'Content-Type: application/json' -d '{{\"hive_id\":\"{hive}\",\
             \"address\":\"http://10.77.0.2:9000\",\"version\":\"0\",\"devices\":[],\"catalog\":[],\"workers\":[]}}'"
        )
    };
    assert_eq!(ask("gpu-1", &one, &beat("gpu-1")), "204", "it may report itself");
    assert_eq!(ask("gpu-1", &one, &beat("gpu-2")), "403", "and no other hive");
    assert_eq!(ask("gpu-1", &one, &beat("localhost")), "403");

    let hive = "http://10.77.0.3:9000/v1/capabilities";
    assert_eq!(ask("gpu-1", &one, hive), "401", "another hive does not know it");
    assert_eq!(ask("gpu-1", "", hive), "401", "and lets nobody in without a secret");
    assert_eq!(ask(DESK, &two, hive), "200");

    bed.keeper("hive remove gpu-1").await.unwrap().expect_success().unwrap();
    assert_eq!(ask("gpu-1", &one, &beat("gpu-1")), "401", "a removed hive is not heard");
}

#[tokio::test]
async fn a_second_machine_under_a_name_is_told_that_it_is_taken() {
    let Some(bed) = Testbed::start(&["gpu-1"]).unwrap() else { return };
    bed.start_queen().await.unwrap();
    bed.settle("gpu-1").await.unwrap();
    // The same hive, copied to another port: same name, same secret.
    bed.sh(
        "gpu-1",
        "cp -r .local/share/rbee-hive twin && rm -rf twin/run && \
         RBEE_HOME=$HOME/twin RBEE_HIVE__BIND=0.0.0.0:9001 setsid twin/current/rbee-hive >twin.log 2>&1 </dev/null &",
    )
    .unwrap();
    test_cluster::wait_until(
        "the twin's refusal",
        std::time::Duration::from_secs(20),
        async || {
            let log = bed.sh("gpu-1", "cat twin.log").ok()?;
            log.contains("does not take heartbeats").then_some(())
        },
    )
    .await
    .unwrap();
    let hive = bed.hive_when("gpu-1", "alive", |hive| hive["liveness"] == "alive").await.unwrap();
    assert_eq!(hive["address"], "http://10.77.0.2:9000", "the first one stays");
}
