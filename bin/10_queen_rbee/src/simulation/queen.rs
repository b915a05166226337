//! The queen's core as she has it herself, on the simulated network: who reports to her, and who asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use access_tokens::{HiveSecrets, Secret};
use fastrand::Rng;
use rbee_operations::ModelPolicy;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use turmoil::net::UdpSocket;
use worker_contract::{
    HiveAlias, HiveHeartbeat, InferenceRequest, ModelAlias, Prompt, Task, WorkerHeartbeat,
};

use super::server::LOOKED_AT_EVERY;
use super::worker::{PORT, REPORTS, length, token};
use crate::admission::Priority;
use crate::attached::{Endpoint, Original, Servers};
use crate::clock;
use crate::connection::Pool;
use crate::decisions::Decisions;
use crate::dispatch::{Dispatcher, NoPlace};
use crate::hive_client::FindHive;
use crate::keyring::Keyring;
use crate::policy::{Policies, Steward};
use crate::registry::Registry;
use crate::relay::{Asking, Failure, Part, Relay};
use crate::spawner::Spawner;

/// How often the queen looks who is silent.
const SWEEP: Duration = Duration::from_millis(250);
/// How long a worker may be silent over an answer.
const STALL: Duration = Duration::from_secs(5);

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Exact,
    Wrong(String),
    Failed(String),
    /// Whoever asked went away.
    Left,
}

/// The queen's core.
#[derive(Debug, Clone)]
pub(super) struct Queen {
    pub(super) registry: Registry,
    pub(super) relay: Relay,
    pub(super) spawner: Spawner,
    pub(super) policies: Policies,
    /// When her clock jumped last.
    jumped_at: Arc<Mutex<Option<Instant>>>,
    _folder: Arc<TempDir>,
}

/// Who asks for what.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) id: String,
    pub(super) model: ModelAlias,
    pub(super) prompt: String,
    pub(super) caller: String,
    pub(super) priority: Priority,
    pub(super) patience: Duration,
    /// It waits for the whole answer, which can be begun anew.
    pub(super) is_whole: bool,
}

impl Queen {
    /// All parts, which work until the simulation ends: the servers of `servers` are attached, at most
    /// `max_queue` requests wait for each model, and `late` has some reports come late or again.
    pub(super) async fn start(
        hives: Arc<dyn FindHive>,
        expected: Vec<HiveAlias>,
        models: BTreeMap<ModelAlias, ModelPolicy>,
        servers: Vec<String>,
        max_queue: usize,
        late: Option<Late>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let folder = Arc::new(tempfile::tempdir()?);
        let policies = Policies::open(&folder.path().join("p.db"), models, 0)?;
        let hives_of_hers = expected.clone();
        let registry = Registry::new(Duration::from_secs(1), expected, clock::now())
            .with_policies(policies.clone())
            .with_vigil();
        let spawner =
            Spawner::new(hives, registry.clone(), policies.clone(), tasks.clone(), stop.clone());
        let decisions = Decisions::in_memory();
        let dispatcher = Dispatcher::new(registry.clone(), spawner.clone(), decisions, max_queue);
        let steward = Steward::new(policies.clone(), dispatcher.clone(), spawner.clone());
        tasks.spawn(steward.run(stop.clone()));
        tasks.spawn(dispatcher.clone().run(stop.clone()));
        let socket = UdpSocket::bind(("0.0.0.0", REPORTS)).await?;
        tasks.spawn(take_reports(registry.clone(), socket, late, tasks.clone()));
        let sweeper = registry.clone();
        tasks.spawn(async move {
            loop {
                sweeper.sweep(clock::now());
                sleep(SWEEP).await;
            }
        });
        let secrets = HiveSecrets::open(folder.path())?;
        let keyring =
            Keyring::new(Secret::from("secret".to_owned()), secrets).with_configured(hives_of_hers);
        let pool = Pool::default();
        // Attaching them is work of a disk, whose time is not simulated.
        let file = folder.path().join("servers.json");
        let attached = servers.iter().map(|host| {
            let url = format!("http://{}:{PORT}", turmoil::lookup(host.as_str()));
            (host.clone(), json!({"url": url, "slots": 2}))
        });
        let attached = Value::Object(attached.collect());
        std::fs::write(&file, json!({"servers": attached}).to_string())?;
        let servers =
            Servers::open(file, folder.path(), keyring.clone(), pool.clone(), registry.clone())?;
        tasks.spawn(servers.run(LOOKED_AT_EVERY, stop));
        let relay = Relay::new(dispatcher, keyring, pool, STALL);
        let jumped_at = Arc::default();
        Ok(Self { registry, relay, spawner, policies, jumped_at, _folder: folder })
    }

    /// Her clock is about to jump.
    pub(super) fn jumped(&self) {
        *self.jumped_at.lock().unwrap() = Some(Instant::now());
    }

    pub(super) fn has_jumped_since(&self, time: Instant) -> bool {
        self.jumped_at.lock().unwrap().is_some_and(|at| at >= time)
    }

    /// Asks one thing and compares; tells how often another worker took over.
    pub(super) async fn ask(&self, question: Question) -> (Outcome, u64) {
        let Question { id, model, prompt, caller, priority, patience, is_whole } = question;
        let expected: String = (0..length(&prompt)).map(|place| token(&prompt, place).1).collect();
        let task = Task::Completion { prompt: Prompt::Text(prompt.clone()) };
        let request = InferenceRequest::new(id.parse().unwrap(), task);
        let deadline = Instant::now() + patience;
        let (session, via) = (None, String::new());
        let asking = Asking { caller, deadline, priority, session, via, is_whole };
        let body = json!({"model": model, "prompt": &prompt, "stream": true});
        let body = body.as_object().cloned().unwrap_or_default();
        let original = Original::new(Endpoint::Completion, body);
        let mut answer = self.relay.answer(&model, request, original, asking);
        let (mut text, mut is_done) = (String::new(), false);
        while let Some(part) = answer.next().await {
            match part {
                Ok(Part::Delta(delta)) if !is_done => text.push_str(&delta.text),
                Ok(Part::Done { .. }) if !is_done => is_done = true,
                // What came before is void.
                Ok(Part::Started { .. }) if is_whole => text.clear(),
                Ok(Part::Started { .. } | Part::GoesOn { .. }) => {}
                Ok(other) => return (Outcome::Wrong(format!("{other:?} after the end")), 0),
                Err(_) if !expected.starts_with(&text) => {
                    return (Outcome::Wrong(format!("{text:?} is not how it begins")), 0);
                }
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
}

fn is_nonsense(reason: &str) -> bool {
    reason.contains("no inference event") || reason.contains("no part of an answer")
}

fn name(failure: &Failure) -> String {
    match failure {
        Failure::Quarantined { .. } => "quarantined".into(),
        Failure::WorkerFailed { reason, .. } if is_nonsense(reason.recorded()) => "nonsense".into(),
        Failure::WorkerFailed { reason, .. } if reason.recorded().contains("cannot be reached") => {
            "unreachable".into()
        }
        Failure::NoPlace(NoPlace::Deadline { .. })
        | Failure::Deadline { .. }
        | Failure::Late { .. } => "deadline".into(),
        Failure::NoPlace(NoPlace::SpawnFailed { source, .. }) => {
            format!("spawn_failed: {}", source.code)
        }
        Failure::NoPlace(no_place) => no_place.reason().into(),
        other => other.to_string(),
    }
}

/// Has some reports come late, after others that were sent later, and some come twice.
#[derive(Debug)]
pub(super) struct Late {
    pub(super) rng: Rng,
    /// When the network becomes orderly.
    pub(super) until: Duration,
}

impl Late {
    /// After how long a report comes; the second time, if there is one.
    fn delays(&mut self) -> Vec<Duration> {
        if turmoil::elapsed() > self.until {
            return vec![Duration::ZERO];
        }
        let mut delay = || Duration::from_millis(self.rng.u64(0..2500));
        match delay().as_millis() % 8 {
            0 => vec![delay()],
            1 => vec![Duration::ZERO, delay()],
            _ => vec![Duration::ZERO],
        }
    }
}

/// Gives the registry what comes in.
async fn take_reports(
    registry: Registry,
    socket: UdpSocket,
    mut late: Option<Late>,
    tasks: TaskTracker,
) {
    let mut buffer = vec![0; 65536];
    while let Ok((length, _)) = socket.recv_from(&mut buffer).await {
        let report: Value = serde_json::from_slice(&buffer[..length]).unwrap();
        let delays = late.as_mut().map_or_else(|| vec![Duration::ZERO], Late::delays);
        for delay in delays {
            if delay.is_zero() {
                take(&registry, &report);
                continue;
            }
            let (registry, report) = (registry.clone(), report.clone());
            tasks.spawn(async move {
                sleep(delay).await;
                take(&registry, &report);
            });
        }
    }
}

fn take(registry: &Registry, report: &Value) {
    if let Ok(beat) = serde_json::from_value::<WorkerHeartbeat>(report["worker"].clone()) {
        let _ = registry.worker_beat(beat, clock::now());
    } else if let Ok(beat) = serde_json::from_value::<HiveHeartbeat>(report["hive"].clone()) {
        let _ = registry.hive_beat(beat, clock::now());
    }
}
