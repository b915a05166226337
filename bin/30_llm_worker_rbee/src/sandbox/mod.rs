//! What a worker gives up, so that a model that takes over its engine gets little.
//!
//! It gives up in two steps, which only ever take rights away:
//!
//! 1. [`Sandbox::enter`], before there is a second thread, so that it binds all of them, those of
//!    llama.cpp and of drivers included. From here on the process reads the model, libraries and the
//!    system's settings, writes to nothing but devices and, on a graphics card, caches of compiled shaders and
//!    what the kernel shows of its own threads, runs no program and connects to the queen's port only. The
//!    file is parsed behind this.
//! 2. [`Sandbox::after_load`], on the engine's thread and so for the threads it starts later: on the
//!    processor it opens no file and makes no connection any more. System calls that could run a
//!    program or open other sockets are refused to all threads.
//!
//! Files and TCP are the kernel's Landlock, system calls are seccomp; both are Linux's. A kernel that
//! lacks one is no reason not to start: the log says what holds, and what does not and why.
//!
//! Not covered: memory and time (the process ends alone), and the address that the queen's port is on
//! (Landlock knows ports only).

mod report;
mod rights;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(not(target_os = "linux"))]
use other as system;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use worker_contract::DeviceKind;

/// Whether a worker gives up rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// All that the kernel can enforce.
    Auto,
    /// None: for a debugger, or a driver that needs more.
    Off,
}

/// What a worker goes on needing.
#[derive(Debug, Clone)]
pub struct Needs {
    /// The files that are loaded: the model with all its parts, adapters, a draft model.
    pub files: Vec<PathBuf>,
    /// The folder of the engine's libraries, where it is known.
    pub engine: Option<PathBuf>,
    /// The port to listen on; 0 for a free one.
    pub listen: u16,
    /// The queen that is reported to.
    pub queen: Option<QueenAddress>,
    /// What the model runs on.
    pub device: DeviceKind,
}

/// How the queen is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueenAddress {
    /// Her TCP port.
    pub port: u16,
    /// Whether her host is a name that has to be looked up.
    pub is_name: bool,
}

impl QueenAddress {
    /// The address in a URL; `None` where it has none.
    #[must_use]
    pub fn of(url: &str) -> Option<Self> {
        let url = reqwest::Url::parse(url).ok()?;
        let host = url.host_str()?;
        // An IPv6 address stands in brackets, which no name has.
        let is_name = host.parse::<std::net::Ipv4Addr>().is_err() && !host.starts_with('[');
        Some(Self { port: url.port_or_known_default()?, is_name })
    }
}

/// A process that gives up rights; by default one that keeps them.
#[derive(Debug, Clone, Default)]
pub struct Sandbox(Option<Arc<Entered>>);

/// What a process goes on needing, and what the kernel enforces since its start.
#[derive(Debug)]
struct Entered {
    needs: Needs,
    at_start: Outcome,
    /// Holds the folder of the process's threads in the kernel's memory. One that it reads anew is another
    /// to Landlock, and the right to write there would be lost.
    _threads: Option<File>,
}

impl Sandbox {
    /// Gives up what the process never needs.
    ///
    /// It binds the calling thread and those that it starts: to be called before there are others.
    #[must_use]
    pub fn enter(mode: Mode, needs: Needs) -> Self {
        if mode == Mode::Off {
            return Self::default();
        }
        let threads = File::open(rights::THREADS).ok();
        let rights = rights::at_start(&needs, &|name| std::env::var_os(name));
        let at_start = system::at_start(&rights);
        Self(Some(Arc::new(Entered { needs, at_start, _threads: threads })))
    }

    /// Says in the log what was given up at the start: the log is written by a thread, which comes later.
    pub fn tell(&self) {
        let Some(entered) = &self.0 else {
            tracing::warn!("sandbox: off, so this process keeps all rights of its user");
            return;
        };
        tracing::info!("sandbox: {}", report::at_start(&entered.at_start, &entered.needs));
    }

    /// Gives up what is not needed once the model is loaded, and says so in the log.
    ///
    /// Files and connections are given up by the calling thread and those that it starts, which should
    /// be the engine's; system calls by all threads.
    pub fn after_load(&self) {
        let Some(entered) = &self.0 else { return };
        let needs = &entered.needs;
        let rights = rights::after_load(needs, &|name| std::env::var_os(name));
        let outcome = system::after_load(&rights, needs.queen);
        tracing::info!("sandbox: {}", report::after_load(&outcome, needs));
    }
}

/// What the kernel enforces of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    /// Files and TCP: the version of Landlock's interface, or why it is not enforced.
    landlock: Result<u32, String>,
    /// System calls: that they are refused, or why not.
    seccomp: Result<(), String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queens_address_is_taken_from_her_url() {
        let rows = [
            ("http://127.0.0.1:8500", Some((8500, false))),
            ("http://[::1]:8500/", Some((8500, false))),
            ("http://localhost:8500", Some((8500, true))),
            ("https://queen.home.arpa", Some((443, true))),
            ("http://queen", Some((80, true))),
            ("queen:8500", None),
            ("nonsense", None),
        ];
        for (url, wanted) in rows {
            let found = QueenAddress::of(url).map(|a| (a.port, a.is_name));
            assert_eq!(found, wanted, "{url}");
        }
    }
}
