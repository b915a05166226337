//! Telling the network of this hive by mDNS, so that a queen can offer it to her operator.
//!
//! Nothing is decided by it: whoever wants the hive needs its secret, and it reports to the queen that
//! its own operator named.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use mdns_sd::{ServiceDaemon, ServiceInfo};
use tokio::time::timeout;
use worker_contract::HiveAlias;

/// The service's name on the network.
const SERVICE: &str = "_rbee-hive._tcp.local.";
/// How long the network may take to be told of the end.
const PARTING: Duration = Duration::from_millis(500);

/// An announcement, for as long as it is not ended.
pub struct Announcement {
    daemon: ServiceDaemon,
    name: String,
}

impl fmt::Debug for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcement").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Announcement {
    /// Announces a hive that others reach at `host` and `port`.
    ///
    /// # Errors
    /// Why the network cannot be told.
    pub fn start(alias: &HiveAlias, host: &str, port: u16) -> Result<Self, mdns_sd::Error> {
        let daemon = ServiceDaemon::new()?;
        let label: String = alias
            .as_str()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let server = format!("rbee-{label}.local.");
        let facts = [("alias", alias.as_str()), ("version", env!("CARGO_PKG_VERSION"))];
        let name = alias.as_str();
        let service = match host.parse::<IpAddr>() {
            Ok(ip) => ServiceInfo::new(SERVICE, name, &server, ip, port, &facts[..])?,
            // A host name is the operator's; its addresses are those of this machine.
            Err(_) => {
                ServiceInfo::new(SERVICE, name, &server, "", port, &facts[..])?.enable_addr_auto()
            }
        };
        let name = service.get_fullname().to_owned();
        daemon.register(service)?;
        Ok(Self { daemon, name })
    }

    /// Tells the network that the hive is no longer there.
    pub async fn end(self) {
        let parting = async {
            if let Ok(done) = self.daemon.unregister(&self.name) {
                let _ = done.recv_async().await;
            }
            if let Ok(done) = self.daemon.shutdown() {
                let _ = done.recv_async().await;
            }
        };
        let _ = timeout(PARTING, parting).await;
    }
}
