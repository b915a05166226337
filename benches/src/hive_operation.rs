//! A hive operation by direct call against one over HTTP.
//!
//! `WorkerList` through an integrated queen is a direct call; through a queen without `local-hive`
//! it goes to a hive process over HTTP. Both begin with the same HTTP call to the queen, so the
//! operation's own time is the difference to a job that the queen answers by herself (`HiveList`).

use std::time::Instant;

use anyhow::{Result, ensure};
use job_client::{JobClient, JobEnd};
use rbee_operations::{HiveTarget, Operation};
use test_cluster::Cluster;
use worker_contract::HiveAlias;

use crate::figures::{median, percentile, table};

const CALLS: usize = 200;

pub(crate) async fn measure(rounds: usize) -> Result<String> {
    let integrated = Cluster::builder().integrated().start().await?;
    let distributed = Cluster::builder().distributed().start().await?;
    distributed.wait_for_hive().await?;
    let clients = [client(&integrated)?, client(&distributed)?];
    let list = Operation::WorkerList(HiveTarget { hive_id: HiveAlias::localhost() });
    let mut with_hive = [Vec::new(), Vec::new()];
    let mut without = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        for side in 0..clients.len() {
            for _ in 0..CALLS {
                let own = time(&clients[side], &Operation::HiveList {}).await?;
                let forwarded = time(&clients[side], &list).await?;
                if round > 0 {
                    without[side].push(own);
                    with_hive[side].push(forwarded);
                }
            }
        }
    }
    let row = |name: &str, side: usize| {
        vec![
            name.to_owned(),
            format!("{:.3}", median(&with_hive[side])),
            format!("{:.3}", percentile(&with_hive[side], 0.99)),
            format!("{:.3}", median(&with_hive[side]) - median(&without[side])),
        ]
    };
    let head =
        ["hive", "whole job, median ms", "whole job, p99 ms", "the operation alone, median ms"];
    let rows = vec![row("direct call (local-hive)", 0), row("over HTTP", 1)];
    let title = "A hive operation (WorkerList); aims: direct 0.1 ms, over HTTP 1 ms";
    Ok(table(title, &head, rows))
}

fn client(cluster: &Cluster) -> Result<JobClient> {
    Ok(JobClient::new(cluster.api()?.base(), None))
}

/// Milliseconds of one job, from the request to its end.
async fn time(client: &JobClient, operation: &Operation) -> Result<f64> {
    let begin = Instant::now();
    let end = client.run(operation, |_| {}).await?;
    ensure!(matches!(end, JobEnd::Succeeded(_)), "the job did not succeed");
    Ok(begin.elapsed().as_secs_f64() * 1000.0)
}
