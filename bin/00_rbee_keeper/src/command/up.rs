//! `up`: the queen, and a hive beside it where it has none inside.

use std::time::Duration;

use rbee_operations::{HiveTarget, Operation};
use serde_json::json;
use tokio::time::{Instant, sleep};
use worker_contract::HiveAlias;

use super::read;
use crate::cli::StartArgs;
use crate::failure::Failure;
use crate::job_run;
use crate::queen_client::{Queen, local_url};
use crate::queen_process;
use crate::render::detail::pairs;
use crate::session::{Session, Target};
use crate::view;

/// How long the hive may take until its first report.
const HIVE_PATIENCE: Duration = Duration::from_secs(10);
/// How often the queen is asked for it.
const LOOK: Duration = Duration::from_millis(20);

pub(super) async fn up(session: &Session, args: &StartArgs) -> Result<(), Failure> {
    session.only_local("up")?;
    let started = queen_process::start(session, args.bind).await?;
    let target = Target::Running(local_url(started.addr));
    let queen = session.reach(&target).await?;
    let has_local_hive = queen.build.has_local_hive();
    // One that was stopped by itself is started again; the one inside starts with its queen.
    if !has_local_hive || !(started.fresh || reported(&queen).await?.is_some()) {
        // Starting a hive that runs already is no error: the queen says that it runs.
        let localhost = HiveTarget { hive_id: HiveAlias::localhost() };
        job_run::run(session, &queen, &Operation::HiveStart(localhost)).await?;
    }
    let hive = wait_for_hive(&queen).await?;
    if hive.is_none() {
        session.output.warn("the hive of this machine has not reported to the queen yet");
    }
    let trouble = hive.and_then(|hive| hive.trouble);
    if let Some(trouble) = &trouble {
        session.output.warn(&format!(
            "the hive of this machine can start no workers: {trouble}; `rbee-keeper hive logs` tells more"
        ));
    }
    if session.output.is_json() {
        let document = json!({
            "address": queen.url,
            "pid": started.pid,
            "started": started.fresh,
            "version": queen.build.version,
            "features": queen.build.features,
            "hive": { "hive_id": "localhost", "in_queen": has_local_hive, "trouble": trouble },
        });
        return session.output.document(&document).await;
    }
    let how = if started.fresh { "started" } else { "was running already" };
    let hive =
        if has_local_hive { "localhost, inside the queen" } else { "localhost, beside the queen" };
    let text = pairs(&[
        ("queen", format!("{how}, pid {}", started.pid)),
        ("hive", hive.to_owned()),
        ("endpoint", format!("{}/v1", queen.url)),
    ]);
    session.output.text(text).await
}

/// Waits until the queen has heard of this machine's hive, so that the next command finds it. `None` if it
/// takes too long.
async fn wait_for_hive(queen: &Queen) -> Result<Option<view::Hive>, Failure> {
    let deadline = Instant::now() + HIVE_PATIENCE;
    loop {
        let reported = reported(queen).await?;
        if reported.is_some() || Instant::now() >= deadline {
            return Ok(reported);
        }
        sleep(LOOK).await;
    }
}

/// The hive of this machine, if it reports on time. To its queen it is localhost, whatever it is called.
async fn reported(queen: &Queen) -> Result<Option<view::Hive>, Failure> {
    let status: view::Status = read(&queen.get("/v1/status").await?)?;
    let localhost = HiveAlias::localhost();
    let is_there = |hive: &view::Hive| {
        hive.hive_id == localhost.as_str() && hive.liveness.as_deref() != Some("gone")
    };
    Ok(status.hives.into_iter().find(is_there))
}
