//! Requests over which every worker ends that has them, while others ask: they fail, and nobody else does. Their hive
//! gives no worker up for them. So do those over which every worker hangs until its hive ends it. And workers that somebody
//! kills, while others ask: nobody fails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use job_server::{JobContext, JobError, Outcome as JobOutcome};
use rbee_operations::Operation;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use worker_contract::HiveAlias;

use super::house::{report_hive, who};
use super::queen::{Outcome, Queen, Question};
use super::worker::{self, HANG, Knobs, POISON};
use super::world;
use crate::admission::Priority;
use crate::hive_client::{FindHive, HiveClient};

const SLOTS: u32 = 4;
/// How many ask one thing after the other, and how often.
const CLIENTS: usize = 6;
const ASKS: usize = 4;
/// When the deadly request comes,
const COMES_AT: Duration = Duration::from_millis(2500);
/// and after how long the next one: by then those who fell with the one before have their answers.
const NEXT_AFTER: Duration = Duration::from_secs(5);
/// For how long the hive listens to a worker that hangs: longer than the queen.
const LISTENS: Duration = Duration::from_secs(9);
/// After how long a worker is there again.
const RESTART: Duration = Duration::from_millis(700);
/// How many ends of workers one such request may cost: a hive gives one up after as many as the next one.
const MOST_ENDS: usize = 3;
/// How many one may cost over which they hang: a worker takes so long to be there again that it may not be kept waiting
/// for one to itself.
const MOST_HANGS: usize = 4;
const MAX_FAILURES: usize = 5;
/// How often somebody kills a worker, until when, and after how long it is there again.
const KILLS: Duration = Duration::from_secs(5);
const KILLS_END: Duration = Duration::from_secs(120);
const KILLED_FOR: Duration = Duration::from_millis(1500);
/// What a prompt takes then: it leaves time for an answer between two kills, or for its first tokens.
const SLOW_PROMPTS: [Duration; 2] = [Duration::from_secs(3), Duration::from_millis(4700)];

/// What happens.
#[derive(Debug, Clone)]
enum What {
    /// One request comes after the other that ends each worker after so many tokens.
    Deadly(Vec<usize>),
    /// A request comes over which each worker hangs.
    Hangs,
    /// Somebody kills workers, whose prompts take so long.
    Kills(Duration),
}

impl What {
    /// The prompts of the requests that end workers.
    fn prompts(&self) -> Vec<String> {
        match self {
            Self::Deadly(tokens) => {
                tokens.iter().map(|tokens| format!("{POISON}{tokens}:")).collect()
            }
            Self::Hangs => vec![format!("{HANG}1:")],
            Self::Kills(_) => Vec::new(),
        }
    }
}

#[derive(Debug, Default)]
struct Seen {
    /// The processes that ended, by worker and process id.
    ends: Vec<(String, u32)>,
    given_up: Vec<String>,
    deadly: Vec<Outcome>,
    others: Vec<Outcome>,
    took: Duration,
}

/// The processes that the queen's hive is told not to hold against its workers.
#[derive(Debug, Clone, Default)]
struct Excused(Arc<Mutex<BTreeSet<(String, u32)>>>);

impl Excused {
    fn has(&self, end: &(String, u32)) -> bool {
        self.0.lock().unwrap().contains(end)
    }
}

impl FindHive for Excused {
    fn find(&self, _: &HiveAlias) -> Result<Arc<dyn HiveClient>, JobError> {
        Ok(Arc::new(self.clone()))
    }
}

impl HiveClient for Excused {
    fn execute(
        &self,
        operation: Operation,
        _: JobContext,
    ) -> BoxFuture<'static, Result<JobOutcome, JobError>> {
        let answer = if let Operation::WorkerExcuse(told) = operation {
            let ends = told.processes.into_iter().map(|pid| (told.worker_id.to_string(), pid));
            self.0.lock().unwrap().extend(ends);
            Ok(JobOutcome::said("excused"))
        } else {
            Err(JobError::new("not_in_the_script", "what?"))
        };
        ready(answer).boxed()
    }
}

#[test]
fn a_deadly_request_in_a_crowd_ends_three_workers_at_most_and_fails_alone() {
    for (workers, tokens) in [(1, 0), (1, 2), (2, 0), (2, 2), (3, 0)] {
        for seed in 1..=6 {
            let seen = run(seed, workers, &What::Deadly(vec![tokens]));
            let what = format!("{workers} workers, after {tokens} tokens, seed {seed}: {seen:?}");
            assert!(seen.ends.len() <= MOST_ENDS, "{what}");
            assert_eq!(seen.deadly, [Outcome::Failed("quarantined".into())], "{what}");
            assert_eq!(seen.others, vec![Outcome::Exact; CLIENTS * ASKS], "{what}");
            assert!(seen.took < Duration::from_secs(120), "{what}");
        }
    }
}

#[test]
fn a_request_over_which_workers_hang_until_their_hive_ends_them_is_quarantined() {
    for seed in 1..=2 {
        let seen = run(seed, 2, &What::Hangs);
        let what = format!("seed {seed}: {seen:?}");
        assert!((2..=MOST_HANGS).contains(&seen.ends.len()), "{what}");
        assert_eq!(seen.deadly, [Outcome::Failed("quarantined".into())], "{what}");
        // While both hang nobody is left, and no other can be started here: they wait for their hive.
        assert_eq!(seen.others, vec![Outcome::Exact; CLIENTS * ASKS], "{what}");
        assert!(seen.took < Duration::from_secs(120), "{what}");
    }
}

#[test]
fn a_model_outlives_any_number_of_deadly_requests_one_after_the_other() {
    for workers in [1, 2] {
        for seed in 1..=3 {
            let deadly: Vec<usize> = (0..6).collect();
            let (asks, most) = (CLIENTS * ASKS * deadly.len(), MOST_ENDS * deadly.len());
            let refused = vec![Outcome::Failed("quarantined".into()); deadly.len()];
            let seen = run(seed, workers, &What::Deadly(deadly));
            let what = format!("{workers} workers, seed {seed}: {seen:?}");
            assert!(seen.given_up.is_empty(), "{what}");
            assert!((MAX_FAILURES * workers..=most).contains(&seen.ends.len()), "{what}");
            assert_eq!(seen.deadly, refused, "{what}");
            assert_eq!(seen.others, vec![Outcome::Exact; asks], "{what}");
        }
    }
}

#[test]
fn where_workers_are_killed_every_few_seconds_beside_slow_prompts_nobody_is_convicted() {
    for prompt in SLOW_PROMPTS {
        for seed in 1..=4 {
            let (seen, what) =
                (run(seed, 3, &What::Kills(prompt)), format!("{prompt:?}, seed {seed}"));
            assert!(seen.ends.len() >= 20, "{what}: {seen:?}");
            let failed: Vec<_> = seen.others.iter().filter(|it| **it != Outcome::Exact).collect();
            let answered = seen.others.len();
            assert!(answered >= 40 && failed.is_empty(), "{what}: {answered}, {failed:?}");
        }
    }
}

/// One history of so many workers.
fn run(seed: u64, workers: usize, what: &What) -> Seen {
    let mut sim = world(seed, Duration::from_secs(300), Duration::from_millis(5));
    let (prompt, restart) = match what {
        What::Deadly(_) | What::Hangs => (Duration::ZERO, RESTART),
        What::Kills(prompt) => (*prompt, KILLED_FOR),
    };
    let mut dice = Rng::with_seed(seed);
    let mut next_kill = matches!(what, What::Kills(_)).then_some(KILLS);
    let of_number = |number| {
        let who = who(format!("worker-{number}"));
        Knobs { slots: SLOTS, prompt, ..Knobs::new(who) }
    };
    let workers: Vec<_> = (0..workers).map(|number| Arc::new(of_number(number))).collect();
    for knobs in workers.iter().cloned() {
        sim.host(knobs.who.host.clone(), move || {
            knobs.pid.fetch_add(1, SeqCst);
            knobs.is_down.store(false, SeqCst);
            let running = worker::run(Arc::clone(&knobs), CancellationToken::new());
            async move { Ok(running.await?) }
        });
    }
    let listed = workers.clone();
    sim.host("hive", move || report_hive(listed.clone()));
    let (found, excused) = (Arc::new(Mutex::new(Seen::default())), Excused::default());
    let (told, hive, mut down) = (Arc::clone(&found), excused.clone(), Vec::new());
    let gives_up = !matches!(what, What::Kills(_));
    let mut silent = BTreeMap::new();
    let deadly = what.prompts();
    sim.client("queen", async move { queen(told, hive, deadly).await });
    loop {
        let now = sim.elapsed();
        if next_kill.is_some_and(|at| at <= now) {
            next_kill = Some(now + KILLS).filter(|at| *at <= KILLS_END);
            let alive = || workers.iter().filter(|knobs| !knobs.is_down.load(SeqCst));
            if let Some(killed) = alive().nth(dice.usize(0..alive().count().max(1))) {
                killed.is_poisoned.store(true, SeqCst);
            }
        }
        for knobs in workers.iter().filter(|knobs| knobs.hangs.load(SeqCst)) {
            if now > *silent.entry(&knobs.who.host).or_insert(now + LISTENS) {
                silent.remove(&knobs.who.host);
                knobs.hangs.store(false, SeqCst);
                knobs.is_poisoned.store(true, SeqCst);
            }
        }
        for knobs in workers.iter().filter(|knobs| knobs.is_poisoned.swap(false, SeqCst)) {
            let end = (knobs.who.name.clone(), knobs.pid.load(SeqCst));
            found.lock().unwrap().ends.push(end);
            knobs.is_down.store(true, SeqCst);
            sim.crash(knobs.who.host.as_str());
            down.push((now + restart, knobs.who.host.clone()));
        }
        down.retain(|(at, host)| {
            let is_due = *at <= now;
            let mut history = found.lock().unwrap();
            let counts = |end: &&(String, u32)| end.0 == *host && !excused.has(end);
            if gives_up && is_due && history.ends.iter().filter(counts).count() >= MAX_FAILURES {
                history.given_up.push(host.clone());
            } else if is_due {
                sim.bounce(host.as_str());
            }
            !is_due
        });
        if sim.step().expect("it comes to rest") {
            break;
        }
    }
    drop(sim);
    std::mem::take(&mut *found.lock().unwrap())
}

/// The queen's core, and those who ask.
async fn queen(seen: Arc<Mutex<Seen>>, hive: Excused, deadly: Vec<String>) -> turmoil::Result {
    let (expected, none) = (vec![HiveAlias::localhost()], BTreeMap::new());
    let queen = Queen::start(Arc::new(hive), expected, none, Vec::new(), 64, None).await?;
    let asked = TaskTracker::new();
    let asks = (!deadly.is_empty()).then_some(ASKS * deadly.len());
    // So often, or for as long as somebody kills.
    let goes_on = move |number| asks.map_or(turmoil::elapsed() < KILLS_END, |asks| number < asks);
    for client in 0..CLIENTS {
        let (queen, seen) = (queen.clone(), Arc::clone(&seen));
        asked.spawn(async move {
            for number in (0..).take_while(|number| goes_on(*number)) {
                let question = question(format!("r-{client}-{number}"), client);
                let (outcome, _) = queen.ask(question).await;
                seen.lock().unwrap().others.push(outcome);
            }
        });
    }
    for (number, prompt) in deadly.into_iter().enumerate() {
        sleep(if number == 0 { COMES_AT } else { NEXT_AFTER }).await;
        let asked = Question { prompt, ..question(format!("deadly-{number}"), 0) };
        let (outcome, _) = queen.ask(asked).await;
        seen.lock().unwrap().deadly.push(outcome);
    }
    asked.close();
    asked.wait().await;
    seen.lock().unwrap().took = turmoil::elapsed();
    Ok(())
}

fn question(id: String, client: usize) -> Question {
    Question {
        prompt: format!("request {id}:"),
        id,
        model: "m".parse().unwrap(),
        caller: format!("caller-{client}"),
        priority: Priority::Interactive,
        patience: Duration::from_secs(250),
        is_whole: client.is_multiple_of(3),
    }
}
