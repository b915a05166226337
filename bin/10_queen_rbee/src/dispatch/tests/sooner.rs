//! Requests that wait for a fast worker though a slow one has room.

use worker_contract::{Timings, Usage};

use super::*;
use crate::registry::{Answered, Times};

/// How many tokens the answers had that showed how fast the workers are.
const TOKENS: u32 = 100;
/// Longer than half of what an idle slow worker takes, and shorter than half of what a loaded one does.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longer than half of that patience at a slow worker with one answer.
const OVERDUE: Duration = Duration::from_millis(3_500);

#[tokio::test(start_paused = true)]
async fn of_a_crowd_those_wait_for_the_fast_worker_whom_it_answers_sooner() {
    let stage = Stage::with_fast_and_slow(None);
    let mut running = vec![stage.at("fast"), stage.at("fast")];
    // Whoever is in a worker already waits for no other.
    let slow = stage.dispatcher.place_now(wanted(Some('b')), 0).expect("it has room");
    assert_eq!(slow.worker_id.as_str(), "slow");
    drop(slow);
    assert!(stage.dispatcher.has_place(&wanted(Some('b'))));
    let mut waiting: Vec<_> = (0..24).map(|_| stage.comes(&wanted(Some('b')))).collect();
    let first = stage.hand_out(&mut waiting);
    let mut others = first.iter().filter(|(_, place)| place.worker_id.as_str() != "slow");
    assert!(first.len() == 2 && others.next().is_none(), "{first:?}");
    assert!(
        first.iter().all(|(number, _)| *number > 2),
        "those in front are answered sooner: {first:?}"
    );
    // Who has waited is next at the fast one.
    drop(running.pop());
    let next = stage.hand_out(&mut waiting);
    let named: Vec<_> = next.iter().map(|(n, place)| (*n, place.worker_id.as_str())).collect();
    assert_eq!(named, [(0, "fast")]);
    // The fast one hangs: nobody waits for it for ever.
    drop(first);
    stage.is_patient_no_longer().await;
    assert_eq!(stage.places(&mut waiting), [(1, "slow".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn who_has_waited_for_the_fast_worker_in_vain_has_the_next_place_at_the_slow_one() {
    let stage = Stage::with_fast_and_slow(None);
    let _running = [stage.at("fast"), stage.at("fast"), stage.at("slow")];
    let mut waiting = vec![stage.comes(&wanted(Some('b')))];
    assert!(stage.places(&mut waiting).is_empty());
    tokio::time::advance(OVERDUE).await;
    stage.both_report();
    waiting.push(stage.comes(&wanted(Some('b'))));
    assert!(stage.places(&mut waiting).is_empty(), "the last place is kept for the first one");
    stage.is_patient_no_longer().await;
    assert_eq!(stage.places(&mut waiting), [(0, "slow".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_place_is_kept_for_who_has_waited_and_none_for_those_that_have_just_come() {
    let stage = Stage::with_fast_and_slow(None);
    let _running = [stage.at("fast"), stage.at("fast")];
    let mut waiting = vec![stage.comes(&wanted(Some('b')))];
    assert!(stage.places(&mut waiting).is_empty());
    tokio::time::advance(OVERDUE).await;
    stage.both_report();
    let deadline = clock::now() + Duration::from_secs(10);
    let hasty = Wanted { deadline, ..wanted(Some('b')) };
    waiting.extend([&wanted(Some('b')), &hasty].map(|wanted| stage.comes(wanted)));
    assert_eq!(stage.places(&mut waiting), [(2, "slow".to_owned())], "one of two places is kept");
}

#[tokio::test(start_paused = true)]
async fn batch_requests_leave_a_place_to_an_interactive_one_that_waits_for_the_fast_worker() {
    let stage = Stage::with_fast_and_slow(None);
    let _running = [stage.at("fast"), stage.at("fast")];
    let batch = || Wanted { priority: Priority::Batch, ..wanted(Some('b')) };
    let mut waiting = vec![stage.comes(&wanted(Some('b')))];
    waiting.extend((0..16).map(|_| stage.comes(&batch())));
    let first = stage.places(&mut waiting);
    let [(number, worker)] = first.as_slice() else {
        panic!("one of two places is kept: {first:?}")
    };
    assert!(*number > 2 && worker == "slow", "those in front are answered sooner: {first:?}");
    stage.is_patient_no_longer().await;
    assert_eq!(stage.places(&mut waiting), [(0, "slow".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn who_stands_behind_one_that_waits_for_the_fast_worker_is_asked_about_for_itself() {
    let stage = Stage::with_fast_and_slow(None);
    let _running = [stage.at("fast"), stage.at("fast")];
    let any = || wanted(Some('b'));
    let key = SessionKey { caller: "local".into(), name: "mine".into() };
    let in_session = || Wanted { session: Some(key.clone()), ..any() };
    let not_fast = Wanted { barred: vec!["fast".parse().unwrap()], ..in_session() };
    drop(stage.dispatcher.place_now(not_fast, 0).expect("it has room"));
    let deadline = clock::now() + Duration::from_secs(10);
    for (because, behind) in [
        ("its answer is short", Wanted { answer_tokens: 1, ..any() }),
        ("its deadline is near", Wanted { deadline, ..any() }),
        ("its session is there", in_session()),
    ] {
        let mut waiting = [stage.comes(&any()), stage.comes(&behind)];
        assert_eq!(stage.places(&mut waiting), [(1, "slow".to_owned())], "{because}");
    }
    let mut waiting = [stage.comes(&any()), stage.comes(&any())];
    assert!(stage.places(&mut waiting).is_empty(), "it is as the first one");
}

#[tokio::test]
async fn nobody_waits_for_a_fast_worker_that_rules_refuse() {
    const SCRIPT: &str =
        "fn filter(request, worker) { !(request.priority == \"batch\" && worker.id == \"fast\") }";
    let stage = Stage::with_fast_and_slow(Some(SCRIPT));
    let _running = [stage.at("fast"), stage.at("fast")];
    let batch = Wanted { priority: Priority::Batch, ..wanted(Some('b')) };
    let mut waiting = [stage.comes(&batch)];
    assert_eq!(stage.places(&mut waiting), [(0, "slow".to_owned())]);
}

type Waiter<'a> = (Turn<'a>, oneshot::Receiver<Result<Place, NoPlace>>);

impl Stage {
    /// A card that answers in half a second, and a processor that takes eight; both run two requests at once.
    fn with_fast_and_slow(rules: Option<&str>) -> Self {
        let stage = Self::without_task(Arc::new(NeverReady), rules);
        stage.both_report();
        for (id, millis) in [("fast", 5), ("slow", 80)] {
            for _ in 0..8 {
                stage.shows(id, Duration::from_millis(millis));
            }
        }
        stage.dispatcher.registry().sweep(clock::now());
        stage
    }

    fn both_report(&self) {
        for (id, device) in [("fast", "GPU-0"), ("slow", "CPU-0")] {
            self.beat_on(device, id, "m", 'b');
        }
    }

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

    fn comes(&self, wanted: &Wanted) -> Waiter<'_> {
        self.dispatcher.enter(wanted, Wait::Start).expect("there is room in the queue")
    }

    /// Those that have come have waited for longer than they would at an idle slow worker, and both still report.
    async fn is_patient_no_longer(&self) {
        tokio::time::advance(PATIENCE).await;
        self.both_report();
        self.dispatcher.registry().sweep(clock::now());
    }

    /// Who gets a place, by their numbers.
    fn hand_out(&self, waiting: &mut [Waiter<'_>]) -> Vec<(usize, Place)> {
        self.dispatcher.hand_out(&mut Attempts::default());
        let answers = waiting.iter_mut().map(|(_, answer)| answer.try_recv().ok()).enumerate();
        let answered = answers.filter_map(|(number, answer)| Some((number, answer?)));
        answered.map(|(number, place)| (number, place.expect("a place"))).collect()
    }

    /// The same, and where. The places are given back.
    fn places(&self, waiting: &mut [Waiter<'_>]) -> Vec<(usize, String)> {
        let places = self.hand_out(waiting).into_iter();
        places.map(|(number, place)| (number, place.worker_id.to_string())).collect()
    }
}
