//! A village: several machines with hives, which start workers when somebody asks for a model, end them
//! when they are idle or in the way, vanish and return.

mod faults;
mod guests;
mod hive;
mod machine;
mod rest;
mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use rbee_operations::ModelPolicy;
use tokio::sync::mpsc;
use tokio::time::{advance, sleep};
use tokio_util::task::TaskTracker;
use worker_contract::{HiveAlias, ModelAlias, ModelEntry};

use self::faults::{Begun, ToQueen};
use self::guests::{GUESTS, Guest, MODELS};
use self::machine::Machine;
use self::rest::Witness;
use self::wire::Hives;
use super::queen::{Late, Outcome, Queen};
use super::world;
use crate::doubles::entry;

const MACHINES: usize = 3;
/// How many ask, those included who ask when all is at rest.
pub(super) const ASKED: usize = GUESTS + MODELS.len();
/// The memory of each machine's device, and what models have in weights, in halves of a GiB: beside the
/// two that stay there is room for either of the others, and not for both.
const MEMORY: u64 = 16;
const SIZES: [u64; 4] = [4, 6, 1, 8];
/// How many may wait for each model,
const MAX_QUEUE: usize = 6;
/// beside those that had a place before: no more than all workers of a model can have.
const MOST_WAITING: usize = MAX_QUEUE + MACHINES * 4;
/// When the last fault is over.
const FAULTS_END: Duration = Duration::from_secs(40);
/// When all must have come to rest.
const END: Duration = Duration::from_secs(600);

/// All that is known of one history.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) outcomes: BTreeMap<usize, Outcome>,
    pub(super) violations: Vec<String>,
    /// What happened when.
    pub(super) told: Vec<String>,
    pub(super) failovers: u64,
    pub(super) starts: u64,
    pub(super) evictions: u64,
    /// How many answers were cut off because the time to drain was over.
    pub(super) drained: u64,
}

type Shared = Arc<Mutex<History>>;

/// Whether in a history every hive is there all the time, so that no request may fail.
pub(super) fn is_mild(seed: u64) -> bool {
    seed.is_multiple_of(4)
}

/// Runs a history to its end.
pub(super) fn run(seed: u64) -> History {
    let mut rng = Rng::with_seed(seed);
    let mut sim = world(seed, END, Duration::from_millis(10));
    let machines: Vec<_> = (0..MACHINES).map(|number| machine(number, &mut rng)).collect();
    for machine in &machines {
        let name = machine.name.to_string();
        let machine = Arc::clone(machine);
        sim.host(name, move || hive::run(Arc::clone(&machine)));
    }
    let history = Shared::default();
    let guests = guests::plan(&mut rng, FAULTS_END);
    let late = Late { rng: rng.fork(), until: FAULTS_END };
    let (to_queen, orders) = mpsc::channel(64);
    let village = Village { machines: machines.clone(), history: Arc::clone(&history) };
    sim.client("queen", async move { village.live(guests, late, orders).await });
    let mut faults = faults::plan(&mut rng, MACHINES, is_mild(seed), FAULTS_END);
    let mut under_way: Vec<Begun> = Vec::new();
    loop {
        let now = sim.elapsed();
        while let Some(next) = faults.first().copied().filter(|next| next.at <= now) {
            faults.remove(0);
            let machine = &machines[next.machine];
            let (begun, order) = next.begin(&mut sim, machine, &mut rng);
            let told = format!("{now:?} {} {:?} {}", machine.name, next.fault, begun.worker());
            history.lock().unwrap().told.push(told);
            if let Some(order) = order {
                to_queen.try_send(order).unwrap();
            }
            under_way.push(begun);
        }
        under_way.retain(|begun| {
            let goes_on = begun.planned.until > now;
            if !goes_on {
                let cut_off = begun.end(&mut sim, &machines[begun.planned.machine]);
                history.lock().unwrap().drained += u64::from(cut_off);
            }
            goes_on
        });
        match sim.step() {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => {
                let ended = format!("it does not come to rest: {error}");
                history.lock().unwrap().violations.push(ended);
                break;
            }
        }
    }
    drop(sim);
    let mut history = history.lock().unwrap();
    for knobs in machines.iter().flat_map(|machine| machine.seen()) {
        history.violations.append(&mut knobs.violations.lock().unwrap());
    }
    std::mem::take(&mut *history)
}

fn machine(number: usize, rng: &mut Rng) -> Arc<Machine> {
    // Each model is on two machines at least.
    let here = MODELS
        .into_iter()
        .enumerate()
        .filter(|(place, _)| !(number + place).is_multiple_of(MACHINES) || rng.bool())
        .collect::<Vec<_>>();
    // Each is a file of its own.
    let disk = here.into_iter().map(|(place, name)| ModelEntry {
        sha256: place.to_string().repeat(64).parse().unwrap(),
        ..entry(name, SIZES[place] << 29)
    });
    let disk = disk.collect();
    let memory = vec![("GPU-0".parse().unwrap(), MEMORY << 29)];
    Machine::new(format!("hive-{number}").parse().unwrap(), disk, memory, rng.fork())
}

/// One model is always there, one stays once it is, the others go when they are idle.
fn policies() -> BTreeMap<ModelAlias, ModelPolicy> {
    let none = ModelPolicy::default;
    let policies = [
        ModelPolicy { min: Some(1), max: Some(2), idle_ttl_s: Some(15), ..none() },
        ModelPolicy { idle_ttl_s: Some(8), ..none() },
        ModelPolicy { pin: Some(true), max: Some(1), ..none() },
        ModelPolicy { max: Some(2), idle_ttl_s: Some(30), ..none() },
    ];
    MODELS.map(|name| name.parse().unwrap()).into_iter().zip(policies).collect()
}

/// What the queen's part of the simulation has.
struct Village {
    machines: Vec<Arc<Machine>>,
    history: Shared,
}

impl Village {
    async fn live(
        self,
        guests: Vec<Guest>,
        late: Late,
        orders: mpsc::Receiver<ToQueen>,
    ) -> turmoil::Result {
        let names: Vec<HiveAlias> = self.machines.iter().map(|it| it.name.clone()).collect();
        let history = Arc::clone(&self.history);
        let witness = Arc::new(Witness { history, ..Witness::default() });
        let hives = Hives { names: names.clone(), witness: Arc::clone(&witness) };
        let (hives, late) = (Arc::new(hives), Some(late));
        let queen = Queen::start(hives, names, policies(), Vec::new(), MAX_QUEUE, late).await?;
        let _ = witness.queen.set(queen.clone());
        let tasks = TaskTracker::new();
        tasks.spawn(obey(queen.clone(), orders));
        let asked = TaskTracker::new();
        for guest in guests {
            let (queen, history) = (queen.clone(), Arc::clone(&self.history));
            asked.spawn(async move {
                sleep_by_the_village(guest.at).await;
                tell_of(&history, &guest, guest.ask(&queen).await);
            });
        }
        asked.close();
        let is_over = || asked.is_empty() && turmoil::elapsed() > FAULTS_END;
        while !is_over() {
            let waiting = queen.relay.dispatcher().waiting_by_model();
            if waiting.values().any(|waiting| *waiting > MOST_WAITING) {
                self.violated(&format!("more wait than may: {waiting:?}"));
            }
            sleep(Duration::from_millis(100)).await;
        }
        // The pauses after starts that failed are longer than a history.
        queen.registry.forget_failed_starts();
        if let Some(moving) = rest::come(&queen, &self.machines).await {
            self.violated(&moving);
        }
        queen.registry.forget_failed_starts();
        for (place, model) in MODELS.into_iter().enumerate() {
            let guest = guests::last(GUESTS + place, model);
            let (outcome, failovers) = guest.ask(&queen).await;
            if outcome != Outcome::Exact {
                self.violated(&format!("in a village at rest {model} is not served: {outcome:?}"));
            }
            tell_of(&self.history, &guest, (outcome, failovers));
        }
        if let Some(moving) = rest::come(&queen, &self.machines).await {
            self.violated(&moving);
        }
        let mut history = self.history.lock().unwrap();
        for ((kind, _), count) in queen.relay.dispatcher().decisions().counts() {
            match kind.as_str() {
                "spawn" => history.starts += count,
                "evict" => history.evictions += count,
                _ => {}
            }
        }
        Ok(())
    }

    fn violated(&self, what: &str) {
        self.history.lock().unwrap().violations.push(format!("{:?} {what}", turmoil::elapsed()));
    }
}

fn tell_of(history: &Shared, guest: &Guest, (outcome, failovers): (Outcome, u64)) {
    let mut history = history.lock().unwrap();
    history.told.push(format!("{:?} {} {outcome:?}", turmoil::elapsed(), guest.number));
    history.failovers += failovers;
    if history.outcomes.insert(guest.number, outcome).is_some() {
        history.violations.push(format!("request {} was answered twice", guest.number));
    }
}

/// The queen's clock jumps; that of the village does not.
async fn sleep_by_the_village(until: Duration) {
    while turmoil::elapsed() < until {
        sleep(Duration::from_millis(10)).await;
    }
}

async fn obey(queen: Queen, mut orders: mpsc::Receiver<ToQueen>) {
    while let Some(order) = orders.recv().await {
        match order {
            ToQueen::Forget(hive) => queen.registry.forget_hive(&hive),
            ToQueen::Jump(by) => {
                queen.jumped();
                advance(by).await;
            }
        }
    }
}
