//! A script's verdicts on the places for one request.
//!
//! A decision is made under the registry's lock, and a script is not run there: a place that was not
//! judged is noted as a question, and counts for a moment as one that nothing was said of. Then the
//! questions are answered without the lock, and it is decided again.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::ZonedDateTime;
use rhai::Dynamic;
use serde::Serialize;
use worker_contract::{DeviceId, HiveAlias, WorkerId};

use super::facts::{Moment, SpotFacts};
use super::script::cpu_time;
use super::{PlaceFacts, RequestFacts, Script, ScriptError};

/// How long a script may compute for one place,
const EACH: Duration = Duration::from_millis(2);
/// and for all places of one request together: so long, and for each place so much more, but never longer
/// than that.
const ALL: Duration = Duration::from_millis(2);
const MORE: Duration = Duration::from_micros(40);
const MOST: Duration = Duration::from_millis(50);
/// How often it is decided again. Whoever comes after that is judged in the middle of the decision.
const ROUNDS: u32 = 6;

/// Asks a script about the places for one request, in one thread. Once the script has failed, it is not
/// asked again.
#[derive(Debug)]
pub struct Judge {
    script: Arc<Script>,
    request: Dynamic,
    known: RefCell<Known>,
    questions: RefCell<Vec<Question>>,
    rounds: Cell<u32>,
    /// How many places were judged, and what that took by the clock of this thread.
    judged: Cell<u32>,
    spent: Cell<Duration>,
    error: RefCell<Option<ScriptError>>,
    has_denied: Cell<bool>,
    is_of_open: bool,
    trace: Option<RefCell<Vec<Traced>>>,
}

/// The verdicts that there are.
#[derive(Debug, Default)]
struct Known {
    workers: HashMap<WorkerId, Said>,
    places: HashMap<HiveAlias, Vec<(Option<DeviceId>, Said)>>,
}

/// What was said of a place as it was at a moment.
#[derive(Debug, Clone, Copy)]
struct Said {
    moment: Moment,
    verdict: Verdict,
}

/// A place that nobody has judged.
#[derive(Debug)]
struct Question {
    worker: Option<WorkerId>,
    hive: HiveAlias,
    spot: SpotFacts,
}

/// What a script says of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether it may be taken.
    #[serde(rename = "allowed")]
    pub is_allowed: bool,
    /// How much slower it is taken to be than it is.
    pub extra_ms: i64,
}

/// A place that was judged.
#[derive(Debug, Clone, Serialize)]
pub struct Traced {
    /// The worker; `None` of a place for one.
    worker_id: Option<WorkerId>,
    hive_id: HiveAlias,
    device: Option<DeviceId>,
    expected_ms: u64,
    #[serde(flatten)]
    verdict: Verdict,
}

impl Verdict {
    /// What is said where there is no script.
    pub const NONE: Self = Self { is_allowed: true, extra_ms: 0 };
}

impl Judge {
    /// A judge that asks `script` about places for a request, and remembers what it said if `traced`.
    #[must_use]
    pub fn new(script: Arc<Script>, request: &RequestFacts<'_>, traced: bool) -> Self {
        let request = request.value(&ZonedDateTime::now());
        Self {
            script,
            request,
            known: RefCell::default(),
            questions: RefCell::default(),
            rounds: Cell::new(0),
            judged: Cell::new(0),
            spent: Cell::new(Duration::ZERO),
            error: RefCell::new(None),
            has_denied: Cell::new(false),
            is_of_open: false,
            trace: traced.then(RefCell::default),
        }
    }

    /// The same, which is not to be asked about workers that take nothing now.
    #[must_use]
    pub fn of_open(mut self) -> Self {
        self.is_of_open = true;
        self
    }

    /// Whether it is not to be asked about workers that take nothing now.
    #[must_use]
    pub fn is_of_open(&self) -> bool {
        self.is_of_open
    }

    /// What the script says of a place; nothing, if it was not asked about it yet. A refusal of another moment is
    /// asked about again; what may be taken is, before it is (`ask_again`).
    pub fn verdict(&self, place: &PlaceFacts<'_>) -> Verdict {
        if self.error.borrow().is_some() {
            return Verdict::NONE;
        }
        let has_rounds = self.rounds.get() < ROUNDS;
        let known = self.known.borrow().of(place);
        match known {
            Some(said) if said.verdict.is_allowed || said.is_of(place) || !has_rounds => {
                said.verdict
            }
            _ if has_rounds => {
                self.put_off(place);
                Verdict::NONE
            }
            _ => self.ask(place),
        }
    }

    /// Whether what was said of a place was said of it as it is.
    #[must_use]
    pub fn is_of_now(&self, place: &PlaceFacts<'_>) -> bool {
        self.known.borrow().of(place).is_none_or(|said| said.is_of(place))
    }

    /// Asks about a place as it is, whatever was said of it before. What was decided does not count.
    pub fn ask_again(&self, place: &PlaceFacts<'_>) {
        if self.rounds.get() < ROUNDS {
            self.put_off(place);
        } else {
            self.ask(place);
        }
    }

    /// Whether there are places that it was not asked about: what was decided does not count.
    #[must_use]
    pub fn has_questions(&self) -> bool {
        !self.questions.borrow().is_empty()
    }

    /// Asks about them.
    pub fn answer(&self) {
        self.rounds.set(self.rounds.get() + 1);
        for Question { worker, hive, spot } in self.questions.take() {
            if self.error.borrow().is_none() {
                self.ask(&PlaceFacts { worker: worker.as_ref(), hive: &hive, spot });
            }
        }
    }

    /// How long the script has computed.
    #[must_use]
    pub fn spent(&self) -> Duration {
        self.spent.get()
    }

    fn put_off(&self, place: &PlaceFacts<'_>) {
        let (worker, hive) = (place.worker.cloned(), place.hive.clone());
        self.questions.borrow_mut().push(Question { worker, hive, spot: place.spot });
    }

    fn ask(&self, place: &PlaceFacts<'_>) -> Verdict {
        self.judged.set(self.judged.get() + 1);
        let allowed = ALL.saturating_add(MORE.saturating_mul(self.judged.get())).min(MOST);
        let begin = cpu_time();
        let deadline = begin + EACH.min(allowed.saturating_sub(self.spent.get()));
        let worker = place.value();
        let said = self.script.filter(&self.request, &worker, deadline).and_then(|is_allowed| {
            let extra_ms =
                if is_allowed { self.script.score(&self.request, &worker, deadline)? } else { 0 };
            Ok(Verdict { is_allowed, extra_ms })
        });
        self.spent.set(self.spent.get() + cpu_time().saturating_sub(begin));
        match said {
            Ok(verdict) => {
                self.has_denied.set(self.has_denied.get() || !verdict.is_allowed);
                let is_again = self.known.borrow_mut().put(place, verdict);
                self.note(place, verdict, is_again);
                verdict
            }
            Err(error) => {
                *self.error.borrow_mut() = Some(error);
                Verdict::NONE
            }
        }
    }

    /// Whether it has refused a place.
    #[must_use]
    pub fn has_denied(&self) -> bool {
        self.has_denied.get()
    }

    /// How the script failed, if it did: then its verdicts count for nothing.
    #[must_use]
    pub fn error(&self) -> Option<ScriptError> {
        self.error.borrow().clone()
    }

    /// The places that were judged, where that was asked for.
    #[must_use]
    pub fn traced(&self) -> Vec<Traced> {
        self.trace.as_ref().map(|trace| trace.borrow().clone()).unwrap_or_default()
    }

    fn note(&self, place: &PlaceFacts<'_>, verdict: Verdict, is_again: bool) {
        if let Some(trace) = &self.trace {
            let mut trace = trace.borrow_mut();
            if is_again {
                trace.retain(|told| !told.is_of(place));
            }
            trace.push(Traced {
                worker_id: place.worker.cloned(),
                hive_id: place.hive.clone(),
                device: place.spot.device,
                expected_ms: place.spot.load.expected_ms,
                verdict,
            });
        }
    }
}

impl Said {
    /// Whether it was said of the place as it is.
    fn is_of(&self, place: &PlaceFacts<'_>) -> bool {
        self.moment == place.spot.moment()
    }
}

impl Traced {
    fn is_of(&self, place: &PlaceFacts<'_>) -> bool {
        self.worker_id.as_ref() == place.worker
            && self.hive_id == *place.hive
            && (place.worker.is_some() || self.device == place.spot.device)
    }
}

impl Known {
    fn of(&self, place: &PlaceFacts<'_>) -> Option<Said> {
        if let Some(worker) = place.worker {
            return self.workers.get(worker).copied();
        }
        let mut of_hive = self.places.get(place.hive)?.iter();
        let found = of_hive.find(|(device, _)| *device == place.spot.device)?;
        Some(found.1)
    }

    /// Whether something was known of the place before.
    fn put(&mut self, place: &PlaceFacts<'_>, verdict: Verdict) -> bool {
        let said = Said { moment: place.spot.moment(), verdict };
        if let Some(worker) = place.worker {
            return self.workers.insert(worker.clone(), said).is_some();
        }
        let of_hive = self.places.entry(place.hive.clone()).or_default();
        let before = of_hive.len();
        of_hive.retain(|(device, _)| *device != place.spot.device);
        of_hive.push((place.spot.device, said));
        of_hive.len() == before
    }
}
