//! Taking over the workers that an earlier hive process left running, and ending what it lost sight of.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use daemon_lifecycle::{ProcessIdentity, find_started_with};
use futures::future::join_all;
use sysinfo::System;
use tokio::sync::watch;
use worker_contract::{SupervisedState, SupervisedWorker, WorkerState};

use super::Supervisor;
use super::command::WorkerPlan;
use super::health::HealthPoll;
use super::holdings::Holdings;
use super::ledger::{LedgerEntry, Waiting};
use super::machine::{Event, Machine};
use super::process::WorkerProcess;
use super::token;
use super::watch::{Run, Watch};
use crate::catalog::ModelUsage;
use crate::device::{Reservation, Reservations};

/// How long a worker may take to say how it is before the hive goes on with its own start. One that
/// is silent is watched all the same.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest that a worker waits for its next process, whatever was written down.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A process that an earlier hive started.
struct Found {
    entry: LedgerEntry,
    process: WorkerProcess,
    /// How it says it is; nothing when it is silent.
    said: Option<WorkerState>,
}

impl Supervisor {
    /// Watches each process of the list that is still the one that was started, and forgets the rest.
    pub(super) async fn adopt(
        &self,
        left: Vec<LedgerEntry>,
        usage: &ModelUsage,
        reservations: &Reservations,
    ) {
        self.end_strays(&left);
        let mut found = join_all(left.into_iter().map(|entry| self.find(entry))).await;
        // Of two with one port, the one that listens on it.
        found.sort_by_key(|found| found.as_ref().is_none_or(|found| found.said.is_none()));
        for found in found.into_iter().flatten() {
            let Some((entry, run)) = self.with_its_port(found) else { continue };
            let memory = memory_of(entry.plan.as_ref(), reservations);
            match (&memory, run.machine.state()) {
                (Some(memory), SupervisedState::Ready) => memory.settled(),
                (Some(memory), _) => memory.partly_taken(run.process.own_memory()),
                (None, _) => {}
            }
            let holdings = Holdings::new(usage.share(&entry.model), memory);
            self.take_over(entry, run, holdings);
        }
    }

    async fn find(&self, entry: LedgerEntry) -> Option<Found> {
        let context = &self.context;
        let identity = ProcessIdentity { pid: entry.pid, start_time: entry.start_time };
        let Some(process) = WorkerProcess::adopt(identity, entry.token.as_deref()) else {
            tracing::info!(worker = %entry.worker_id, "worker ended while no hive was running");
            context.ledger.remove(&entry.worker_id);
            return None;
        };
        let address = context.surroundings.own_address(entry.port);
        let (client, id) = (context.client.clone(), entry.worker_id.clone());
        let health = HealthPoll::new(client, &address, id, context.patience.silence);
        let said = tokio::time::timeout(PATIENCE, health.ask()).await.ok().flatten();
        Some(Found { entry, process, said })
    }

    fn with_its_port(&self, found: Found) -> Option<(LedgerEntry, Run)> {
        let Found { entry, process, said } = found;
        let (context, patience, now) = (&self.context, self.context.patience, Instant::now());
        let Some(port) = context.ports.claim(entry.port) else {
            // Nobody could ever reach it.
            let (worker, pid, port) = (&entry.worker_id, entry.pid, entry.port);
            tracing::warn!(%worker, pid, port, "ending a worker whose port another one has");
            self.end(ProcessIdentity { pid, start_time: entry.start_time });
            context.ledger.remove(worker);
            return None;
        };
        let is_loading = matches!(said, Some(WorkerState::Loading { .. }));
        let mut machine = if entry.was_ready && !is_loading {
            Machine::resumed(patience, now)
        } else {
            Machine::new(patience, now)
        };
        if let Some(state) = said {
            machine.step(Event::Health(state), now);
        }
        Some((entry, Run { process, port, machine, log_start: 0 }))
    }

    fn take_over(&self, entry: LedgerEntry, run: Run, holdings: Holdings) {
        let context = &self.context;
        let id = entry.worker_id.clone();
        tracing::info!(worker = %id, pid = entry.pid, port = entry.port, "worker of an earlier hive adopted");
        let worker = SupervisedWorker {
            worker_id: id.clone(),
            hive_id: context.surroundings.hive_id.clone(),
            model: entry.model.clone(),
            device: entry.device,
            address: entry.address.clone(),
            port: entry.port,
            pid: entry.pid,
            started_at: entry.started_at,
            state: run.machine.state(),
            restarts: entry.restarts.clone(),
            memory_bytes: entry.plan.as_ref().and_then(WorkerPlan::memory_bytes),
        };
        let (plan, was_ready, failures) =
            (entry.plan.clone(), entry.was_ready, entry.failures.clone());
        context.ledger.add(entry);
        let (state, seen) = watch::channel(worker);
        let stop = context.list(&id, plan.clone(), seen);
        let watch = Watch::new(Arc::clone(context), id, plan, holdings, state, stop);
        self.tracker.spawn(watch.adopted(was_ready, &failures).run(run));
    }

    /// Starts a worker when it is due that an earlier hive was about to start again.
    pub(super) fn await_its_turn(
        &self,
        paused: Waiting,
        usage: &ModelUsage,
        reservations: &Reservations,
    ) {
        let Waiting { worker, plan, failures, due } = paused;
        let (context, id) = (&self.context, worker.worker_id.clone());
        let pause = Duration::from_secs(due.saturating_sub(System::uptime())).min(LONGEST_PAUSE);
        tracing::info!(worker = %id, ?pause, "worker of an earlier hive is to be started again");
        let memory = memory_of(Some(&plan), reservations);
        let holdings = Holdings::new(usage.share(&plan.model), memory);
        let (state, seen) = watch::channel(worker);
        let stop = context.list(&id, Some(plan.clone()), seen);
        let watch = Watch::new(Arc::clone(context), id, Some(plan), holdings, state, stop);
        self.tracker.spawn(watch.adopted(true, &failures).run_after(pause));
    }

    /// Ends processes that a hive of these files started, as their environment proves, and that no
    /// entry names: the hive was killed before it could note them, or the list was lost.
    fn end_strays(&self, left: &[LedgerEntry]) {
        let context = &self.context;
        let named: HashSet<&str> = left.iter().filter_map(|entry| entry.token.as_deref()).collect();
        let strays = find_started_with(token::VARIABLE, |token| {
            context.tokens.is_ours(token) && !named.contains(token)
        });
        for (stray, _) in strays {
            tracing::warn!(pid = stray.pid, "ending a worker that no list names any longer");
            self.end(stray);
        }
    }

    /// Ends a process that is one of ours.
    fn end(&self, process: ProcessIdentity) {
        let grace = self.context.patience.stop;
        self.tracker.spawn(async move {
            if let Err(error) = daemon_lifecycle::stop(process, grace).await {
                tracing::warn!(pid = process.pid, %error, "it cannot be ended");
            }
        });
    }
}

/// What a worker of an earlier hive is promised.
fn memory_of(plan: Option<&WorkerPlan>, reservations: &Reservations) -> Option<Reservation> {
    let plan = plan.filter(|plan| !plan.memory.is_empty())?;
    Some(reservations.adopt(&plan.memory, &plan.digest))
}
