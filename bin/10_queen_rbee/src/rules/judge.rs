//! A script's verdicts on the places for one request.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use jiff::ZonedDateTime;
use rhai::Dynamic;
use serde::Serialize;
use worker_contract::{DeviceId, HiveAlias, WorkerId};

use super::script::cpu_time;
use super::{PlaceFacts, RequestFacts, Script, ScriptError};

/// How long a script may compute for all places of one request together.
const PATIENCE: Duration = Duration::from_millis(2);

/// Asks a script about the places for one request, in one thread. Once the script has failed, it is not
/// asked again.
#[derive(Debug)]
pub struct Judge {
    script: Arc<Script>,
    request: Dynamic,
    /// By the clock of this thread.
    deadline: Duration,
    error: RefCell<Option<ScriptError>>,
    has_denied: Cell<bool>,
    trace: Option<RefCell<Vec<Traced>>>,
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
            deadline: cpu_time() + PATIENCE,
            error: RefCell::new(None),
            has_denied: Cell::new(false),
            trace: traced.then(RefCell::default),
        }
    }

    /// What the script says of a place.
    pub fn verdict(&self, place: &PlaceFacts<'_>) -> Verdict {
        if self.error.borrow().is_some() {
            return Verdict::NONE;
        }
        let worker = place.value();
        let said =
            self.script.filter(&self.request, &worker, self.deadline).and_then(|is_allowed| {
                let extra_ms = if is_allowed {
                    self.script.score(&self.request, &worker, self.deadline)?
                } else {
                    0
                };
                Ok(Verdict { is_allowed, extra_ms })
            });
        match said {
            Ok(verdict) => {
                self.has_denied.set(self.has_denied.get() || !verdict.is_allowed);
                self.note(place, verdict);
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

    fn note(&self, place: &PlaceFacts<'_>, verdict: Verdict) {
        if let Some(trace) = &self.trace {
            trace.borrow_mut().push(Traced {
                worker_id: place.worker.cloned(),
                hive_id: place.hive.clone(),
                device: place.device,
                expected_ms: place.load.expected_ms,
                verdict,
            });
        }
    }
}
