//! A connection that wakes itself while it is polled is polled again at once.
//!
//! Within one task, hyper hands a request's body from the connection to the handler and asks for more
//! in the other direction; each time it wakes the task that is just running. A runtime takes that for
//! more work and wakes a second thread to share it, which finds nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::AcqRel};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// How often a future is polled in a row, so that others have their turn.
const TURNS: usize = 16;

/// A future whose own wakes stay with it while it is polled.
pub(super) struct PollAgain<F> {
    inner: Pin<Box<F>>,
    bell: Arc<Bell>,
    /// The bell as it is given to the future: always the same one, so that whoever keeps it keeps it.
    waker: Waker,
}

/// Rung by whoever wakes the future.
#[derive(Default)]
struct Bell {
    /// Some of the bits below.
    state: AtomicU8,
    task: AtomicWaker,
}

/// The future is being polled.
const POLLED: u8 = 1;
/// It was woken since.
const WOKEN: u8 = 2;

impl<F: Future> PollAgain<F> {
    pub(super) fn new(inner: F) -> Self {
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        Self { inner: Box::pin(inner), bell, waker }
    }
}

impl<F: Future> Future for PollAgain<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { inner, bell, waker } = &mut *self;
        bell.task.register(context.waker());
        for _ in 0..TURNS {
            bell.state.swap(POLLED, AcqRel);
            if let Poll::Ready(output) = inner.as_mut().poll(&mut Context::from_waker(waker)) {
                return Poll::Ready(output);
            }
            // From here on, whoever wakes it wakes the task.
            if bell.state.swap(0, AcqRel) == POLLED {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.fetch_or(WOKEN, AcqRel) & POLLED == 0 {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn a_future_that_wakes_itself_goes_on_and_its_task_is_not_woken() {
        let (mut polls, woken) = (0, Arc::new(Count::default()));
        let mut future = PollAgain::new(poll_fn(|context| {
            polls += 1;
            if polls == 5 {
                return Poll::Ready(polls);
            }
            context.waker().wake_by_ref();
            Poll::Pending
        }));
        let waker = Waker::from(Arc::clone(&woken));
        let polled = Pin::new(&mut future).poll(&mut Context::from_waker(&waker));
        assert_eq!((polled, woken.0.load(SeqCst)), (Poll::Ready(5), 0));
    }

    #[test]
    fn one_that_never_rests_gives_way() {
        let (mut polls, woken) = (0, Arc::new(Count::default()));
        let mut future = PollAgain::new(poll_fn(|context| {
            polls += 1;
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        let waker = Waker::from(Arc::clone(&woken));
        assert!(Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_pending());
        drop(future);
        assert_eq!((polls, woken.0.load(SeqCst)), (TURNS, 1), "its task is to poll it again");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_of_another_thread_is_lost() {
        for round in 0..2000_usize {
            let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
            let thread = std::thread::spawn(move || {
                for number in 0..3 {
                    sender.blocking_send(number).unwrap();
                }
            });
            let read = PollAgain::new(async move {
                let mut read = Vec::new();
                while let Some(number) = receiver.recv().await {
                    read.push(number);
                }
                read
            });
            let read = tokio::time::timeout(
                Duration::from_secs(20),
                tokio_util::task::TaskTracker::new().spawn(read),
            )
            .await;
            assert_eq!(read.unwrap().unwrap(), [0, 1, 2], "round {round}");
            thread.join().unwrap();
        }
    }
}
