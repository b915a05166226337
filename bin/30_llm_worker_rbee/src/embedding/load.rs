//! How many requests there are, and the way in.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::request::EmbeddingRequest;
use crate::batch::{Gauges, SubmitError};

/// Counts requests from the moment they are handed over to their end, and shows them in the gauges.
#[derive(Debug)]
pub(super) struct Load {
    gauges: Arc<Gauges>,
    /// How many count as running; the others count as waiting.
    slots: u32,
    /// How many may wait.
    max_queue: u32,
    accepted: Mutex<u32>,
}

impl Load {
    pub(super) fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    fn add_one(&self) -> Result<(), SubmitError> {
        self.change(|accepted| {
            let may = accepted < self.slots.saturating_add(self.max_queue);
            may.then_some(accepted + 1).ok_or(SubmitError::QueueFull(self.max_queue))
        })
    }

    /// Counts a request that has ended.
    pub(super) fn remove_one(&self) {
        // It cannot fail: what is counted off was counted.
        let _ = self.change(|accepted| Ok(accepted.saturating_sub(1)));
    }

    /// Count and gauges change as one, so that no old count is shown after a new one.
    fn change(
        &self,
        next: impl FnOnce(u32) -> Result<u32, SubmitError>,
    ) -> Result<(), SubmitError> {
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        *accepted = next(*accepted)?;
        let busy = (*accepted).min(self.slots);
        self.gauges.busy.store(busy, Relaxed);
        self.gauges.queued.store(*accepted - busy, Relaxed);
        Ok(())
    }
}

/// Hands requests to the loop. The loop ends when the last one is dropped and all is answered.
#[derive(Debug, Clone)]
pub struct Submitter {
    inbox: SyncSender<EmbeddingRequest>,
    load: Arc<Load>,
}

impl Submitter {
    /// Hands a request over.
    pub fn submit(&self, request: EmbeddingRequest) -> Result<(), SubmitError> {
        self.load.add_one()?;
        self.inbox.try_send(request).map_err(|error| {
            self.load.remove_one();
            match error {
                TrySendError::Full(_) => SubmitError::QueueFull(self.load.max_queue),
                TrySendError::Disconnected(_) => SubmitError::Stopped,
            }
        })
    }
}

/// Both ends of the way in.
pub(super) fn way_in(
    slots: u32,
    max_queue: u32,
    gauges: Arc<Gauges>,
) -> (Submitter, Receiver<EmbeddingRequest>, Arc<Load>) {
    let (inbox, receiver) = sync_channel(slots.saturating_add(max_queue) as usize);
    let load = Arc::new(Load { gauges, slots, max_queue, accepted: Mutex::new(0) });
    (Submitter { inbox, load: Arc::clone(&load) }, receiver, load)
}
