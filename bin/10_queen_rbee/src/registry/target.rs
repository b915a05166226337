//! Where a worker takes requests.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::Url;
use tokio_util::sync::CancellationToken;
use worker_contract::HiveAlias;

use super::prefixes::Holder;
use super::{ReportError, Server};
use crate::scheduler::Ways;

/// The longest base URL, in bytes: a host's name has 253 at most.
const MAX_URL: usize = 300;
/// How many requests are remembered that fell with a process.
const MAX_FALLEN: usize = 256;

/// Where a worker listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Its host's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Both, as in a URL and in the header `host`.
    pub authority: String,
    /// Whether it is reached by TLS, which only servers of others are.
    pub is_secure: bool,
}

impl Address {
    /// It as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", if self.is_secure { "https" } else { "http" }, self.authority)
    }
}

/// Where a worker takes requests.
#[derive(Debug)]
pub struct Target {
    /// Where it listens.
    pub address: Address,
    /// The hive that started it, whose secret it takes.
    pub hive_id: HiveAlias,
    /// The server of somebody else that it is, and what it calls the model; `hive_id` is its name then.
    pub server: Option<Server>,
    /// Fires when the worker is known to be gone: nothing more comes from it.
    pub gone: CancellationToken,
    /// Fires when its process is known to have ended, by its hive's word or because another one stands
    /// behind its name: one that is only silent or cut off has not.
    pub died: CancellationToken,
    /// Those that fell with it.
    pub fallen: Fallen,
    /// What stands for its process in the index of prompts.
    pub(super) holder: Holder,
    /// It has the queen's own secret, as workers of an earlier rbee do on her machine, and those of hives that
    /// have it.
    pub(super) has_own_secret: AtomicBool,
}

/// The requests over which a process broke off, by their numbers in this queen. A clone shares them.
#[derive(Debug, Clone, Default)]
pub struct Fallen(Arc<Fall>);

#[derive(Debug, Default)]
struct Fall {
    requests: Mutex<BTreeSet<u64>>,
    /// One of them is known to have ended it.
    is_explained: AtomicBool,
}

impl Fallen {
    /// It is known which one has ended the process: it speaks against none of the others.
    pub fn explain(&self) {
        self.0.is_explained.store(true, Relaxed);
    }

    /// Whether that is known.
    #[must_use]
    pub fn is_explained(&self) -> bool {
        self.0.is_explained.load(Relaxed)
    }

    /// One more.
    pub fn add(&self, request: u64) {
        let mut all = self.0.requests.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(request);
        if all.len() > MAX_FALLEN {
            all.pop_first();
        }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> BTreeSet<u64> {
        self.0.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Which secret a worker reports with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShownSecret {
    /// The queen's own.
    Own,
    /// That of its hive, which opens nothing but reports.
    OfHive,
}

impl ShownSecret {
    /// Which one the workers of a hive have that has shown this one. On the queen's own machine they have one
    /// for reports only.
    pub(super) fn of_workers(self, hive: &HiveAlias) -> Self {
        if hive.is_localhost() { Self::OfHive } else { self }
    }
}

/// Who sends a report.
#[derive(Clone, Copy)]
pub struct Sender<'a> {
    /// The secret that it has shown.
    pub(super) shown: ShownSecret,
    /// Whether that secret counts still: a report may take long to come, and its hive be removed meanwhile.
    counts: &'a dyn Fn() -> bool,
}

impl<'a> Sender<'a> {
    /// Who has shown a secret, for as long as that `counts`.
    #[must_use]
    pub fn new(shown: ShownSecret, counts: &'a dyn Fn() -> bool) -> Self {
        Self { shown, counts }
    }

    /// Who has shown a secret that counts for as long as the queen runs.
    #[must_use]
    pub fn of(shown: ShownSecret) -> Self {
        Self { shown, counts: &|| true }
    }

    /// To be asked under the lock under which the report is taken: what is forgotten then stays so.
    pub(super) fn ensure_counts(&self, hive: &HiveAlias) -> Result<(), ReportError> {
        if (self.counts)() { Ok(()) } else { Err(ReportError::Forgotten { hive: hive.clone() }) }
    }
}

impl fmt::Debug for Sender<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("shown", &self.shown).finish_non_exhaustive()
    }
}

impl Target {
    pub(super) fn new(address: Address, hive: &HiveAlias) -> Arc<Self> {
        Arc::new(Self::at(address, hive))
    }

    pub(super) fn at(address: Address, hive: &HiveAlias) -> Self {
        let holder = next_number();
        let (gone, died) = (CancellationToken::new(), CancellationToken::new());
        let has_own_secret = AtomicBool::new(false);
        let fallen = Fallen::default();
        let hive_id = hive.clone();
        Self { address, hive_id, server: None, gone, died, fallen, holder, has_own_secret }
    }

    /// Notes which secret it has.
    pub(super) fn has_shown(&self, shown: ShownSecret) {
        self.has_own_secret.store(shown == ShownSecret::Own, Relaxed);
    }

    /// The secret that it has, as far as is known: it is shown no other one.
    #[must_use]
    pub fn shown(&self) -> ShownSecret {
        if self.has_own_secret.load(Relaxed) { ShownSecret::Own } else { ShownSecret::OfHive }
    }

    pub(super) fn dies(&self) {
        self.died.cancel();
        self.gone.cancel();
    }

    /// In which ways it takes requests.
    #[must_use]
    pub fn ways(&self) -> Ways {
        self.server.as_ref().map_or(Ways::ALL, |server| server.engine.ways())
    }
}

/// A number that no other entry and no other process of a worker has; never 0.
pub(super) fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

/// The address in a worker's base URL.
pub(super) fn parse_address(base_url: &str) -> Result<Address, ReportError> {
    let refused = || ReportError::Address { address: base_url.chars().take(80).collect() };
    if base_url.len() > MAX_URL {
        return Err(refused());
    }
    let url = Url::parse(base_url).map_err(|_| refused())?;
    let is_base = url.scheme() == "http" && matches!(url.path(), "/" | "") && url.query().is_none();
    let host = url.host_str().filter(|_| is_base).ok_or_else(refused)?;
    let port = url.port_or_known_default().ok_or_else(refused)?;
    // An IPv6 address is in brackets in a URL only.
    let name = host.trim_matches(['[', ']']);
    let authority = format!("{host}:{port}");
    Ok(Address { host: name.to_owned(), port, authority, is_secure: false })
}
