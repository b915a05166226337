//! The house: a queen, her hive and her workers, those who ask, and what goes wrong.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use job_server::JobError;
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use turmoil::net::UdpSocket;
use worker_contract::{HiveAlias, HiveHeartbeat, Restarts, SupervisedState, SupervisedWorker};

use super::faults::{Fault, Planned, plan};
use super::queen::{Outcome, Queen, Question};
use super::server;
use super::worker::{self, Knobs, PORT, REPORTS, Who};
use super::world;
use crate::admission::Priority;
use crate::clock;
use crate::hive_client::{FindHive, HiveClient};

/// How many requests a history has.
pub(super) const REQUESTS: usize = 24;
const WORKERS: usize = 3;
/// Servers of others that have the same model.
const SERVERS: usize = 2;
const MAX_QUEUE: usize = 64;
/// When the last fault is over.
const FAULTS_END: Duration = Duration::from_secs(40);
/// When all must have come to rest.
/// A server that fell silent is waited for for minutes where nobody else has room.
const END: Duration = Duration::from_secs(900);
/// How long a request may take: longer than a history, so that none ends for that.
const PATIENCE: Duration = Duration::from_secs(1200);

/// All that is known of one history.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) outcomes: BTreeMap<usize, Outcome>,
    pub(super) violations: Vec<String>,
    /// What happened when.
    pub(super) told: Vec<String>,
    pub(super) failovers: u64,
    /// How many answers were cut off because the time to drain was over.
    pub(super) drained: u64,
}

pub(super) struct House {
    seed: u64,
    rng: Rng,
    /// Workers of rbee, then servers of others.
    workers: Vec<Arc<Knobs>>,
    history: Arc<Mutex<History>>,
}

impl House {
    pub(super) fn new(seed: u64) -> Self {
        let names = (0..WORKERS).map(|number| format!("worker-{number}"));
        let names = names.chain((0..SERVERS).map(server_name));
        let workers = names.map(|name| Arc::new(Knobs::new(who(name))));
        Self {
            seed,
            rng: Rng::with_seed(seed),
            workers: workers.collect(),
            history: Arc::default(),
        }
    }

    /// Runs the history to its end.
    pub(super) fn run(mut self) -> History {
        let mut sim = world(self.seed, END, Duration::from_millis(5));
        let (workers, servers) = self.workers.split_at(WORKERS);
        for knobs in workers.iter().cloned() {
            sim.host(knobs.who.host.clone(), move || {
                knobs.pid.fetch_add(1, SeqCst);
                knobs.is_down.store(false, SeqCst);
                let running = worker::run(Arc::clone(&knobs), CancellationToken::new());
                async move { Ok(running.await?) }
            });
        }
        for knobs in servers.iter().cloned() {
            sim.host(knobs.who.host.clone(), move || {
                let running = server::run(Arc::clone(&knobs));
                async move { Ok(running.await?) }
            });
        }
        let workers = workers.to_vec();
        sim.host("hive", move || report_hive(workers.clone()));
        let starts: Vec<_> =
            (0..REQUESTS).map(|_| Duration::from_millis(self.rng.u64(500..38_000))).collect();
        let history = Arc::clone(&self.history);
        sim.client("queen", async move { queen(history, starts).await });
        let mut faults = plan(&mut self.rng, WORKERS + SERVERS, FAULTS_END);
        let mut under_way: Vec<Planned> = Vec::new();
        loop {
            let now = sim.elapsed();
            while let Some(next) = faults.first().copied().filter(|next| next.at <= now) {
                faults.remove(0);
                self.begin(&mut sim, next);
                under_way.push(next);
            }
            under_way.retain(|fault| {
                let goes_on = fault.until > now;
                if !goes_on {
                    self.end(&mut sim, *fault);
                }
                goes_on
            });
            match sim.step() {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => {
                    self.history().violations.push(format!("it does not come to rest: {error}"));
                    break;
                }
            }
        }
        drop(sim);
        for knobs in &self.workers {
            let seen = std::mem::take(&mut *knobs.violations.lock().unwrap());
            self.history().violations.extend(seen);
        }
        std::mem::take(&mut *self.history())
    }

    fn begin(&self, sim: &mut turmoil::Sim<'_>, planned: Planned) {
        let knobs = &self.workers[planned.worker];
        let name = &knobs.who.host;
        self.history().told.push(format!("{:?} {name} {:?}", planned.at, planned.fault));
        match planned.fault {
            Fault::Crash => {
                knobs.is_down.store(true, SeqCst);
                sim.crash(name.as_str());
            }
            Fault::Hang => knobs.hangs.store(true, SeqCst),
            Fault::Stall => knobs.stalls.store(true, SeqCst),
            Fault::Slow => knobs.is_slow.store(true, SeqCst),
            Fault::Babble => knobs.babbles.store(true, SeqCst),
            Fault::Cut => sim.partition(name.as_str(), "queen"),
            Fault::CutFrom => sim.partition_oneway(name.as_str(), "queen"),
            Fault::CutTo => sim.partition_oneway("queen", name.as_str()),
            Fault::Drain => knobs.drains.store(true, SeqCst),
        }
    }

    fn end(&self, sim: &mut turmoil::Sim<'_>, planned: Planned) {
        let knobs = &self.workers[planned.worker];
        let name = &knobs.who.host;
        match planned.fault {
            Fault::Crash => sim.bounce(name.as_str()),
            Fault::Hang => knobs.hangs.store(false, SeqCst),
            Fault::Stall => knobs.stalls.store(false, SeqCst),
            Fault::Slow => knobs.is_slow.store(false, SeqCst),
            Fault::Babble => knobs.babbles.store(false, SeqCst),
            Fault::Cut | Fault::CutFrom | Fault::CutTo => sim.repair(name.as_str(), "queen"),
            Fault::Drain => {
                self.history().drained += u64::from(knobs.requests.load(SeqCst));
                sim.crash(name.as_str());
                knobs.drains.store(false, SeqCst);
                sim.bounce(name.as_str());
            }
        }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The hive: it says of its workers what it sees, at once and every two seconds, by the same network.
pub(super) async fn report_hive(workers: Vec<Arc<Knobs>>) -> turmoil::Result {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).await?;
    let mut last: Vec<(bool, bool, u32)> = Vec::new();
    let mut silent = 0;
    let look = |worker: &Arc<Knobs>| {
        let (is_down, drains) = (&worker.is_down, &worker.drains);
        (is_down.load(SeqCst), drains.load(SeqCst), worker.pid.load(SeqCst))
    };
    loop {
        let seen: Vec<_> = workers.iter().map(look).collect();
        if seen != last || silent >= 40 {
            let listed: Vec<_> = workers.iter().map(|knobs| listed(knobs)).collect();
            let beat = HiveHeartbeat {
                hive_id: HiveAlias::localhost(),
                address: None,
                version: "0".into(),
                devices: Vec::new(),
                catalog: Vec::new(),
                workers: listed,
                trouble: None,
            };
            let text = json!({ "hive": beat }).to_string();
            let _ = socket.send_to(text.as_bytes(), ("queen", REPORTS)).await;
            (last, silent) = (seen, 0);
        }
        silent += 1;
        sleep(Duration::from_millis(50)).await;
    }
}

fn listed(knobs: &Knobs) -> SupervisedWorker {
    let (is_down, drains) = (knobs.is_down.load(SeqCst), knobs.drains.load(SeqCst));
    let restarts = Restarts { count: 1, reason: "signal 9".into(), waiting: is_down };
    SupervisedWorker {
        worker_id: knobs.who.name.parse().unwrap(),
        hive_id: HiveAlias::localhost(),
        model: "m".parse().unwrap(),
        device: "CPU-0".parse().unwrap(),
        address: knobs.address(),
        port: PORT,
        pid: knobs.pid.load(SeqCst),
        started_at: 0,
        state: match () {
            () if is_down => SupervisedState::Starting { progress: 0.0 },
            () if drains => SupervisedState::Stopping,
            () => SupervisedState::Ready,
        },
        restarts: Some(restarts),
        memory_bytes: None,
    }
}

fn server_name(number: usize) -> String {
    format!("nas-{number}")
}

pub(super) fn who(name: String) -> Who {
    Who {
        host: name.clone(),
        name,
        hive: HiveAlias::localhost(),
        model: "m".parse().unwrap(),
        device: "CPU-0".parse().unwrap(),
        port: PORT,
    }
}

/// The queen's core, and those who ask.
async fn queen(history: Arc<Mutex<History>>, starts: Vec<Duration>) -> turmoil::Result {
    let expected = vec![HiveAlias::localhost()];
    let (servers, no_policies) = ((0..SERVERS).map(server_name).collect(), BTreeMap::new());
    let queen =
        Queen::start(Arc::new(NoHive), expected, no_policies, servers, MAX_QUEUE, None).await?;
    let asked = TaskTracker::new();
    for (number, start) in starts.into_iter().enumerate() {
        let (queen, history) = (queen.clone(), Arc::clone(&history));
        let question = question(number);
        asked.spawn(async move {
            sleep(start).await;
            let (outcome, failovers) = queen.ask(question).await;
            let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
            history.told.push(format!("{:?} request {number} {outcome:?}", turmoil::elapsed()));
            history.failovers += failovers;
            if history.outcomes.insert(number, outcome).is_some() {
                history.violations.push(format!("request {number} was answered twice"));
            }
        });
    }
    asked.close();
    let waiting = || queen.relay.waiting();
    loop {
        if waiting() > MAX_QUEUE {
            violated(&history, "the queue is longer than it may be".into());
        }
        tokio::select! {
            () = asked.wait() => break,
            () = sleep(Duration::from_millis(100)) => {}
        }
    }
    let workers = queen.registry.workers(clock::now());
    let in_flight: u32 = workers.iter().map(|worker| worker.in_flight).sum();
    if in_flight > 0 || waiting() > 0 {
        violated(&history, format!("{in_flight} places have leaked, {} wait", waiting()));
    }
    Ok(())
}

fn question(number: usize) -> Question {
    let is_batch = number.is_multiple_of(4);
    Question {
        id: format!("r-{number}"),
        model: "m".parse().unwrap(),
        prompt: format!("request {number}:"),
        caller: format!("caller-{}", number % 3),
        priority: if is_batch { Priority::Batch } else { Priority::Interactive },
        patience: PATIENCE,
        is_whole: number.is_multiple_of(3),
    }
}

fn violated(history: &Mutex<History>, what: String) {
    history.lock().unwrap_or_else(PoisonError::into_inner).violations.push(what);
}

/// Nobody starts workers here: they are started again by themselves.
#[derive(Debug)]
struct NoHive;

impl FindHive for NoHive {
    fn find(&self, _: &HiveAlias) -> Result<Arc<dyn HiveClient>, JobError> {
        Err(JobError::new("hive_not_found", "there is none"))
    }
}
