//! What a script is told of a request and of a place, in plain values.

use std::time::Duration;

use jiff::ZonedDateTime;
use rhai::{Dynamic, Map};
use worker_contract::{DeviceId, DeviceKind, HiveAlias, ModelAlias, WorkerId};

use crate::admission::Priority;

/// A request.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// The model.
    pub model: &'a ModelAlias,
    /// The size of its file, where a catalog has it.
    pub model_bytes: u64,
    /// Who asks.
    pub caller: &'a str,
    /// The name of the token that it asks with; empty where it has none.
    pub token: &'a str,
    /// How urgent it is.
    pub priority: Priority,
    /// The length of its prompt.
    pub prompt_bytes: u32,
    /// Whether it belongs to a session.
    pub has_session: bool,
}

/// A worker, or a place where one could be started.
#[derive(Debug, Clone, Copy)]
pub struct PlaceFacts<'a> {
    /// The worker; `None` of a place for one.
    pub worker: Option<&'a WorkerId>,
    /// Its hive.
    pub hive: &'a HiveAlias,
    /// What is known of it.
    pub spot: SpotFacts,
}

/// What is known of a worker or a place beside its name.
#[derive(Debug, Clone, Copy)]
pub struct SpotFacts {
    /// What it runs on; `None` where the hive has to choose.
    pub device: Option<DeviceId>,
    /// The memory of the device.
    pub memory_total_bytes: u64,
    /// What of it is free.
    pub memory_free_bytes: u64,
    /// Whether it reports on time.
    pub is_alive: bool,
    /// For how long no worker of the hive has had a request; `None` if none runs there.
    pub hive_idle: Option<Duration>,
    /// What is known of the worker.
    pub load: LoadFacts,
}

/// What of a worker the next request or report may change, and a verdict on it may depend on. Memory and times drift
/// all the time: if they counted, no verdict would last until somebody has a place by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    requests: u32,
    slots: u32,
    is_alive: bool,
}

/// What a worker does.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadFacts {
    /// Requests in it.
    pub requests: u32,
    /// How many it runs at once.
    pub slots: u32,
    /// How many bytes of the prompt's beginning it may hold.
    pub held_bytes: u32,
    /// How long the request is expected to take there, in milliseconds.
    pub expected_ms: u64,
}

impl RequestFacts<'_> {
    /// As a script sees it, at a time.
    pub(super) fn value(&self, now: &ZonedDateTime) -> Dynamic {
        let priority = match self.priority {
            Priority::Interactive => "interactive",
            Priority::Batch => "batch",
        };
        let weekday = now.weekday().to_monday_one_offset();
        Map::from_iter([
            ("model".into(), self.model.as_str().into()),
            ("model_bytes".into(), int(self.model_bytes)),
            ("caller".into(), self.caller.into()),
            ("token".into(), self.token.into()),
            ("priority".into(), priority.into()),
            ("prompt_bytes".into(), int(self.prompt_bytes)),
            ("has_session".into(), self.has_session.into()),
            ("hour".into(), int(now.hour().unsigned_abs())),
            ("minute".into(), int(now.minute().unsigned_abs())),
            ("weekday".into(), int(weekday.unsigned_abs())),
        ])
        .into()
    }
}

impl SpotFacts {
    /// What may soon be otherwise.
    pub(super) fn moment(&self) -> Moment {
        let LoadFacts { requests, slots, .. } = self.load;
        Moment { requests, slots, is_alive: self.is_alive }
    }
}

impl PlaceFacts<'_> {
    /// As a script sees it.
    pub(super) fn value(&self) -> Dynamic {
        let SpotFacts { device, load, .. } = self.spot;
        let is_gpu = device.is_some_and(|device| device.kind == DeviceKind::Gpu);
        let device = device.map(|device| device.to_string()).unwrap_or_default();
        let hive_idle_s = self.spot.hive_idle.map_or(-1, seconds);
        Map::from_iter([
            ("id".into(), self.worker.map_or("", WorkerId::as_str).into()),
            ("is_running".into(), self.worker.is_some().into()),
            ("hive".into(), self.hive.as_str().into()),
            ("device".into(), device.into()),
            ("is_gpu".into(), is_gpu.into()),
            ("memory_total_bytes".into(), int(self.spot.memory_total_bytes)),
            ("memory_free_bytes".into(), int(self.spot.memory_free_bytes)),
            ("is_alive".into(), self.spot.is_alive.into()),
            ("hive_idle_s".into(), hive_idle_s.into()),
            ("requests".into(), int(load.requests)),
            ("slots".into(), int(load.slots)),
            ("held_bytes".into(), int(load.held_bytes)),
            ("expected_ms".into(), int(load.expected_ms)),
        ])
        .into()
    }
}

fn int(number: impl Into<u64>) -> Dynamic {
    i64::try_from(number.into()).unwrap_or(i64::MAX).into()
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
