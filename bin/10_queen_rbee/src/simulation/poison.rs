//! A request over which every worker ends that has it, while others ask: it fails, and nobody else does.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use worker_contract::HiveAlias;

use super::house::{report_hive, who};
use super::queen::{Outcome, Queen, Question};
use super::worker::{self, Knobs, POISON};
use super::world;
use crate::admission::Priority;
use crate::doubles::Nowhere;

const SLOTS: u32 = 4;
/// How many ask one thing after the other, and how often.
const CLIENTS: usize = 6;
const ASKS: usize = 4;
/// When the deadly request comes.
const COMES_AT: Duration = Duration::from_millis(2500);
/// After how long a worker is there again.
const RESTART: Duration = Duration::from_millis(700);
/// How many ends of workers one such request may cost: a hive gives one up after five.
const MOST_ENDS: usize = 3;

#[derive(Debug, Default)]
struct Seen {
    ends: usize,
    deadly: Option<Outcome>,
    others: Vec<Outcome>,
    took: Duration,
}

#[test]
fn a_deadly_request_in_a_crowd_ends_three_workers_at_most_and_fails_alone() {
    for (workers, tokens) in [(1, 0), (1, 2), (2, 0), (2, 2), (3, 0)] {
        for seed in 1..=6 {
            let seen = run(seed, workers, tokens);
            let what = format!("{workers} workers, after {tokens} tokens, seed {seed}: {seen:?}");
            assert!(seen.ends <= MOST_ENDS, "{what}");
            assert_eq!(seen.deadly, Some(Outcome::Failed("quarantined".into())), "{what}");
            assert_eq!(seen.others, vec![Outcome::Exact; CLIENTS * ASKS], "{what}");
            assert!(seen.took < Duration::from_secs(120), "{what}");
        }
    }
}

/// One history: so many workers, and a request that ends them after so many tokens.
fn run(seed: u64, workers: usize, tokens: usize) -> Seen {
    let mut sim = world(seed, Duration::from_secs(300), Duration::from_millis(5));
    let of_number = |number| Knobs { slots: SLOTS, ..Knobs::new(who(format!("worker-{number}"))) };
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
    let found = Arc::new(Mutex::new(Seen::default()));
    let (told, mut down) = (Arc::clone(&found), Vec::new());
    sim.client("queen", async move { queen(told, tokens).await });
    loop {
        let now = sim.elapsed();
        for knobs in workers.iter().filter(|knobs| knobs.is_poisoned.swap(false, SeqCst)) {
            found.lock().unwrap().ends += 1;
            knobs.is_down.store(true, SeqCst);
            sim.crash(knobs.who.host.as_str());
            down.push((now + RESTART, knobs.who.host.clone()));
        }
        down.retain(|(at, host)| {
            let is_due = *at <= now;
            if is_due {
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
async fn queen(seen: Arc<Mutex<Seen>>, tokens: usize) -> turmoil::Result {
    let (expected, none) = (vec![HiveAlias::localhost()], BTreeMap::new());
    let queen = Queen::start(Arc::new(Nowhere), expected, none, Vec::new(), 64, None).await?;
    let asked = TaskTracker::new();
    for client in 0..CLIENTS {
        let (queen, seen) = (queen.clone(), Arc::clone(&seen));
        asked.spawn(async move {
            for number in 0..ASKS {
                let question = question(format!("r-{client}-{number}"), client);
                let (outcome, _) = queen.ask(question).await;
                seen.lock().unwrap().others.push(outcome);
            }
        });
    }
    sleep(COMES_AT).await;
    let deadly = Question { prompt: format!("{POISON}{tokens}:"), ..question("deadly".into(), 0) };
    let (outcome, _) = queen.ask(deadly).await;
    seen.lock().unwrap().deadly = Some(outcome);
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
