//! The hives of other machines that the queen was told of: by the configuration, or by `hive add`.
//!
//! Those that were added are hers: `hives.json` in her data folder, replaced as a whole at each change.
//! What a hive says of itself is in the registry.

mod file;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rbee_config::RemoteHive;
use rbee_operations::SshTarget;
use serde::{Deserialize, Serialize};
use worker_contract::HiveAlias;

/// The most hives that can be added.
const MAX_HIVES: usize = 1000;
/// Where a hive listens that was told nothing else.
const PORT: u16 = 9000;

/// All hives that the queen was told of. A clone is another handle to the same ones.
#[derive(Debug, Clone)]
pub struct Inventory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    file: PathBuf,
    configured: BTreeMap<HiveAlias, String>,
    /// Never locked while the disk works.
    added: Mutex<BTreeMap<HiveAlias, Machine>>,
    /// Locked for the whole of a change, and before `added`.
    changing: Mutex<()>,
}

/// A machine that was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Where `ssh` goes; `None` for a hive that somebody else runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<SshTarget>,
    /// The base URL of its hive, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The queen's base URL as the machine reaches it, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queen_url: Option<String>,
    /// Where its hive is to listen.
    pub port: u16,
    /// The host name or address at which the queen reaches it, where somebody said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
}

/// The inventory cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The file cannot be used.
    #[error("the list of hives {} cannot be used", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is damaged.
    #[error("the list of hives {} is damaged: repair it, or remove it and add the hives again", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
    /// The name is taken.
    #[error("there is a hive {hive} already, {at}")]
    NameTaken {
        /// The name.
        hive: HiveAlias,
        /// Where it is.
        at: String,
    },
    /// It is in the configuration, which only a person changes.
    #[error("hive {hive} is in config.toml")]
    Configured {
        /// The name.
        hive: HiveAlias,
    },
    /// There is no such hive.
    #[error("no hive {hive} was added")]
    Unknown {
        /// The name.
        hive: HiveAlias,
    },
    /// There are too many.
    #[error("{MAX_HIVES} hives were added already, as many as can be")]
    TooMany,
}

impl Machine {
    /// A machine that SSH reaches.
    #[must_use]
    pub fn by_ssh(ssh: SshTarget, port: Option<u16>, advertise: Option<String>) -> Self {
        Self { ssh: Some(ssh), url: None, queen_url: None, port: port.unwrap_or(PORT), advertise }
    }

    /// A machine whose hive somebody else runs.
    #[must_use]
    pub fn by_url(url: String) -> Self {
        Self { ssh: None, url: Some(url), queen_url: None, port: PORT, advertise: None }
    }

    fn place(&self) -> String {
        match (&self.ssh, &self.url) {
            (Some(ssh), _) => format!("reached by ssh {ssh}"),
            (None, Some(url)) => format!("at {url}"),
            (None, None) => "nowhere".to_owned(),
        }
    }
}

impl Inventory {
    /// Reads the hives that were added, and takes those of the configuration besides.
    pub fn open(
        file: PathBuf,
        configured: &BTreeMap<HiveAlias, RemoteHive>,
    ) -> Result<Self, InventoryError> {
        let added = file::read(&file)?;
        let configured = configured.iter().map(|(alias, hive)| (alias.clone(), base_url(hive)));
        let (configured, added) = (configured.collect(), Mutex::new(added));
        let shared = Shared { file, configured, added, changing: Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Adds a machine. The same one again is no error; another one under its name is.
    pub fn add(&self, hive: &HiveAlias, machine: Machine) -> Result<(), InventoryError> {
        if self.shared.configured.contains_key(hive) {
            return Err(InventoryError::Configured { hive: hive.clone() });
        }
        self.change(|added| {
            if let Some(known) = added.get_mut(hive) {
                if known.ssh != machine.ssh || (machine.ssh.is_none() && known.url != machine.url) {
                    let at = known.place();
                    return Err(InventoryError::NameTaken { hive: hive.clone(), at });
                }
                let url = known.url.take().filter(|_| known.port == machine.port);
                let queen_url = known.queen_url.take();
                *known = Machine { url: machine.url.or(url), queen_url, ..machine };
                return Ok(());
            }
            if added.len() >= MAX_HIVES {
                return Err(InventoryError::TooMany);
            }
            added.insert(hive.clone(), machine);
            Ok(())
        })
    }

    /// Notes the base URL of an added machine's hive, and that of the queen as the machine reaches it.
    pub fn locate(
        &self,
        hive: &HiveAlias,
        url: &str,
        queen_url: &str,
    ) -> Result<(), InventoryError> {
        self.change(|added| {
            let unknown = || InventoryError::Unknown { hive: hive.clone() };
            let machine = added.get_mut(hive).ok_or_else(unknown)?;
            machine.url = Some(url.to_owned());
            machine.queen_url = Some(queen_url.to_owned());
            Ok(())
        })
    }

    /// Whether a machine was added, so that it can be removed.
    pub fn ensure_added(&self, hive: &HiveAlias) -> Result<(), InventoryError> {
        if self.shared.configured.contains_key(hive) {
            return Err(InventoryError::Configured { hive: hive.clone() });
        }
        let is_added = self.added().contains_key(hive);
        if is_added { Ok(()) } else { Err(InventoryError::Unknown { hive: hive.clone() }) }
    }

    /// Forgets an added machine.
    pub fn remove(&self, hive: &HiveAlias) -> Result<Machine, InventoryError> {
        self.ensure_added(hive)?;
        self.change(|added| {
            added.remove(hive).ok_or_else(|| InventoryError::Unknown { hive: hive.clone() })
        })
    }

    /// An added machine.
    #[must_use]
    pub fn machine(&self, hive: &HiveAlias) -> Option<Machine> {
        self.added().get(hive).cloned()
    }

    /// The base URL of a hive, as far as the queen was told.
    #[must_use]
    pub fn url(&self, hive: &HiveAlias) -> Option<String> {
        let configured = self.shared.configured.get(hive).cloned();
        configured.or_else(|| self.added().get(hive)?.url.clone())
    }

    /// The names of all hives.
    #[must_use]
    pub fn names(&self) -> Vec<HiveAlias> {
        let mut names: Vec<_> = self.shared.configured.keys().cloned().collect();
        names.extend(self.added().keys().cloned());
        names
    }

    /// All hives: their names, and their base URLs as far as they are known.
    #[must_use]
    pub fn places(&self) -> Vec<(HiveAlias, Option<String>)> {
        let place = |name: HiveAlias| {
            let url = self.url(&name);
            (name, url)
        };
        self.names().into_iter().map(place).collect()
    }

    /// The hive that was added with this target of SSH.
    #[must_use]
    pub fn by_ssh(&self, is_it: impl Fn(&SshTarget) -> bool) -> Option<HiveAlias> {
        let added = self.added();
        let found = added.iter().find(|(_, machine)| machine.ssh.as_ref().is_some_and(&is_it));
        found.map(|(hive, _)| hive.clone())
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut BTreeMap<HiveAlias, Machine>) -> Result<T, InventoryError>,
    ) -> Result<T, InventoryError> {
        self.change_and_keep(change, |changed| file::write(&self.shared.file, changed))
    }

    fn change_and_keep<T>(
        &self,
        change: impl FnOnce(&mut BTreeMap<HiveAlias, Machine>) -> Result<T, InventoryError>,
        keep: impl FnOnce(&BTreeMap<HiveAlias, Machine>) -> Result<(), InventoryError>,
    ) -> Result<T, InventoryError> {
        let _turn = self.shared.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = self.added().clone();
        let outcome = change(&mut changed)?;
        keep(&changed)?;
        *self.added() = changed;
        Ok(outcome)
    }

    fn added(&self) -> MutexGuard<'_, BTreeMap<HiveAlias, Machine>> {
        // A change is made aside and put in place whole.
        self.shared.added.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `http://host:port`, an IPv6 address in brackets.
fn base_url(hive: &RemoteHive) -> String {
    url_of(&hive.host, hive.port)
}

/// `http://host:port`, an IPv6 address in brackets.
#[must_use]
pub fn url_of(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("http://[{host}]:{port}")
    } else {
        format!("http://{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_outlives_the_queen_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hives.json");
        let inventory = Inventory::open(file.clone(), &BTreeMap::new()).unwrap();
        let (one, two): (HiveAlias, HiveAlias) = (name("gpu-1"), name("gpu-2"));
        let ssh = Machine::by_ssh("bee@10.1.0.2".parse().unwrap(), None, None);
        inventory.add(&one, ssh.clone()).unwrap();
        inventory.add(&two, Machine::by_url("http://10.1.0.3:9000".into())).unwrap();
        inventory.locate(&one, "http://10.1.0.2:9000", "http://10.1.0.1:8500").unwrap();
        inventory.add(&one, ssh).expect("the same machine again is no error");
        inventory.remove(&two).unwrap();

        let reread = Inventory::open(file, &BTreeMap::new()).unwrap();
        assert_eq!(reread.names(), std::slice::from_ref(&one));
        assert_eq!(reread.url(&one).as_deref(), Some("http://10.1.0.2:9000"));
    }

    #[test]
    fn a_name_stands_for_one_machine() {
        let folder = tempfile::tempdir().unwrap();
        let host = RemoteHive { host: "10.1.0.9".into(), port: 9000 };
        let configured = BTreeMap::from([(name("fixed"), host)]);
        let inventory = Inventory::open(folder.path().join("hives.json"), &configured).unwrap();
        let machine = |target: &str| Machine::by_ssh(target.parse().unwrap(), None, None);
        inventory.add(&name("a"), machine("one")).unwrap();
        let taken = inventory.add(&name("a"), machine("two"));
        assert!(matches!(taken, Err(InventoryError::NameTaken { .. })), "{taken:?}");
        let fixed = inventory.add(&name("fixed"), machine("one"));
        assert!(matches!(fixed, Err(InventoryError::Configured { .. })), "{fixed:?}");
        assert!(matches!(inventory.remove(&name("fixed")), Err(InventoryError::Configured { .. })));
        assert!(matches!(inventory.remove(&name("b")), Err(InventoryError::Unknown { .. })));
        assert_eq!(inventory.url(&name("fixed")).as_deref(), Some("http://10.1.0.9:9000"));
    }

    #[test]
    fn nobody_who_reads_waits_for_the_disk_and_changes_take_turns() {
        let folder = tempfile::tempdir().unwrap();
        let inventory =
            Inventory::open(folder.path().join("hives.json"), &BTreeMap::new()).unwrap();
        let machine = Machine::by_url("http://10.1.0.3:9000".into());
        inventory.add(&name("one"), machine.clone()).unwrap();
        let add = |added: &mut BTreeMap<HiveAlias, Machine>| {
            added.insert(name("two"), machine);
            Ok(())
        };
        let keep = |changed: &BTreeMap<HiveAlias, Machine>| {
            assert_eq!(changed.len(), 2);
            let read = inventory.shared.added.try_lock().expect("it can be read meanwhile");
            assert_eq!(read.len(), 1, "what is not on the disk is not told");
            assert!(inventory.shared.changing.try_lock().is_err(), "no other change meanwhile");
            Ok(())
        };
        inventory.change_and_keep(add, keep).unwrap();
        assert_eq!(inventory.names(), [name("one"), name("two")]);
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hives.json");
        std::fs::write(&file, "{").unwrap();
        let error = Inventory::open(file, &BTreeMap::new()).unwrap_err();
        assert!(error.to_string().contains("hives.json is damaged"), "{error}");
    }

    fn name(text: &str) -> HiveAlias {
        text.parse().unwrap()
    }
}
