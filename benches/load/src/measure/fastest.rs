//! Streamed tokens per second, as fast as they come.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

use super::{next_tag, turns};
use crate::client::{Patience, stream};
use crate::figures::{aim, median, ratio, shown, table};
use crate::order::Order;
use crate::way::{MODEL, NGINX, QUEEN, SMG, Way, Ways};

const STREAMS: usize = 64;
/// The tokens of each stream.
const TOKENS: u32 = 4000;
const PATIENCE: Patience = Patience(Duration::from_secs(60));

pub(crate) async fn measure(ways: &Ways, rounds: usize) -> Result<String> {
    let mut rates = vec![Vec::new(); ways.all.len()];
    let mut costs = rates.clone();
    for round in 0..=rounds {
        for index in turns(ways.all.len(), round) {
            let way = &ways.all[index];
            let (rate, cost) = run(way).await.with_context(|| way.name)?;
            // The first round opens connections.
            if round > 0 {
                rates[index].push(rate);
                costs[index].push(cost);
            }
        }
    }
    let to = |index: Option<usize>, name| {
        let of = |index: Option<usize>| index.map(|index| &rates[index]);
        ratio(of(index), of(ways.position(name)))
    };
    let rows = ways.all.iter().enumerate().map(|(index, way)| {
        vec![
            way.name.to_owned(),
            format!("{:.0}", median(&rates[index])),
            shown(to(Some(index), NGINX)),
            shown(to(Some(index), SMG)),
            format!("{:.2}", median(&costs[index])),
        ]
    });
    let head = ["way", "tokens/s", "to nginx", "to SMG", "gateway's CPU, µs/token"];
    let title = format!("Tokens per second as fast as they come, {STREAMS} streams");
    let queen = ways.position(QUEEN);
    let aims = [aim(to(queen, NGINX), 0.8, NGINX), aim(to(queen, SMG), 2.0, SMG)].join(", ");
    Ok(table(&title, &head, rows.collect()) + "\n\nAim: " + &aims)
}

/// Tokens per second, and the gateway's processor time for each, in microseconds.
async fn run(way: &Way) -> Result<(f64, f64)> {
    let mut connections = Vec::new();
    for index in 0..STREAMS {
        connections.push(way.connect(index).await?);
    }
    let before = way.usage().unwrap_or_default();
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for mut connection in connections {
        let order = Order { tag: next_tag(), tokens: TOKENS, pace: Duration::ZERO };
        tasks.spawn(async move { stream(&mut connection, MODEL, order, PATIENCE).await });
    }
    let mut tokens = 0;
    while let Some(outcome) = tasks.join_next().await {
        tokens += outcome??.tokens.len();
    }
    let seconds = begin.elapsed().as_secs_f64();
    let used = way.usage().unwrap_or_default().cpu_s - before.cpu_s;
    Ok((tokens as f64 / seconds, used * 1e6 / tokens as f64))
}
