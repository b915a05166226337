//! What can be configured: one struct a concern.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use worker_contract::HiveAlias;

use crate::{ConfigError, Paths, PortRange, read};

/// The whole configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The queen.
    pub queen: QueenConfig,
    /// The hive of this machine.
    pub hive: HiveConfig,
    /// What workers are started with where a command does not say.
    pub worker: WorkerConfig,
    /// Hives on other machines.
    pub hives: BTreeMap<HiveAlias, RemoteHive>,
}

/// `[queen]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueenConfig {
    /// Where the queen listens; port 0 takes a free one.
    pub bind: SocketAddr,
    /// The largest request, in bytes.
    pub max_body_bytes: u64,
    /// How many requests may wait for one model.
    pub max_queue_per_model: usize,
    /// How long a request may take, in seconds.
    pub request_timeout_s: u64,
    /// How many ended jobs are kept.
    pub keep_jobs: usize,
    /// How long running requests may take to end at shutdown, in seconds.
    pub drain_s: u64,
}

impl Default for QueenConfig {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from(([127, 0, 0, 1], 8500)),
            max_body_bytes: 10 * 1024 * 1024,
            max_queue_per_model: 256,
            request_timeout_s: 600,
            keep_jobs: 1000,
            drain_s: 30,
        }
    }
}

/// `[hive]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HiveConfig {
    /// Where the hive listens; port 0 takes a free one.
    pub bind: SocketAddr,
    /// The hive's name.
    pub alias: HiveAlias,
    /// The ports that workers get.
    pub worker_ports: PortRange,
    /// The queen to report to; by default the one on this machine.
    pub queen_url: Option<String>,
    /// The name or address under which the queen reaches this machine.
    pub advertise: Option<String>,
    /// How long a worker may take to end after SIGTERM, in seconds.
    pub stop_grace_s: u64,
    /// How long a worker may take to be ready, in seconds.
    pub start_timeout_s: u64,
}

impl Default for HiveConfig {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from(([127, 0, 0, 1], 9000)),
            alias: HiveAlias::localhost(),
            worker_ports: PortRange { start: 9300, end: 9399 },
            queen_url: None,
            advertise: None,
            stop_grace_s: 10,
            start_timeout_s: 600,
        }
    }
}

/// `[worker]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerConfig {
    /// How many requests a worker runs at once.
    pub slots: u32,
    /// KV cache size in tokens, for all slots together.
    pub ctx_size: u32,
    /// The time between two reports to the queen, in milliseconds.
    pub heartbeat_interval_ms: u64,
    /// Threads of the processor; by default one for each physical core.
    pub threads: Option<u32>,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self { slots: 4, ctx_size: 8192, heartbeat_interval_ms: 2000, threads: None }
    }
}

/// `[hives.NAME]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteHive {
    /// The machine's name or address, also an alias of `~/.ssh/config`.
    pub host: String,
    /// The hive's port.
    #[serde(default = "default_hive_port")]
    pub port: u16,
}

fn default_hive_port() -> u16 {
    9000
}

impl Config {
    /// Reads file and environment; a file that does not exist says nothing.
    pub fn load(paths: &Paths) -> Result<Self, ConfigError> {
        let file = &paths.config_file;
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(ConfigError::Unreadable { file: file.clone(), source }),
        };
        Self::parse(&text, file, std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }))
    }

    /// What `text` (of `file`) and the environment say together.
    pub fn parse(
        text: &str,
        file: &Path,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let config = read::merged(text, file, env)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let within = |key, value: u64, range: std::ops::RangeInclusive<u64>, allowed| {
            if range.contains(&value) {
                return Ok(());
            }
            Err(ConfigError::OutOfRange { key, value: value.to_string(), allowed })
        };
        let (queen, hive, worker) = (&self.queen, &self.hive, &self.worker);
        let positive = 1..=u64::from(u32::MAX);
        within("queen.max_body_bytes", queen.max_body_bytes, 1024..=1 << 30, "from 1024 to 1 GiB")?;
        let queue = queen.max_queue_per_model as u64;
        within("queen.max_queue_per_model", queue, 1..=65_536, "from 1 to 65536")?;
        within("queen.request_timeout_s", queen.request_timeout_s, positive.clone(), "at least 1")?;
        within("queen.keep_jobs", queen.keep_jobs as u64, 1..=1_000_000, "from 1 to 1000000")?;
        within("hive.start_timeout_s", hive.start_timeout_s, positive, "at least 1")?;
        within("worker.slots", u64::from(worker.slots), 1..=256, "from 1 to 256")?;
        let context = u64::from(worker.ctx_size);
        within("worker.ctx_size", context, 256..=1 << 24, "from 256 to 16777216")?;
        let interval = worker.heartbeat_interval_ms;
        within("worker.heartbeat_interval_ms", interval, 50..=600_000, "from 50 to 600000")?;
        let threads = u64::from(worker.threads.unwrap_or(1));
        within("worker.threads", threads, 1..=1024, "from 1 to 1024")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, env: &[(&str, &str)]) -> Result<Config, String> {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::parse(text, Path::new("config.toml"), env).map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_said_is_the_default() {
        assert_eq!(parse("", &[]).unwrap(), Config::default());
    }

    #[test]
    fn the_environment_comes_before_the_file() {
        let text = "[queen]\nbind = \"127.0.0.1:1\"\nkeep_jobs = 5\n";
        let env = [("RBEE_QUEEN__BIND", "127.0.0.1:2"), ("RBEE_WORKER__SLOTS", "7")];
        let config = parse(text, &env).unwrap();
        assert_eq!(config.queen.bind.port(), 2);
        assert_eq!((config.queen.keep_jobs, config.worker.slots), (5, 7));
    }

    #[test]
    fn a_hive_elsewhere_is_known_by_its_alias() {
        let config = parse("[hives.gpu-1]\nhost = \"gpu-1.home.arpa\"\n", &[]).unwrap();
        let hive = &config.hives[&"gpu-1".parse().unwrap()];
        assert_eq!((hive.host.as_str(), hive.port), ("gpu-1.home.arpa", 9000));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let rows = [
            ("[queen]\nbnid = \"x\"\n", ["line 2", "bnid", "bind"]),
            ("\n\n[quen]\n", ["line 3", "quen", "queen"]),
            ("[worker]\nslots = \"four\"\n", ["line 2", "slots", "four"]),
            ("[worker]\nslots = \n", ["line 2", "config.toml", ""]),
            ("[worker]\nslots = 0\n", ["worker.slots", "0", "from 1 to 256"]),
            ("[hive]\nworker_ports = \"9-1\"\n", ["line 2", "9-1", "range of ports"]),
            ("[hives.\"a/b\"]\nhost = \"x\"\n", ["a/b", "hive alias", "line 1"]),
        ];
        for (text, wanted) in rows {
            let error = parse(text, &[]).unwrap_err();
            assert!(wanted.iter().all(|part| error.contains(part)), "{wanted:?}: {error}");
        }
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let rows = [
            (("RBEE_QUEEN__BNID", "x"), ["RBEE_QUEEN__BNID", "bind"]),
            (("RBEE_QUEN__BIND", "x"), ["RBEE_QUEN__BIND", "queen"]),
            (("RBEE_WORKER__SLOTS", "many"), ["RBEE_WORKER__SLOTS", "many"]),
            (("RBEE_WORKER__SLOTS", "-1"), ["RBEE_WORKER__SLOTS", "-1"]),
        ];
        for (variable, wanted) in rows {
            let error = parse("", &[variable]).unwrap_err();
            assert!(wanted.iter().all(|part| error.contains(part)), "{wanted:?}: {error}");
        }
        assert!(parse("", &[("RBEE_LOG", "debug"), ("RBEE_HOME", "/x")]).is_ok());
    }
}
