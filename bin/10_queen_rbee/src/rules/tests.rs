//! Scripts that are shipped, scripts that fail, and files that change.

use std::fs;

use jiff::ZonedDateTime;
use worker_contract::{DeviceId, HiveAlias, ModelAlias, WorkerId};

use super::*;

const GIB: u64 = 1 << 30;

#[test]
fn big_models_are_kept_on_gpu_1_and_small_ones_are_taken_elsewhere_if_they_can_be() {
    let script = example(include_str!("../../../../docs/examples/big-models-on-gpu-1.rhai"));
    for (bytes, hive, expected) in [
        (20 * GIB, "gpu-1", (true, 0)),
        (20 * GIB, "desk", (false, 0)),
        (GIB, "gpu-1", (true, 3_600_000)),
        (GIB, "desk", (true, 0)),
    ] {
        let judged = judge(&script, bytes, Priority::Interactive, hive, None);
        assert_eq!(judged, expected, "{bytes} on {hive}");
    }
}

#[test]
fn a_machine_that_is_awake_is_preferred() {
    let script = example(include_str!("../../../../docs/examples/awake-first.rhai"));
    for (idle, expected) in [(Some(5), 0), (Some(599), 0), (Some(600), 3000), (None, 3000)] {
        let idle = idle.map(Duration::from_secs);
        let judged = judge(&script, GIB, Priority::Interactive, "desk", idle);
        assert_eq!(judged, (true, expected), "{idle:?}");
    }
}

#[test]
fn batch_requests_are_for_the_night() {
    let script = example(include_str!("../../../../docs/examples/night-only.rhai"));
    let at = |time: &str| -> ZonedDateTime {
        format!("2026-11-24T{time}:00+00:00[UTC]").parse().unwrap()
    };
    let later = script::cpu_time() + Duration::from_secs(1);
    for (time, priority, expected) in [
        ("21:59", Priority::Batch, false),
        ("22:00", Priority::Batch, true),
        ("06:59", Priority::Batch, true),
        ("07:00", Priority::Batch, false),
        ("12:00", Priority::Interactive, true),
    ] {
        let model = model();
        let facts = RequestFacts { priority, ..request(&model, GIB) };
        let worker = rhai::Dynamic::UNIT;
        let said = script.filter(&facts.value(&at(time)), &worker, later);
        assert_eq!(said, Ok(expected), "{time} {priority:?}");
    }
    let rules = Rules::none(Decisions::in_memory());
    rules.load(include_str!("../../../../docs/examples/night-only.rhai")).unwrap();
    let model = model();
    let of = |token: &str| {
        let caller = if token.is_empty() { "local" } else { "0a1b2c3d" };
        rules.priority(&RequestFacts { caller, token, ..request(&model, GIB) })
    };
    let expected = [Priority::Batch, Priority::Interactive, Priority::Interactive];
    assert_eq!(["nightly", "daily", ""].map(of), expected);
}

#[test]
fn a_script_that_fails_says_nothing_is_told_of_once_and_is_left_alone_for_a_while() {
    let log = Decisions::in_memory();
    let rules = Rules::none(log.clone());
    rules.load("fn priority(request) { loop {} }").unwrap();
    let model = model();
    for _ in 0..20 {
        assert_eq!(rules.priority(&request(&model, GIB)), Priority::Interactive);
    }
    assert_eq!(rules.failures(), FAILURES as u64, "then it is not asked");
    let told: Vec<_> = log.since(0).iter().map(|entry| entry.decided.because.name()).collect();
    assert_eq!(told, ["loaded", "slow"]);
    rules.load("fn priority(request) { \"urgent\" }").unwrap();
    assert_eq!(rules.priority(&request(&model, GIB)), Priority::Interactive);
    let last = log.since(0).last().unwrap().decided.because.why();
    assert!(last.contains("gave \"urgent\""), "{last}");
}

#[test]
fn a_misspelt_field_is_a_mistake_of_the_script_and_refuses_nobody() {
    let log = Decisions::in_memory();
    let rules = Rules::none(log.clone());
    rules
        .load("fn priority(request) { if request.modle == \"m\" { \"batch\" } else { \"batch\" } }")
        .unwrap();
    assert_eq!(rules.priority(&request(&model(), GIB)), Priority::Interactive);
    let last = log.since(0).last().unwrap().decided.because.why();
    assert!(last.contains("modle"), "{last}");
}

#[test]
fn a_script_that_is_slow_for_one_model_only_is_left_alone_as_well() {
    let rules = Rules::none(Decisions::in_memory());
    let script = "fn priority(request) { if request.model == \"bad\" { loop {} } \"batch\" }";
    rules.load(script).unwrap();
    let (good, bad): (ModelAlias, ModelAlias) = (model(), "bad".parse().unwrap());
    for _ in 0..FAILURES {
        assert_eq!(rules.priority(&request(&good, GIB)), Priority::Batch);
        assert_eq!(rules.priority(&request(&bad, GIB)), Priority::Interactive);
    }
    assert_eq!(rules.priority(&request(&good, GIB)), Priority::Interactive, "it is left alone");
    assert_eq!(rules.failures(), FAILURES as u64);
}

#[test]
fn places_are_judged_between_decisions_and_each_of_them_once() {
    let script = "fn score(request, worker) { worker.expected_ms + 1 }";
    let model = model();
    let judge = Judge::new(example(script), &request(&model, GIB), true);
    let hives: Vec<HiveAlias> = (0..300).map(|n| format!("h-{n}").parse().unwrap()).collect();
    for hive in &hives {
        assert_eq!(judge.verdict(&place(hive, None)), Verdict::NONE, "it is a question yet");
    }
    assert!(judge.has_questions() && judge.traced().is_empty());
    judge.answer();
    for hive in &hives {
        assert_eq!(judge.verdict(&place(hive, None)).extra_ms, 1);
    }
    assert!(!judge.has_questions());
    assert_eq!((judge.error(), judge.traced().len()), (None, hives.len()));
}

#[test]
fn what_was_said_of_a_place_as_it_was_is_asked_again_a_few_times_and_not_for_ever() {
    const MANY: u32 = 20;
    let (model, hive) = (model(), "desk".parse::<HiveAlias>().unwrap());
    let script = "fn filter(request, worker) { worker.requests == 3 || worker.requests == 5 }";
    let judge = Judge::new(example(script), &request(&model, GIB), true);
    let with = |requests| {
        let load = LoadFacts { requests, ..LoadFacts::default() };
        let place = place(&hive, None);
        PlaceFacts { spot: SpotFacts { load, ..place.spot }, ..place }
    };
    assert!(!verdict(&judge, &with(1)).is_allowed);
    judge.verdict(&with(1));
    assert!(!judge.has_questions(), "it is as it was");
    assert!(verdict(&judge, &with(3)).is_allowed);
    assert!(judge.verdict(&with(4)).is_allowed && !judge.has_questions(), "nobody has it yet");
    assert!(judge.is_of_now(&with(3)) && !judge.is_of_now(&with(4)));
    judge.ask_again(&with(4));
    assert!(judge.has_questions());
    judge.answer();
    assert!(!verdict(&judge, &with(6)).is_allowed);
    let rounds = (0..MANY).filter(|number| {
        judge.verdict(&with(7 + number));
        let has_questions = judge.has_questions();
        judge.answer();
        has_questions
    });
    assert_eq!(rounds.count(), 2, "six in all");
    judge.ask_again(&with(5));
    assert!(!judge.has_questions() && judge.verdict(&with(5)).is_allowed, "it was asked at once");
    assert_eq!((judge.error(), judge.traced().len()), (None, 1), "the last word of each place");
}

#[test]
fn a_script_that_is_slow_for_each_of_many_places_does_not_get_the_time_for_all() {
    let script = "fn score(request, worker) { let x = 0; for i in 0..3_000 { x += i; } x }";
    let model = model();
    let judge = Judge::new(example(script), &request(&model, GIB), false);
    let hives: Vec<HiveAlias> = (0..4_000).map(|n| format!("h-{n}").parse().unwrap()).collect();
    for hive in &hives {
        judge.verdict(&place(hive, None));
    }
    let begin = script::cpu_time();
    judge.answer();
    let took = script::cpu_time().saturating_sub(begin);
    assert!(matches!(judge.error(), Some(ScriptError::Slow { .. })), "{:?}", judge.error());
    assert!(took < Duration::from_millis(200), "{took:?}");
}

#[test]
fn a_script_that_fails_at_one_place_says_nothing_of_any() {
    let script = "fn score(request, worker) { if worker.hive == \"desk\" { 5 } else { nothing } }";
    let model = model();
    let judge = Judge::new(example(script), &request(&model, GIB), true);
    let of = |hive: &str| {
        let hive: HiveAlias = hive.parse().unwrap();
        verdict(&judge, &place(&hive, None))
    };
    assert_eq!(of("desk").extra_ms, 5);
    assert_eq!(of("gpu-1"), Verdict::NONE);
    assert_eq!(of("desk"), Verdict::NONE);
    assert!(matches!(judge.error(), Some(ScriptError::Failed { function: "score", .. })));
    assert_eq!(judge.traced().len(), 1);
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(FILE);
    for what in ["/dev/null", "/"] {
        std::os::unix::fs::symlink(what, &file).unwrap();
        let log = Decisions::in_memory();
        let rules = Rules::none(log.clone());
        let known = rules.look(&file, None);
        rules.look(&file, known);
        let told = log.since(0);
        assert_eq!(told.len(), 1, "{what}: once");
        let why = told[0].decided.because.why();
        assert!(why.contains("it is no regular file"), "{what}: {why}");
        fs::remove_file(&file).unwrap();
    }
}

#[test]
fn a_file_that_changes_is_loaded_and_one_that_goes_or_is_broken_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(FILE);
    let log = Decisions::in_memory();
    let rules = Rules::none(log.clone());
    let told = || {
        let kept = log.since(0);
        kept.iter().map(|entry| entry.decided.because.name()).collect::<Vec<_>>()
    };
    let mut known = rules.look(&file, None);
    assert!(known.is_none() && told().is_empty() && rules.for_places().is_none());
    fs::write(&file, "fn filter(request, worker) { true }").unwrap();
    known = rules.look(&file, known);
    known = rules.look(&file, known);
    assert!(rules.for_places().is_some());
    assert_eq!(told(), ["loaded"], "once");
    fs::write(&file, "fn filter(request, worker) {").unwrap();
    known = rules.look(&file, known);
    assert!(rules.for_places().is_none());
    fs::write(&file, " ".repeat(MAX_SCRIPT * 2)).unwrap();
    known = rules.look(&file, known);
    fs::write(&file, [0xff; 10]).unwrap();
    known = rules.look(&file, known);
    fs::write(&file, "fn priority(request) { \"batch\" }").unwrap();
    known = rules.look(&file, known);
    fs::remove_file(&file).unwrap();
    assert!(rules.look(&file, known).is_none());
    let broken = "not_understood";
    assert_eq!(told(), ["loaded", broken, broken, broken, "loaded", "removed"]);
}

#[test]
fn a_file_that_could_not_be_read_is_read_when_it_can_be_though_it_looks_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(FILE);
    let log = Decisions::in_memory();
    let rules = Rules::none(log.clone());
    let script = b"fn priority(request) { \"batch\" }";
    fs::write(&file, vec![0xff; script.len()]).unwrap();
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    let known = rules.look(&file, None);
    let known = rules.look(&file, known);
    assert_eq!(log.since(0).len(), 1, "it is told once");
    fs::write(&file, script).unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
    let known = rules.look(&file, known);
    assert!(known.is_some() && rules.judge_requests());
    assert_eq!(rules.look(&file, known), known);
    assert_eq!(log.since(0).len(), 2);
}

/// What the script says, once it was asked.
fn verdict(judge: &Judge, place: &PlaceFacts<'_>) -> Verdict {
    judge.verdict(place);
    judge.answer();
    judge.verdict(place)
}

fn example(text: &str) -> Arc<Script> {
    Arc::new(Script::compile(text).unwrap())
}

fn judge(
    script: &Arc<Script>,
    model_bytes: u64,
    priority: Priority,
    hive: &str,
    hive_idle: Option<Duration>,
) -> (bool, i64) {
    let (model, hive) = (model(), hive.parse::<HiveAlias>().unwrap());
    let facts = RequestFacts { priority, ..request(&model, model_bytes) };
    let judge = Judge::new(Arc::clone(script), &facts, false);
    let said = verdict(&judge, &place(&hive, hive_idle));
    assert_eq!(judge.error(), None);
    assert_eq!(judge.has_denied(), !said.is_allowed);
    (said.is_allowed, said.extra_ms)
}

fn model() -> ModelAlias {
    "m".parse().unwrap()
}

fn request(model: &ModelAlias, model_bytes: u64) -> RequestFacts<'_> {
    RequestFacts {
        model,
        model_bytes,
        caller: "local",
        token: "",
        priority: Priority::Interactive,
        prompt_bytes: 10,
        has_session: false,
    }
}

fn place(hive: &HiveAlias, hive_idle: Option<Duration>) -> PlaceFacts<'_> {
    PlaceFacts {
        worker: None::<&WorkerId>,
        hive,
        spot: SpotFacts {
            device: Some("GPU-0".parse::<DeviceId>().unwrap()),
            memory_total_bytes: GIB,
            memory_free_bytes: GIB,
            is_alive: true,
            hive_idle,
            load: LoadFacts::default(),
        },
    }
}
