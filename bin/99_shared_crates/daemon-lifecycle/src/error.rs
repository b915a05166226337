//! What can go wrong with a daemon's process.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A daemon cannot be found, started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// The daemon runs already.
    #[error("{daemon} runs already{}", who(*pid, *addr))]
    AlreadyRunning {
        /// The daemon.
        daemon: String,
        /// Its process id, where it has told it yet.
        pid: Option<u32>,
        /// Its address, where it listens yet.
        addr: Option<SocketAddr>,
    },
    /// A file cannot be used.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A binary is nowhere to be found.
    #[error(
        "there is no {name}; build it with `cargo build --release -p {name}`, or set RBEE_BIN_DIR to the folder that has it (looked in {looked_in})"
    )]
    NoBinary {
        /// The binary.
        name: String,
        /// The folders that were looked in.
        looked_in: String,
    },
    /// The folder that was named for binaries is none.
    #[error(
        "RBEE_BIN_DIR names {}, and there is no such folder: correct it, or unset it to have rbee look \
         beside its own program",
        folder.display()
    )]
    NoBinaryFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// A binary cannot be started.
    #[error("cannot start {}", binary.display())]
    Start {
        /// The binary.
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
    /// A process has not ended although it was killed: the kernel is busy with it.
    #[error("process {pid} was killed but has not ended; it waits for a device or a disk")]
    Unkillable {
        /// The process.
        pid: u32,
    },
    /// Signals cannot be received.
    #[error("cannot listen to signals")]
    Signals(#[source] io::Error),
}

fn who(pid: Option<u32>, addr: Option<SocketAddr>) -> String {
    let pid = pid.map(|pid| format!(" as process {pid}")).unwrap_or_default();
    let addr = addr.map(|addr| format!(" at {addr}")).unwrap_or_default();
    pid + &addr
}
