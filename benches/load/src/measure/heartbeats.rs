//! What it costs the queen to hear from many.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::super::stand_in::heartbeat::{Reporter, of_hive, of_worker};
use crate::figures::{median, table, verdict};
use crate::way::{MODEL, Programs, Queen};

const HIVES: usize = 100;
const WORKERS_EACH: usize = 20;
const INTERVAL: Duration = Duration::from_secs(2);
/// How long each part of the measurement takes.
const TIME: Duration = Duration::from_secs(5);
/// The most of a core that they may take.
const MAX_SHARE: f64 = 0.05;

pub(crate) async fn measure(programs: &Programs, rounds: usize) -> Result<String> {
    let queen = Queen::start(&programs.queen).await?;
    let quiet = share(&queen, TIME).await?;
    let mut reports = start(&queen)?;
    // All have reported, and are known.
    sleep(2 * INTERVAL).await;
    let mut shares = Vec::new();
    for _ in 0..rounds {
        tokio::select! {
            measured = share(&queen, TIME) => shares.push(measured?),
            Some(ended) = reports.join_next() => {
                ended??;
                bail!("a reporter ended");
            }
        }
    }
    let memory = queen.process.usage()?.rss;
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let share = median(&shares);
    let row = vec![
        HIVES.to_string(),
        (HIVES * WORKERS_EACH).to_string(),
        percent(quiet),
        percent(share),
        format!("{:.0} MiB", memory / f64::from(1 << 20)),
    ];
    let head = ["hives", "workers", "a core, nobody reports", "a core, all report", "memory"];
    let title = format!("Reports of hives and workers every {} s", INTERVAL.as_secs());
    let aim = format!("\n\nAim: below 5 % of a core: {}", verdict(share < MAX_SHARE));
    Ok(table(&title, &head, vec![row]) + &aim)
}

/// The part of one core that the queen takes.
async fn share(queen: &Queen, time: Duration) -> Result<f64> {
    let (begin, before) = (Instant::now(), queen.process.usage()?.cpu_s);
    sleep(time).await;
    Ok((queen.process.usage()?.cpu_s - before) / begin.elapsed().as_secs_f64())
}

/// Everybody reports, spread over the interval.
fn start(queen: &Queen) -> Result<JoinSet<Result<()>>> {
    let reporter = Reporter::new(&queen.url(), &queen.read_secret()?)?;
    let mut tasks = JoinSet::new();
    let all = HIVES * (WORKERS_EACH + 1);
    let mut started = 0;
    let mut delay = || {
        started += 1;
        INTERVAL.mul_f64(f64::from(started) / all as f64)
    };
    for hive in 0..HIVES {
        let worker = |index: usize| {
            let number = hive * WORKERS_EACH + index;
            let port = u16::try_from(30_000 + number).context("a port")?;
            of_worker(number, hive, SocketAddr::from(([127, 0, 0, 1], port)), MODEL, 4)
        };
        let workers: Vec<_> = (0..WORKERS_EACH).map(worker).collect::<Result<_>>()?;
        let beat = of_hive(hive, &workers)?;
        tasks.spawn(reporter.clone().report_hive(beat, INTERVAL, delay()));
        for beat in workers {
            tasks.spawn(reporter.clone().report_worker(beat, INTERVAL, delay()));
        }
    }
    Ok(tasks)
}
