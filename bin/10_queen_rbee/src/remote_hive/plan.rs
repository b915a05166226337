//! What an installation has to do on a machine. Pure: from what the machine is, to the steps.

use std::collections::BTreeMap;

use access_tokens::Secret;
use worker_contract::HiveAlias;

use super::address::Addresses;
use super::payload::Payload;
use super::probe::Probe;
use super::version::Version;

/// What must stay free besides the files, in bytes: logs, the catalog.
const MARGIN: u64 = 32 << 20;

/// What the hive's configuration is on that machine, and its secret.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) config: String,
    pub(super) secret: Secret,
    /// The SHA-256 of both, as hexadecimal digits.
    pub(super) config_digest: String,
    pub(super) secret_digest: String,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// All is there as it should be.
    Nothing,
    Install {
        /// Files that have to be sent, by their place in the payload.
        send: Vec<usize>,
        /// Files that the machine has.
        reuse: Vec<String>,
        /// The bytes of those that are sent.
        bytes: u64,
    },
}

/// The machine cannot be a hive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsuitable {
    #[error("its system is {found}, and this queen can install hives on {wanted} only")]
    System { found: String, wanted: &'static str },
    #[error("its processor is {found}, and the queen's programs are built for {wanted}")]
    Processor { found: String, wanted: &'static str },
    #[error("its C library is {}, and the programs need glibc {needed}", match found {
        Some(found) => format!("glibc {found}"),
        None => "not glibc".to_owned(),
    })]
    Library { found: Option<Version>, needed: Version },
    #[error("{} MiB are free there, and {} MiB are needed", free >> 20, (needed >> 20) + 1)]
    Disk { free: u64, needed: u64 },
    #[error("it has no sha256sum, by which the copies are checked")]
    NoDigests,
    #[error("hive {alias} is installed there already, under the same user")]
    OtherHive { alias: String },
}

impl Unsuitable {
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::System { .. } => "unsupported_system",
            Self::Processor { .. } => "unsupported_architecture",
            Self::Library { .. } => "unsupported_libc",
            Self::Disk { .. } => "disk_full",
            Self::NoDigests => "no_sha256sum",
            Self::OtherHive { .. } => "other_hive",
        }
    }

    pub(super) fn hint(&self) -> String {
        match self {
            Self::System { .. } | Self::Processor { .. } | Self::Library { .. } => {
                "build rbee on that machine, start its hive there with `rbee-hive --bind 0.0.0.0:9000 --queen URL`, \
                 and add it by its address: rbee-keeper hive add NAME --url http://HOST:9000 --secret-file FILE"
                    .to_owned()
            }
            Self::Disk { .. } => "free some space in the home folder of that machine".to_owned(),
            Self::NoDigests => "install coreutils on that machine".to_owned(),
            Self::OtherHive { alias } => format!(
                "a user has one hive: use {alias}, or take it away first with `rbee-keeper hive uninstall {alias}`"
            ),
        }
    }
}

/// Compares what is there with what should be.
pub(super) fn plan(
    hive: &HiveAlias,
    probe: &Probe,
    manifest: &BTreeMap<String, String>,
    payload: &Payload,
    setting: &Setting,
) -> Result<Plan, Unsuitable> {
    suits(hive, probe, payload)?;
    let is_current = probe.installed.as_ref().is_some_and(|installed| {
        installed.release == payload.release
            && installed.config == setting.config_digest
            && installed.secret == setting.secret_digest
    });
    let has = |name: &str, digest: &str| manifest.get(name).is_some_and(|found| found == digest);
    let (mut send, mut reuse, mut bytes) = (Vec::new(), Vec::new(), 0);
    for (index, file) in payload.files.iter().enumerate() {
        if has(&file.name, file.sha256.as_hex()) {
            reuse.push(file.name.clone());
        } else {
            send.push(index);
            bytes += file.bytes;
        }
    }
    if is_current && send.is_empty() {
        return Ok(Plan::Nothing);
    }
    let needed = bytes + MARGIN;
    if probe.free_bytes < needed {
        return Err(Unsuitable::Disk { free: probe.free_bytes, needed });
    }
    Ok(Plan::Install { send, reuse, bytes })
}

fn suits(hive: &HiveAlias, probe: &Probe, payload: &Payload) -> Result<(), Unsuitable> {
    if probe.os != "Linux" || std::env::consts::OS != "linux" {
        return Err(Unsuitable::System { found: probe.os.clone(), wanted: "Linux, from Linux" });
    }
    if probe.arch != std::env::consts::ARCH {
        let wanted = std::env::consts::ARCH;
        return Err(Unsuitable::Processor { found: probe.arch.clone(), wanted });
    }
    if let Some(needed) = payload.glibc
        && probe.glibc.is_none_or(|found| found < needed)
    {
        return Err(Unsuitable::Library { found: probe.glibc, needed });
    }
    if !probe.has_sha256sum {
        return Err(Unsuitable::NoDigests);
    }
    match &probe.installed {
        Some(installed) if installed.alias != hive.as_str() => {
            Err(Unsuitable::OtherHive { alias: installed.alias.clone() })
        }
        _ => Ok(()),
    }
}

/// What `sha256sum` printed: digests by path.
pub(super) fn read_manifest(text: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let (digest, path) = line.split_once("  ")?;
        Some((path.trim_start_matches("./").to_owned(), digest.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// The hive's configuration on that machine.
pub(super) fn config_text(hive: &HiveAlias, addresses: &Addresses) -> String {
    let Addresses { queen_url, bind, host } = addresses;
    format!(
        "# Written by `rbee-keeper hive install`, which writes it anew each time.\n\
         # Settings of your own go into hive.env beside it: RBEE_WORKER__SLOTS=8\n\
         [hive]\nalias = \"{hive}\"\nbind = \"{bind}\"\nadvertise = \"{host}\"\nqueen_url = \"{queen_url}\"\n"
    )
}

/// The unit of systemd's user manager.
pub(super) fn unit_text(hive: &HiveAlias) -> String {
    format!(
        "[Unit]\nDescription=rbee hive {hive}\nAfter=network-online.target\n\
         # It is never given up, as little as by the shell that watches it elsewhere.\n\
         StartLimitIntervalSec=0\n\n\
         [Service]\nEnvironment=RBEE_HOME=%h/.local/share/rbee-hive\n\
         EnvironmentFile=-%h/.local/share/rbee-hive/hive.env\n\
         ExecStart=%h/.local/share/rbee-hive/current/rbee-hive\n\
         StandardOutput=append:%h/.local/share/rbee-hive/run/logs/rbee-hive.log\nStandardError=inherit\n\
         Restart=on-failure\nRestartSec=1\nRestartSteps=6\nRestartMaxDelaySec=60\n\
         # The hive ends its workers itself; a hive that is replaced leaves them running.\n\
         KillMode=process\n\n[Install]\nWantedBy=default.target\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote_hive::payload::{Content, PayloadFile, digest};

    const SUITABLE: &str = "os=Linux\nglibc=2.36\nfree_kib=1048576\nsha256sum=yes\n";

    #[test]
    fn an_empty_machine_is_sent_everything() {
        let done = planned(&probe(SUITABLE), &BTreeMap::new()).unwrap();
        assert_eq!(done, Plan::Install { send: vec![0, 1], reuse: vec![], bytes: 300 });
    }

    #[test]
    fn what_is_there_is_not_sent_again_and_the_same_again_is_nothing() {
        let payload = payload();
        let first = payload.files[0].sha256.as_hex().to_owned();
        let has_one = BTreeMap::from([("a".to_owned(), first.clone())]);
        let old = probe(&format!("{SUITABLE}alias=gpu-1\nrelease=old\nconfig=c\nsecret=s\n"));
        let upgrade = Plan::Install { send: vec![1], reuse: vec!["a".into()], bytes: 200 };
        assert_eq!(planned(&old, &has_one), Ok(upgrade));

        let second = payload.files[1].sha256.as_hex().to_owned();
        let has_both = BTreeMap::from([("a".to_owned(), first), ("b".to_owned(), second)]);
        let same = format!("{SUITABLE}alias=gpu-1\nrelease=new\nconfig=c\nsecret=s\n");
        assert_eq!(planned(&probe(&same), &has_both), Ok(Plan::Nothing));
        let moved = probe(&same.replace("config=c", "config=d"));
        let only_config =
            Plan::Install { send: vec![], reuse: vec!["a".into(), "b".into()], bytes: 0 };
        assert_eq!(planned(&moved, &has_both), Ok(only_config));
    }

    #[test]
    fn a_machine_that_cannot_run_it_is_told_why_before_anything_is_sent() {
        for (change, code) in [
            (("os=Linux", "os=Darwin"), "unsupported_system"),
            (("glibc=2.36", "glibc=2.31"), "unsupported_libc"),
            (("glibc=2.36", "glibc="), "unsupported_libc"),
            (("free_kib=1048576", "free_kib=1000"), "disk_full"),
            (("sha256sum=yes", "sha256sum=no"), "no_sha256sum"),
            (("sha256sum=yes", "sha256sum=yes\nalias=b\nrelease=r"), "other_hive"),
        ] {
            let changed = SUITABLE.replace(change.0, change.1);
            let refused = planned(&probe(&changed), &BTreeMap::new()).unwrap_err();
            assert_eq!(refused.code(), code, "{refused}");
        }
        let other = Probe { arch: "riscv64".into(), ..probe(SUITABLE) };
        let refused = planned(&other, &BTreeMap::new()).unwrap_err();
        assert!(refused.to_string().contains("riscv64"), "{refused}");
    }

    #[test]
    fn the_configuration_is_one_that_a_hive_reads() {
        let addresses = Addresses {
            queen_url: "http://10.1.0.1:8500".into(),
            bind: "0.0.0.0:9000".parse().unwrap(),
            host: "10.1.0.2".into(),
        };
        let text = config_text(&"gpu-1".parse().unwrap(), &addresses);
        let file = std::path::Path::new("config.toml");
        let config = rbee_config::Config::parse(&text, file, []).unwrap().hive;
        assert_eq!(config.alias.as_str(), "gpu-1");
        assert_eq!(config.bind, addresses.bind);
        assert_eq!(config.advertise.as_deref(), Some("10.1.0.2"));
        assert_eq!(config.queen_url.as_deref(), Some("http://10.1.0.1:8500"));
    }

    fn planned(probe: &Probe, manifest: &BTreeMap<String, String>) -> Result<Plan, Unsuitable> {
        let setting = Setting {
            config: String::new(),
            secret: String::new().into(),
            config_digest: "c".into(),
            secret_digest: "s".into(),
        };
        plan(&"gpu-1".parse().unwrap(), probe, manifest, &payload(), &setting)
    }

    fn probe(text: &str) -> Probe {
        Probe::read(&format!("arch={}\n{text}", std::env::consts::ARCH))
    }

    fn payload() -> Payload {
        let file = |name: &str, bytes| PayloadFile {
            name: name.to_owned(),
            content: Content::Text(""),
            bytes,
            sha256: digest(name.as_bytes()),
            mode: "600",
        };
        Payload {
            files: vec![file("a", 100), file("b", 200)],
            release: "new".into(),
            glibc: Some("2.34".parse().unwrap()),
        }
    }
}
