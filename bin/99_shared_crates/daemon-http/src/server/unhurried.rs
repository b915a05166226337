//! Connections whose answers can wait for some milliseconds.
//!
//! A thread that waits for many small requests is woken for each of them, which costs more than answering
//! does. One that rests a moment before it waits again finds several at once.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long the thread rests before it looks for requests again: the longest that one waits for it.
const REST: Duration = Duration::from_millis(5);

/// The longest beginning of a request that is looked at, in bytes.
const MAX_BEGINNING: usize = 64;

/// A thread for requests that can wait, each for up to 5 ms. Dropping it ends the thread.
#[derive(Debug)]
pub struct UnhurriedThread {
    runtime: Handle,
    thread: JoinHandle<()>,
    over: DropGuard,
}

impl UnhurriedThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no more threads or open files.
    pub fn start(name: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .thread_name(name)
            .on_thread_park(rest)
            .enable_all()
            .build()?;
        let (handle, over) = (runtime.handle().clone(), CancellationToken::new());
        let is_over = over.clone();
        let run = move || runtime.block_on(is_over.cancelled());
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Self { runtime: handle, thread, over: over.drop_guard() })
    }

    /// Where its tasks are spawned.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// The connections that it is to carry: those whose first request begins like one of these, in the
    /// first 64 bytes.
    #[must_use]
    pub fn carries(&self, beginnings: &'static [&'static str]) -> Unhurried {
        Unhurried { beginnings, runtime: self.runtime.clone() }
    }

    /// Ends the thread, and waits for that, which blocks.
    ///
    /// # Errors
    /// What the thread panicked with.
    pub fn end(self) -> std::thread::Result<()> {
        drop(self.over);
        self.thread.join()
    }
}

#[expect(clippy::disallowed_methods, reason = "to rest is all that this thread is for")]
fn rest() {
    std::thread::sleep(REST);
}

/// Connections that are carried by an [`UnhurriedThread`].
#[derive(Debug, Clone)]
pub struct Unhurried {
    beginnings: &'static [&'static str],
    runtime: Handle,
}

impl Unhurried {
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
