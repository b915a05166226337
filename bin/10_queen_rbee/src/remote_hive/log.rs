//! The log of a hive on another machine.

use job_server::JobError;
use worker_contract::HiveAlias;

use super::{RemoteHives, Shell};

/// A log, and the connection to its machine.
#[derive(Debug)]
pub(crate) struct RemoteLog {
    shell: Shell,
}

impl RemoteHives {
    /// The last lines of a hive's log.
    pub(crate) async fn logs(&self, hive: &HiveAlias, lines: u16) -> Result<String, JobError> {
        let (_, target) = self.machine(hive)?;
        let shell = Shell::connect(hive, &target).await?;
        let text = shell.run("read the log", &["logs", &lines.to_string()], b"").await?;
        shell.ssh.close().await;
        Ok(text)
    }

    /// A hive's log, to be followed over one connection.
    pub(crate) async fn open_log(&self, hive: &HiveAlias) -> Result<RemoteLog, JobError> {
        let (_, target) = self.machine(hive)?;
        Ok(RemoteLog { shell: Shell::connect(hive, &target).await? })
    }
}

impl RemoteLog {
    /// What is after the first `from` bytes, or the last lines, and where that ends.
    pub(crate) async fn read(
        &self,
        from: Option<u64>,
        lines: u16,
    ) -> Result<(u64, String), JobError> {
        let from = from.map_or_else(|| "-".to_owned(), |from| from.to_string());
        let arguments = ["follow", &from, &lines.to_string()];
        let said = self.shell.run("read the log", &arguments, b"").await?;
        let end = said.split_once('\n').and_then(|(end, text)| Some((end.parse().ok()?, text)));
        let (end, text) = end.ok_or_else(|| {
            JobError::new("unexpected_answer", "the machine does not say how long the log is")
        })?;
        Ok((end, text.to_owned()))
    }

    /// Ends the connection.
    pub(crate) async fn close(self) {
        self.shell.ssh.close().await;
    }
}
