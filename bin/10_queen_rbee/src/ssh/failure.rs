//! What went wrong with `ssh`, understood from its own words, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rbee_operations::SshTarget;

/// A machine cannot be reached by SSH, or something there failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SshError {
    /// There is no `ssh` on the queen's machine.
    #[error("there is no `ssh` on the queen's machine")]
    NoProgram,
    /// The host's key is not known.
    #[error("the host key of {target} is not known to the queen's user")]
    UnknownHost { target: SshTarget },
    /// The host's key is another one than before.
    #[error(
        "the host key of {target} has changed since it was accepted: it is another machine, or somebody is in between"
    )]
    ChangedHost { target: SshTarget },
    /// No key is accepted.
    #[error("{target} accepts none of the queen's SSH keys: {reason}")]
    Denied { target: SshTarget, reason: String },
    /// There is no connection.
    #[error("{target} cannot be reached by SSH: {reason}")]
    Unreachable { target: SshTarget, reason: String },
    /// The connection broke.
    #[error("the SSH connection to {target} broke{}", because(reason))]
    Lost { target: SshTarget, script: &'static str, reason: String },
    /// A script failed over there.
    #[error("{}", words(*status, message))]
    Script {
        script: &'static str,
        status: i32,
        /// What it said.
        message: String,
    },
    /// A script does not end.
    #[error("it has not ended after {} s", limit.as_secs())]
    Slow { script: &'static str, limit: Duration },
    /// A file of the queen's machine cannot be read.
    #[error("{} cannot be read", file.display())]
    Local {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl SshError {
    /// What a failed connection means.
    pub(super) fn of_connection(target: &SshTarget, error: &openssh::Error) -> Self {
        let cause = match error {
            openssh::Error::Connect(cause) | openssh::Error::Master(cause) => cause,
            other => {
                let reason = crate::remote_hive::with_causes(other);
                return Self::Unreachable { target: target.clone(), reason };
            }
        };
        if cause.kind() == io::ErrorKind::NotFound {
            return Self::NoProgram;
        }
        Self::of_words(target, &cause.to_string())
    }

    fn of_words(target: &SshTarget, words: &str) -> Self {
        let target = target.clone();
        let has = |text: &str| words.contains(text);
        if has("REMOTE HOST IDENTIFICATION HAS CHANGED") {
            return Self::ChangedHost { target };
        }
        if has("Host key verification failed") || has("host key is known for") {
            return Self::UnknownHost { target };
        }
        let reason = last_line(words);
        if has("Permission denied") || has("Too many authentication failures") {
            return Self::Denied { target, reason };
        }
        Self::Unreachable { target, reason }
    }

    /// A stable machine name.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NoProgram => "ssh_missing",
            Self::UnknownHost { .. } => "ssh_unknown_host",
            Self::ChangedHost { .. } => "ssh_host_changed",
            Self::Denied { .. } => "ssh_denied",
            Self::Unreachable { .. } => "ssh_unreachable",
            Self::Lost { .. } => "ssh_lost",
            Self::Script { .. } => "remote_step_failed",
            Self::Slow { .. } => "remote_step_slow",
            Self::Local { .. } => "local_file_unreadable",
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoProgram => {
                "install OpenSSH's client: apt-get install openssh-client".to_owned()
            }
            Self::UnknownHost { target } => format!(
                "on the queen's machine, as her user, run `{}`, compare the fingerprint, and accept it",
                target.command("ssh")
            ),
            Self::ChangedHost { target } => format!(
                "only if you know why: on the queen's machine run `ssh-keygen -R {}`, then `{}`",
                target.host(),
                target.command("ssh")
            ),
            Self::Denied { target, .. } => format!(
                "on the queen's machine, as her user: `{}`; a key with a passphrase must be in the agent that the queen was started with",
                target.command("ssh-copy-id")
            ),
            Self::Unreachable { target, .. } => {
                format!(
                    "on the queen's machine, as her user, `{}` shows more",
                    target.command("ssh -v")
                )
            }
            Self::Lost { .. } => {
                "when the machine is reachable again, give the command again".to_owned()
            }
            Self::Script { message, .. } => return hint_of_script(message).map(str::to_owned),
            Self::Slow { .. } => "the machine may be overloaded; give the command again".to_owned(),
            Self::Local { .. } => return None,
        })
    }

    /// Whether the machine may come back by itself.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Slow { .. })
    }
}

fn hint_of_script(message: &str) -> Option<&'static str> {
    let has = |text: &str| message.contains(text);
    if has("No space left on device") || has("Disk quota exceeded") {
        return Some("free some space in the home folder of that machine");
    }
    if has("error while loading shared libraries") {
        return Some(
            "install the library on that machine; on Debian and Ubuntu: apt-get install libgomp1 libstdc++6 libssl3",
        );
    }
    if has("GLIBC") {
        return Some(
            "that machine's system is older than the one that rbee was built on: build rbee there",
        );
    }
    if has("Permission denied") || has("Read-only file system") {
        return Some("the user of that machine must be able to write into the home folder");
    }
    None
}

fn because(reason: &str) -> String {
    match last_line(reason) {
        reason if reason.is_empty() => String::new(),
        reason => format!(": {reason}"),
    }
}

fn words(status: i32, message: &str) -> String {
    if message.is_empty() { format!("it ended with status {status}") } else { message.to_owned() }
}

/// `ssh` says the most important at the end.
fn last_line(words: &str) -> String {
    words.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_ssh_become_a_reason_and_advice() {
        let target: SshTarget = "bee@gpu-1:2222".parse().unwrap();
        for (words, code, advice) in [
            (
                "No ED25519 host key is known for [gpu-1]:2222 and you have requested strict checking.\r\nHost key verification failed.",
                "ssh_unknown_host",
                "ssh -p 2222 bee@gpu-1",
            ),
            (
                "@@@\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nHost key verification failed.",
                "ssh_host_changed",
                "ssh-keygen -R gpu-1",
            ),
            (
                "bee@gpu-1: Permission denied (publickey).",
                "ssh_denied",
                "ssh-copy-id -p 2222 bee@gpu-1",
            ),
            ("connect to host gpu-1 port 2222: Connection refused", "ssh_unreachable", "ssh -v"),
            (
                "Could not resolve hostname gpu-1: Name or service not known",
                "ssh_unreachable",
                "ssh -v",
            ),
        ] {
            let error = SshError::of_words(&target, words);
            assert_eq!(error.code(), code, "{words}");
            let hint = error.hint().unwrap_or_default();
            assert!(hint.contains(advice), "{hint}");
        }
    }

    #[test]
    fn a_full_disk_and_a_missing_library_have_their_advice() {
        for (message, advice) in [
            ("cat: write error: No space left on device", "free some space"),
            ("error while loading shared libraries: libgomp.so.1: cannot open", "libgomp1"),
            ("version `GLIBC_2.38' not found", "build rbee there"),
        ] {
            let message = message.to_owned();
            let error = SshError::Script { script: "receive", status: 1, message };
            assert!(error.hint().unwrap_or_default().contains(advice), "{error}");
        }
    }
}
