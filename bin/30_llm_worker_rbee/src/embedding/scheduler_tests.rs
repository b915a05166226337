//! The loop on an engine of arithmetic: what the loop does must not show in an answer.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use worker_contract::{InferenceEvent, RequestId, TokenId, Usage};

use super::load::Submitter;
use super::request::{EmbeddingRequest, Wanted};
use super::scheduler::EmbeddingScheduler;
use crate::batch::{EventReceiver, Gauges, SubmitError, answer_channel};
use crate::engine::{EngineError, PooledEngine, PooledLimits};
use crate::metrics::Metrics;

const LIMITS: PooledLimits = PooledLimits { text_tokens: 64, batch_tokens: 32, batch_texts: 8 };
/// A token that the engine cannot compute.
const POISON: TokenId = 1000;
/// A token that makes the result of its text no number.
const NO_NUMBER: TokenId = 1001;

#[test]
fn requests_beside_each_other_answer_as_they_do_alone() {
    let requests: Vec<_> = (1..12).map(|n| texts(n, 3 * n)).collect();
    let alone: Vec<_> = requests
        .iter()
        .map(|texts| collect(TestLoop::new().start(texts.clone(), Wanted::Vectors)))
        .collect();
    let crowd = TestLoop::new();
    let running: Vec<_> =
        requests.iter().map(|texts| crowd.start(texts.clone(), Wanted::Vectors)).collect();
    let together: Vec<_> = running.into_iter().map(collect).collect();
    assert_eq!(together, alone);
}

#[test]
fn every_text_has_its_vector_of_length_one_in_order() {
    let texts = texts(1, 200);
    let answer = collect(TestLoop::new().start(texts.clone(), Wanted::Vectors));
    assert_eq!(answer.results.len(), 200);
    for (text, vector) in texts.iter().zip(&answer.results) {
        let row = row(text);
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        for (got, wanted) in vector.iter().zip(&row) {
            assert!((got - wanted / length).abs() < 1e-6, "{got} {wanted}");
        }
    }
    let tokens: usize = texts.iter().map(Vec::len).sum();
    assert_eq!(answer.usage.prompt_tokens as usize, tokens);
    assert_eq!(answer.usage.completion_tokens, 0);
}

#[test]
fn documents_are_scored_by_the_cosine_with_the_query() {
    let texts = vec![vec![1, 2, 3], vec![1, 2, 3], vec![9, 9], vec![2, 4, 6]];
    let answer = collect(TestLoop::new().start(texts.clone(), Wanted::CosinesWithFirst));
    let cosine = |one: &[TokenId], other: &[TokenId]| {
        let (one, other) = (row(one), row(other));
        let dot: f32 = one.iter().zip(&other).map(|(x, y)| x * y).sum();
        let length = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
        dot / length(&one) / length(&other)
    };
    assert_eq!(answer.results.len(), 3);
    for (document, got) in texts[1..].iter().zip(&answer.results) {
        assert!((got[0] - cosine(&texts[0], document)).abs() < 1e-6, "{got:?}");
    }
    assert!((answer.results[0][0] - 1.0).abs() < 1e-6);
}

#[test]
fn a_score_is_the_first_number_as_the_model_gives_it() {
    let answer = collect(TestLoop::new().start(vec![vec![3, 4], vec![5]], Wanted::Scores));
    assert_eq!(answer.results, [vec![row(&[3, 4])[0]], vec![row(&[5])[0]]]);
}

#[test]
fn one_text_waits_for_one_batch_and_not_for_thousands() {
    let gated = TestLoop::gated();
    let large = gated.start(texts(5, 2000), Wanted::Vectors);
    gated.batches(3);
    let single = gated.start(vec![vec![7; 5]], Wanted::Vectors);
    // One batch may be under way when it comes.
    gated.batches(2);
    assert_eq!(collect(single).results.len(), 1);
    gated.open();
    assert_eq!(collect(large).results.len(), 2000);
}

#[test]
fn a_reader_that_goes_away_ends_its_request_after_the_batch() {
    let gated = TestLoop::gated();
    let mut large = gated.start(texts(5, 2000), Wanted::Vectors);
    gated.batches(1);
    assert!(matches!(large.blocking_recv(), Some(InferenceEvent::Started { .. })));
    drop(large);
    // The batch that was under way, and no further one: the loop waits for requests.
    gated.open();
    gated.wait_until("nothing runs", |gauges| gauges.busy.load(Relaxed) == 0);
    assert!(gated.computed() <= 3 * LIMITS.batch_texts as usize, "{}", gated.computed());
}

#[test]
fn a_reader_that_does_not_read_holds_up_nobody_else() {
    let machine = TestLoop::new();
    let slow = machine.start(texts(5, 500), Wanted::Vectors);
    let quick = collect(machine.start(texts(6, 3), Wanted::Vectors));
    assert_eq!(quick.results.len(), 3);
    assert_eq!(collect(slow).results.len(), 500);
}

#[test]
fn a_passed_deadline_ends_a_request_with_an_error() {
    let machine = TestLoop::new();
    let overdue = machine.start_with(texts(5, 9), Wanted::Vectors, Some(Instant::now()));
    assert_eq!(failure(overdue).as_deref(), Some("deadline_exceeded"));
    assert_eq!(collect(machine.start(texts(6, 3), Wanted::Vectors)).results.len(), 3);
}

#[test]
fn a_failed_batch_ends_its_requests_with_an_error_and_the_next_one_is_served() {
    let machine = TestLoop::new();
    let poisoned = machine.start(vec![vec![1], vec![POISON]], Wanted::Vectors);
    assert_eq!(failure(poisoned).as_deref(), Some("engine_error"));
    assert_eq!(collect(machine.start(texts(6, 3), Wanted::Vectors)).results.len(), 3);
}

#[test]
fn a_result_that_is_no_number_ends_only_its_own_request() {
    let gated = TestLoop::gated();
    let bad = gated.start(vec![vec![1], vec![NO_NUMBER], vec![2]], Wanted::Vectors);
    let good = gated.start(texts(3, 20), Wanted::Vectors);
    gated.open();
    assert_eq!(failure(bad).as_deref(), Some("engine_error"));
    assert_eq!(collect(good).results.len(), 20);
}

#[test]
fn what_is_beyond_slots_and_queue_is_refused_and_told() {
    let gated = TestLoop::gated();
    let mut held: Vec<_> = (0..16).map(|n| gated.start(texts(n, 4), Wanted::Vectors)).collect();
    let gauges = &gated.gauges;
    assert_eq!((gauges.busy.load(Relaxed), gauges.queued.load(Relaxed)), (2, 14));
    let (answer, _events) = answer_channel();
    let refused = gated.submitter().submit(request(texts(1, 1), Wanted::Vectors, None, answer));
    assert_eq!(refused, Err(SubmitError::QueueFull(14)));
    gated.open();
    for events in held.drain(..) {
        collect(events);
    }
    gated.wait_until("nothing runs", |gauges| {
        gauges.busy.load(Relaxed) == 0 && gauges.queued.load(Relaxed) == 0
    });
}

#[test]
fn closing_the_way_in_ends_the_loop_when_everything_is_answered() {
    let mut gated = TestLoop::gated();
    let running = gated.start(texts(5, 50), Wanted::Vectors);
    gated.submitter = None;
    gated.open();
    assert_eq!(collect(running).results.len(), 50);
    gated.thread.take().expect("it runs").join().expect("it ends well");
}

/// What the engine makes of a text.
fn row(text: &[TokenId]) -> Vec<f32> {
    let number = |n: usize| f32::from(u16::try_from(n).expect("a small number"));
    let sum = text.iter().map(|t| usize::try_from(*t).expect("a token")).sum();
    let weighted = (1..).zip(text).map(|(n, t)| n * usize::try_from(*t).expect("a token")).sum();
    vec![number(sum), -number(text.len()), number(weighted)]
}

/// An engine that waits for leave before each batch, where it is gated.
struct Arithmetic {
    leave: Option<Receiver<()>>,
    computed: Arc<Mutex<usize>>,
    rows: Vec<Vec<f32>>,
}

impl PooledEngine for Arithmetic {
    fn limits(&self) -> PooledLimits {
        LIMITS
    }

    fn compute(&mut self, texts: &[&[TokenId]]) -> Result<(), EngineError> {
        if self.leave.as_ref().is_some_and(|leave| leave.recv().is_err()) {
            self.leave = None;
        }
        let tokens: usize = texts.iter().map(|text| text.len()).sum();
        assert!(texts.len() <= LIMITS.batch_texts as usize, "too many texts");
        assert!(tokens <= LIMITS.batch_tokens as usize || texts.len() == 1, "too many tokens");
        if texts.iter().any(|text| text.contains(&POISON)) {
            return Err(EngineError::Failed("poison".to_owned()));
        }
        self.rows = texts
            .iter()
            .map(|text| if text.contains(&NO_NUMBER) { vec![f32::NAN] } else { row(text) })
            .collect();
        *self.computed.lock().expect("nobody panics with it") += texts.len();
        Ok(())
    }

    fn output(&self, text: usize) -> Result<&[f32], EngineError> {
        Ok(&self.rows[text])
    }
}

struct TestLoop {
    submitter: Option<Submitter>,
    gauges: Arc<Gauges>,
    gate: Mutex<Option<SyncSender<()>>>,
    computed: Arc<Mutex<usize>>,
    thread: Option<JoinHandle<()>>,
}

impl TestLoop {
    fn new() -> Self {
        Self::with(None)
    }

    /// A loop that computes a batch when it is told to.
    fn gated() -> Self {
        // Without room: leave is given when a batch takes it.
        let (gate, leave) = sync_channel(0);
        Self { gate: Mutex::new(Some(gate)), ..Self::with(Some(leave)) }
    }

    fn with(leave: Option<Receiver<()>>) -> Self {
        let gauges: Arc<Gauges> = Arc::default();
        let computed: Arc<Mutex<usize>> = Arc::default();
        let engine = Arithmetic { leave, computed: Arc::clone(&computed), rows: Vec::new() };
        let (scheduler, submitter) =
            EmbeddingScheduler::new(engine, 2, 14, Arc::clone(&gauges), Metrics::default());
        let thread = Some(std::thread::spawn(|| scheduler.run()));
        Self { submitter: Some(submitter), gauges, gate: Mutex::new(None), computed, thread }
    }

    /// Gives leave for so many batches.
    fn batches(&self, count: usize) {
        let gate = self.gate.lock().expect("nobody panics with it");
        for _ in 0..count {
            gate.as_ref().expect("it is gated").send(()).expect("the loop runs");
        }
    }

    /// Gives leave for all further batches.
    fn open(&self) {
        *self.gate.lock().expect("nobody panics with it") = None;
    }

    fn computed(&self) -> usize {
        *self.computed.lock().expect("nobody panics with it")
    }

    fn submitter(&self) -> &Submitter {
        self.submitter.as_ref().expect("it is open")
    }

    fn start(&self, texts: Vec<Vec<TokenId>>, wanted: Wanted) -> EventReceiver {
        self.start_with(texts, wanted, None)
    }

    fn start_with(
        &self,
        texts: Vec<Vec<TokenId>>,
        wanted: Wanted,
        deadline: Option<Instant>,
    ) -> EventReceiver {
        let (answer, events) = answer_channel();
        let request = request(texts, wanted, deadline, answer);
        self.submitter().submit(request).expect("there is room");
        events
    }

    fn wait_until(&self, what: &str, condition: impl Fn(&Gauges) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition(&self.gauges) {
            assert!(Instant::now() < deadline, "still missing: {what}");
            std::thread::yield_now();
        }
    }
}

fn request(
    texts: Vec<Vec<TokenId>>,
    wanted: Wanted,
    deadline: Option<Instant>,
    answer: crate::batch::Answer,
) -> EmbeddingRequest {
    let request_id = RequestId::random();
    EmbeddingRequest { request_id, texts, wanted, arrived: Instant::now(), deadline, answer }
}

/// Some texts of different lengths.
fn texts(seed: usize, count: usize) -> Vec<Vec<TokenId>> {
    let token = |n: usize| TokenId::try_from(n % 90 + 1).expect("a small number");
    let text = |n: usize| (0..=(n * 7 + seed) % 40).map(move |i| token(seed * n + i)).collect();
    (0..count).map(text).collect()
}

#[derive(Debug, PartialEq)]
struct Collected {
    results: Vec<Vec<f32>>,
    usage: Usage,
}

/// Reads an answer that must be whole, with its results in order.
fn collect(mut events: EventReceiver) -> Collected {
    let mut results = Vec::new();
    assert!(matches!(events.blocking_recv(), Some(InferenceEvent::Started { .. })));
    loop {
        let (index, result) = match events.blocking_recv().expect("it ends with done") {
            InferenceEvent::Embedding { index, vector } => (index, vector),
            InferenceEvent::Score { index, score } => (index, vec![score]),
            InferenceEvent::Done { usage, .. } => {
                assert!(events.blocking_recv().is_none(), "nothing comes after done");
                return Collected { results, usage };
            }
            other => panic!("unexpected: {other:?}"),
        };
        assert_eq!(index as usize, results.len(), "results come in order");
        results.push(result);
    }
}

/// The code of the error that an answer ends with.
fn failure(mut events: EventReceiver) -> Option<String> {
    let mut last = None;
    while let Some(event) = events.blocking_recv() {
        last = Some(event);
    }
    match last {
        Some(InferenceEvent::Error { error }) => error.code,
        other => panic!("no error: {other:?}"),
    }
}
