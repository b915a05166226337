//! Shepherd Model Gateway in front of OpenAI's API.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use super::{Process, free_port};

/// Starts SMG in front of workers.
pub(super) fn start(program: &Path, workers: &[SocketAddr]) -> Result<(Process, SocketAddr)> {
    let dir = TempDir::with_prefix("rbee-load-smg-")?;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let mut command = Command::new(std::path::absolute(program)?);
    command.arg("launch").arg("--worker-urls");
    command.args(workers.iter().map(|worker| format!("http://{worker}")));
    command.args(["--policy", "round_robin", "--host", "127.0.0.1"]);
    command.args(["--port", &address.port().to_string()]);
    command.args(["--prometheus-host", "127.0.0.1"]);
    command.args(["--prometheus-port", &free_port()?.to_string()]);
    command.args(["--log-level", "error", "--disable-tokenizer-autoload"]);
    // Without a limit of its own, as the others.
    command.args(["--max-concurrent-requests", "-1"]);
    command.current_dir(dir.path());
    Ok((Process::start(&mut command, dir)?, address))
}
