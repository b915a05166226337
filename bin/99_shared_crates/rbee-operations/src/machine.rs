//! Operations on hives of other machines.

use std::fmt;

use serde::{Deserialize, Serialize};
use worker_contract::HiveAlias;

use crate::SshTarget;

/// A hive of another machine: reached by SSH, or, where it runs already, at its URL.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HiveAdd {
    /// Its name.
    pub hive_id: HiveAlias,
    /// Where `ssh` goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<SshTarget>,
    /// The base URL of a hive that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The secret of a hive that runs. It is kept by nobody but the queen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Where a hive that is installed is to listen; 9000 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The host name or address at which the queen reaches the machine; where SSH goes if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
}

/// What is to be installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HiveInstall {
    /// The hive.
    pub hive_id: HiveAlias,
    /// The base URL at which the machine reaches the queen; found out if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queen_url: Option<String>,
}

/// What is to be taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HiveUninstall {
    /// The hive.
    pub hive_id: HiveAlias,
    /// Whether its models go, too.
    #[serde(default)]
    pub purge: bool,
}

/// The end of a hive's log. Followed, each event `log` of the job has some lines as its message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HiveLogs {
    /// The hive; `localhost` if left out.
    #[serde(default = "HiveAlias::localhost")]
    pub hive_id: HiveAlias,
    /// How many lines.
    #[serde(default = "some_lines")]
    pub lines: u16,
    /// Whether to go on with those that are written from now on, until the job is cancelled.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
}

/// A search on the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HiveDiscover {
    /// How long answers are waited for, in milliseconds.
    #[serde(default = "some_time")]
    pub wait_ms: u32,
}

/// A hive that announces itself on the network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DiscoveredHive {
    /// Its name, as it says.
    pub hive_id: HiveAlias,
    /// Its base URL.
    pub url: String,
    /// Its version, as it says.
    #[serde(default)]
    pub version: String,
    /// Whether the queen has it already.
    #[serde(default)]
    pub is_known: bool,
}

/// A host of the queen's `~/.ssh/config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshHost {
    /// Its alias there.
    pub alias: String,
    /// The host that it stands for.
    pub host: String,
    /// The user, where one is named.
    #[serde(default)]
    pub user: Option<String>,
    /// The port, where one is named.
    #[serde(default)]
    pub port: Option<u16>,
    /// The hive that was added with it, if one was.
    #[serde(default)]
    pub hive_id: Option<HiveAlias>,
}

fn some_time() -> u32 {
    3000
}

fn some_lines() -> u16 {
    100
}

impl fmt::Debug for HiveAdd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hive_id, ssh, url, secret, port, advertise } = self;
        f.debug_struct("HiveAdd")
            .field("hive_id", hive_id)
            .field("ssh", ssh)
            .field("url", url)
            .field("secret", &secret.as_ref().map(|_| "[secret]"))
            .field("port", port)
            .field("advertise", advertise)
            .finish()
    }
}
