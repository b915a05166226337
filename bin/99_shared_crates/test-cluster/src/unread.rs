//! A daemon whose output nobody reads, as behind a pager that waits for a key.

use std::error::Error;
use std::fmt;
use std::io::{self, PipeReader, PipeWriter, Write as _};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::process::Command;
use tokio::time::timeout;

use crate::{Api, Signal, send_signal, wait_until};

const SOON: Duration = Duration::from_secs(30);
/// How long it may take to load a model on a busy machine.
const LOADED: Duration = Duration::from_secs(60);
const REQUESTS: usize = 50;
/// What one write fills of a pipe.
const PAGE: [u8; 4096] = [b'\n'; 4096];

/// The daemon ended before it answered, as where its port is taken.
#[derive(Debug)]
pub struct EndedEarly(ExitStatus);

impl fmt::Display for EndedEarly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the daemon ended with {} before it answered", self.0)
    }
}

impl Error for EndedEarly {}

/// Starts a daemon whose output, log lines of level debug included, goes where nobody reads, and fails
/// unless it answers and ends at SIGTERM all the same; with [`EndedEarly`] where it ends before that. `address`
/// gives its URL as soon as it is known.
pub async fn run_unread(mut command: Command, address: impl Fn() -> Option<String>) -> Result<()> {
    let (_reader, writer) = full_pipe().context("no full pipe can be made")?;
    let mut daemon = command
        .env("RBEE_LOG", "debug")
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .kill_on_drop(true)
        .spawn()
        .context("the daemon cannot be started")?;
    let pid = daemon.id().context("a fresh child has a pid")?;
    let healthy = wait_until("an answer to /health", LOADED, async || {
        if let Ok(Some(status)) = daemon.try_wait() {
            return Some(Err(EndedEarly(status)));
        }
        let api = Api::new(&address()?, None).ok()?;
        let answer = timeout(Duration::from_secs(1), api.get("/health")).await.ok()?.ok()?;
        (answer.status == 200).then_some(Ok(api))
    });
    let api = healthy.await??;
    for _ in 0..REQUESTS {
        let answer = timeout(SOON, api.get("/health")).await.context("no answer any more")??;
        ensure!(answer.status == 200, "its health is {}", answer.status);
    }
    send_signal(pid, Signal::TERM);
    let status = timeout(SOON, daemon.wait()).await.context("it does not end at SIGTERM")??;
    ensure!(status.success(), "it ends with {status}");
    Ok(())
}

/// A pipe into which no byte fits.
fn full_pipe() -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, mut writer) = io::pipe()?;
    while has_room(&writer)? {
        writer.write_all(&PAGE)?;
    }
    Ok((reader, writer))
}

fn has_room(pipe: &PipeWriter) -> io::Result<bool> {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(poll(&mut [PollFd::new(pipe, PollFlags::OUT)], Some(&at_once))? > 0)
}
