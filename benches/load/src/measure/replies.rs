//! Small answers that are no streams.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

use super::{next_tag, turns};
use crate::client::reply;
use crate::figures::{aim, median, ratio, shown, table};
use crate::order::Order;
use crate::way::{MODEL, NGINX, QUEEN, SMG, Way, Ways};

const CLIENTS: usize = 64;
/// The tokens of each answer. A worker sends each token when it has it, so more of them measure what
/// streams do.
const TOKENS: u32 = 1;
/// How long they ask.
const TIME: Duration = Duration::from_secs(2);

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
            format!("{:.1}", median(&costs[index])),
        ]
    });
    let head = ["way", "replies/s", "to nginx", "to SMG", "gateway's CPU, µs/reply"];
    let title = format!("Small replies that are no streams, {CLIENTS} clients");
    let queen = ways.position(QUEEN);
    let aims = [aim(to(queen, NGINX), 0.6, NGINX), aim(to(queen, SMG), 3.0, SMG)].join(", ");
    Ok(table(&title, &head, rows.collect()) + "\n\nAim: " + &aims)
}

/// Replies per second, and the gateway's processor time for each, in microseconds.
async fn run(way: &Way) -> Result<(f64, f64)> {
    let mut connections = Vec::new();
    for index in 0..CLIENTS {
        connections.push(way.connect(index).await?);
    }
    let before = way.usage().unwrap_or_default();
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for mut connection in connections {
        tasks.spawn(async move {
            let mut replies = 0_u32;
            while begin.elapsed() < TIME {
                let order = Order { tag: next_tag(), tokens: TOKENS, pace: Duration::ZERO };
                reply(&mut connection, MODEL, order).await?;
                replies += 1;
            }
            anyhow::Ok(replies)
        });
    }
    let mut replies = 0.0;
    while let Some(count) = tasks.join_next().await {
        replies += f64::from(count??);
    }
    let seconds = begin.elapsed().as_secs_f64();
    let used = way.usage().unwrap_or_default().cpu_s - before.cpu_s;
    Ok((replies / seconds, used * 1e6 / replies))
}
