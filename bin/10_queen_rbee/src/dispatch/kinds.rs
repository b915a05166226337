//! Who of a queue is asked about: one of each kind, since the others of its kind could not be placed
//! either. Pure.

use worker_contract::{ModelAlias, Sha256Digest, WorkerId};

use super::Wanted;
use crate::admission::Priority;
use crate::scheduler::{FailedBy, Ways};

/// How many kinds with needs of their own are looked at. Those that need nothing in particular are not
/// hidden by them.
const MOST_SPECIAL: usize = 32;
/// The same of those without, where rules tell requests apart: as many as usually wait at most,
const MOST_PLAIN: usize = 256;
/// and fewer where to ask the rules about them takes long.
const MOST_SLOW: usize = 64;

/// The kinds that were asked about.
#[derive(Debug)]
pub(super) struct Kinds<'a> {
    special: Vec<Kind<'a>>,
    plain: Vec<Kind<'a>>,
    most_plain: usize,
}

/// What bears on whether there can be a place for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind<'a> {
    /// What else the operator's rules may look at, where there are any. It comes first, since it is what tells most apart.
    ruled_by: Option<Ruled<'a>>,
    /// Names of one file wait together, and are not alike in all.
    model: &'a ModelAlias,
    failed: &'a [FailedBy],
    barred: &'a [WorkerId],
    digest: Option<&'a Sha256Digest>,
    alone: bool,
    ways: Ways,
    too_short: u32,
    has_another_way: bool,
    priority: Priority,
}

/// What rules see of a request, beside what all see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ruled<'a> {
    prompt_bytes: u32,
    caller: &'a str,
    has_session: bool,
}

impl Wanted {
    /// Its kind, whether it still is to begin `alone` or not.
    pub(super) fn kind(&self, alone: bool, has_rules: bool) -> Kind<'_> {
        Kind {
            model: &self.model,
            failed: &self.failed,
            barred: &self.barred,
            digest: self.digest.as_ref(),
            alone,
            ways: self.ways,
            too_short: self.too_short,
            has_another_way: self.has_another_way,
            priority: self.priority,
            ruled_by: has_rules.then(|| Ruled {
                caller: &self.caller,
                prompt_bytes: self.prompt.bytes(),
                has_session: self.session.is_some(),
            }),
        }
    }
}

impl Kind<'_> {
    fn is_special(&self) -> bool {
        self.alone
            || !self.failed.is_empty()
            || !self.barred.is_empty()
            || self.digest.is_some()
            // Where no server is attached, all requests are for rbee's own workers only.
            || !matches!(self.ways, Ways::ALL | Ways::TOKENS)
            || self.too_short > 0
            || self.has_another_way
    }

    /// For whom of the model behind, by the ways in which they can be taken, it is true that they wait for room where
    /// one of this kind does: those are no more urgent.
    pub(super) fn speaks_for(&self) -> Ways {
        let is_plain = !self.is_special() && self.ruled_by.is_none();
        if is_plain { self.ways } else { Ways::NONE }
    }
}

impl<'a> Kinds<'a> {
    /// None yet; fewer are looked at where rules are slow.
    pub(super) fn none(are_rules_slow: bool) -> Self {
        let most_plain = if are_rules_slow { MOST_SLOW } else { MOST_PLAIN };
        Self { special: Vec::new(), plain: Vec::new(), most_plain }
    }

    /// Whether one more of a kind is worth asking about; the next one of it is not.
    pub(super) fn is_worth_asking(&mut self, kind: Kind<'a>) -> bool {
        let (known, most) = if kind.is_special() {
            (&mut self.special, MOST_SPECIAL)
        } else {
            (&mut self.plain, self.most_plain)
        };
        let is_worth = known.len() < most && !known.contains(&kind);
        if is_worth {
            known.push(kind);
        }
        is_worth
    }

    /// The next of a kind is asked about all the same.
    pub(super) fn forget(&mut self, kind: Kind<'a>) {
        let known = if kind.is_special() { &mut self.special } else { &mut self.plain };
        known.retain(|known| *known != kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_each_kind_is_asked_about_and_the_ordinary_ones_are_never_hidden() {
        let model = "m".parse().unwrap();
        let plain = plain(&model);
        let workers = failers();
        let mut kinds = Kinds::none(false);
        for own in [Kind { ways: Ways::OWN, ..plain }, Kind { too_short: 256, ..plain }] {
            assert!(kinds.is_worth_asking(own) && !kinds.is_worth_asking(own));
        }
        let failed = workers.chunks(1).map(|failed| Kind { failed, ..plain });
        let asked = failed.filter(|kind| kinds.is_worth_asking(*kind)).count();
        assert_eq!(asked, MOST_SPECIAL - 2);
        assert!(kinds.is_worth_asking(plain), "it is behind a hundred others");
        let again = "again".parse().unwrap();
        assert!(kinds.is_worth_asking(Kind { model: &again, ..plain }), "it has another name");
    }

    #[test]
    fn where_no_server_is_attached_the_ordinary_ones_are_ordinary_too() {
        let model = "m".parse().unwrap();
        let ours = Kind { ways: Ways::TOKENS, ..plain(&model) };
        let workers = failers();
        let mut kinds = Kinds::none(false);
        for failed in workers.chunks(1) {
            kinds.is_worth_asking(Kind { failed, ..ours });
        }
        assert!(kinds.is_worth_asking(ours), "it is behind a hundred others");
        let speaks = ours.speaks_for();
        assert!(speaks.hold(Ways::TOKENS) && !speaks.hold(Ways::ALL), "others may go to a server");
        assert_eq!(Kind { ways: Ways::OWN, ..ours }.speaks_for(), Ways::NONE);
    }

    #[test]
    fn where_rules_look_at_a_request_only_its_like_speaks_for_it() {
        let model = "m".parse().unwrap();
        let plain = plain(&model);
        let of = |caller, prompt_bytes, has_session| {
            let ruled_by = Some(Ruled { prompt_bytes, caller, has_session });
            Kind { ruled_by, ..plain }
        };
        let all = [of("a", 9, false), of("b", 9, false), of("a", 10, false), of("a", 9, true)];
        let mut kinds = Kinds::none(false);
        assert!(all.iter().all(|kind| kinds.is_worth_asking(*kind)));
        assert!(!all.iter().any(|kind| kinds.is_worth_asking(*kind)));
        assert_eq!((all[0].speaks_for(), plain.speaks_for()), (Ways::NONE, Ways::ALL));
    }

    fn failers() -> Vec<FailedBy> {
        let failer = |n: u64| FailedBy { worker: format!("w-{n}").parse().unwrap(), process: n };
        (0..100).map(failer).collect()
    }

    fn plain(model: &ModelAlias) -> Kind<'_> {
        Kind {
            model,
            failed: &[],
            barred: &[],
            digest: None,
            alone: false,
            ways: Ways::ALL,
            too_short: 0,
            has_another_way: false,
            priority: Priority::Interactive,
            ruled_by: None,
        }
    }
}
