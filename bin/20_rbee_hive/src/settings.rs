//! What a hive is started with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use access_tokens::Secret;
use daemon_lifecycle::RunFiles;
use rbee_config::{Config, HiveConfig, Paths, WorkerConfig};
use tokio::sync::mpsc;
use worker_contract::{HiveAlias, HiveHeartbeat};

use crate::HiveError;
use crate::heartbeat::HeartbeatSink;

/// What a [`Hive`](crate::Hive) is started with.
#[derive(Debug)]
pub struct HiveSettings {
    /// Its name.
    pub alias: HiveAlias,
    /// Its base URL as the queen reaches it; `None` when it is part of the queen's process.
    pub address: Option<String>,
    /// Its files.
    pub paths: Paths,
    /// Ports and deadlines.
    pub hive: HiveConfig,
    /// What workers get that are not asked for otherwise.
    pub worker: WorkerConfig,
    /// Where workers listen.
    pub worker_host: IpAddr,
    /// The host name or IP under which the queen reaches the workers.
    pub advertised_host: String,
    /// Where workers send their heartbeats.
    pub queen_url: Option<String>,
    /// Where the hive sends its own.
    pub heartbeats: HeartbeatSink,
    /// The worker's binary; `None` to look beside this program, then on the path.
    pub worker_binary: Option<PathBuf>,
}

impl HiveSettings {
    /// A hive in the queen's process: workers listen on loopback, heartbeats go through a channel.
    #[must_use]
    pub fn local(
        paths: Paths,
        config: &Config,
        queen_url: String,
        heartbeats: mpsc::Sender<HiveHeartbeat>,
    ) -> Self {
        let host = Ipv4Addr::LOCALHOST;
        Self {
            alias: HiveAlias::localhost(),
            address: None,
            paths,
            hive: config.hive.clone(),
            worker: config.worker.clone(),
            worker_host: host.into(),
            advertised_host: host.to_string(),
            queen_url: Some(queen_url),
            heartbeats: HeartbeatSink::Channel(heartbeats),
            worker_binary: None,
        }
    }

    /// A hive that is a process of its own and listens on `bound`; its workers listen on the same
    /// host. The queen is told of both under the advertised name, where there is one.
    pub fn standalone(
        paths: Paths,
        config: &Config,
        bound: SocketAddr,
        token: Secret,
    ) -> Result<Self, HiveError> {
        let hive = config.hive.clone();
        let advertised_host = advertised_host(hive.advertise.as_deref(), bound.ip())?;
        let queen_url = hive.queen_url.clone().or_else(|| queen_of_this_machine(&paths, config));
        let heartbeats = match &queen_url {
            Some(queen_url) => HeartbeatSink::Http { queen_url: queen_url.clone(), token },
            None => HeartbeatSink::None,
        };
        Ok(Self {
            alias: hive.alias.clone(),
            address: Some(base_url(&advertised_host, bound.port())),
            paths,
            hive,
            worker: config.worker.clone(),
            worker_host: bound.ip(),
            advertised_host,
            queen_url,
            heartbeats,
            worker_binary: None,
        })
    }
}

/// Where the queen listens, or will listen, if she is on this machine too.
fn queen_of_this_machine(paths: &Paths, config: &Config) -> Option<String> {
    let running = RunFiles::new(&paths.run, "queen-rbee").read_running();
    let address = running.map_or(config.queen.bind, |queen| queen.addr);
    let host = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    // Port 0 is any free one: a queen that does not run yet has none.
    (address.port() != 0).then(|| base_url(&host.to_string(), address.port()))
}

/// `http://host:port`, an IPv6 address in brackets.
pub(crate) fn base_url(host: &str, port: u16) -> String {
    if host.contains(':') {
        return format!("http://[{host}]:{port}");
    }
    format!("http://{host}:{port}")
}

/// The host under which others reach this machine: what the operator says, else where it listens.
fn advertised_host(advertise: Option<&str>, listens_on: IpAddr) -> Result<String, HiveError> {
    let Some(advertise) = advertise else {
        if listens_on.is_unspecified() {
            return Err(HiveError::AdvertiseMissing { bind: listens_on });
        }
        return Ok(listens_on.to_string());
    };
    let refused = || HiveError::Advertise { value: advertise.chars().take(100).collect() };
    if let Ok(ip) = advertise.parse::<IpAddr>() {
        return Ok(ip.to_string());
    }
    let url =
        if advertise.contains("://") { advertise.into() } else { format!("http://{advertise}") };
    let url = reqwest::Url::parse(&url).map_err(|_| refused())?;
    let host = url.host_str().filter(|_| url.scheme() == "http").ok_or_else(refused)?;
    Ok(host.trim_matches(['[', ']']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hive_that_is_told_of_no_queen_reports_to_the_one_beside_it() {
        let home = tempfile::tempdir().unwrap();
        let paths = Paths::under(home.path());
        let mut config = Config::default();
        for (bind, expected) in [
            ("127.0.0.1:8500", Some("http://127.0.0.1:8500")),
            ("0.0.0.0:8500", Some("http://127.0.0.1:8500")),
            ("[::1]:8500", Some("http://[::1]:8500")),
            ("127.0.0.1:0", None),
        ] {
            config.queen.bind = bind.parse().unwrap();
            assert_eq!(queen_of_this_machine(&paths, &config).as_deref(), expected, "{bind}");
        }
    }

    #[test]
    fn the_queen_is_told_a_host_that_it_can_reach() {
        for (advertise, bind, expected) in [
            (None, "127.0.0.1", Some("127.0.0.1")),
            (None, "fd00::1", Some("fd00::1")),
            (None, "0.0.0.0", None),
            (Some("gpu-1.home.arpa"), "0.0.0.0", Some("gpu-1.home.arpa")),
            (Some("192.168.1.7"), "0.0.0.0", Some("192.168.1.7")),
            (Some("fd00::1"), "::", Some("fd00::1")),
            (Some("http://gpu-1:9000"), "0.0.0.0", Some("gpu-1")),
            (Some("http://[fd00::1]:9000/"), "::", Some("fd00::1")),
            (Some("https://gpu-1"), "0.0.0.0", None),
            (Some("two words"), "0.0.0.0", None),
            (Some(""), "0.0.0.0", None),
        ] {
            let host = advertised_host(advertise, bind.parse().unwrap());
            assert_eq!(host.ok().as_deref(), expected, "{advertise:?} {bind}");
        }
    }
}
