//! Very many streams of one token a second: none lost, none late, and little memory for each.

use std::time::Duration;

use anyhow::Result;
use rustix::process::{Resource, getrlimit};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::next_tag;
use crate::client::{Patience, stream};
use crate::figures::{percentile, table, verdict};
use crate::order::Order;
use crate::way::{MODEL, QUEEN, Usage, Way, Ways};

const PACE: Duration = Duration::from_secs(1);
/// How long all streams are open together.
const TOGETHER: Duration = Duration::from_secs(20);
/// So many streams are opened in a second.
const OPENED_PER_SECOND: u32 = 1000;
/// A token is late that is read so long after it was written, in microseconds.
const LATE: f64 = 1_000_000.0;
/// A stream that is silent for so long is lost.
const PATIENCE: Patience = Patience(Duration::from_secs(10));
/// The open files of a process that are no streams.
const OTHER_FILES: u64 = 1000;
/// The most memory that a stream may take of the gateway, in KiB.
const MAX_KIB: f64 = 24.0;

pub(crate) async fn measure(ways: &Ways, wanted: &[u32]) -> Result<String> {
    let most = most_streams();
    let mut rows = Vec::new();
    let mut aims = Vec::new();
    for wanted in wanted {
        let streams = most.min(*wanted);
        for way in &ways.all {
            let seen = run(way, streams).await?;
            let kib = seen.bytes_each / 1024.0;
            rows.push(vec![
                streams.to_string(),
                way.name.to_owned(),
                seen.lost.to_string(),
                seen.late.to_string(),
                format!("{:.1}", percentile(&seen.tokens, 0.5) / 1000.0),
                format!("{:.1}", percentile(&seen.tokens, 0.99) / 1000.0),
                format!("{:.1}", percentile(&seen.tokens, 1.0) / 1000.0),
                if way.usage().is_some() { format!("{kib:.1}") } else { "-".to_owned() },
            ]);
            if let Some(error) = &seen.first_error {
                aims.push(format!("{} with {streams}: {error}", way.name));
            }
            if way.name == QUEEN {
                let holds = seen.lost == 0 && seen.late == 0 && kib <= MAX_KIB;
                aims.push(format!("queen with {streams}: {}", verdict(holds)));
            }
        }
    }
    let head = [
        "streams",
        "way",
        "lost",
        "late tokens",
        "median ms",
        "p99 ms",
        "slowest ms",
        "KiB of the gateway each",
    ];
    let title = "Streams of one token a second";
    let aim =
        format!("\n\nAim: none lost, none late by 1 s, {MAX_KIB} KiB each: {}", aims.join("; "));
    let note = format!("\nA process may open {most} streams here at most (ulimit -n).");
    Ok(table(title, &head, rows) + &aim + &note)
}

/// What a gateway has two open files for.
fn most_streams() -> u32 {
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    u32::try_from(files.saturating_sub(OTHER_FILES) / 2).unwrap_or(u32::MAX)
}

#[derive(Default)]
struct Seen {
    lost: u32,
    first_error: Option<String>,
    late: usize,
    tokens: Vec<f64>,
    bytes_each: f64,
}

async fn run(way: &Way, streams: u32) -> Result<Seen> {
    let begin = Instant::now();
    let opening = Duration::from_secs(1) * streams / OPENED_PER_SECOND;
    let end = begin + opening + TOGETHER;
    let before = way.usage().unwrap_or_default();
    let mut tasks = JoinSet::new();
    for index in 0..streams {
        let at = begin + opening * index / streams;
        sleep_until(at).await;
        // All end together.
        let tokens = u32::try_from((end - at).as_secs())?;
        let opened = way.connect(index as usize).await;
        tasks.spawn(async move {
            let order = Order { tag: next_tag(), tokens, pace: PACE };
            stream(&mut opened?, MODEL, order, PATIENCE).await
        });
    }
    // Everything is open, and has been for a while.
    let peak = at_time(way, end - TOGETHER / 4).await;
    let mut seen =
        Seen { bytes_each: (peak.rss - before.rss) / f64::from(streams), ..Seen::default() };
    while let Some(outcome) = tasks.join_next().await {
        match outcome? {
            Ok(outcome) => {
                seen.late += outcome.tokens.iter().filter(|time| **time > LATE).count();
                seen.tokens.extend(outcome.tokens);
            }
            Err(error) => {
                seen.lost += 1;
                seen.first_error.get_or_insert(format!("{error:#}"));
            }
        }
    }
    Ok(seen)
}

async fn at_time(way: &Way, time: Instant) -> Usage {
    sleep_until(time).await;
    way.usage().unwrap_or_default()
}
