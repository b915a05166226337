//! Which ports workers listen on: one lease a worker, given back when the lease is dropped.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rbee_config::PortRange;

/// How often another free port is asked for when the range is "any".
const ANY_PORT_TRIES: usize = 64;

/// The ports of a hive's workers.
#[derive(Debug, Clone)]
pub(crate) struct PortPool {
    host: IpAddr,
    range: PortRange,
    leased: Arc<Mutex<BTreeSet<u16>>>,
}

/// A port that belongs to one worker until this is dropped.
#[derive(Debug)]
pub(crate) struct PortLease {
    port: u16,
    leased: Arc<Mutex<BTreeSet<u16>>>,
}

/// All ports are taken.
#[derive(Debug, thiserror::Error)]
#[error("no free port in {range}: each is held by a worker or by another program")]
pub(crate) struct NoFreePort {
    range: PortRange,
}

impl PortPool {
    pub(crate) fn new(host: IpAddr, range: PortRange) -> Self {
        Self { host, range, leased: Arc::default() }
    }

    /// The lowest port that no worker has and no other program listens on.
    pub(crate) fn lease(&self) -> Result<PortLease, NoFreePort> {
        self.lease_where(|port| is_free(self.host, port))
    }

    /// A port that a running worker already listens on; `None` if another worker has it.
    pub(crate) fn claim(&self, port: u16) -> Option<PortLease> {
        let fresh = self.leased().insert(port);
        fresh.then(|| self.as_lease(port))
    }

    fn lease_where(&self, is_free: impl Fn(u16) -> bool) -> Result<PortLease, NoFreePort> {
        let mut leased = self.leased();
        let mut candidates: Box<dyn Iterator<Item = u16>> = if self.range.is_any() {
            Box::new((0..ANY_PORT_TRIES).filter_map(|_| any_free_port(self.host)))
        } else {
            Box::new(self.range.ports())
        };
        let found = candidates.find(|port| !leased.contains(port) && is_free(*port));
        let port = found.ok_or(NoFreePort { range: self.range })?;
        leased.insert(port);
        drop(leased);
        Ok(self.as_lease(port))
    }

    fn as_lease(&self, port: u16) -> PortLease {
        PortLease { port, leased: Arc::clone(&self.leased) }
    }

    fn leased(&self) -> MutexGuard<'_, BTreeSet<u16>> {
        self.leased.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PortLease {
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        self.leased.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.port);
    }
}

/// Whether nobody listens on the port at this moment.
pub(crate) fn is_free(host: IpAddr, port: u16) -> bool {
    TcpListener::bind(SocketAddr::new(host, port)).is_ok()
}

fn any_free_port(host: IpAddr) -> Option<u16> {
    let listener = TcpListener::bind(SocketAddr::new(host, 0)).ok()?;
    Some(listener.local_addr().ok()?.port())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn two_leases_are_two_ports_and_a_dropped_one_comes_back() {
        let pool = pool("9300-9301");
        let first = pool.lease_where(|_| true).unwrap();
        let second = pool.lease_where(|_| true).unwrap();
        assert_eq!((first.port(), second.port()), (9300, 9301));
        let error = pool.lease_where(|_| true).unwrap_err();
        assert!(error.to_string().contains("9300-9301"), "{error}");
        drop(first);
        assert_eq!(pool.lease_where(|_| true).unwrap().port(), 9300);
    }

    #[test]
    fn a_port_that_another_program_has_is_skipped() {
        let other = TcpListener::bind((HOST, 0)).unwrap();
        let taken = other.local_addr().unwrap().port();
        let pool = PortPool::new(HOST, format!("{taken}-{taken}").parse().unwrap());
        assert!(pool.lease().is_err());
        drop(other);
        assert_eq!(pool.lease().unwrap().port(), taken);
    }

    #[test]
    fn port_zero_leases_any_free_port() {
        let pool = pool("0");
        let (first, second) = (pool.lease().unwrap(), pool.lease().unwrap());
        assert_ne!(first.port(), 0);
        assert_ne!(first.port(), second.port());
    }

    #[test]
    fn the_port_of_an_adopted_worker_is_not_given_to_another() {
        let pool = pool("9300-9301");
        let adopted = pool.claim(9300).unwrap();
        assert!(pool.claim(9300).is_none());
        assert_eq!(pool.lease_where(|_| true).unwrap().port(), 9301);
        drop(adopted);
        assert!(pool.claim(9300).is_some());
    }

    fn pool(range: &str) -> PortPool {
        PortPool::new(HOST, range.parse().unwrap())
    }
}
