//! What becomes of a request, and why.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use worker_contract::{DeviceId, HiveAlias, WorkerId};

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// A worker gets it.
    Dispatch {
        /// Which one.
        worker: WorkerId,
        /// Why this one.
        why: Why,
    },
    /// A worker is started for it.
    Spawn(Spawn),
    /// It has waited for long: workers make way for one, and it waits until they have.
    MakeWay(MakeWay),
    /// It may be what ends workers, and waits for this one, which takes nobody else meanwhile.
    Hold(WorkerId),
    /// It waits for a worker that is there or coming.
    Wait(WaitReason),
    /// It cannot be served.
    Reject {
        /// Why.
        reason: RejectReason,
        /// When it is worth trying again, in seconds.
        retry_after_s: Option<u64>,
    },
}

/// A worker that is to be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Spawn {
    /// Where.
    pub hive: HiveAlias,
    /// On what; `None` where the hive has to choose.
    pub device: Option<DeviceId>,
    /// Idle workers that are ended first, to make room.
    pub evict: Vec<WorkerId>,
    /// Whether the model fits there, as far as one can tell.
    pub fits: bool,
    /// How many other places there were.
    pub others: usize,
    /// What decided for this place and against the next best.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Advantage>,
    /// Why one is started.
    pub lack: Lack,
    /// Its hive is asked first whether there is room; until then nothing is started, and nobody ended.
    #[serde(skip)]
    pub asks: bool,
}

/// What makes a place for a worker better than another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Advantage {
    /// Its hive reports on time.
    OnTime,
    /// The model's policy wishes for it.
    Wished,
    /// The model fits there.
    Fits,
    /// The operator's rules prefer it.
    Rules,
    /// Both devices have shown how fast they are.
    Faster,
    /// Its device is believed to be faster.
    Believed,
    /// Fewer workers have to end.
    FewerEnds,
    /// More memory is free.
    Memory,
    /// Nothing but its name.
    None,
}

/// Why a worker is started. What is told of the workers that are there is told of the best of them: the
/// first that is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lack {
    /// Its servers have said that they take no more for a while.
    Resting,
    /// Its workers fail, or are silent.
    Failing,
    /// Its workers make way for another model.
    MakesWay,
    /// Its workers are ending, have failed, or are servers that cannot be used.
    Ending,
    /// The contexts of its workers are too short for the request.
    TooShort,
    /// None of its workers can take the request.
    Unfit,
    /// The operator's rules let none of its workers take the request.
    Refused,
    /// Only servers run a model of its name, which is another one than the hives'.
    Elsewhere,
    /// No worker runs it.
    NoWorker,
    /// Its policy wants another one.
    Policy,
    /// Requests for it have waited for a while.
    Crowd,
}

/// Workers that make way for one of another model: they get no further request, and are ended when they
/// have finished what they run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MakeWay {
    /// Their hive.
    pub hive: HiveAlias,
    /// Their device.
    pub device: DeviceId,
    /// All that have to go, those included that are idle.
    pub workers: Vec<WorkerId>,
}

/// Why a worker was chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Why {
    /// What decided.
    pub reason: Reason,
    /// What was expected of the chosen worker.
    pub chosen: Estimate,
    /// The next best, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Estimate>,
    /// How many workers could have taken it.
    pub candidates: usize,
}

/// What decided between workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No other could take it.
    OnlyOne,
    /// The session was there before.
    Session,
    /// The others are late with their reports, or connections to them have just failed.
    OnTime,
    /// It failed often: whether it works again, one request has to find out.
    Probe,
    /// Nobody else is there: the request may be what ends workers.
    Alone,
    /// It holds more of the prompt's beginning than the others.
    Prefix,
    /// The operator's rules prefer it.
    Rules,
    /// It is expected to answer first.
    Soonest,
    /// It failed the request before, and nobody else can serve it.
    LastResort,
}

/// What is expected of a worker for one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// The worker.
    pub worker: WorkerId,
    /// How long the request takes there, in milliseconds.
    pub expected_ms: u64,
    /// Requests that are in it.
    pub load: u32,
    /// Its slots.
    pub slots: u32,
    /// How many bytes of the prompt's beginning it may hold.
    pub held_bytes: u32,
}

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// A place: all workers have as many requests as they are given.
    Room,
    /// A place at a worker that is full and so much faster that its answer would be there sooner than that of one
    /// that has room.
    Sooner {
        /// How many requests may wait for it for that reason.
        most: u32,
        /// For how much longer this one does at most.
        patience: Duration,
    },
    /// A place: those that are free are kept for requests before it, which wait for a faster worker.
    Kept,
    /// A worker at which nobody else is at the beginning: it may be what ended the one before.
    Alone,
    /// A worker that is loading or being started, or one of rbee's that has just said that it takes no more.
    Coming,
    /// A server of somebody else that has said that it takes no more for a while.
    Resting,
    /// News of a worker whose connection has just failed, of a hive that was lost over a start, or of a worker that is
    /// silent and that its hive may start again.
    News,
    /// A worker that failed often, and will be tried again.
    Circuit,
    /// Memory that busy workers have.
    Memory,
    /// Its model's next turn: its worker makes way for another model.
    NextTurn,
    /// The first reports after the queen's start.
    WarmUp,
}

/// Why a request cannot be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RejectReason {
    /// No worker runs the model, and no catalog has it.
    UnknownModel,
    /// The only hive whose catalog has the model is gone.
    HiveGone {
        /// The hive.
        hive: HiveAlias,
    },
    /// The workers of the model are ending or unreachable, and no catalog has it.
    NoWorkerLeft,
    /// Nowhere could a worker be started.
    NowhereToStart,
    /// The servers that could take it rest for longer than it has time.
    Resting {
        /// The worker of the one that takes requests first.
        worker: WorkerId,
    },
    /// None of the model's workers can do what is asked for.
    Unable,
    /// No worker has a longer context than one that was too short, nor would one that is started.
    TooShort {
        /// How many tokens that one has.
        tokens: u32,
    },
    /// Nobody has the file that its answer began with: hives have another one of that name.
    OtherFile,
    /// The operator's rules let no worker take it.
    Rules,
}

impl Reason {
    /// Its name in headers and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OnlyOne => "only_one",
            Self::Session => "session",
            Self::OnTime => "on_time",
            Self::Probe => "probe",
            Self::Alone => "alone",
            Self::Prefix => "prefix",
            Self::Rules => "rules",
            Self::Soonest => "soonest",
            Self::LastResort => "last_resort",
        }
    }
}

impl Lack {
    /// Its name in metrics and in the log of decisions.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resting => "resting",
            Self::Failing => "failing",
            Self::MakesWay => "makes_way",
            Self::Ending => "ending",
            Self::TooShort => "too_short",
            Self::Unfit => "unfit",
            Self::Refused => "refused",
            Self::Elsewhere => "elsewhere",
            Self::NoWorker => "no_worker",
            Self::Policy => "policy_min",
            Self::Crowd => "crowd",
        }
    }
}

impl fmt::Display for Advantage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OnTime => "its machine reports on time",
            Self::Wished => "the model's policy wishes for it",
            Self::Fits => "the model fits there",
            Self::Rules => "the rules prefer it",
            Self::Faster => "it has shown to be faster",
            Self::Believed => "it is believed to be faster",
            Self::FewerEnds => "fewer workers have to end there",
            Self::Memory => "more memory is free there",
            Self::None => "the next one is as good",
        })
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resting => "its servers take no more for a while",
            Self::Failing => "its workers fail or do not answer",
            Self::MakesWay => "its workers make way for another model",
            Self::Ending => "its workers are ending or cannot be used",
            Self::TooShort => "the contexts of its workers are too short",
            Self::Unfit => "none of its workers can take it",
            Self::Refused => "the rules let none of its workers take it",
            Self::Elsewhere => "only a server has one of that name, which is taken for another",
            Self::NoWorker => "no worker runs it",
            Self::Policy => "its policy wants another one",
            Self::Crowd => "requests for it have waited for a while",
        })
    }
}

impl WaitReason {
    /// Its name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::Sooner { .. } => "sooner",
            Self::Kept => "kept",
            Self::Alone => "alone",
            Self::Coming => "coming",
            Self::Resting => "resting",
            Self::News => "news",
            Self::Circuit => "circuit",
            Self::Memory => "memory",
            Self::NextTurn => "next_turn",
            Self::WarmUp => "warm_up",
        }
    }
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Room => {
                "it waits for a place: all workers of the model have as many requests as they take"
            }
            Self::Sooner { patience, .. } => {
                let most = patience.as_secs_f32();
                return write!(
                    f,
                    "it waits, {most:.1} s at most, for a place at a faster worker: it is expected to be answered \
                     there in less than half of the time that the workers take that have room"
                );
            }
            Self::Kept => {
                "it waits for a place: those that are free are kept for a while for requests before it, which wait for \
                 a faster worker"
            }
            Self::Alone => {
                "it waits for a worker at which all others have got tokens: it may be what ended the one before"
            }
            Self::Coming => "it waits for a worker that is loading, being started, or has just said that it takes no more",
            Self::Resting => "it waits for a server that has said that it takes no more for a while",
            Self::News => {
                "it waits for news of a worker or a hive that has just fallen silent or whose connection has failed"
            }
            Self::Circuit => "it waits for a worker that failed often and will be tried again",
            Self::Memory => {
                "it waits for memory that workers of other models have, which are busy or were so a moment ago"
            }
            Self::NextTurn => {
                "it waits for its model's next turn: its worker finishes what it runs, and then gives \
                 its place to another model"
            }
            Self::WarmUp => "it waits for the first reports after the queen's start",
        })
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, chosen, next, candidates } = self;
        let worker = &chosen.worker;
        match reason {
            Reason::OnlyOne => write!(f, "{worker} is the only worker that can take it")?,
            Reason::Session => write!(f, "the session was at {worker} before")?,
            Reason::OnTime => {
                write!(f, "{worker} reports on time, and the others are late or have just failed")?;
            }
            Reason::Probe => write!(f, "{worker} failed often, and is tried again with this one")?,
            Reason::Alone => {
                write!(f, "{worker} has no other request, and this one may end workers")?;
            }
            Reason::Prefix => {
                write!(f, "{worker} holds {} bytes of the prompt's beginning", chosen.held_bytes)?;
            }
            Reason::Rules => write!(f, "the operator's rules prefer {worker}")?,
            Reason::Soonest => {
                write!(f, "{worker} is expected to answer first of {candidates} workers")?;
            }
            Reason::LastResort => {
                write!(f, "{worker} failed it before, and no other can take it")?;
            }
        }
        write!(f, " ({chosen}")?;
        if let Some(next) = next {
            write!(f, "; next best {}: {next}", next.worker)?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expected_ms, load, slots, held_bytes, .. } = self;
        write!(f, "about {expected_ms} ms, {load} requests on {slots} slots")?;
        if *held_bytes > 0 {
            write!(f, ", {held_bytes} bytes held")?;
        }
        Ok(())
    }
}

impl fmt::Display for Spawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hive, device, evict, fits, others, by, lack, .. } = self;
        write!(f, "{lack}; one is to be started on {hive}")?;
        if let Some(device) = device {
            write!(f, " {device}")?;
        }
        if !fits {
            f.write_str(", though it may not fit")?;
        }
        if !evict.is_empty() {
            let names = evict.iter().map(WorkerId::as_str).collect::<Vec<_>>().join(", ");
            let are = if evict.len() == 1 { "is" } else { "are" };
            write!(f, ", in the place of {names}, which {are} idle")?;
        }
        match (others, by) {
            (0, _) => f.write_str(" (the only place)"),
            (others, None) => write!(f, " (best of {} places)", others + 1),
            (others, Some(by)) => write!(f, " (best of {} places: {by})", others + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_faster_worker_is_told_for_how_long_at_most() {
        let sooner = WaitReason::Sooner { most: 3, patience: Duration::from_millis(4520) };
        let told = sooner.to_string();
        assert!(
            told.starts_with("it waits, 4.5 s at most, for a place at a faster worker: "),
            "{told}"
        );
    }
}
