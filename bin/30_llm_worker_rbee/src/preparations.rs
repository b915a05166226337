//! How many requests are prepared at once away from the threads that carry connections.
//!
//! A preparation cannot be ended from outside, and takes a processor for as long as it lasts. So only a few of each
//! kind run, the others wait in order, and all of them count as waiting requests until they are through: also those
//! whose client has gone meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use tokio::sync::Semaphore;
use tokio::task::{JoinError, spawn_blocking};

use crate::batch::{Gauges, SubmitError};

/// How many are prepared at once of what takes long, at least: the engine wants the processors, too.
const FEW: usize = 2;

/// What it takes to prepare a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Less than to hand it to another thread.
    Little,
    /// Functions, a grammar, or a search of the vocabulary, for a short text.
    More,
    /// A long text.
    Long,
    /// Images: one is encoded at a time.
    Images,
}

/// Those that are prepared, and those that wait for it.
#[derive(Debug)]
pub struct Preparations {
    more: Arc<Semaphore>,
    long: Arc<Semaphore>,
    images: Arc<Semaphore>,
    gauges: Arc<Gauges>,
    most: u32,
}

/// A request was not prepared.
#[derive(Debug, thiserror::Error)]
pub enum NotPrepared {
    /// Too many wait already.
    #[error(transparent)]
    QueueFull(#[from] SubmitError),
    /// The thread that prepared it failed.
    #[error("the request could not be prepared")]
    Failed(#[from] JoinError),
}

/// Counts a request as waiting while it is there.
#[derive(Debug)]
pub struct Place(Arc<Gauges>);

impl Preparations {
    /// At most so many are prepared or wait for that.
    #[must_use]
    pub fn new(gauges: Arc<Gauges>, most: u32) -> Self {
        let processors = std::thread::available_parallelism().map_or(FEW, usize::from);
        let lane = |permits| Arc::new(Semaphore::new(permits));
        Self {
            more: lane(processors.max(FEW)),
            long: lane(FEW.max(processors / 2)),
            images: lane(FEW),
            gauges,
            most,
        }
    }

    /// Prepares a request, here where it takes little, else in its turn on a thread of its own. The place is to be
    /// kept until the request is counted elsewhere.
    ///
    /// Who waits leaves by dropping the future; what has begun goes on.
    pub async fn run<T: Send + 'static>(
        &self,
        effort: Effort,
        prepare: impl FnOnce() -> T + Send + 'static,
    ) -> Result<(T, Option<Place>), NotPrepared> {
        let lane = match effort {
            Effort::Little => return Ok((prepare(), None)),
            Effort::More => &self.more,
            Effort::Long => &self.long,
            Effort::Images => &self.images,
        };
        let place = self.enter()?;
        // It is never closed: without a turn it would only run beside more others.
        let turn = Arc::clone(lane).acquire_owned().await.ok();
        let task = spawn_blocking(move || {
            let prepared = prepare();
            drop(turn);
            (prepared, Some(place))
        });
        Ok(task.await?)
    }

    fn enter(&self) -> Result<Place, SubmitError> {
        let more = |preparing: u32| (preparing < self.most).then_some(preparing + 1);
        let preparing = &self.gauges.preparing;
        preparing.fetch_update(Acquire, Relaxed, more).map_err(SubmitError::QueueFull)?;
        Ok(Place(Arc::clone(&self.gauges)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.preparing.fetch_sub(1, Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures::FutureExt as _;

    use super::*;

    fn preparations(most: u32) -> (Preparations, Arc<Gauges>) {
        let gauges = Arc::<Gauges>::default();
        (Preparations::new(Arc::clone(&gauges), most), gauges)
    }

    #[tokio::test]
    async fn few_run_at_once_and_those_that_wait_or_were_left_behind_count() {
        let (preparations, gauges) = preparations(3);
        let (begun, begins) = mpsc::channel();
        let mut ends = Vec::new();
        let mut running = Vec::new();
        for number in 0..3 {
            let (begun, (end, ended)) = (begun.clone(), mpsc::channel::<()>());
            ends.push(end);
            let mut run = Box::pin(preparations.run(Effort::Images, move || {
                begun.send(number).unwrap();
                ended.recv().unwrap();
                number
            }));
            assert!((&mut run).now_or_never().is_none());
            running.push(run);
        }
        let mut first = [begins.recv().unwrap(), begins.recv().unwrap()];
        first.sort_unstable();
        assert_eq!(first, [0, 1]);
        assert_eq!((gauges.waiting(), gauges.is_idle()), (3, false));
        let full = preparations.run(Effort::Long, || ()).await.unwrap_err();
        assert_eq!(full.to_string(), SubmitError::QueueFull(3).to_string());
        let (done, place) = preparations.run(Effort::Little, || 7).await.unwrap();
        assert!(done == 7 && place.is_none(), "it needs no turn");

        // Its client goes; the thread goes on, and so does the count.
        drop(running.remove(0));
        assert_eq!(gauges.waiting(), 3);
        // One that only waits is gone at once.
        drop(running.pop());
        assert_eq!(gauges.waiting(), 2);
        ends.iter().take(2).for_each(|end| end.send(()).unwrap());
        let (number, place) = running.remove(0).await.unwrap();
        assert_eq!(number, 1);
        drop(place);
        while !gauges.is_idle() {
            tokio::task::yield_now().await;
        }
        assert!(begins.try_recv().is_err());
    }

    #[tokio::test]
    async fn what_long_texts_wait_for_holds_up_no_other_request() {
        let (preparations, _) = preparations(10);
        let (end, ended) = mpsc::channel::<()>();
        let ended = Arc::new(std::sync::Mutex::new(ended));
        let block = || {
            let ended = Arc::clone(&ended);
            preparations.run(Effort::Long, move || ended.lock().unwrap().recv().unwrap())
        };
        let mut long: Vec<_> = (0..3).map(|_| Box::pin(block())).collect();
        assert!(long.iter_mut().all(|long| long.now_or_never().is_none()));
        for effort in [Effort::More, Effort::Images] {
            assert_eq!(preparations.run(effort, || 7).await.unwrap().0, 7);
        }
        (0..3).for_each(|_| end.send(()).unwrap());
        for long in long {
            long.await.unwrap();
        }
    }
}
