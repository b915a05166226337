//! Requests that wait for a fast worker though a slow one has room.

use worker_contract::{Timings, Usage};

use super::*;
use crate::registry::{Answered, Times};

/// How many tokens the answers had that showed how fast the workers are.
const TOKENS: u32 = 100;

#[tokio::test(start_paused = true)]
async fn a_few_wait_for_the_fast_worker_and_the_next_one_takes_the_slow_one() {
    let stage = Stage::without_task(Arc::new(NeverReady), None);
    let registry = stage.dispatcher.registry();
    for (id, device, millis) in [("fast", "GPU-0", 5), ("slow", "CPU-0", 80)] {
        stage.beat_on(device, id, "m", 'b');
        for _ in 0..8 {
            stage.shows(id, Duration::from_millis(millis));
        }
    }
    registry.sweep(clock::now());
    let mut running = vec![stage.at("fast"), stage.at("fast")];
    let mut attempts = Attempts::default();
    // Whoever is in a worker already waits for no other.
    let slow = stage.dispatcher.place_now(wanted(Some('b')), 0).expect("it has room");
    assert_eq!(slow.worker_id.as_str(), "slow");
    drop(slow);
    assert!(stage.dispatcher.has_place(&wanted(Some('b'))));
    let mut waiting: Vec<_> = (0..12).map(|_| stage.comes()).collect();
    stage.dispatcher.hand_out(&mut attempts);
    let placed = |waiting: &mut Vec<Waiter<'_>>| {
        let answered = |(_, answer): &mut Waiter<'_>| answer.try_recv().ok();
        let places = waiting.iter_mut().enumerate().filter_map(|(n, it)| Some((n, answered(it)?)));
        places.map(|(n, place)| (n, place.expect("a place"))).collect::<Vec<_>>()
    };
    let at_once = placed(&mut waiting);
    let numbers: Vec<usize> = at_once.iter().map(|(number, _)| *number).collect();
    assert!(at_once.iter().all(|(_, place)| place.worker_id.as_str() == "slow"));
    assert_eq!(numbers.len(), 2, "as many as it takes: {numbers:?}");
    assert!(numbers[0] > 1, "the first ones wait for the fast one: {numbers:?}");
    assert!(
        numbers[1] > numbers[0] + 1,
        "so do more, as the slow one has something to do: {numbers:?}"
    );
    // Who has waited is next at the fast one.
    drop(running.pop());
    stage.dispatcher.hand_out(&mut attempts);
    let next = placed(&mut waiting);
    let next: Vec<_> = next.iter().map(|(n, place)| (*n, place.worker_id.as_str())).collect();
    assert_eq!(next, [(0, "fast")]);
    // The fast one hangs: nobody waits for it for ever.
    drop(at_once);
    tokio::time::advance(Duration::from_secs(5)).await;
    registry.there_may_be_room();
    stage.dispatcher.hand_out(&mut attempts);
    let late = placed(&mut waiting);
    assert!(late.iter().any(|(n, place)| *n == 1 && place.worker_id.as_str() == "slow"));
}

type Waiter<'a> = (Turn<'a>, oneshot::Receiver<Result<Place, NoPlace>>);

impl Stage {
    /// A worker has given an answer at this pace.
    fn shows(&self, id: &str, token: Duration) {
        let place = self.at(id);
        let took = token * TOKENS;
        let usage = Usage { prompt_tokens: 10, completion_tokens: TOKENS, cached_tokens: 0 };
        let decode_ms = took.as_secs_f64() * 1000.0;
        let timings = Timings { prefill_ms: 1.0, decode_ms, ..Timings::default() };
        let times = Times { first: token, rest: took, tokens: u64::from(TOKENS) };
        let answered = Answered { usage, timings, times, ..Answered::default() };
        self.dispatcher.registry().worker_answered(&place, &answered, clock::now());
    }

    /// A place at this worker.
    fn at(&self, id: &str) -> Place {
        let others = ["fast", "slow"].into_iter().filter(|other| *other != id);
        let barred = others.map(|other| other.parse().unwrap()).collect();
        let wanted = Wanted { barred, ..wanted(Some('b')) };
        self.dispatcher.place_now(wanted, 0).expect("it has room")
    }

    fn comes(&self) -> Waiter<'_> {
        let wanted = wanted(Some('b'));
        self.dispatcher.enter(&wanted, Wait::Start).expect("there is room in the queue")
    }
}
