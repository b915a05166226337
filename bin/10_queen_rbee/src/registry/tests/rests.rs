//! Servers of others that rest.

use super::*;
use crate::doubles::server;
use crate::scheduler::WaitReason;

#[test]
fn a_server_that_rests_is_waited_for_by_who_has_the_time_and_is_asked_after_ten_seconds() {
    for (because, told, left_s, expected) in [
        ("it does not say for how long", None, 1, "wait"),
        ("it takes longer than there is time", Some(3600), 3599, "reject"),
        ("it takes as long as there is time", Some(3600), 3600, "wait"),
        ("it is over sooner", Some(3), 60, "wait"),
    ] {
        let (registry, now) = registry();
        registry.worker_rests(&nas(), rest(told, now));
        let decided = decide(&registry, left_s, now);
        let found = match &decided {
            Placed::Not(Decision::Wait(WaitReason::Resting)) => "wait",
            Placed::Not(Decision::Reject {
                reason: RejectReason::Resting { worker },
                retry_after_s: Some(3600),
            }) if *worker == nas() => "reject",
            _ => "something else",
        };
        assert_eq!(found, expected, "{because}: {decided:?}");
        let until = now + told.map_or(SECOND, |told| Duration::from_secs(told.min(10)));
        let changes = registry.changes();
        registry.sweep(until);
        assert!(changes.has_changed().unwrap(), "{because}: who waits is woken");
        assert!(matches!(decide(&registry, left_s, until), Placed::At(_)), "{because}");
    }
}

#[test]
fn what_a_server_said_is_told_without_its_words() {
    let now = Instant::now();
    let said = |code: Option<&str>, told: Option<u64>, passed: u64| {
        let told = told.map(Duration::from_secs);
        let rest = Rest::new(429, code.map(str::to_owned), told, now);
        rest.shown(&"nas".parse().unwrap(), now + Duration::from_millis(passed)).to_string()
    };
    let busy = "nas takes no more at present: HTTP 429";
    let alone = "it wants to be left alone for another";
    for (code, told, passed_ms, expected) in [
        (None, None, 0, busy.to_owned()),
        (Some("quota"), None, 0, format!("{busy} (quota)")),
        (Some("quota"), Some(30), 0, format!("{busy} (quota); {alone} 30 s")),
        (None, Some(30), 500, format!("{busy}; {alone} 30 s")),
        (None, Some(30), 29_001, format!("{busy}; {alone} 1 s")),
        (None, Some(30), 31_000, format!("{busy}; {alone} 1 s")),
    ] {
        assert_eq!(said(code, told, passed_ms), expected);
    }
}

#[test]
fn a_server_is_why_a_request_waits_only_where_nobody_else_is_there() {
    let (registry, now) = registry();
    let told = |registry: &Registry| {
        registry.resting_server(&model(), now).map(|rest| (rest.server.to_string(), rest.left_s))
    };
    assert_eq!(told(&registry), None, "it takes requests");
    registry.worker_rests(&nas(), rest(Some(30), now));
    assert_eq!(told(&registry), Some(("nas".into(), 30)));
    registry.server_probed(&server("desk", "m"), now);
    assert_eq!(told(&registry), None, "another one takes requests");
    registry.worker_rests(&id("desk-m"), rest(Some(20), now));
    assert_eq!(told(&registry), Some(("desk".into(), 20)), "it is the first");
    registry.server_detached(&"desk".parse().unwrap());
    registry.worker_beat(beat("a", WorkerState::Loading { progress: 0.5 }, 0), now).unwrap();
    assert_eq!(told(&registry), None, "a worker of rbee is coming");
}

#[test]
fn a_server_that_is_attached_again_is_asked_at_once() {
    let (registry, now) = registry();
    registry.worker_rests(&nas(), rest(Some(3600), now));
    registry.server_attached(&"nas".parse().unwrap());
    assert!(matches!(decide(&registry, 1, now), Placed::At(_)));
}

#[test]
fn a_worker_of_rbee_that_rests_is_coming_until_its_next_report() {
    let now = Instant::now();
    let registry = Registry::new(2 * SECOND, Vec::new(), now);
    registry.worker_beat(beat("a", WorkerState::Ready, 0), now).unwrap();
    registry.worker_rests(&id("a"), rest(Some(3600), now));
    let decided = decide(&registry, 1, now);
    assert!(matches!(decided, Placed::Not(Decision::Wait(WaitReason::Coming))), "{decided:?}");
    registry.worker_beat(beat("a", WorkerState::Ready, 0), now).unwrap();
    assert!(matches!(decide(&registry, 1, now), Placed::At(_)));
}

fn registry() -> (Registry, Instant) {
    let now = Instant::now();
    let registry = Registry::new(2 * SECOND, Vec::new(), now);
    registry.server_probed(&server("nas", "m"), now);
    (registry, now)
}

fn rest(told: Option<u64>, now: Instant) -> Rest {
    Rest::new(429, None, told.map(Duration::from_secs), now)
}

fn decide(registry: &Registry, left_s: u64, now: Instant) -> Placed {
    let (model, prompt) = (model(), PromptChain::default());
    let demand = Demand { left: Duration::from_secs(left_s), ..Demand::of(&model) };
    registry.place(&Ask::of(demand, &prompt), now)
}

fn nas() -> WorkerId {
    id("nas-m")
}
