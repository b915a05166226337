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
    #[error("cannot use {}{}", path.display(), advice(source))]
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

/// What to do, as far as one can be sure of that.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": free some space on its disk, and start again"
        }
        _ => "",
    }
}

fn who(pid: Option<u32>, addr: Option<SocketAddr>) -> String {
    let pid = pid.map(|pid| format!(" as process {pid}")).unwrap_or_default();
    let addr = addr.map(|addr| format!(" at {addr}")).unwrap_or_default();
    pid + &addr
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_full_disk_is_told_to_free_some_space() {
        for (kind, advice) in [
            (io::ErrorKind::StorageFull, ": free some space on its disk, and start again"),
            (io::ErrorKind::QuotaExceeded, ": free some space on its disk, and start again"),
            (io::ErrorKind::PermissionDenied, ""),
        ] {
            let (path, source) = (PathBuf::from("/run/queen-rbee.addr"), kind.into());
            let told = LifecycleError::File { path, source }.to_string();
            assert_eq!(told, format!("cannot use /run/queen-rbee.addr{advice}"), "{kind}");
        }
    }
}
