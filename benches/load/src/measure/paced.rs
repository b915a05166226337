//! What a gateway adds to the first token and to each further one, while streams go at a pace.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{next_tag, turns};
use crate::client::{Outcome, Patience, stream};
use crate::figures::{median, percentile, table, verdict};
use crate::order::Order;
use crate::way::{MODEL, NGINX, QUEEN, STRAIGHT, Way, Ways};

/// The time between two tokens of a stream.
const PACE: Duration = Duration::from_millis(30);
/// The tokens of each stream.
const TOKENS: u32 = 80;
/// How many streams at once.
const STREAMS: [u32; 3] = [1, 64, 256];
/// Beside the streams, one client asks for single tokens, with such a rest between: the time to the
/// first token under that load.
const PROBE_REST: Duration = Duration::from_millis(10);
const PATIENCE: Patience = Patience(Duration::from_secs(30));

pub(crate) async fn measure(ways: &Ways, rounds: usize) -> Result<String> {
    let mut rows = Vec::new();
    let mut aims = Vec::new();
    for streams in STREAMS {
        let mut samples: Vec<Samples> = ways.all.iter().map(|_| Samples::default()).collect();
        for round in 0..rounds {
            for index in turns(ways.all.len(), round) {
                let way = &ways.all[index];
                let run = run(way, streams).await;
                samples[index]
                    .add(run.with_context(|| format!("{}: {streams} streams", way.name))?);
            }
        }
        for (way, sample) in ways.all.iter().zip(&samples) {
            let figure = |values: &[f64], part| format!("{:.0}", percentile(values, part));
            let added = |of: fn(&Samples) -> &[f64]| match way.name {
                STRAIGHT => "-".to_owned(),
                _ => format!("{:+.0}", median(of(sample)) - median(of(&samples[0]))),
            };
            rows.push(vec![
                streams.to_string(),
                way.name.to_owned(),
                figure(&sample.first, 0.5),
                added(|samples| &samples.first),
                figure(&sample.first, 0.99),
                figure(&sample.tokens, 0.5),
                added(|samples| &samples.tokens),
                figure(&sample.tokens, 0.99),
            ]);
        }
        if let Some(nginx) = ways.position(NGINX)
            && let Some(queen) = ways.position(QUEEN)
        {
            let (nginx, queen) = (&samples[nginx], &samples[queen]);
            let first = verdict(median(&queen.first) <= median(&nginx.first));
            let token = verdict(median(&queen.tokens) <= median(&nginx.tokens));
            aims.push(format!("{streams} streams: first token {first}, each token {token}"));
        }
    }
    let head =
        ["streams", "way", "first token, µs", "added", "p99", "each token, µs", "added", "p99"];
    let title = "Time to the first token and of each token, a token every 30 ms";
    let aim =
        format!("\n\nAim: the queen adds no more than nginx at the median: {}", aims.join("; "));
    Ok(table(title, &head, rows) + &aim)
}

/// Times in microseconds.
#[derive(Default)]
struct Samples {
    first: Vec<f64>,
    tokens: Vec<f64>,
}

impl Samples {
    fn add(&mut self, more: Self) {
        self.first.extend(more.first);
        self.tokens.extend(more.tokens);
    }
}

async fn run(way: &Way, streams: u32) -> Result<Samples> {
    let mut tasks = JoinSet::new();
    for index in 0..streams {
        let mut connection = way.connect(index as usize).await?;
        // Spread over the pace, as streams of many clients are.
        let delay = PACE * index / streams;
        tasks.spawn(async move {
            sleep(delay).await;
            let order = Order { tag: next_tag(), tokens: TOKENS, pace: PACE };
            stream(&mut connection, MODEL, order, PATIENCE).await
        });
    }
    let mut samples = Samples::default();
    let probing = probe(way, &mut samples.first);
    tokio::select! {
        failed = probing => failed?,
        outcomes = all(&mut tasks) => {
            for outcome in outcomes? {
                samples.tokens.extend(outcome.tokens);
            }
        }
    }
    Ok(samples)
}

async fn all(tasks: &mut JoinSet<Result<Outcome>>) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    while let Some(outcome) = tasks.join_next().await {
        outcomes.push(outcome??);
    }
    Ok(outcomes)
}

/// Asks for single tokens until it is dropped.
async fn probe(way: &Way, first: &mut Vec<f64>) -> Result<()> {
    let mut connection = way.connect(0).await?;
    loop {
        sleep(PROBE_REST).await;
        let order = Order { tag: next_tag(), tokens: 1, pace: Duration::ZERO };
        first.push(stream(&mut connection, MODEL, order, PATIENCE).await?.first);
    }
}
