//! Following a job: a cursor that pulls from the job's log.
//!
//! The job never waits for a reader. A reader that falls behind the bounded log meets a gap.

use std::collections::VecDeque;

use futures::stream::{self, Stream};
use rbee_operations::JobEvent;
use tokio::sync::watch;

use crate::event_log::{Batch, KeptEvent};
use crate::job::Job;

/// How many events a reader takes at once, so that it holds the log only for a moment.
const BATCH: usize = 128;

/// One thing that a follower of a job learns.
#[derive(Debug, Clone, PartialEq)]
pub enum Replayed {
    /// The job told something.
    Event {
        /// The event's id, higher than all before.
        id: u64,
        /// The event.
        event: JobEvent,
    },
    /// Events that were asked for are no longer kept.
    Gap {
        /// How many are missing.
        missed: u64,
        /// The id of the event that comes next.
        first_available: u64,
    },
    /// The job has ended, and all its events were given.
    Done,
}

/// What a cursor found.
pub(crate) enum Found {
    Events(Batch),
    Done,
}

/// A reader's place in a job's log.
pub(crate) struct Cursor {
    job: watch::Receiver<Job>,
    after: u64,
}

impl Cursor {
    /// A cursor that begins with the event after the one with id `after`.
    pub(crate) fn new(job: watch::Receiver<Job>, after: u64) -> Self {
        Self { job, after }
    }

    /// The id of the last event that it has found.
    pub(crate) fn after(&self) -> u64 {
        self.after
    }

    /// Waits for what comes next. `None` if the job can tell nothing more, though it has not ended:
    /// the process is about to end. Dropping the returned future loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Found> {
        loop {
            if let Some(found) = self.look() {
                return Some(found);
            }
            self.job.changed().await.ok()?;
        }
    }

    fn look(&mut self) -> Option<Found> {
        let job = self.job.borrow_and_update();
        let batch = job.log().read(self.after, BATCH);
        if let Some(last) = batch.events.last() {
            self.after = last.id;
            return Some(Found::Events(batch));
        }
        job.has_ended().then_some(Found::Done)
    }
}

/// The cursor as a stream of single things.
pub(crate) fn replay(cursor: Cursor) -> impl Stream<Item = Replayed> + Send + 'static {
    let start = (Some(cursor), VecDeque::new());
    stream::unfold(start, |(mut cursor, mut ready)| async move {
        if ready.is_empty() {
            match cursor.as_mut()?.next().await? {
                Found::Events(batch) => ready.extend(single(batch)),
                Found::Done => {
                    ready.push_back(Replayed::Done);
                    cursor = None;
                }
            }
        }
        ready.pop_front().map(|next| (next, (cursor, ready)))
    })
}

fn single(batch: Batch) -> impl Iterator<Item = Replayed> {
    let gap = batch
        .gap
        .map(|gap| Replayed::Gap { missed: gap.missed, first_available: gap.first_available });
    gap.into_iter().chain(batch.events.into_iter().filter_map(|kept| parse(&kept)))
}

/// Kept JSON was made from a `JobEvent`; what an older program stored otherwise is skipped.
fn parse(kept: &KeptEvent) -> Option<Replayed> {
    let event = serde_json::from_slice(&kept.event.json).ok()?;
    Some(Replayed::Event { id: kept.id, event })
}
