//! Hives that announce themselves on the network by mDNS. What they say is shown, and nothing is done.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use mdns_sd::{ResolvedService, ServiceDaemon, ServiceEvent};
use rbee_operations::DiscoveredHive;
use tokio::time::{Instant, timeout_at};

use crate::inventory::url_of;

/// The service's name on the network.
const SERVICE: &str = "_rbee-hive._tcp.local.";
/// The most hives that are shown.
const MAX_HIVES: usize = 256;
/// The longest version that is shown.
const MAX_VERSION: usize = 40;

/// Listens for announcements.
pub(crate) async fn discover(wait: Duration) -> Result<BTreeSet<DiscoveredHive>, mdns_sd::Error> {
    let until = Instant::now() + wait;
    let daemon = ServiceDaemon::new()?;
    let events = daemon.browse(SERVICE)?;
    let mut found = BTreeSet::new();
    while let Ok(Ok(event)) = timeout_at(until, events.recv_async()).await {
        if let ServiceEvent::ServiceResolved(service) = event
            && let Some(hive) = hive_of(&service)
            && found.len() < MAX_HIVES
        {
            found.insert(hive);
        }
    }
    // Ends its thread; whether it says so does not matter.
    let _ = daemon.shutdown();
    Ok(found)
}

/// What a service says of itself; `None` if it is no hive.
fn hive_of(service: &ResolvedService) -> Option<DiscoveredHive> {
    let hive_id = service.get_property_val_str("alias")?.parse().ok()?;
    let version = service.get_property_val_str("version").unwrap_or_default();
    let legal = |c: &char| c.is_ascii_graphic();
    let version = version.chars().filter(legal).take(MAX_VERSION).collect();
    let mut addresses: Vec<IpAddr> =
        service.get_addresses().iter().map(mdns_sd::ScopedIp::to_ip_addr).collect();
    addresses.retain(|ip| !ip.is_loopback());
    // IPv4 first, then the lowest: the same each time.
    addresses.sort();
    let url = url_of(&addresses.first()?.to_string(), service.get_port());
    Some(DiscoveredHive { hive_id, url, version, is_known: false })
}
