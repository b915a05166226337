//! One decision, as it is kept and shown.

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::Value;
use worker_contract::{HiveAlias, ModelAlias, RequestId, WorkerId};

use crate::scheduler::{Lack, Spawn, Why};

/// What was decided, before it has a number and a time.
#[derive(Debug, Clone)]
pub struct Decided {
    /// What kind of decision it is.
    pub kind: Kind,
    /// The request that it was made for, where there is one.
    pub request_id: Option<RequestId>,
    /// Whose request that is: a token's fingerprint, or `local`.
    pub caller: Option<String>,
    /// The model that it concerns.
    pub model: Option<ModelAlias>,
    /// The worker that it concerns.
    pub worker_id: Option<WorkerId>,
    /// Why.
    pub because: Because,
}

/// The kinds of decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A request was sent to a worker.
    Dispatch,
    /// A request waits.
    Wait,
    /// A worker is started.
    Spawn,
    /// A worker is wanted, and there is no place for it.
    NoPlace,
    /// A worker is ended to make room for another one.
    Evict,
    /// A busy worker gets no further request, so that another one can have its place.
    MakeWay,
    /// A worker is ended because nobody has used it.
    Retire,
    /// A request was refused.
    Reject,
    /// An answer that had begun goes on elsewhere.
    Failover,
    /// A request that had got nothing is tried again.
    Retry,
    /// A request was given up, or its client gave it up.
    GiveUp,
    /// A request ended workers, and is not tried any more.
    Quarantine,
    /// A worker gets nothing for a while, because it fails again and again.
    CircuitOpened,
    /// A worker that got nothing works again.
    CircuitClosed,
    /// What became of the operator's rules.
    Rules,
}

/// Kinds that share the room for decisions, so that a flood of one pushes none of the others out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Share {
    /// Where requests go, and what they wait for.
    Ways,
    /// What is refused.
    Refusals,
    /// What is tried again, or given up.
    Tries,
    /// What no client can have made as often as it likes.
    Rest,
}

/// Why something was decided.
#[derive(Debug, Clone)]
pub enum Because {
    /// The scheduler's reason for a worker.
    Why(Why),
    /// The scheduler's reason for a place.
    Spawn(Spawn),
    /// A name of the reason, and the reason for a person.
    Told {
        /// Its name.
        reason: &'static str,
        /// For a person.
        why: String,
    },
    /// As it was read back.
    Stored {
        /// Its name.
        reason: String,
        /// For a person.
        why: String,
        /// Its figures.
        detail: Option<Value>,
    },
}

/// A decision that is kept.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its number: later ones are larger, also across restarts.
    pub id: u64,
    /// When it was made.
    pub at: Timestamp,
    /// What was decided.
    pub decided: Decided,
}

impl Decided {
    /// A decision about a model that no request asked for, of no worker.
    #[must_use]
    pub fn new(kind: Kind, because: Because) -> Self {
        Self { kind, request_id: None, caller: None, model: None, worker_id: None, because }
    }

    /// The same for a reason in words.
    #[must_use]
    pub fn told(kind: Kind, reason: &'static str, why: impl Into<String>) -> Self {
        Self::new(kind, Because::Told { reason, why: why.into() })
    }

    /// That an idle worker, of the model `of`, makes room for a worker of another model.
    #[must_use]
    pub fn evict(
        worker: &WorkerId,
        of: Option<&ModelAlias>,
        model: &ModelAlias,
        hive: &HiveAlias,
    ) -> Self {
        let why = format!("{worker} is idle and makes room for {model} on {hive}");
        let evict = Self::told(Kind::Evict, "make_room", why).worker(worker);
        Self { model: of.cloned(), ..evict }
    }

    /// That a worker gets requests again, because another process took the place of the one that failed.
    #[must_use]
    pub fn renewed(worker: &WorkerId, model: &ModelAlias) -> Self {
        let why =
            format!("{worker} is another process than the one that failed, or is in reach again");
        Self::told(Kind::CircuitClosed, "replaced", why).worker(worker).model(model)
    }

    /// The same, for a request.
    #[must_use]
    pub fn asked(self, request_id: &RequestId, caller: &str) -> Self {
        Self { request_id: Some(request_id.clone()), caller: Some(caller.to_owned()), ..self }
    }

    /// The same, about a model.
    #[must_use]
    pub fn model(self, model: &ModelAlias) -> Self {
        Self { model: Some(model.clone()), ..self }
    }

    /// The same, about a worker.
    #[must_use]
    pub fn worker(self, worker_id: &WorkerId) -> Self {
        Self { worker_id: Some(worker_id.clone()), ..self }
    }
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 15] = [
        Self::Dispatch,
        Self::Wait,
        Self::Spawn,
        Self::Evict,
        Self::MakeWay,
        Self::Retire,
        Self::Reject,
        Self::Failover,
        Self::Retry,
        Self::GiveUp,
        Self::Quarantine,
        Self::CircuitOpened,
        Self::CircuitClosed,
        Self::NoPlace,
        Self::Rules,
    ];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dispatch => "dispatch",
            Self::Wait => "wait",
            Self::Spawn => "spawn",
            Self::Evict => "evict",
            Self::MakeWay => "make_way",
            Self::Retire => "retire",
            Self::Reject => "reject",
            Self::Failover => "failover",
            Self::Retry => "retry",
            Self::GiveUp => "give_up",
            Self::Quarantine => "quarantine",
            Self::CircuitOpened => "circuit_opened",
            Self::CircuitClosed => "circuit_closed",
            Self::NoPlace => "no_place",
            Self::Rules => "rules",
        }
    }

    /// With which others it shares the room.
    #[must_use]
    pub fn share(self) -> Share {
        match self {
            Self::Dispatch | Self::Wait => Share::Ways,
            Self::Reject => Share::Refusals,
            Self::Failover | Self::Retry | Self::GiveUp => Share::Tries,
            Self::Spawn
            | Self::NoPlace
            | Self::Evict
            | Self::MakeWay
            | Self::Retire
            | Self::Quarantine
            | Self::CircuitOpened
            | Self::CircuitClosed
            | Self::Rules => Share::Rest,
        }
    }

    /// Whether it is made for requests one by one, so that a client can have very many made.
    #[must_use]
    pub fn is_frequent(self) -> bool {
        self.share() != Share::Rest
    }

    /// The kind with a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl Share {
    /// All shares.
    pub const ALL: [Self; 4] = [Self::Ways, Self::Refusals, Self::Tries, Self::Rest];
}

impl Because {
    /// The reason's name, which is one of few; that of a decision that was read back is not told.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Why(why) => why.reason.as_str(),
            Self::Spawn(Spawn { lack: Lack::NoWorker, evict, .. }) if !evict.is_empty() => {
                "no_worker_evicting"
            }
            Self::Spawn(spawn) => spawn.lack.as_str(),
            Self::Told { reason, .. } => reason,
            Self::Stored { .. } => "stored",
        }
    }

    /// The reason's name.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Stored { reason, .. } => reason,
            made => made.name(),
        }
    }

    /// The reason for a person.
    #[must_use]
    pub fn why(&self) -> String {
        match self {
            Self::Why(why) => why.to_string(),
            Self::Spawn(spawn) => spawn.to_string(),
            Self::Told { why, .. } | Self::Stored { why, .. } => why.clone(),
        }
    }

    /// The figures behind it.
    #[must_use]
    pub fn detail(&self) -> Option<Value> {
        match self {
            Self::Why(why) => serde_json::to_value(why).ok(),
            Self::Spawn(spawn) => serde_json::to_value(spawn).ok(),
            Self::Told { .. } => None,
            Self::Stored { detail, .. } => detail.clone(),
        }
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Decided { kind, request_id, caller, model, worker_id, because } = &self.decided;
        Shown {
            id: self.id,
            at: format!("{:.3}", self.at),
            kind: kind.as_str(),
            request_id: request_id.as_ref(),
            caller: caller.as_deref(),
            model: model.as_ref(),
            worker_id: worker_id.as_ref(),
            reason: because.reason(),
            why: because.why(),
            detail: because.detail(),
        }
        .serialize(serializer)
    }
}

/// An entry on the wire.
#[derive(Serialize)]
struct Shown<'a> {
    id: u64,
    at: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a RequestId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a ModelAlias>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker_id: Option<&'a WorkerId>,
    reason: &'a str,
    why: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Value>,
}
