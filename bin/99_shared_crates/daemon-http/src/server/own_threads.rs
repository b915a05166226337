//! A runtime beside that of the daemon.

use std::io;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A runtime that a thread of its own drives, alone or with further ones. Dropping it ends them.
#[derive(Debug)]
pub struct OwnThreads {
    runtime: Handle,
    driver: JoinHandle<()>,
    over: DropGuard,
}

impl OwnThreads {
    /// Starts what the builder makes, all of it under this name.
    ///
    /// # Errors
    /// The system has no more threads or open files.
    pub fn start(name: &str, builder: &mut Builder) -> io::Result<Self> {
        let runtime = builder.thread_name(name).enable_all().build()?;
        let (handle, over) = (runtime.handle().clone(), CancellationToken::new());
        let is_over = over.clone();
        let drive = move || runtime.block_on(is_over.cancelled());
        let driver = std::thread::Builder::new().name(name.to_owned()).spawn(drive)?;
        Ok(Self { runtime: handle, driver, over: over.drop_guard() })
    }

    /// Where its tasks are spawned.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Ends the threads, and waits for that, which blocks.
    ///
    /// # Errors
    /// What the thread that drives the runtime panicked with.
    pub fn end(self) -> std::thread::Result<()> {
        drop(self.over);
        self.driver.join()
    }
}
