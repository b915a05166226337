//! Under which addresses queen and hive reach each other. Pure.

use std::net::{IpAddr, SocketAddr};

use reqwest::Url;
use worker_contract::HiveAlias;

use super::probe::Probe;
use crate::inventory::{Machine, url_of};

/// Where the queen is.
#[derive(Debug, Clone)]
pub(crate) struct QueenAddress {
    /// Where she listens.
    pub(crate) bound: SocketAddr,
    /// The host under which others reach her, where somebody said so.
    pub(crate) advertise: Option<String>,
}

/// How the two find each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Addresses {
    /// The queen, as the hive reaches her.
    pub(super) queen_url: String,
    /// Where the hive listens.
    pub(super) bind: SocketAddr,
    /// The hive's host, as the queen reaches it.
    pub(super) host: String,
}

/// They cannot find each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoAddress {
    #[error("the queen listens on {bound} only, which {hive} cannot reach")]
    QueenIsAlone { bound: SocketAddr, hive: HiveAlias },
    #[error("{url:?} is not a base URL such as http://192.168.1.5:8500")]
    BadUrl { url: String },
    #[error("SSH does not tell which addresses the two machines have")]
    Unknown,
}

impl NoAddress {
    pub(super) fn hint(&self) -> String {
        match self {
            Self::QueenIsAlone { .. } => "let her listen for other machines: `rbee-keeper token create --name me`, then \
                 `rbee-keeper queen stop` and `rbee-keeper queen start --bind 0.0.0.0:8500` (or [queen] bind in config.toml); \
                 or name a URL that leads to her from there: --queen-url URL"
                .to_owned(),
            Self::BadUrl { .. } => "give scheme, host and port: http://HOST:PORT".to_owned(),
            Self::Unknown => "say them: [queen] advertise = \"HOST\" in config.toml, and `rbee-keeper hive add … --advertise HOST`".to_owned(),
        }
    }
}

/// What was said comes first, then what SSH's connection shows.
pub(super) fn addresses(
    hive: &HiveAlias,
    machine: &Machine,
    queen: &QueenAddress,
    queen_url: Option<&str>,
    probe: &Probe,
) -> Result<Addresses, NoAddress> {
    let queen_url = match queen_url {
        Some(url) => base(url)?,
        None => url_of(&queen_host(hive, queen, probe)?, queen.bound.port()),
    };
    let reached = probe.reached.ok_or(NoAddress::Unknown)?;
    let host = machine.advertise.clone().unwrap_or_else(|| reached.to_string());
    let any: IpAddr = if reached.is_ipv6() {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv4Addr::UNSPECIFIED.into()
    };
    Ok(Addresses { queen_url, bind: SocketAddr::new(any, machine.port), host })
}

fn queen_host(hive: &HiveAlias, queen: &QueenAddress, probe: &Probe) -> Result<String, NoAddress> {
    let ip = queen.bound.ip().to_canonical();
    if ip.is_loopback() {
        // A hive of the queen's own machine, reached by SSH all the same.
        let is_here = probe.came_from.is_some_and(|ip| ip.to_canonical().is_loopback());
        return if is_here {
            Ok(ip.to_string())
        } else {
            Err(NoAddress::QueenIsAlone { bound: queen.bound, hive: hive.clone() })
        };
    }
    if let Some(host) = &queen.advertise {
        return Ok(host.clone());
    }
    if !ip.is_unspecified() {
        return Ok(ip.to_string());
    }
    probe.came_from.map(|ip| ip.to_string()).ok_or(NoAddress::Unknown)
}

/// A base URL that can stand in a configuration file.
pub(super) fn base(text: &str) -> Result<String, NoAddress> {
    let refused = || NoAddress::BadUrl { url: text.chars().take(80).collect() };
    let url = Url::parse(text).map_err(|_| refused())?;
    let is_base = url.scheme() == "http"
        && matches!(url.path(), "/" | "")
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    let host = url.host_str().filter(|_| is_base).ok_or_else(refused)?;
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-:[]".contains(c);
    if !host.chars().all(legal) {
        return Err(refused());
    }
    Ok(format!("http://{host}:{}", url.port_or_known_default().ok_or_else(refused)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_is_told_an_address_that_it_can_reach() {
        let connection = "connection=10.1.0.1 5022 10.1.0.2 22";
        for (bound, advertise, url, expected) in [
            ("0.0.0.0:8500", None, None, Ok("http://10.1.0.1:8500")),
            ("0.0.0.0:8500", Some("desk.home.arpa"), None, Ok("http://desk.home.arpa:8500")),
            ("10.9.0.1:8500", None, None, Ok("http://10.9.0.1:8500")),
            ("127.0.0.1:8500", None, None, Err("listens on 127.0.0.1:8500 only")),
            ("127.0.0.1:8500", None, Some("http://10.1.0.1:7000/"), Ok("http://10.1.0.1:7000")),
            ("0.0.0.0:8500", None, Some("ftp://x"), Err("not a base URL")),
        ] {
            let queen = QueenAddress {
                bound: bound.parse().unwrap(),
                advertise: advertise.map(str::to_owned),
            };
            let machine = Machine::by_ssh("gpu-1".parse().unwrap(), None, None);
            let hive = "gpu-1".parse().unwrap();
            let found = addresses(&hive, &machine, &queen, url, &Probe::read(connection));
            match (found, expected) {
                (Ok(found), Ok(queen_url)) => {
                    assert_eq!(found.queen_url, queen_url);
                    assert_eq!(found.host, "10.1.0.2");
                    assert_eq!(found.bind, "0.0.0.0:9000".parse().unwrap());
                }
                (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{error}"),
                (found, _) => panic!("{bound} {advertise:?} {url:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_url_holds_nothing_that_a_configuration_file_would_read_otherwise() {
        for bad in
            ["http://h\"x:1", "http://u:p@h:1", "http://h:1/x", "http://h:1?q", "h:1", "http://"]
        {
            assert!(base(bad).is_err(), "{bad}");
        }
        assert_eq!(base("http://[fd00::1]:8500").unwrap(), "http://[fd00::1]:8500");
    }
}
