//! What can go wrong with processes.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A daemon cannot be found, started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// It runs already.
    #[error("{daemon} runs already{}", place(*pid, *addr))]
    AlreadyRunning {
        /// Which one.
        daemon: String,
        /// Its pid, once it has published it.
        pid: Option<u32>,
        /// Its address, once it has published it.
        addr: Option<SocketAddr>,
    },
    /// A file of the run folder cannot be used.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program is not there.
    #[error("{name} was not found in {searched}; build it with `cargo build --release -p {package}`, or set RBEE_BIN_DIR to its folder")]
    NoBinary {
        /// The program.
        name: String,
        /// Where it was looked for.
        searched: String,
        /// The package that it is built from.
        package: String,
    },
    /// A program cannot be started.
    #[error("cannot start {binary}")]
    Start {
        /// The program.
        binary: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A process cannot be signalled.
    #[error("cannot signal process {pid}")]
    Signal {
        /// The process.
        pid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Signals cannot be received.
    #[error("cannot listen for signals")]
    Listen(#[source] io::Error),
}

fn place(pid: Option<u32>, addr: Option<SocketAddr>) -> String {
    let mut text = String::new();
    if let Some(pid) = pid {
        text.push_str(&format!(": pid {pid}"));
    }
    if let Some(addr) = addr {
        text.push_str(&format!(", {addr}"));
    }
    text
}
