//! The house: a queen, her hive and her workers, those who ask, and what goes wrong.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use access_tokens::{HiveSecrets, Secret};
use fastrand::Rng;
use job_server::JobError;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use turmoil::net::UdpSocket;
use worker_contract::{
    HiveAlias, HiveHeartbeat, InferenceRequest, Prompt, Restarts, SupervisedState,
    SupervisedWorker, Task, WorkerHeartbeat,
};

use super::faults::{Fault, Planned, plan};
use super::worker::{self, Knobs, PORT, REPORTS, length, token};
use crate::admission::Priority;
use crate::attached::{Endpoint, Original};
use crate::clock;
use crate::decisions::Decisions;
use crate::dispatch::Dispatcher;
use crate::hive_client::{FindHive, HiveClient};
use crate::keyring::Keyring;
use crate::policy::Policies;
use crate::registry::Registry;
use crate::relay::{Asking, Failure, Part, Relay};
use crate::spawner::Spawner;

/// How many requests a history has.
pub(super) const REQUESTS: usize = 24;
const WORKERS: usize = 3;
/// When the last fault is over.
const FAULTS_END: Duration = Duration::from_secs(40);
/// When all must have come to rest.
const END: Duration = Duration::from_secs(240);
/// How long a request may take: longer than a history, so that none ends for that.
const PATIENCE: Duration = Duration::from_secs(600);
const MAX_QUEUE: usize = 64;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Exact,
    Wrong(String),
    Failed(String),
}

/// All that is known of one history.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) outcomes: BTreeMap<usize, Outcome>,
    pub(super) violations: Vec<String>,
    /// What happened when.
    pub(super) told: Vec<String>,
    pub(super) failovers: u64,
}

pub(super) struct House {
    seed: u64,
    rng: Rng,
    workers: Vec<Arc<Knobs>>,
    history: Arc<Mutex<History>>,
}

impl House {
    pub(super) fn new(seed: u64) -> Self {
        let workers = (0..WORKERS).map(|number| Arc::new(Knobs { number, ..Knobs::default() }));
        Self {
            seed,
            rng: Rng::with_seed(seed),
            workers: workers.collect(),
            history: Arc::default(),
        }
    }

    /// Runs the history to its end.
    pub(super) fn run(mut self) -> History {
        // The pauses between tries are random.
        fastrand::seed(self.seed);
        let mut sim = turmoil::Builder::new()
            .rng_seed(self.seed)
            .simulation_duration(END)
            .tick_duration(Duration::from_millis(5))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(30))
            .tcp_capacity(4096)
            .udp_capacity(4096)
            .build();
        for knobs in &self.workers {
            let knobs = Arc::clone(knobs);
            sim.host(knobs.name(), move || worker::run(Arc::clone(&knobs)));
        }
        let workers = self.workers.clone();
        sim.host("hive", move || report_hive(workers.clone()));
        let starts: Vec<_> =
            (0..REQUESTS).map(|_| Duration::from_millis(self.rng.u64(500..38_000))).collect();
        let history = Arc::clone(&self.history);
        sim.client("queen", async move { queen(history, starts).await });
        let mut faults = plan(&mut self.rng, WORKERS, FAULTS_END);
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
        let name = knobs.name();
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
        }
    }

    fn end(&self, sim: &mut turmoil::Sim<'_>, planned: Planned) {
        let knobs = &self.workers[planned.worker];
        let name = knobs.name();
        match planned.fault {
            Fault::Crash => sim.bounce(name.as_str()),
            Fault::Hang => knobs.hangs.store(false, SeqCst),
            Fault::Stall => knobs.stalls.store(false, SeqCst),
            Fault::Slow => knobs.is_slow.store(false, SeqCst),
            Fault::Babble => knobs.babbles.store(false, SeqCst),
            Fault::Cut | Fault::CutFrom | Fault::CutTo => sim.repair(name.as_str(), "queen"),
        }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The hive: it says of its workers what it sees, at once and every two seconds, by the same network.
async fn report_hive(workers: Vec<Arc<Knobs>>) -> turmoil::Result {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).await?;
    let mut last: Vec<(bool, u32)> = Vec::new();
    let mut silent = 0;
    loop {
        let seen: Vec<_> =
            workers.iter().map(|w| (w.is_down.load(SeqCst), w.pid.load(SeqCst))).collect();
        if seen != last || silent >= 40 {
            let listed: Vec<_> = workers.iter().map(|knobs| listed(knobs)).collect();
            let beat = HiveHeartbeat {
                hive_id: HiveAlias::localhost(),
                address: None,
                version: "0".into(),
                devices: Vec::new(),
                catalog: Vec::new(),
                workers: listed,
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
    let is_down = knobs.is_down.load(SeqCst);
    let restarts = Restarts { count: 1, reason: "signal 9".into(), waiting: is_down };
    SupervisedWorker {
        worker_id: knobs.name().parse().unwrap(),
        hive_id: HiveAlias::localhost(),
        model: "m".parse().unwrap(),
        device: "CPU-0".parse().unwrap(),
        address: format!("http://{}:{PORT}", turmoil::lookup(knobs.name())),
        port: PORT,
        pid: knobs.pid.load(SeqCst),
        started_at: 0,
        state: if is_down {
            SupervisedState::Starting { progress: 0.0 }
        } else {
            SupervisedState::Ready
        },
        restarts: Some(restarts),
    }
}

/// The queen's core, and those who ask.
async fn queen(history: Arc<Mutex<History>>, starts: Vec<Duration>) -> turmoil::Result {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let registry =
        Registry::new(Duration::from_secs(1), vec![HiveAlias::localhost()], clock::now());
    let folder = tempfile::tempdir()?;
    let policies = Policies::open(&folder.path().join("p.db"), BTreeMap::new(), 0)?;
    let spawner =
        Spawner::new(Arc::new(NoHive), registry.clone(), policies, tasks.clone(), stop.clone());
    let dispatcher = Dispatcher::new(registry.clone(), spawner, Decisions::in_memory(), MAX_QUEUE);
    tasks.spawn(dispatcher.clone().run(stop.clone()));
    tasks.spawn(take_reports(registry.clone(), UdpSocket::bind(("0.0.0.0", REPORTS)).await?));
    let sweeper = registry.clone();
    tasks.spawn(async move {
        loop {
            sweeper.sweep(clock::now());
            sleep(Duration::from_millis(250)).await;
        }
    });
    let secrets = HiveSecrets::open(folder.path())?;
    let keyring = Keyring::new(Secret::from("secret".to_owned()), secrets);
    let relay = Relay::new(dispatcher, keyring, Duration::from_secs(5));
    let asked = TaskTracker::new();
    for (number, start) in starts.into_iter().enumerate() {
        let (relay, history) = (relay.clone(), Arc::clone(&history));
        asked.spawn(async move {
            sleep(start).await;
            let (outcome, failovers) = ask(&relay, number).await;
            let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
            history.told.push(format!("{:?} request {number} {outcome:?}", turmoil::elapsed()));
            history.failovers += failovers;
            if history.outcomes.insert(number, outcome).is_some() {
                history.violations.push(format!("request {number} was answered twice"));
            }
        });
    }
    asked.close();
    loop {
        if relay.waiting() > MAX_QUEUE {
            violated(&history, "the queue is longer than it may be".into());
        }
        tokio::select! {
            () = asked.wait() => break,
            () = sleep(Duration::from_millis(100)) => {}
        }
    }
    let in_flight: u32 = registry.workers(clock::now()).iter().map(|worker| worker.in_flight).sum();
    if in_flight > 0 || relay.waiting() > 0 {
        violated(&history, format!("{in_flight} places have leaked, {} wait", relay.waiting()));
    }
    Ok(())
}

fn violated(history: &Mutex<History>, what: String) {
    history.lock().unwrap_or_else(PoisonError::into_inner).violations.push(what);
}

/// Asks one thing and compares; tells how often another worker took over.
async fn ask(relay: &Relay, number: usize) -> (Outcome, u64) {
    let prompt = format!("request {number}");
    let expected: String = (0..length(&prompt)).map(|place| token(&prompt, place).1).collect();
    let task = Task::Completion { prompt: Prompt::Text(prompt.clone()) };
    let request = InferenceRequest::new(format!("r-{number}").parse().unwrap(), task);
    let asking = Asking {
        caller: format!("caller-{}", number % 3),
        deadline: Instant::now() + PATIENCE,
        priority: if number.is_multiple_of(4) { Priority::Batch } else { Priority::Interactive },
        session: None,
        via: String::new(),
        is_whole: false,
    };
    let original = Original::new(Endpoint::Completion, serde_json::Map::new());
    let mut answer = relay.answer("m".parse().unwrap(), request, original, asking);
    let (mut text, mut is_done) = (String::new(), false);
    while let Some(part) = answer.next().await {
        match part {
            Ok(Part::Delta(delta)) if !is_done => text.push_str(&delta.text),
            Ok(Part::Done { .. }) if !is_done => is_done = true,
            Ok(Part::Started { .. }) => {}
            Ok(other) => return (Outcome::Wrong(format!("{other:?} after the end")), 0),
            Err(failure) => return (Outcome::Failed(name(&failure)), answer.failovers()),
        }
    }
    let outcome = if is_done && text == expected {
        Outcome::Exact
    } else {
        Outcome::Wrong(format!("done: {is_done}; {text:?} is not {expected:?}"))
    };
    (outcome, answer.failovers())
}

fn name(failure: &Failure) -> String {
    match failure {
        Failure::Quarantined { .. } => "quarantined".into(),
        Failure::WorkerFailed { reason, .. } if reason.contains("no inference event") => {
            "nonsense".into()
        }
        other => other.to_string(),
    }
}

/// Gives the registry what comes in.
async fn take_reports(registry: Registry, socket: UdpSocket) {
    let mut buffer = vec![0; 65536];
    while let Ok((length, _)) = socket.recv_from(&mut buffer).await {
        let report: Value = serde_json::from_slice(&buffer[..length]).unwrap();
        if let Ok(beat) = serde_json::from_value::<WorkerHeartbeat>(report["worker"].clone()) {
            let _ = registry.worker_beat(beat, clock::now());
        } else if let Ok(beat) = serde_json::from_value::<HiveHeartbeat>(report["hive"].clone()) {
            let _ = registry.hive_beat(beat, clock::now());
        }
    }
}

/// Nobody starts workers here: they are started again by themselves.
#[derive(Debug)]
struct NoHive;

impl FindHive for NoHive {
    fn find(&self, _: &HiveAlias) -> Result<Arc<dyn HiveClient>, JobError> {
        Err(JobError::new("hive_not_found", "there is none"))
    }
}
