//! The queen's own limit of open files, which is reached by her clients' connections.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::{Instant, sleep};

use super::Broken;

/// How long it is waited for that some other connection ends.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long one attempt is after the other.
const PAUSE: Duration = Duration::from_millis(50);

/// Why a connection could not be made.
pub(super) fn of_connecting(error: io::Error) -> Broken {
    let limits = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    if error.raw_os_error().is_some_and(|number| limits.contains(&number)) {
        Broken::OwnLimit(error)
    } else {
        Broken::Connect(error)
    }
}

/// Connects; where the queen may have no more connections, she makes room, and tries again for a while.
pub(super) async fn patiently<T, A: Future<Output = Result<T, Broken>>>(
    mut attempt: impl FnMut() -> A,
    make_room: impl Fn(),
) -> Result<T, Broken> {
    let begin = Instant::now();
    loop {
        match attempt().await {
            Err(Broken::OwnLimit(_)) if begin.elapsed() < PATIENCE => {}
            attempted => return attempted,
        }
        make_room();
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::ready;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_queens_own_limit_is_waited_for_a_while_and_nothing_else_is() {
        let (full, refused) = (Errno::MFILE, Errno::CONNREFUSED);
        for (fails, times, attempts, ends) in [
            (full, 0, 1, "connected"),
            (full, 3, 4, "connected"),
            (Errno::NFILE, 1, 2, "connected"),
            (refused, 1, 1, "refused"),
        ] {
            let (tried, made_room) = (Cell::new(0), Cell::new(0));
            let attempt = || {
                tried.set(tried.get() + 1);
                let is_connected = tried.get() > times;
                ready(if is_connected { Ok(()) } else { Err(of_connecting(fails.into())) })
            };
            let end = match patiently(attempt, || made_room.set(made_room.get() + 1)).await {
                Ok(()) => "connected",
                Err(_) => "refused",
            };
            assert_eq!((tried.get(), end), (attempts, ends), "{fails:?} {times} times");
            assert_eq!(made_room.get(), attempts - 1);
        }
        let begin = Instant::now();
        let never = || ready(Err::<(), _>(of_connecting(full.into())));
        let end = patiently(never, || ()).await;
        assert!(matches!(end, Err(Broken::OwnLimit(_))), "{end:?}");
        assert!(begin.elapsed() >= PATIENCE, "{:?}", begin.elapsed());
    }
}
