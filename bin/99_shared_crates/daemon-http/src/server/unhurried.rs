//! Connections whose answers can wait for some milliseconds.
//!
//! A thread that waits for many small requests is woken for each of them, which costs more than answering
//! does. One that rests a moment before it waits again finds several at once.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};

use super::OwnThreads;

/// How long the thread rests before it looks for requests again: the longest that one waits for it.
const REST: Duration = Duration::from_millis(5);

/// The longest beginning of a request that is looked at, in bytes.
const MAX_BEGINNING: usize = 64;

#[expect(clippy::disallowed_methods, reason = "to rest is all that this thread is for")]
fn rest() {
    std::thread::sleep(REST);
}

/// Connections whose requests can wait, each for up to 5 ms.
#[derive(Debug, Clone)]
pub struct Unhurried {
    beginnings: &'static [&'static str],
    runtime: Handle,
}

impl Unhurried {
    /// Starts a thread for them.
    ///
    /// # Errors
    /// The system has no more threads or open files.
    pub fn thread(name: &str) -> io::Result<OwnThreads> {
        OwnThreads::start(name, Builder::new_current_thread().on_thread_park(rest))
    }

    /// Those whose first request begins like one of these, in the first 64 bytes, on a [thread](Self::thread) that was
    /// started for them.
    #[must_use]
    pub fn on(thread: &OwnThreads, beginnings: &'static [&'static str]) -> Self {
        Self { beginnings, runtime: thread.runtime().clone() }
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Whether a connection is one of them, once it has sent something, which stays to be read. One whose
    /// first bytes come in pieces is none.
    pub(super) async fn takes(&self, stream: &TcpStream) -> bool {
        let mut beginning = [0; MAX_BEGINNING];
        let Ok(length) = stream.peek(&mut beginning).await else { return false };
        let beginning = &beginning[..length];
        self.beginnings.iter().any(|wanted| beginning.starts_with(wanted.as_bytes()))
    }
}
