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
use crate::queen_process::{self, Daemon};
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
    let runs = |hive: Option<view::Hive>| hive.is_some_and(|hive| !hive.is_gone());
    if !has_local_hive || !(started.fresh || runs(reported(&queen).await?)) {
        // Starting a hive that runs already is no error: the queen says that it runs.
        let localhost = HiveTarget { hive_id: HiveAlias::localhost() };
        job_run::run(session, &queen, &Operation::HiveStart(localhost)).await?;
    }
    let hive = wait_for_hive(session, &queen).await?;
    if let Some(warning) = warning(hive.as_ref()) {
        session.output.warn(&warning);
    }
    let place = place(hive.as_ref());
    let in_queen = place.map_or(has_local_hive, |place| place == Place::Inside);
    let trouble = hive.and_then(|hive| hive.trouble);
    if session.output.is_json() {
        let document = json!({
            "address": queen.url,
            "pid": started.pid,
            "started": started.fresh,
            "version": queen.build.version,
            "features": queen.build.features,
            "hive": { "hive_id": "localhost", "in_queen": in_queen, "trouble": trouble },
        });
        return session.output.document(&document).await;
    }
    let how = if started.fresh { "started" } else { "was running already" };
    let hive = match place {
        None => "localhost, does not report",
        Some(Place::Inside) => "localhost, inside the queen",
        Some(Place::Beside) => "localhost, beside the queen",
    };
    let text = pairs(&[
        ("queen", format!("{how}, pid {}", started.pid)),
        ("hive", hive.to_owned()),
        ("endpoint", format!("{}/v1", queen.url)),
    ]);
    session.output.text(text).await
}

/// Where this machine's hive runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Inside,
    Beside,
}

/// Where it is; `None` where it does not report. A queen who has a hive inside may still have another one beside her.
fn place(hive: Option<&view::Hive>) -> Option<Place> {
    let hive = hive.filter(|hive| !hive.is_gone())?;
    Some(if hive.address.is_none() { Place::Inside } else { Place::Beside })
}

/// What is to be told of this machine's hive, beside that it is there.
fn warning(hive: Option<&view::Hive>) -> Option<String> {
    let Some(hive) = hive else {
        return Some("the hive of this machine has not reported to the queen yet".to_owned());
    };
    let trouble = hive.trouble.as_ref()?;
    Some(if hive.is_gone() {
        format!("{trouble}; the queen tries again every few seconds")
    } else {
        format!(
            "the hive of this machine can start no workers: {trouble}; `rbee-keeper hive logs` tells more"
        )
    })
}

/// Waits until the queen has heard of this machine's hive, so that the next command finds it, or has tried in vain to
/// start it. `None` if it takes too long.
async fn wait_for_hive(session: &Session, queen: &Queen) -> Result<Option<view::Hive>, Failure> {
    let began = Instant::now();
    let may_be_beside = queen_process::running(session, Daemon::Hive).is_some();
    let vain_from = began + if may_be_beside { until_report(session) } else { Duration::ZERO };
    loop {
        let reported = reported(queen).await?;
        let now = Instant::now();
        let is_known = reported.as_ref().is_some_and(|hive| is_last_word(hive, now >= vain_from));
        if is_known || now >= began + HIVE_PATIENCE {
            return Ok(reported);
        }
        sleep(LOOK).await;
    }
}

/// By when a hive that is a process of its own has reported to a queen that has just been started.
fn until_report(session: &Session) -> Duration {
    let interval = Duration::from_millis(session.config.worker.heartbeat_interval_ms);
    interval.saturating_mul(2).min(HIVE_PATIENCE)
}

/// Whether nothing else is to be expected: a hive that runs beside the queen keeps her from starting hers, and it is no
/// trouble once that one reports.
fn is_last_word(hive: &view::Hive, is_in_vain: bool) -> bool {
    !hive.is_gone() || is_in_vain
}

/// The hive of this machine, if it reports on time, or the queen says why it does not run. To its queen it is localhost, whatever it is called.
async fn reported(queen: &Queen) -> Result<Option<view::Hive>, Failure> {
    let status: view::Status = read(&queen.get("/v1/status").await?)?;
    let localhost = HiveAlias::localhost();
    let is_there = |hive: &view::Hive| {
        hive.hive_id == localhost.as_str() && (!hive.is_gone() || hive.could_not_be_started())
    };
    Ok(status.hives.into_iter().find(is_there))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hive_beside_the_queen_is_waited_for_though_she_could_not_start_hers_and_told_as_that() {
        let hive_of = |hive| serde_json::from_value::<view::Hive>(hive).unwrap();
        let inside = hive_of(json!({"liveness": "alive"}));
        let beside = hive_of(json!({"liveness": "alive", "address": "http://127.0.0.1:9000"}));
        let in_vain = hive_of(json!({"liveness": "gone", "trouble": "its files are in use"}));
        for (hive, told, ends_wait) in [
            (&inside, Some(Place::Inside), true),
            (&beside, Some(Place::Beside), true),
            (&in_vain, None, false),
        ] {
            assert_eq!(place(Some(hive)), told, "{hive:?}");
            assert_eq!(is_last_word(hive, false), ends_wait, "{hive:?}");
            assert!(is_last_word(hive, true), "{hive:?}");
        }
        assert_eq!(place(None), None);
    }

    #[test]
    fn a_hive_that_does_not_run_is_told_with_its_reason() {
        let hive_of = |hive| serde_json::from_value::<view::Hive>(hive).unwrap();
        let full = "the hive of this machine could not be started: database or disk is full";
        for (hive, expected) in [
            (None, Some("has not reported to the queen yet")),
            (Some(json!({"liveness": "alive", "version": "1"})), None),
            (
                Some(json!({"liveness": "alive", "version": "1", "trouble": "no program"})),
                Some("can start no workers: no program"),
            ),
            (Some(json!({"liveness": "gone", "trouble": full})), Some(full)),
        ] {
            let told = warning(hive.clone().map(hive_of).as_ref());
            let is_told = match (&told, expected) {
                (Some(told), Some(expected)) => told.contains(expected),
                (told, expected) => told.is_none() && expected.is_none(),
            };
            assert!(is_told, "{hive:?}: {told:?}");
        }
    }
}
