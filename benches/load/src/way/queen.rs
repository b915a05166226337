//! The queen in a home of her own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::Process;

/// How long she may take to start.
const START: Duration = Duration::from_secs(20);

/// A free port, and room for everybody who comes.
const CONFIG: &str = "[queen]
bind = \"127.0.0.1:0\"
max_queue_per_model = 20000
request_timeout_s = 3600
";

/// A running queen.
#[derive(Debug)]
pub(crate) struct Queen {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    /// The file with her local secret.
    pub(crate) secret: PathBuf,
}

impl Queen {
    /// Starts a queen and waits until she listens.
    pub(crate) async fn start(program: &Path) -> Result<Self> {
        let dir = TempDir::with_prefix("rbee-load-queen-")?;
        fs::write(dir.path().join("config.toml"), CONFIG)?;
        let mut command = Command::new(program);
        command.env("RBEE_HOME", dir.path()).env("RBEE_LOG", "warn");
        let process = Process::start(&mut command, dir)?;
        let home = process.dir();
        let give_up = Instant::now() + START;
        let address = loop {
            let file = fs::read_to_string(home.join("run/queen-rbee.addr")).unwrap_or_default();
            if let Ok(address) = file.trim().trim_start_matches("http://").parse() {
                break address;
            }
            if Instant::now() > give_up {
                bail!("the queen does not start\n{}", process.log());
            }
            sleep(Duration::from_millis(20)).await;
        };
        let secret = home.join("data/secrets/local.token");
        let queen = Self { process, address, secret };
        queen.read_secret()?;
        Ok(queen)
    }

    /// Her URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Her local secret.
    pub(crate) fn read_secret(&self) -> Result<String> {
        let secret = fs::read_to_string(&self.secret).context("the queen made no secret")?;
        Ok(secret.trim().to_owned())
    }
}
