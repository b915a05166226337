//! A simulated machine: a disk with models, memory, and the processes of workers, which outlive their hive
//! and end with the power.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use rbee_operations::{FitReport, NOT_ENOUGH_MEMORY, WorkerFit, WorkerSpawn};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use worker_contract::{
    Device, DeviceId, DeviceLoad, HiveAlias, MemoryNeed, ModelEntry, Restarts, SupervisedState,
    SupervisedWorker, WorkerId,
};

use super::wire::JobEnd;
use crate::scheduler::memory_need;
use crate::simulation::worker::{self, Knobs, PORT, Who};

/// How many workers that failed stay listed.
const MOST_FAILED: usize = 3;

/// A machine and all that is known of it from outside.
#[derive(Debug)]
pub(super) struct Machine {
    /// Its name, which is its hive's.
    pub(super) name: HiveAlias,
    pub(super) disk: Vec<ModelEntry>,
    pub(super) memory: Vec<(DeviceId, u64)>,
    pub(super) hive_is_down: AtomicBool,
    pub(super) starts_are_slow: AtomicBool,
    pub(super) starts_fail: AtomicBool,
    state: Mutex<State>,
    /// All workers that there ever were.
    seen: Mutex<Vec<Arc<Knobs>>>,
    last_number: AtomicU64,
}

/// What ends with the power.
#[derive(Debug)]
pub(super) struct State {
    pub(super) rng: Rng,
    pub(super) workers: BTreeMap<WorkerId, Process>,
    /// What its hive was asked for.
    pub(super) jobs: BTreeMap<u64, Arc<JobEnd>>,
}

/// A worker, from process to process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) knobs: Arc<Knobs>,
    /// Fires when the process has ended.
    pub(super) killed: CancellationToken,
    pub(super) state: SupervisedState,
    pub(super) restarts: Option<Restarts>,
    pub(super) restart_at: Option<Instant>,
    /// Since when it says nothing.
    pub(super) silent_since: Option<Instant>,
    needs: u64,
}

impl Machine {
    pub(super) fn new(
        name: HiveAlias,
        disk: Vec<ModelEntry>,
        memory: Vec<(DeviceId, u64)>,
        rng: Rng,
    ) -> Arc<Self> {
        let state = State { rng, workers: BTreeMap::new(), jobs: BTreeMap::new() };
        Arc::new(Self {
            name,
            disk,
            memory,
            hive_is_down: AtomicBool::new(false),
            starts_are_slow: AtomicBool::new(false),
            starts_fail: AtomicBool::new(false),
            state: Mutex::new(state),
            seen: Mutex::default(),
            last_number: AtomicU64::new(0),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that nothing else of this machine has.
    pub(super) fn next_number(&self) -> u64 {
        self.last_number.fetch_add(1, SeqCst) + 1
    }

    /// The power was cut: nothing of before is there.
    pub(super) fn forget_all(&self) {
        let mut state = self.state();
        state.workers.clear();
        state.jobs.clear();
    }

    /// The workers whose processes live.
    pub(super) fn living(&self) -> Vec<Arc<Knobs>> {
        let state = self.state();
        let living = state.workers.values().filter(|process| process.lives());
        living.map(|process| Arc::clone(&process.knobs)).collect()
    }

    /// All workers that there ever were.
    pub(super) fn seen(&self) -> Vec<Arc<Knobs>> {
        self.seen.lock().unwrap().clone()
    }

    /// Ends the process of a worker.
    pub(super) fn kill(&self, name: &str) {
        for process in self.state().workers.values() {
            if process.knobs.who.name == name {
                process.killed.cancel();
            }
        }
    }

    /// Tells a worker to end, which goes on with what it has.
    pub(super) fn drain(&self, name: &str) {
        for process in self.state().workers.values_mut() {
            if process.knobs.who.name == name {
                process.state = SupervisedState::Stopping;
                process.restart_at = None;
                process.knobs.drains.store(true, SeqCst);
            }
        }
    }

    /// Ends a worker for good; tells how many requests it still had.
    pub(super) fn remove(&self, name: &str) -> u32 {
        let mut state = self.state();
        let found = state.workers.iter().find(|(_, process)| process.knobs.who.name == name);
        let Some(id) = found.map(|(id, _)| id.clone()) else { return 0 };
        let Some(process) = state.workers.remove(&id) else { return 0 };
        let cut_off = if process.lives() { process.knobs.requests.load(SeqCst) } else { 0 };
        process.killed.cancel();
        cut_off
    }

    /// Starts a worker where there is memory for it.
    pub(super) fn begin(
        &self,
        asked: &WorkerSpawn,
        processes: &TaskTracker,
    ) -> Result<WorkerId, &'static str> {
        let entry = self.disk.iter().find(|entry| entry.alias == asked.model);
        let needs = memory_need(entry.ok_or("model_not_found")?);
        let mut state = self.state();
        let has_room = |device: &DeviceId| state.free(*device, self) >= needs;
        let devices = self.memory.iter().map(|(device, _)| *device);
        let wanted = devices.filter(|device| asked.device.is_none_or(|wanted| wanted == *device));
        let device = wanted.into_iter().find(has_room).ok_or(NOT_ENOUGH_MEMORY)?;
        let number = self.next_number();
        let name = format!("w-{}-{number}", self.name);
        let who = Who {
            name: name.clone(),
            host: self.name.to_string(),
            hive: self.name.clone(),
            model: asked.model.clone(),
            device,
            port: PORT + u16::try_from(number % 700).unwrap(),
        };
        let knobs = Arc::new(Knobs::new(who));
        self.seen.lock().unwrap().push(Arc::clone(&knobs));
        let id: WorkerId = name.parse().unwrap();
        let process = Process {
            killed: self.start(&mut state, &knobs, processes),
            knobs,
            state: SupervisedState::Starting { progress: 0.0 },
            restarts: None,
            restart_at: None,
            silent_since: None,
            needs,
        };
        state.workers.insert(id.clone(), process);
        Ok(id)
    }

    /// Whether there would be memory for a worker when some others had ended.
    pub(super) fn fit(&self, asked: &WorkerFit) -> Result<FitReport, &'static str> {
        let entry = self.disk.iter().find(|entry| entry.alias == asked.start.model);
        let weights_bytes = memory_need(entry.ok_or("model_not_found")?);
        let state = self.state();
        let room_on = |device: DeviceId| {
            let leaving = asked.without.iter().filter_map(|id| state.workers.get(id));
            let here = leaving.filter(|process| {
                process.knobs.who.device == device
                    && !matches!(process.state, SupervisedState::Failed { .. })
            });
            state.free(device, self) + here.map(|process| process.needs).sum::<u64>()
        };
        let devices = self.memory.iter().map(|(device, _)| *device);
        let mut wanted = devices.filter(|it| asked.start.device.is_none_or(|wanted| wanted == *it));
        let device = wanted.next().ok_or("device_not_found")?;
        let need = MemoryNeed {
            device,
            weights_bytes,
            mapped_bytes: 0,
            context_bytes: 0,
            compute_bytes: 0,
        };
        let fits = room_on(device) >= weights_bytes;
        let reason = (!fits).then(|| "it does not fit".to_owned());
        Ok(FitReport { needs: Some(vec![need]), fits, reason, ..FitReport::unknown() })
    }

    /// Starts the next process of a worker.
    pub(super) fn start_again(&self, state: &mut State, id: &WorkerId, processes: &TaskTracker) {
        let Some(knobs) = state.workers.get(id).map(|process| Arc::clone(&process.knobs)) else {
            return;
        };
        let killed = self.start(state, &knobs, processes);
        if let Some(process) = state.workers.get_mut(id) {
            (process.killed, process.restart_at, process.silent_since) = (killed, None, None);
        }
    }

    /// Starts a process; gives what ends it.
    fn start(
        &self,
        state: &mut State,
        knobs: &Arc<Knobs>,
        processes: &TaskTracker,
    ) -> CancellationToken {
        let pid = u32::try_from(self.next_number()).unwrap();
        knobs.pid.store(pid, SeqCst);
        knobs.is_loading.store(true, SeqCst);
        for knob in [&knobs.hangs, &knobs.stalls, &knobs.is_slow, &knobs.babbles] {
            knob.store(false, SeqCst);
        }
        let load = Duration::from_millis(state.rng.u64(200..2500));
        let load = if self.starts_are_slow.load(SeqCst) { load * 10 } else { load };
        let fails = self.starts_fail.load(SeqCst);
        let killed = CancellationToken::new();
        let (process, end) = (Arc::clone(knobs), killed.clone());
        processes.spawn(async move {
            let loading = async {
                sleep(load).await;
                if fails {
                    end.cancel();
                }
                process.is_loading.store(false, SeqCst);
            };
            let (_, ended) = tokio::join!(
                end.run_until_cancelled(loading),
                worker::run(Arc::clone(&process), end.clone()),
            );
            // A port that is taken ends it.
            if ended.is_err() {
                end.cancel();
            }
        });
        killed
    }

    /// What its hive lists.
    pub(super) fn listed(&self) -> Vec<SupervisedWorker> {
        let state = self.state();
        state.workers.iter().map(|(id, process)| process.listed(id)).collect()
    }

    pub(super) fn devices(&self) -> Vec<Device> {
        let state = self.state();
        let device = |(id, total): &(DeviceId, u64)| Device {
            id: *id,
            backend: "simulated".into(),
            name: "simulated".into(),
            memory_total_bytes: *total,
            memory_free_bytes: total
                - state.taken(*id, |process| match process.state {
                    // Half of it has been read.
                    SupervisedState::Starting { .. } => process.needs / 2,
                    _ => process.needs,
                }),
            pci_address: None,
            load: DeviceLoad::default(),
            is_gone: false,
        };
        self.memory.iter().map(device).collect()
    }
}

impl State {
    fn taken(&self, device: DeviceId, takes: impl Fn(&Process) -> u64) -> u64 {
        let here = self.workers.values().filter(|process| process.knobs.who.device == device);
        let has_memory =
            |process: &&Process| !matches!(process.state, SupervisedState::Failed { .. });
        here.filter(has_memory).map(takes).sum()
    }

    fn free(&self, device: DeviceId, machine: &Machine) -> u64 {
        let of_it = machine.memory.iter().find(|(id, _)| *id == device);
        of_it.map_or(0, |(_, total)| total - self.taken(device, |process| process.needs))
    }

    /// Takes those that failed first off the list.
    pub(super) fn forget_failed(&mut self) {
        let failed = |process: &Process| matches!(process.state, SupervisedState::Failed { .. });
        while self.workers.values().filter(|process| failed(process)).count() > MOST_FAILED {
            let oldest = self.workers.iter().find(|(_, process)| failed(process));
            let Some(oldest) = oldest.map(|(id, _)| id.clone()) else { return };
            self.workers.remove(&oldest);
        }
    }
}

impl Process {
    pub(super) fn lives(&self) -> bool {
        !self.killed.is_cancelled()
    }

    pub(super) fn listed(&self, id: &WorkerId) -> SupervisedWorker {
        let who = &self.knobs.who;
        SupervisedWorker {
            worker_id: id.clone(),
            hive_id: who.hive.clone(),
            model: who.model.clone(),
            device: who.device,
            address: self.knobs.address(),
            port: who.port,
            pid: self.knobs.pid.load(SeqCst),
            started_at: 0,
            state: self.state.clone(),
            restarts: self.restarts.clone(),
            memory_bytes: Some(self.needs),
        }
    }
}
