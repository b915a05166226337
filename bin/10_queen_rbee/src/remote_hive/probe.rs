//! What a machine is, as `hive.sh probe` tells it. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::version::Version;

/// What a machine is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Probe {
    /// `Linux`.
    pub(super) os: String,
    /// `x86_64`.
    pub(super) arch: String,
    /// `None` where the system has another C library.
    pub(super) glibc: Option<Version>,
    /// What is free where the hive is put, in bytes.
    pub(super) free_bytes: u64,
    /// The address that this connection comes from, as the machine sees it.
    pub(super) came_from: Option<IpAddr>,
    /// The address that this connection reached.
    pub(super) reached: Option<IpAddr>,
    /// Whether systemd runs services for this user.
    pub(super) has_systemd: bool,
    pub(super) has_sha256sum: bool,
    /// Devices of GPUs that the kernel shows.
    pub(super) gpu_nodes: u32,
    /// What is installed: for which hive, which release, with which configuration and secret.
    pub(super) installed: Option<Installed>,
    pub(super) is_running: bool,
}

/// What is installed on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Installed {
    pub(super) alias: String,
    pub(super) release: String,
    /// The SHA-256 of its configuration, and of its secret.
    pub(super) config: String,
    pub(super) secret: String,
}

impl Probe {
    /// Reads lines of `name=value`; what is missing is empty.
    pub(super) fn read(text: &str) -> Self {
        let facts: BTreeMap<&str, &str> =
            text.lines().filter_map(|line| line.trim_end().split_once('=')).collect();
        let fact = |name: &str| facts.get(name).copied().unwrap_or_default();
        let owned = |name: &str| fact(name).to_owned();
        let mut ends = fact("connection").split(' ');
        let mut address = |skip: usize| ends.nth(skip).and_then(|text| text.parse().ok());
        let installed = Installed {
            alias: owned("alias"),
            release: owned("release"),
            config: owned("config"),
            secret: owned("secret"),
        };
        Self {
            os: owned("os"),
            arch: owned("arch"),
            glibc: fact("glibc").parse().ok(),
            free_bytes: fact("free_kib").parse::<u64>().unwrap_or(0).saturating_mul(1024),
            came_from: address(0),
            reached: address(1),
            has_systemd: fact("systemd") == "yes",
            has_sha256sum: fact("sha256sum") == "yes",
            gpu_nodes: fact("gpu_nodes").parse().unwrap_or(0),
            is_running: fact("running") == "yes",
            installed: (!installed.release.is_empty()).then_some(installed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_machine_and_one_with_a_hive_are_told_apart() {
        let fresh = Probe::read(
            "os=Linux\narch=x86_64\nglibc=2.36\nfree_kib=2048\nconnection=10.1.0.1 5022 10.1.0.2 22\n\
             systemd=no\nsha256sum=yes\ngpu_nodes=1\nalias=\nrelease=\nconfig=\nsecret=\nrunning=no\n",
        );
        assert_eq!((fresh.os.as_str(), fresh.free_bytes), ("Linux", 2048 * 1024));
        assert_eq!(fresh.came_from, Some("10.1.0.1".parse().unwrap()));
        assert_eq!(fresh.reached, Some("10.1.0.2".parse().unwrap()));
        assert_eq!(fresh.glibc, Some("2.36".parse().unwrap()));
        assert_eq!((fresh.installed, fresh.gpu_nodes), (None, 1));

        let used = Probe::read("alias=gpu-1\nrelease=ab\nconfig=c\nsecret=s\nrunning=yes\n");
        assert!(used.is_running);
        assert_eq!(used.installed.unwrap().alias, "gpu-1");
    }

    #[test]
    fn noise_is_no_machine() {
        assert_eq!(Probe::read("Welcome!\n=\nfree_kib=many\nconnection=x y z"), Probe::default());
    }
}
