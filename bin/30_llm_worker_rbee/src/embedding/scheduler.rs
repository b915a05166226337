//! The loop that owns the engine: takes requests in, computes batches of texts, sends results out.
//!
//! It runs on a thread of its own and never waits for a reader. An answer's reader ends its request
//! by going away, which is seen before the next batch.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use worker_contract::TokenId;

use super::load::{Load, Submitter, way_in};
use super::plan::{Pending, Share, plan, settled, start};
use super::request::{EmbeddingRequest, Running};
use crate::batch::Gauges;
use crate::engine::{PooledEngine, PooledLimits};
use crate::metrics::Metrics;

/// How long the loop rests when every request waits for its reader.
const STALL_REST: Duration = Duration::from_millis(2);

/// The loop.
pub struct EmbeddingScheduler<E> {
    engine: E,
    limits: PooledLimits,
    inbox: Receiver<EmbeddingRequest>,
    load: Arc<Load>,
    metrics: Metrics,
    running: Vec<Running>,
    /// The tokens that everybody has had who has something to compute. It never goes back.
    clock: u64,
}

impl<E> std::fmt::Debug for EmbeddingScheduler<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddingScheduler").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl<E: PooledEngine> EmbeddingScheduler<E> {
    /// A loop on an engine, with at most `slots` and `max_queue` requests together.
    ///
    /// All of them take turns; the gauges show those beyond `slots` as waiting.
    pub fn new(
        engine: E,
        slots: u32,
        max_queue: u32,
        gauges: Arc<Gauges>,
        metrics: Metrics,
    ) -> (Self, Submitter) {
        let (submitter, inbox, load) = way_in(slots, max_queue, gauges);
        let limits = engine.limits();
        (Self { engine, limits, inbox, load, metrics, running: Vec::new(), clock: 0 }, submitter)
    }

    /// Runs until the last [`Submitter`] is gone and everything is answered.
    pub fn run(mut self) {
        loop {
            let open = self.receive();
            self.end_abandoned_and_overdue(Instant::now());
            self.step();
            if !open && self.running.is_empty() {
                break;
            }
        }
    }

    /// Takes in what has come; waits only when there is nothing to compute.
    /// `false` when nothing can come any more.
    fn receive(&mut self) -> bool {
        let first = if self.running.is_empty() {
            self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else if self.pending().iter().all(|pending| pending.texts.is_empty()) {
            self.inbox.recv_timeout(STALL_REST)
        } else {
            self.inbox.recv_timeout(Duration::ZERO)
        };
        match first {
            Ok(request) => self.admit(request),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        while let Ok(request) = self.inbox.try_recv() {
            self.admit(request);
        }
        true
    }

    fn admit(&mut self, request: EmbeddingRequest) {
        self.running.push(Running::new(request, self.clock));
    }

    fn pending(&self) -> Vec<Pending> {
        let most = self.limits.batch_texts as usize;
        self.running.iter().map(|running| running.pending(most)).collect()
    }

    fn end_abandoned_and_overdue(&mut self, now: Instant) {
        self.end(|running| {
            if running.is_abandoned() {
                return Some("cancelled");
            }
            running.is_overdue(now).then(|| {
                running.fail("deadline_exceeded", "the request's deadline has passed");
                "deadline_exceeded"
            })
        });
    }

    /// Computes one batch and sends its results.
    fn step(&mut self) {
        let pending = self.pending();
        let shares = plan(&pending, self.limits);
        if shares.is_empty() {
            return;
        }
        self.clock = self.clock.max(start(&pending));
        for running in &mut self.running {
            running.served = settled(running.served, self.clock, self.limits);
        }
        let now = Instant::now();
        for share in &shares {
            self.running[share.request].start(now);
        }
        let texts: Vec<&[TokenId]> = shares
            .iter()
            .flat_map(|share| self.running[share.request].next_texts(share.texts))
            .collect();
        self.metrics.step(shares.iter().map(|share| share.tokens).sum());
        let failures = match self.engine.compute(&texts) {
            Ok(()) => self.deliver(&shares),
            Err(error) => {
                tracing::error!(%error, "a batch failed");
                shares.iter().map(|share| (share.request, error.to_string())).collect()
            }
        };
        self.fail(&failures);
        let now = Instant::now();
        self.end(|running| {
            running.is_complete().then(|| {
                running.finish(now);
                "stop"
            })
        });
    }

    /// Hands each request its rows; gives those that failed, with the reason.
    fn deliver(&mut self, shares: &[Share]) -> Vec<(usize, String)> {
        let now = Instant::now();
        let mut failures = Vec::new();
        let mut row = 0;
        for share in shares {
            let running = &mut self.running[share.request];
            running.served += share.tokens as u64;
            self.load.gauges().tokens.fetch_add(share.tokens as u64, Relaxed);
            self.metrics.prompt(share.tokens, 0);
            let rows = row..row + share.texts;
            row = rows.end;
            for row in rows {
                let outcome = self.engine.output(row).and_then(|output| running.take(output, now));
                if let Err(error) = outcome {
                    tracing::error!(%error, "a text has no result");
                    failures.push((share.request, error.to_string()));
                    break;
                }
            }
        }
        failures
    }

    fn fail(&mut self, failures: &[(usize, String)]) {
        let mut index = 0;
        self.end(|running| {
            let failure = failures.iter().find(|(request, _)| *request == index);
            index += 1;
            failure.map(|(_, reason)| {
                running.fail("engine_error", reason);
                "engine_error"
            })
        });
    }

    /// Lets go of the requests for which `ends` tells how they ended.
    fn end(&mut self, mut ends: impl FnMut(&Running) -> Option<&'static str>) {
        let (load, metrics) = (&self.load, &self.metrics);
        self.running.retain(|running| {
            let end = ends(running);
            if let Some(end) = end {
                load.remove_one();
                metrics.request_ended(end);
            }
            end.is_none()
        });
    }
}
