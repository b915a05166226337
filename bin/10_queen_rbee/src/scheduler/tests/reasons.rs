//! Why a worker is chosen that is not the one which is expected to answer first.

use super::*;
use crate::registry::Liveness::Suspect;

#[test]
fn where_more_than_what_is_expected_decides_that_is_told() {
    let slow = |name: &str| W {
        speed: Speed { service_us: 9_000_000, ..w(name, 4, 0).speed },
        ..w(name, 4, 0)
    };
    let fast = || w("b", 4, 0);
    let alone = Demand { alone: true, ..demand() };
    let at_a = id("a");
    let session = Demand { session: Some(&at_a), ..demand() };
    let rows = [
        (slow("a"), fast().live(Suspect), demand(), Reason::OnTime, "reports on time"),
        (slow("a").circuit(Circuit::HalfOpen), fast(), demand(), Reason::Probe, "is tried again"),
        (slow("a"), fast().foreign(1), alone, Reason::Alone, "has no other request"),
        (slow("a"), fast(), session, Reason::Session, "was at a before"),
        (slow("a").slower(-20_000_000), fast(), demand(), Reason::Rules, "rules prefer a"),
        (w("a", 4, 0), slow("b"), demand(), Reason::Soonest, "expected to answer first"),
    ];
    for (one, other, demand, expected, told) in rows {
        let decision = World::of(&[one, other], &[]).decide_for(&demand);
        let Decision::Dispatch { worker, why } = decision else { panic!("{decision:?}") };
        assert_eq!((worker.as_str(), why.reason), ("a", expected), "{why}");
        assert!(why.to_string().contains(told), "{why}");
    }
}
