//! What SSH tells of a hive that does not report.

use job_server::JobError;
use serde::Serialize;
use worker_contract::HiveAlias;

use super::{RemoteHives, Shell};

/// How much of its log tells why a hive does not run, in lines.
const LAST_WORDS: &str = "5";

/// What was found on a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Found {
    /// How it is, and what to do, for a person.
    pub(crate) summary: String,
    /// How the hive's log ends, where that tells more.
    pub(crate) log: Option<String>,
}

impl RemoteHives {
    /// Looks at the machine of a hive. That it cannot be reached is an answer, too.
    pub(crate) async fn look(&self, hive: &HiveAlias) -> Found {
        match self.look_at(hive).await {
            Ok(found) => found,
            Err(JobError { message, hint, .. }) => {
                let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
                Found { summary: format!("{message}{hint}"), log: None }
            }
        }
    }

    async fn look_at(&self, hive: &HiveAlias) -> Result<Found, JobError> {
        let (_, target) = self.machine(hive)?;
        let shell = Shell::connect(hive, &target).await?;
        let probe = shell.probe().await?;
        let log = shell.run("read the log", &["logs", LAST_WORDS], b"").await.ok();
        shell.ssh.close().await;
        let summary = match probe.installed {
            None => format!(
                "its machine answers by SSH, and no hive is installed there: \
                 rbee-keeper hive install {hive}"
            ),
            Some(other) if other.alias != hive.as_str() => {
                format!("its machine answers by SSH, and hive {} is installed there", other.alias)
            }
            Some(_) if probe.is_running => format!(
                "its machine answers by SSH and the hive runs there, so its reports do not reach the queen: \
                 see rbee-keeper hive logs {hive}; a firewall may be in between, or her address be another one"
            ),
            Some(_) => format!(
                "its machine answers by SSH, and the hive does not run: rbee-keeper hive start {hive}"
            ),
        };
        Ok(Found { summary, log })
    }
}
