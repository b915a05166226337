//! The loop on an engine of arithmetic: what the loop does must not show in an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use worker_contract::{
    Delta, FinishReason, InferenceEvent, RequestId, Sampling, Timings, TokenId, Usage,
};

use super::arithmetic::{Arithmetic, POISON, VOCABULARY};
use super::gauges::{Gauges, SubmitError, Submitter};
use super::request::{Answer, Choice, Ends, EventReceiver, Prepared, answer_channel};
use super::scheduler::{Scheduler, SchedulerSettings};
use super::slot::TextModel;
use crate::engine::EngineLimits;
use crate::media::{Layout, Media, Placed};
use crate::metrics::Metrics;
use crate::sampling::TokenSampler;
use crate::text::OutputReader;

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

#[test]
fn a_prompt_that_was_seen_before_is_not_computed_again() {
    let machine = TestLoop::new(limits(2, 4096));
    let long = |r: &mut Prepared| r.prompt = text(400, 1);
    let first = collect(machine.start(1, long));
    let mut again = None;
    let computed = machine.computed_by(|| again = Some(collect(machine.start(1, long))));
    let again = again.unwrap();
    assert_eq!(again.tokens, first.tokens);
    assert_eq!((first.usage.cached_tokens, again.usage.cached_tokens), (0, 399));
    assert!(computed < 100, "{computed} tokens were computed");
}

#[test]
fn a_conversation_goes_on_where_it_was() {
    let machine = TestLoop::new(limits(1, 4096));
    let prompt = text(200, 1);
    let first = collect(machine.start(1, |r| r.prompt.clone_from(&prompt)));
    let next: Vec<_> = prompt.iter().chain(&first.tokens).copied().chain(text(9, 3)).collect();
    let second = collect(machine.start(1, |r| r.prompt = next));
    // All of the first request is there but its last token, which nothing was computed after.
    assert_eq!(second.usage.cached_tokens, 200 + 40 - 1);
}

#[test]
fn requests_at_once_with_the_same_beginning_compute_it_once() {
    let machine = TestLoop::with(limits(8, 8192), 0, false);
    let prompt = |n| [text(600, 1), text(20, n)].concat();
    let computed = machine.computed_by(|| {
        let all: Vec<_> = (2..10).map(|n| machine.start(n, |r| r.prompt = prompt(n))).collect();
        for (answer, n) in all.into_iter().map(collect).zip(2..) {
            let alone = TestLoop::new(limits(1, 4096));
            let wanted = collect(alone.start(n, |r| r.prompt = prompt(n)));
            assert_eq!(answer.tokens, wanted.tokens, "request {n}");
        }
    });
    // Each may begin a little before all of the prompt is there.
    assert!(computed < 3 * 600, "{computed} tokens were computed");
}

#[test]
fn several_answers_share_their_prompt_and_are_those_of_single_requests() {
    let machine = TestLoop::with(limits(4, 4096), 0, false);
    let mut prompt_tokens = 0;
    let several = |r: &mut Prepared| {
        r.prompt = text(300, 1);
        prompt_tokens = r.prompt.len();
        r.choices = (0..3).map(|n| choice(n, 70 + u64::from(n))).collect();
    };
    let mut events = Vec::new();
    let computed = machine.computed_by(|| {
        let mut reader = machine.start(1, several);
        events = std::iter::from_fn(|| reader.blocking_recv()).collect();
    });
    assert!(computed < 300 + 300, "{computed} tokens were computed");
    for n in 0..3 {
        let alone = TestLoop::new(limits(1, 4096));
        let wanted = collect(alone.start(1, |r| {
            r.prompt = text(300, 1);
            r.choices = vec![choice(n, 70 + u64::from(n))];
        }));
        let of_it = events.iter().filter_map(|event| match event {
            InferenceEvent::Delta(delta) if delta.index == n => Some(delta.tokens.clone()),
            _ => None,
        });
        assert_eq!(of_it.collect::<Vec<_>>().concat(), wanted.tokens, "answer {n}");
    }
    let ends = |e: &&InferenceEvent| matches!(e, InferenceEvent::ChoiceDone { .. });
    assert_eq!(events.iter().filter(ends).count(), 3);
    let Some(InferenceEvent::Done { usage, .. }) = events.last() else { panic!("no end") };
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (300, 3 * 40));
}

#[test]
fn guesses_change_no_answer_and_save_steps() {
    // A text that goes round: whatever comes after three tokens came after them before.
    let prompt = || (0..200).map(|n| 1 + n % 5).collect::<Vec<TokenId>>();
    let ask = |machine: &TestLoop| {
        let ask = |r: &mut Prepared| {
            r.prompt = prompt();
            r.ends.max_tokens = Some(300);
        };
        collect_with_timings(machine.start(1, ask))
    };
    let (plain, none) = ask(&TestLoop::with(limits(1, 4096), 0, false));
    let (guessed, timings) = ask(&TestLoop::with(limits(1, 4096), 0, true));
    assert_eq!(guessed, plain);
    assert_eq!(none.drafted_tokens, 0);
    assert!(timings.drafted_tokens > 0, "{timings:?}");
    assert!(timings.accepted_tokens <= timings.drafted_tokens, "{timings:?}");
}

#[test]
fn a_second_model_changes_no_answer_and_its_right_guesses_save_steps() {
    let greedy = |r: &mut Prepared| {
        r.prompt = text(90, 4);
        r.ends.max_tokens = Some(120);
        let sampling = Sampling { temperature: Some(0.0), ..Sampling::default() };
        r.choices[0].sampler = TokenSampler::new(&sampling, 1, VOCABULARY, 4096);
    };
    let plain = collect(TestLoop::with(limits(2, 4096), 0, false).start(1, greedy));
    // A model of its own kind guesses right; one with too little room is of no use, and no harm.
    for (kv_tokens, is_of_use) in [(4096, true), (100, false)] {
        let small = Some(limits(2, kv_tokens));
        let machine = TestLoop::with_draft_model(limits(2, 4096), 0, false, small);
        let (answer, timings) = collect_with_timings(machine.start(1, greedy));
        assert_eq!(answer, plain);
        assert_eq!(timings.accepted_tokens, timings.drafted_tokens, "{timings:?}");
        assert!(timings.drafted_tokens > 0 || !is_of_use, "{timings:?}");
        let crowd: Vec<_> = (0..6).map(|n| machine.start(n, |_| {})).collect();
        for (answer, n) in crowd.into_iter().map(collect).zip(0..) {
            assert_eq!(answer, TestLoop::new(limits(1, 4096)).answer(n));
        }
    }
}

#[test]
fn a_prompt_that_left_the_kv_cache_comes_back_from_memory() {
    let machine = TestLoop::with(limits(1, 500), 1 << 20, true);
    let first = collect(machine.start(1, |r| r.prompt = text(300, 1)));
    collect(machine.start(1, |r| r.prompt = text(400, 2)));
    machine.wait_until("the first prompt is in memory", |gauges| {
        gauges.prompt_cache_bytes.load(Relaxed) > 0
    });
    let again = collect(machine.start(1, |r| r.prompt = text(300, 1)));
    assert_eq!(again.tokens, first.tokens);
    assert_eq!(again.usage.cached_tokens, 299);
}

#[test]
fn idle_prompts_make_way_for_running_ones_and_come_back() {
    let few = EngineLimits { idle_tokens: 100, ..limits(2, 4096) };
    let machine = TestLoop::with(few, 1 << 20, true);
    let first = collect(machine.start(1, |r| r.prompt = text(300, 1)));
    let running = machine.start(1, |r| r.prompt = text(300, 2));
    machine.wait_until("the first prompt is in memory", |gauges| {
        gauges.prompt_cache_bytes.load(Relaxed) > 0
    });
    collect(running);
    let again = collect(machine.start(1, |r| r.prompt = text(300, 1)));
    assert_eq!((again.tokens, again.usage.cached_tokens), (first.tokens, 299));
}

#[test]
fn a_model_without_parts_reuses_only_what_it_goes_on_from() {
    let whole = EngineLimits { has_parts: false, sequences: 2, ..limits(2, 4096) };
    let machine = TestLoop::new(whole);
    let prompt = text(200, 1);
    let first = collect(machine.start(1, |r| r.prompt.clone_from(&prompt)));
    let same = collect(machine.start(1, |r| r.prompt.clone_from(&prompt)));
    assert_eq!((same.tokens, same.usage.cached_tokens), (first.tokens.clone(), 0));
    let next: Vec<_> = prompt.iter().chain(&first.tokens).copied().chain(text(9, 3)).collect();
    assert_eq!(collect(machine.start(1, |r| r.prompt = next)).usage.cached_tokens, 239);
}

#[test]
fn alone_by_order_answers_are_the_same_and_only_whole_chunks_are_reused() {
    let alone = EngineLimits { batch_invariant: true, sequences: 3, ..limits(3, 8192) };
    let alone = EngineLimits { batch_tokens: 512, ..alone };
    let machine = TestLoop::new(alone);
    let wanted: Vec<_> = (0..6).map(|n| TestLoop::new(limits(1, 4096)).answer(n)).collect();
    let running: Vec<_> = (0..6).map(|n| machine.start(n, |_| {})).collect();
    assert_eq!(running.into_iter().map(collect).collect::<Vec<_>>(), wanted);
    let long = |r: &mut Prepared| r.prompt = text(300, 1);
    let first = collect(machine.start(1, long));
    let again = collect(machine.start(1, long));
    assert_eq!(again.tokens, first.tokens);
    assert_eq!(again.usage.cached_tokens, 256);
    // The same tokens as another one's chunks, but here they are a resumed answer for the most part.
    let resumed = collect(machine.start(1, |r| {
        r.prompt = text(150, 1);
        r.choices[0].resume = text(300, 1)[150..].to_vec();
        r.ends.max_tokens = Some(200);
    }));
    assert_eq!(resumed.usage.cached_tokens, 128);
}

#[test]
fn an_image_is_computed_once_and_decides_what_is_answered() {
    for (seen, other) in [
        (image(1.0, 150, false), image(2.0, 150, false)),
        (image(1.0, 60, true), image(2.0, 60, true)),
        (plane(1.0), plane(2.0)),
    ] {
        let machine = TestLoop::with(limits(2, 4096), 0, false);
        let ask = |image: &Media, question: i32| {
            let ask = |r: &mut Prepared| {
                r.prompt = text(50, 1);
                show(r, image);
                r.prompt.extend(text(30, question));
            };
            collect(machine.start(1, ask))
        };
        let first = ask(&seen, 2);
        let tokens = 50 + seen.tokens + 30;
        assert_eq!((first.usage.prompt_tokens, first.usage.cached_tokens), (tokens, 0));
        assert_eq!(ask(&seen, 2).tokens, first.tokens);
        assert_eq!(ask(&seen, 3).usage.cached_tokens, 50 + seen.tokens);
        let unlike = ask(&other, 2);
        assert_eq!(unlike.usage.cached_tokens, 50, "another image is not the same one");
        assert_ne!(unlike.tokens, first.tokens);
    }
}

#[test]
fn a_stream_goes_on_while_an_image_is_computed() {
    let machine = TestLoop::with(limits(2, 8192), 0, false);
    let wanted = machine.answer(5);
    let long = image(1.0, 3000, false);
    let seeing = machine.start(1, |r| {
        show(r, &long);
        r.prompt.push(1);
    });
    assert_eq!(machine.answer(5).tokens, wanted.tokens);
    assert_eq!(collect(seeing).usage.completion_tokens, 40);
}

#[test]
fn an_image_gives_the_same_answer_alone_by_order_and_is_not_reused_in_part() {
    let alone = EngineLimits { batch_invariant: true, batch_tokens: 512, ..limits(2, 8192) };
    let machine = TestLoop::new(EngineLimits { sequences: 2, ..alone });
    for seen in [image(1.0, 300, false), image(1.0, 60, true), plane(1.0)] {
        let ask = |r: &mut Prepared| {
            r.prompt = text(140, 1);
            show(r, &seen);
            r.prompt.extend(text(150, 2));
        };
        let wanted = collect(TestLoop::with(roomy(), 0, false).start(1, ask));
        let answers = [machine.start(1, ask), machine.start(1, ask)].map(collect);
        assert!(answers.iter().all(|answer| answer.tokens == wanted.tokens));
        assert_eq!(collect(machine.start(1, ask)).usage.cached_tokens, 128);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever comes and goes, each answer that is read to its end is the one that it is alone, and
    /// nothing stays in use.
    #[test]
    fn answers_are_exact_whatever_else_happens(
        requests in prop::collection::vec(
            (0_i32..4, 0_usize..3, 1_u32..60, prop::option::of(0_usize..20), 0_usize..30), 1..14,
        ),
        kv_tokens in 330_u32..900,
        slots in 1_u32..5,
        memory in prop::sample::select(vec![0_usize, 20_000, 1_000_000]),
        has_parts: bool,
        idle_tokens in prop::sample::select(vec![0, 100, 1000]),
    ) {
        let limits = EngineLimits { idle_tokens, has_parts, ..limits(slots, kv_tokens) };
        let machine = TestLoop::with(limits, memory, true);
        let set = |first: i32, tail: usize, most: u32, resume: &[TokenId]| {
            let resume = resume.to_vec();
            move |r: &mut Prepared| {
                r.prompt = text(100, first);
                match first {
                    2 => show(r, &plane(0.5)),
                    3 => show(r, &image(0.25, 40, true)),
                    _ => {}
                }
                r.prompt.extend(text(tail * 40 + 1, 9));
                r.ends.max_tokens = Some(most);
                r.choices[0].resume = resume;
            }
        };
        let mut running = Vec::new();
        for (first, tail, most, stops_reading, cut) in requests {
            let alone = TestLoop::with(roomy(), 0, false);
            let whole = collect(alone.start(first, set(first, tail, most, &[])));
            let cut = cut.min(whole.tokens.len().saturating_sub(1));
            let resume = &whole.tokens[..cut];
            let mut events = loop {
                let (answer, events) = answer_channel();
                let mut prepared = request(first, answer);
                set(first, tail, most, resume)(&mut prepared);
                if machine.submitter().submit(prepared).is_ok() {
                    break events;
                }
                std::thread::yield_now();
            };
            if let Some(events_read) = stops_reading {
                for _ in 0..events_read {
                    if events.blocking_recv().is_none() {
                        break;
                    }
                }
                continue;
            }
            running.push((collect_later(events), whole, cut));
        }
        for (answer, whole, cut) in running {
            let answer = answer.join().unwrap();
            prop_assert_eq!(&answer.tokens[..], &whole.tokens[cut..]);
            prop_assert!(whole.text.ends_with(&answer.text));
            prop_assert_eq!(answer.usage.completion_tokens, whole.usage.completion_tokens);
            prop_assert_eq!(answer.finish_reason, whole.finish_reason);
        }
        machine.wait_until("all slots are free", Gauges::is_idle);
        machine.wait_until("nothing is in use", |gauges| gauges.kv_used.load(Relaxed) == 0);
        let idle = machine.gauges.kv_idle.load(Relaxed) as usize;
        prop_assert_eq!(idle, machine.used.load(Relaxed), "the books agree with the engine");
    }
}

/// Puts an image at the end of a prompt.
fn show(request: &mut Prepared, image: &Media) {
    let placed = Placed { at: request.prompt.len(), media: Arc::new(image.clone()) };
    request.prompt.extend(image.ids());
    request.media = request.media.iter().cloned().chain([placed]).collect();
}

/// An image of its own for each `what`.
fn image(what: f32, tokens: u32, whole: bool) -> Media {
    let mut digest = [0; 32];
    digest[..4].copy_from_slice(&what.to_le_bytes());
    let embeddings = (0..tokens).map(|place| what + place as f32).collect();
    Media { digest, embeddings, tokens, layout: Layout::Line, whole }
}

/// One of 60 places that moves what follows by 10.
fn plane(what: f32) -> Media {
    Media { layout: Layout::Planes { places: Vec::new(), length: 10 }, ..image(what, 60, false) }
}

/// A text of its own for each `first`.
fn text(length: usize, first: i32) -> Vec<TokenId> {
    (0..).map(|n: i32| 1 + (first * 7 + n * n * (first + 1)) % 26).take(length).collect()
}

/// Token n is the n-th letter.
struct Letters;

impl TextModel for Letters {
    fn append_piece(&self, token: TokenId, _with_control: bool, bytes: &mut Vec<u8>) {
        bytes.push(b'a' + u8::try_from((token - 1).rem_euclid(26)).unwrap_or(0));
    }
    fn is_end(&self, token: TokenId) -> bool {
        token == 0
    }
}

/// A running loop.
struct TestLoop {
    submitter: Option<Submitter>,
    gauges: Arc<Gauges>,
    used: Arc<AtomicUsize>,
    computed: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl TestLoop {
    fn new(limits: EngineLimits) -> Self {
        Self::with(limits, 0, true)
    }

    fn with(limits: EngineLimits, prompt_cache_bytes: usize, drafts: bool) -> Self {
        Self::with_draft_model(limits, prompt_cache_bytes, drafts, None)
    }

    fn with_draft_model(
        limits: EngineLimits,
        prompt_cache_bytes: usize,
        drafts: bool,
        draft_model: Option<EngineLimits>,
    ) -> Self {
        let engine = Arithmetic::new(limits);
        let (used, computed) = (Arc::clone(&engine.used), Arc::clone(&engine.computed));
        let gauges = Arc::new(Gauges::default());
        let settings = SchedulerSettings { max_queue: 16, prompt_cache_bytes, drafts };
        let (scheduler, submitter) = Scheduler::new(
            engine,
            Arc::new(Letters),
            settings,
            Arc::clone(&gauges),
            Metrics::default(),
        );
        let scheduler = match draft_model {
            Some(limits) => scheduler.with_draft_model(Arithmetic::new(limits)),
            None => scheduler,
        };
        let thread = std::thread::spawn(|| scheduler.run());
        Self { submitter: Some(submitter), gauges, used, computed, thread: Some(thread) }
    }

    /// Tokens that the engine computed in the meantime.
    fn computed_by(&self, work: impl FnOnce()) -> usize {
        let before = self.computed.load(Relaxed);
        work();
        self.computed.load(Relaxed) - before
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

fn limits(slots: u32, kv_tokens: u32) -> EngineLimits {
    EngineLimits {
        kv_tokens,
        context_length: kv_tokens,
        slots,
        sequences: slots + 4,
        idle_tokens: kv_tokens,
        is_far: false,
        batch_tokens: 64,
        has_parts: true,
        batch_invariant: false,
    }
}

fn request(number: i32, answer: Answer) -> Prepared {
    let seed = u64::from(number.unsigned_abs());
    Prepared {
        request_id: RequestId::random(),
        prompt: (0..20 + number).map(|n| 1 + (n + number) % 26).collect(),
        media: [].into(),
        choices: vec![choice(0, seed)],
        ends: Ends { max_tokens: Some(40), ..Ends::default() },
        seed,
        arrived: Instant::now(),
        deadline: None,
        answer,
    }
}

fn roomy() -> EngineLimits {
    limits(1, 4096)
}

fn choice(index: u32, seed: u64) -> Choice {
    Choice {
        index,
        resume: Vec::new(),
        sampler: TokenSampler::new(&Sampling::default(), seed, VOCABULARY, 4096),
        output: OutputReader::plain(),
    }
}

#[derive(Debug, PartialEq)]
struct Collected {
    text: String,
    tokens: Vec<TokenId>,
    finish_reason: FinishReason,
    usage: Usage,
}

fn collect_later(events: EventReceiver) -> JoinHandle<Collected> {
    std::thread::spawn(move || collect(events))
}

fn collect(events: EventReceiver) -> Collected {
    collect_with_timings(events).0
}

fn collect_with_timings(mut events: EventReceiver) -> (Collected, Timings) {
    let (mut text, mut tokens) = (String::new(), Vec::new());
    assert!(matches!(events.blocking_recv(), Some(InferenceEvent::Started { .. })));
    while let Some(event) = events.blocking_recv() {
        match event {
            InferenceEvent::Delta(Delta { text: part, tokens: ids, .. }) => {
                text.push_str(&part);
                tokens.extend(ids);
            }
            InferenceEvent::Done { finish_reason, usage, timings } => {
                return (Collected { text, tokens, finish_reason, usage }, timings);
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    panic!("the answer ended without its end");
}
