//! The worker's reports to the queen: at each change of state and at an interval.
//!
//! A queen that does not answer is told of again at the next beat, and sooner where nobody listens: one that is
//! being started again soon knows whom she has. Nothing else in the worker depends on her.

use std::sync::Arc;
use std::time::{Duration, Instant};

use access_tokens::Secret;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::worker::Worker;

/// Where reports go.
#[derive(Debug)]
pub struct HeartbeatSettings {
    /// The queen's base URL.
    pub queen: String,
    /// The secret that she demands.
    pub token: Option<Secret>,
    /// The time between two reports.
    pub interval: Duration,
}

/// How long a report may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// After how long a queen whom nobody is in place of is looked for again, at least; twice that at most.
const AGAIN: Duration = Duration::from_millis(250);

/// Reports until `stop`, and once more then, so that the queen learns of the end.
pub async fn run(worker: Arc<Worker>, settings: HeartbeatSettings, stop: CancellationToken) {
    let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build().unwrap_or_default();
    let url = format!("{}/v1/worker-heartbeat", settings.queen.trim_end_matches('/'));
    let mut state = worker.watch_state();
    let mut ticks = tokio::time::interval(settings.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rate = Rate::new(worker.tokens_made());
    let mut reached = true;
    loop {
        let is_last = stop.is_cancelled();
        let beat = worker.heartbeat(rate.per_second(worker.tokens_made()));
        let mut request = client.post(&url).json(&beat);
        if let Some(token) = &settings.token {
            request = request.bearer_auth(token.expose());
        }
        let outcome = request.send().await.and_then(reqwest::Response::error_for_status);
        match (&outcome, reached) {
            (Err(error), true) => tracing::warn!(%error, "the queen cannot be reached"),
            (Ok(_), false) => tracing::info!("the queen can be reached again"),
            _ => {}
        }
        reached = outcome.is_ok();
        if is_last {
            return;
        }
        let is_away = outcome.is_err_and(|error| is_away(&error));
        let again = tokio::time::sleep(again_after());
        tokio::pin!(again);
        tokio::select! {
            _ = ticks.tick() => {}
            () = &mut again, if is_away => {}
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
                // Progress while loading comes in many small steps: the ticks are enough for it.
                while matches!(&*state.borrow_and_update(), worker_contract::WorkerState::Loading { .. }) {
                    tokio::select! {
                        _ = ticks.tick() => break,
                        () = &mut again, if is_away => break,
                        _ = state.changed() => {}
                        () = stop.cancelled() => break,
                    }
                }
            }
            () = stop.cancelled() => {}
        }
    }
}

/// Whether nobody listens where the queen should be. One that refuses a report, or that is slow, is there: what comes
/// more often would not help her.
fn is_away(error: &reqwest::Error) -> bool {
    !error.is_status() && !error.is_timeout()
}

/// Each process has a pause of its own, so that not all workers of a machine come at once.
fn again_after() -> Duration {
    AGAIN + AGAIN * (std::process::id() % 256) / 256
}

/// Tokens per second between two looks.
struct Rate {
    at: Instant,
    tokens: u64,
}

impl Rate {
    fn new(tokens: u64) -> Self {
        Self { at: Instant::now(), tokens }
    }

    fn per_second(&mut self, tokens: u64) -> f32 {
        let seconds = self.at.elapsed().as_secs_f32();
        let made = tokens.saturating_sub(self.tokens);
        *self = Self::new(tokens);
        if seconds > 0.0 { made as f32 / seconds } else { 0.0 }
    }
}
