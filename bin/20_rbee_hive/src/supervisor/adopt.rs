//! Taking over the workers that an earlier hive process left running.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::sync::watch;
use worker_contract::SupervisedWorker;

use super::Supervisor;
use super::health::HealthPoll;
use super::ledger::LedgerEntry;
use super::log_file::LogFile;
use super::machine::{Event, Machine};
use super::process::WorkerProcess;
use super::watch::{Run, Watch};
use crate::catalog::ModelUsage;

/// How long a worker may take to say how it is before the hive goes on with its own start. One that
/// is silent is watched all the same, as one that is still loading.
const PATIENCE: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Watches each process of the list that is still the one that was started, and forgets the rest.
    pub(super) async fn adopt(&self, left: Vec<LedgerEntry>, usage: &ModelUsage) {
        let found = join_all(left.into_iter().map(|entry| self.find(entry))).await;
        for (entry, run) in found.into_iter().flatten() {
            self.take_over(entry, run, usage);
        }
    }

    async fn find(&self, entry: LedgerEntry) -> Option<(LedgerEntry, Run)> {
        let context = &self.context;
        let Some(process) = WorkerProcess::adopt(entry.pid, entry.start_time) else {
            tracing::info!(worker = %entry.worker_id, "worker ended while no hive was running");
            return None;
        };
        let port = context.ports.claim(entry.port)?;
        let mut machine = Machine::new(context.patience, Instant::now());
        let address = context.surroundings.own_address(entry.port);
        let health = HealthPoll::new(context.client.clone(), &address, entry.worker_id.clone());
        let said = tokio::time::timeout(PATIENCE, health.ask()).await;
        if let Ok(Some(state)) = said {
            machine.step(Event::Health(state), Instant::now());
        }
        Some((entry, Run { process, port, machine }))
    }

    fn take_over(&self, entry: LedgerEntry, run: Run, usage: &ModelUsage) {
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
        };
        let model_in_use = usage.share(&entry.model);
        let log = LogFile::of(&context.logs, &id);
        context.ledger.add(entry);
        let (state, seen) = watch::channel(worker);
        let stop = context.list(&id, seen);
        let context = Arc::clone(context);
        let watch = Watch { context, id, plan: None, log, state, stop, model_in_use };
        self.tracker.spawn(watch.run(run));
    }
}
