//! The loop on an engine of arithmetic: what the loop does must not show in an answer.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use worker_contract::{Delta, FinishReason, InferenceEvent, RequestId, Sampling, TokenId, Usage};

use super::request::{Answer, Choice, Ends, EventReceiver, Prepared, answer_channel};
use super::scheduler::{Gauges, Scheduler, SubmitError, Submitter};
use super::slot::TextModel;
use crate::engine::{BatchEntry, Engine, EngineError, EngineLimits};
use crate::sampling::TokenSampler;
use crate::text::OutputReader;

const VOCABULARY: u32 = 64;

#[test]
fn requests_beside_each_other_answer_as_they_do_alone() {
    let alone: Vec<_> = (0..12).map(|n| TestLoop::new(limits(4, 4096)).answer(n)).collect();
    let crowd = TestLoop::new(limits(4, 4096));
    let running: Vec<_> = (0..12).map(|n| crowd.start(n, |_| {})).collect();
    let together: Vec<_> = running.into_iter().map(collect).collect();
    assert_eq!(together, alone);
}

#[test]
fn a_full_kv_cache_delays_requests_and_loses_nothing() {
    let alone: Vec<_> = (0..8).map(|n| TestLoop::new(limits(8, 4096)).answer(n)).collect();
    let tight = TestLoop::new(limits(8, 150));
    let running: Vec<_> = (0..8).map(|n| tight.start(n, |_| {})).collect();
    let together: Vec<_> = running.into_iter().map(collect).collect();
    assert_eq!(together, alone);
}

#[test]
fn an_answer_cut_anywhere_goes_on_as_if_it_had_not_been_cut() {
    let whole = TestLoop::new(limits(1, 4096)).answer(3);
    for cut in 0..whole.tokens.len() {
        let machine = TestLoop::new(limits(1, 4096));
        let rest =
            collect(machine.start(3, |r| r.choices[0].resume = whole.tokens[..cut].to_vec()));
        assert_eq!(rest.tokens, whole.tokens[cut..], "cut at {cut}");
        assert_eq!(rest.usage, whole.usage, "cut at {cut}");
        assert!(whole.text.ends_with(&rest.text), "cut at {cut}");
    }
}

#[test]
fn a_reader_that_goes_away_frees_its_slot() {
    let machine = TestLoop::new(limits(1, 4096));
    let mut first = machine.start(1, |r| r.ends.max_tokens = None);
    assert!(matches!(first.blocking_recv(), Some(InferenceEvent::Started { .. })));
    drop(first);
    assert_eq!(machine.answer(2), TestLoop::new(limits(1, 4096)).answer(2));
    machine.wait_until("no slot is busy", |gauges| gauges.busy.load(Relaxed) == 0);
}

#[test]
fn a_reader_that_does_not_read_holds_up_nobody_else() {
    let machine = TestLoop::new(limits(2, 4096));
    let slow = machine.start(1, |r| r.ends.max_tokens = Some(400));
    assert_eq!(machine.answer(2).usage.completion_tokens, 40);
    let slow = collect(slow);
    assert_eq!(slow.tokens.len(), 400);
}

#[test]
fn a_passed_deadline_ends_a_request_with_an_error() {
    let machine = TestLoop::new(limits(1, 4096));
    let mut events = machine.start(1, |r| r.deadline = Some(Instant::now()));
    let mut last = None;
    while let Some(event) = events.blocking_recv() {
        last = Some(event);
    }
    let Some(InferenceEvent::Error { error }) = last else { panic!("no error: {last:?}") };
    assert_eq!(error.code.as_deref(), Some("deadline_exceeded"));
}

#[test]
fn the_end_of_the_context_ends_an_answer_by_length() {
    let machine = TestLoop::new(limits(1, 100));
    let answer = collect(machine.start(1, |r| r.ends.max_tokens = None));
    assert_eq!(answer.finish_reason, FinishReason::Length);
    assert_eq!(answer.usage.prompt_tokens + answer.usage.completion_tokens, 100);
}

#[test]
fn a_full_queue_refuses() {
    let machine = TestLoop::new(limits(1, 4096));
    let mut held = Vec::new();
    let refused = (0..100).find_map(|n| {
        let (answer, events) = answer_channel();
        held.push(events);
        machine.submitter().submit(request(n, answer)).err()
    });
    assert!(matches!(refused, Some(SubmitError::QueueFull(_))), "{refused:?}");
}

#[test]
fn a_failed_step_ends_its_requests_with_an_error_and_the_next_one_is_served() {
    let machine = TestLoop::new(limits(2, 4096));
    let mut events = machine.start(1, |r| r.prompt.push(POISON));
    let mut last = None;
    while let Some(event) = events.blocking_recv() {
        last = Some(event);
    }
    assert!(matches!(last, Some(InferenceEvent::Error { .. })), "{last:?}");
    assert_eq!(machine.answer(2).usage.completion_tokens, 40);
}

/// A token that the engine cannot compute.
const POISON: TokenId = 63;

/// An engine whose next token depends on every token of its sequence, and which insists that
/// positions follow each other.
struct Arithmetic {
    limits: EngineLimits,
    sequences: HashMap<u32, Vec<TokenId>>,
    rows: Vec<Vec<f32>>,
}

impl Engine for Arithmetic {
    fn limits(&self) -> EngineLimits {
        self.limits
    }

    fn step(&mut self, batch: &[BatchEntry]) -> Result<(), EngineError> {
        assert!(batch.len() <= self.limits.batch_tokens as usize);
        let held: usize = self.sequences.values().map(Vec::len).sum();
        if held + batch.len() > self.limits.kv_tokens as usize {
            return Err(EngineError::KvCacheFull);
        }
        if batch.iter().any(|entry| entry.token == POISON) {
            return Err(EngineError::Failed("poison".to_owned()));
        }
        self.rows.clear();
        for entry in batch {
            let tokens = self.sequences.entry(entry.sequence).or_default();
            assert_eq!(tokens.len(), entry.position as usize, "positions follow each other");
            tokens.push(entry.token);
            let mut hasher = DefaultHasher::new();
            tokens.hash(&mut hasher);
            let next = 1 + hasher.finish() % 26;
            let logit = |token: u32| if u64::from(token) == next { 5.0 } else { 0.0 };
            self.rows.push(if entry.wants_logits {
                (0..VOCABULARY).map(logit).collect()
            } else {
                Vec::new()
            });
        }
        Ok(())
    }

    fn logits(&self, row: usize) -> &[f32] {
        assert!(!self.rows[row].is_empty(), "logits were asked for");
        &self.rows[row]
    }

    fn forget(&mut self, sequence: u32) {
        self.sequences.remove(&sequence);
    }
}

/// Token n is the n-th letter.
struct Letters;

impl TextModel for Letters {
    fn append_piece(&self, token: TokenId, bytes: &mut Vec<u8>) {
        bytes.push(b'a' + u8::try_from(token - 1).unwrap_or(0) % 26);
    }
    fn is_end(&self, token: TokenId) -> bool {
        token == 0
    }
}

/// A running loop.
struct TestLoop {
    submitter: Option<Submitter>,
    gauges: Arc<Gauges>,
    thread: Option<JoinHandle<()>>,
}

impl TestLoop {
    fn new(limits: EngineLimits) -> Self {
        let engine = Arithmetic { limits, sequences: HashMap::new(), rows: Vec::new() };
        let gauges = Arc::new(Gauges::default());
        let (scheduler, submitter) =
            Scheduler::new(engine, Arc::new(Letters), 16, Arc::clone(&gauges));
        let thread = std::thread::spawn(|| scheduler.run());
        Self { submitter: Some(submitter), gauges, thread: Some(thread) }
    }

    fn submitter(&self) -> &Submitter {
        self.submitter.as_ref().expect("it is there until the drop")
    }

    fn start(&self, number: i32, change: impl FnOnce(&mut Prepared)) -> EventReceiver {
        let (answer, events) = answer_channel();
        let mut prepared = request(number, answer);
        change(&mut prepared);
        self.submitter().submit(prepared).unwrap();
        events
    }

    fn answer(&self, number: i32) -> Collected {
        collect(self.start(number, |_| {}))
    }

    fn wait_until(&self, what: &str, condition: impl Fn(&Gauges) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition(&self.gauges) {
            assert!(Instant::now() < deadline, "still missing: {what}");
            std::thread::yield_now();
        }
    }
}

impl Drop for TestLoop {
    fn drop(&mut self) {
        self.submitter = None;
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the loop panicked");
        }
    }
}

fn limits(sequences: u32, kv_tokens: u32) -> EngineLimits {
    EngineLimits { kv_tokens, context_length: kv_tokens, sequences, batch_tokens: 64 }
}

fn request(number: i32, answer: Answer) -> Prepared {
    let seed = u64::from(number.unsigned_abs());
    Prepared {
        request_id: RequestId::random(),
        prompt: (0..20 + number).map(|n| 1 + n % 26).collect(),
        choices: vec![Choice {
            index: 0,
            resume: Vec::new(),
            sampler: TokenSampler::new(&Sampling::default(), seed, VOCABULARY, 4096),
            output: OutputReader::plain(),
        }],
        ends: Ends { max_tokens: Some(40), ..Ends::default() },
        seed,
        arrived: Instant::now(),
        deadline: None,
        answer,
    }
}

#[derive(Debug, PartialEq)]
struct Collected {
    text: String,
    tokens: Vec<TokenId>,
    finish_reason: FinishReason,
    usage: Usage,
}

fn collect(mut events: EventReceiver) -> Collected {
    let (mut text, mut tokens) = (String::new(), Vec::new());
    assert!(matches!(events.blocking_recv(), Some(InferenceEvent::Started { .. })));
    while let Some(event) = events.blocking_recv() {
        match event {
            InferenceEvent::Delta(Delta { text: part, tokens: ids, .. }) => {
                text.push_str(&part);
                tokens.extend(ids);
            }
            InferenceEvent::Done { finish_reason, usage, .. } => {
                return Collected { text, tokens, finish_reason, usage };
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    panic!("the answer ended without its end");
}
