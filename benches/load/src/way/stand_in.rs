//! The stand-in in a process of its own.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::{MODEL, Queen};

/// Stand-in workers that report to a queen. Dropping them ends them.
#[derive(Debug)]
pub(super) struct Workers {
    child: Child,
    pub(super) addresses: Vec<SocketAddr>,
}

impl Workers {
    /// Starts so many, with so many slots each.
    pub(super) fn start(count: u32, slots: u32, queen: &Queen) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["stand-in", "--model", MODEL])
            .args(["--workers", &count.to_string()])
            .args(["--slots", &slots.to_string()])
            .args(["--queen", &queen.url(), "--token-file"])
            .arg(&queen.secret)
            // It ends when this closes, however this process ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let mut addresses = Vec::new();
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            let Some(address) = line.strip_prefix("http://") else { break };
            addresses.push(address.parse()?);
        }
        ensure!(addresses.len() == count as usize, "the stand-in does not serve");
        Ok(Self { child, addresses })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
