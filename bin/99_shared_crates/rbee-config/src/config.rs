//! Every setting, its default and its bounds.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use rbee_operations::ModelPolicy;
use serde::{Deserialize, Serialize};
use worker_contract::{HiveAlias, ModelAlias};

use crate::PortRange;
use crate::arguments::arguments;
use crate::bounds::{
    address, body_size, flag, host_name, hub_url, queen_url, some_host_name, some_pem_file,
    some_size, some_within, within,
};

/// All settings. Parsed values are within the bounds that the fields name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of settings")]
pub struct Config {
    /// `[queen]`: the queen's own.
    pub queen: QueenConfig,
    /// `[hive]`: those of the hive on this machine.
    pub hive: HiveConfig,
    /// `[worker]`: what the hive gives its workers.
    pub worker: WorkerConfig,
    /// `[hives.NAME]`: machines that the queen reaches over the network, so none is `localhost`.
    pub hives: BTreeMap<HiveAlias, RemoteHive>,
    /// `[models.NAME]`: how many workers a model has, where, and for how long.
    pub models: BTreeMap<ModelAlias, ModelPolicy>,
}

/// Settings of the queen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of settings")]
pub struct QueenConfig {
    /// Where it listens; port 0 takes a free one. Default `127.0.0.1:8500`.
    #[serde(deserialize_with = "address")]
    pub bind: SocketAddr,
    /// The host name or address under which hives of other machines reach it. Default: found out when
    /// a hive is installed.
    #[serde(deserialize_with = "some_host_name")]
    pub advertise: Option<String>,
    /// The largest request body, in bytes or as a size such as `10 MiB`, 1 KiB to 1 GiB. Default 10 MiB.
    #[serde(deserialize_with = "body_size")]
    pub max_body_bytes: u64,
    /// How many requests may wait for one model, 1 to 100,000. Default 256.
    #[serde(deserialize_with = "within::<_, _, 1, 100_000>")]
    pub max_queue_per_model: usize,
    /// How long a request may take in all, in seconds, up to a day. Default 600.
    #[serde(deserialize_with = "within::<_, _, 1, 86_400>")]
    pub request_timeout_s: u64,
    /// How long a worker that computes an answer may say nothing before another one goes on with it, in
    /// seconds, up to an hour; a long prompt may take longer. Default 30.
    #[serde(deserialize_with = "within::<_, _, 1, 3600>")]
    pub stall_timeout_s: u64,
    /// After how many seconds without a request a worker is ended, 0 for never, up to 30 days; a model's
    /// policy can say otherwise. Default 900.
    #[serde(deserialize_with = "within::<_, _, 0, 2_592_000>")]
    pub idle_ttl_s: u64,
    /// A PEM file of certificate authorities that attached servers may have their certificates from, besides
    /// those of the system; read at the first connection to one by TLS. Default: none.
    #[serde(deserialize_with = "some_pem_file")]
    pub server_ca_file: Option<PathBuf>,
    /// How many ended jobs are kept, 1 to 100,000. Default 1000.
    #[serde(deserialize_with = "within::<_, _, 1, 100_000>")]
    pub keep_jobs: usize,
    /// How long running requests may take to end at shutdown, in seconds, up to an hour.
    /// Default 30.
    #[serde(deserialize_with = "within::<_, _, 0, 3600>")]
    pub drain_s: u64,
    /// How many threads carry requests, besides those for everything else, 1 to 64. Default: a quarter of the
    /// processors, 1 to 8.
    #[serde(deserialize_with = "some_within::<_, _, 1, 64>")]
    pub threads: Option<u32>,
}

/// Settings of the hive on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of settings")]
pub struct HiveConfig {
    /// Where it listens; port 0 takes a free one. Default `127.0.0.1:9000`.
    #[serde(deserialize_with = "address")]
    pub bind: SocketAddr,
    /// Its name among the queen's hives. Default `localhost`.
    pub alias: HiveAlias,
    /// The ports of its workers. Default `9300-9399`.
    pub worker_ports: PortRange,
    /// The queen's base URL, `http://HOST:PORT`, for heartbeats. Default: that of the queen of this machine, at
    /// `[queen] bind`.
    #[serde(deserialize_with = "queen_url")]
    pub queen_url: Option<String>,
    /// The host name or address under which the queen reaches this machine. Default: where it
    /// listens.
    #[serde(deserialize_with = "some_host_name")]
    pub advertise: Option<String>,
    /// Whether it announces itself by mDNS where other machines can reach it. Default true.
    #[serde(deserialize_with = "flag")]
    pub announce: bool,
    /// How long a worker may take to end before it is killed, in seconds, up to an hour.
    /// Default 10.
    #[serde(deserialize_with = "within::<_, _, 0, 3600>")]
    pub stop_grace_s: u64,
    /// How long a worker may take until it is ready, in seconds, up to a day. Default 600.
    #[serde(deserialize_with = "within::<_, _, 1, 86_400>")]
    pub start_timeout_s: u64,
    /// The hub of `hf:` models, or a mirror of it. Default: `HF_ENDPOINT`, else Hugging Face.
    #[serde(deserialize_with = "hub_url")]
    pub hf_endpoint: Option<String>,
    /// How many connections fetch one file where one alone is slow, 1 to 16. Default 4.
    #[serde(deserialize_with = "within::<_, _, 1, 16>")]
    pub download_connections: u32,
    /// How long a download waits for a silent server, in seconds, up to an hour. Default 30.
    #[serde(deserialize_with = "within::<_, _, 1, 3600>")]
    pub download_stall_s: u64,
    /// How often a download tries again without having got anything, up to 100. Default 8.
    #[serde(deserialize_with = "within::<_, _, 0, 100>")]
    pub download_retries: u32,
    /// How long a ready worker may give no sign of life until it is ended and started again, in
    /// seconds, up to an hour. Default 15.
    #[serde(deserialize_with = "within::<_, _, 1, 3600>")]
    pub unresponsive_after_s: u64,
    /// How often a worker may fail within `failure_window_s` until it is not started again, 1 to 100.
    /// Default 5.
    #[serde(deserialize_with = "within::<_, _, 1, 100>")]
    pub max_failures: u32,
    /// For how long a failure counts, in seconds, up to a day. Default 600.
    #[serde(deserialize_with = "within::<_, _, 1, 86_400>")]
    pub failure_window_s: u64,
    /// Whether workers start although their weights together do not fit into main memory, so that they are
    /// read from the disk again and again. Default false.
    #[serde(deserialize_with = "flag")]
    pub overcommit_memory: bool,
    /// The most main memory that its workers may have together, in bytes or as a size such as `8 GiB`, at
    /// least 1 MiB. Default: what the machine, or the control group that the hive runs in, has.
    #[serde(deserialize_with = "some_size")]
    pub memory: Option<u64>,
}

/// Settings of workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a section of settings")]
pub struct WorkerConfig {
    /// How many requests run at once in one worker, 1 to 256. Default 4.
    #[serde(deserialize_with = "within::<_, _, 1, 256>")]
    pub slots: u32,
    /// The tokens of context that all slots of a worker share, 256 to 16,777,216. Default 8192.
    #[serde(deserialize_with = "within::<_, _, 256, 16_777_216>")]
    pub ctx_size: u32,
    /// How often a worker reports to the queen, in milliseconds, 50 to 60,000. Default 2000.
    #[serde(deserialize_with = "within::<_, _, 50, 60_000>")]
    pub heartbeat_interval_ms: u64,
    /// How many threads a worker computes with, 1 to 1024. Default: the worker chooses.
    #[serde(deserialize_with = "some_within::<_, _, 1, 1024>")]
    pub threads: Option<u32>,
    /// Further arguments of each worker that a hive starts, as `llm-worker-rbee --help` lists them; in
    /// the environment, words between spaces. Default: none.
    #[serde(deserialize_with = "arguments")]
    pub arguments: Vec<String>,
}

/// A hive on another machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section of settings")]
pub struct RemoteHive {
    /// Its host name, address, or alias of `~/.ssh/config`.
    #[serde(deserialize_with = "host_name")]
    pub host: String,
    /// The port of its hive. Default 9000.
    #[serde(default = "hive_port", deserialize_with = "within::<_, _, 1, 65_535>")]
    pub port: u16,
}

impl Default for QueenConfig {
    fn default() -> Self {
        Self {
            bind: loopback(8500),
            advertise: None,
            max_body_bytes: 10 * 1024 * 1024,
            max_queue_per_model: 256,
            request_timeout_s: 600,
            stall_timeout_s: 30,
            idle_ttl_s: 900,
            server_ca_file: None,
            keep_jobs: 1000,
            drain_s: 30,
            threads: None,
        }
    }
}

impl Default for HiveConfig {
    fn default() -> Self {
        Self {
            bind: loopback(hive_port()),
            alias: HiveAlias::localhost(),
            worker_ports: PortRange { start: 9300, end: 9399 },
            queen_url: None,
            advertise: None,
            announce: true,
            stop_grace_s: 10,
            start_timeout_s: 600,
            hf_endpoint: None,
            download_connections: 4,
            download_stall_s: 30,
            download_retries: 8,
            unresponsive_after_s: 15,
            max_failures: 5,
            failure_window_s: 600,
            overcommit_memory: false,
            memory: None,
        }
    }
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            slots: 4,
            ctx_size: 8192,
            heartbeat_interval_ms: 2000,
            threads: None,
            arguments: Vec::new(),
        }
    }
}

fn hive_port() -> u16 {
    9000
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
