//! When each server of somebody else last gave something to anybody: one that answers others while a request
//! is silent does not hang, but has it in its queue.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;
use worker_contract::HiveAlias;

use super::millis;

/// The pulses of servers that have requests; all others are forgotten.
#[derive(Debug, Default)]
pub(super) struct Pulses(Mutex<BTreeMap<HiveAlias, Weak<Pulse>>>);

/// When one server last gave something.
#[derive(Debug)]
pub(super) struct Pulse {
    began: Instant,
    /// Counted from then on.
    beat_ms: AtomicU64,
}

impl Pulses {
    /// That of a server.
    pub(super) fn of(&self, server: &HiveAlias) -> Arc<Pulse> {
        // Nothing panics under this lock.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pulse) = all.get(server).and_then(Weak::upgrade) {
            return pulse;
        }
        all.retain(|_, pulse| pulse.strong_count() > 0);
        let pulse = Arc::new(Pulse { began: Instant::now(), beat_ms: AtomicU64::new(0) });
        all.insert(server.clone(), Arc::downgrade(&pulse));
        pulse
    }
}

impl Pulse {
    /// It has given something.
    pub(super) fn beat(&self) {
        self.beat_ms.fetch_max(millis(self.began.elapsed()), Relaxed);
    }

    /// When it last did, or began to be watched.
    pub(super) fn last(&self) -> Instant {
        self.began + Duration::from_millis(self.beat_ms.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_of_one_server_share_its_pulse_and_idle_servers_are_forgotten() {
        let pulses = Pulses::default();
        let server = |name: &str| pulses.of(&name.parse().unwrap());
        let (one, same, other) = (server("nas"), server("nas"), server("desk"));
        let began = one.last();
        tokio::time::advance(Duration::from_secs(3)).await;
        one.beat();
        assert_eq!(same.last(), began + Duration::from_secs(3));
        assert_eq!(other.last(), began);
        drop((one, same, other));
        assert_eq!(server("lab").last(), Instant::now());
        assert_eq!(pulses.0.lock().unwrap().len(), 1);
    }
}
