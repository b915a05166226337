//! Servers of others that speak OpenAI's API, whose models are workers of the pool.
//!
//! Which ones there are is in `servers.json` in the queen's data folder, with the models that each listed
//! last, and the token of each in a file of its own among the secrets. A task looks at each of them again and again: what it finds is what the
//! `registry` knows of them, in the place of the reports that a worker of rbee sends. The `relay` asks
//! them in the client's own words (`body`) and reads their answers as those of a worker (`answer`).

mod answer;
mod body;
mod calls;
mod chunk;
mod encoding;
mod engine;
mod form;
mod halves;
mod health;
mod listing;
mod logprobs;
mod names;
mod prober;
mod refusal;
mod store;
mod url;
mod via;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use access_tokens::{Secret, TokenError, forget_secret, store_secret, stored_secret};
use rbee_operations::{AttachedServer, ServerApi, WorkerAttach};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use worker_contract::HiveAlias;

pub(crate) use self::answer::BYTES_A_TOKEN;
pub use self::answer::{Fault, Told, Translator};
pub use self::body::{Endpoint, Original};
pub use self::encoding::compresses;
pub use self::engine::Engine;
pub(crate) use self::health::MAX_MODELS;
use self::health::{Health, LATE, LOADS, Probe, chosen};
use self::names::set_apart;
use self::prober::Sight;
pub use self::refusal::{HIVES_SERVE, Meaning, Unmet, detail_of, said_otherwise, wordless};
pub use self::store::StoreError;
use self::store::Stored;
pub use self::url::{InvalidUrl, ServerUrl};
pub use self::via::VIA;
use crate::clock;
use crate::connection::Pool;
use crate::keyring::Keyring;
use crate::registry::{FailureKind, Registry, Served, ServerFailure, ServerReport};

/// After how long the list of servers is written again where that failed.
const WRITE_AGAIN: Duration = Duration::from_secs(60);

/// The most servers.
const MAX_SERVERS: usize = 64;
/// The most requests that a model can be said to run at once.
const MAX_SLOTS: u32 = 1024;
/// The most models that can be named.
const MAX_NAMED: usize = 256;
/// The shortest time between two looks at a server.
const SHORTEST: Duration = Duration::from_millis(50);

/// The attached servers. A clone is another handle to the same ones.
#[derive(Debug, Clone)]
pub struct Servers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    file: PathBuf,
    secrets: PathBuf,
    keyring: Keyring,
    registry: Registry,
    pool: Pool,
    /// Locked for the whole of a change, which writes to the disk, and before `known`.
    changing: Mutex<()>,
    /// Never locked while the disk works; locked before the registry.
    known: Mutex<BTreeMap<HiveAlias, Known>>,
    /// Something was found at a server that is not in the file.
    is_unwritten: Notify,
}

/// A server that was attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Its name.
    pub name: HiveAlias,
    /// Its models that are workers.
    pub models: Vec<Served>,
    /// How many more it has, which are too many.
    pub left_out: usize,
}

/// A server that is to be looked at.
struct Due {
    url: ServerUrl,
    token: Option<Secret>,
    with_itself: bool,
}

#[derive(Debug)]
struct Known {
    stored: Stored,
    token: Option<Secret>,
    health: Health,
    is_looked_at: bool,
}

/// A server cannot be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Its URL cannot be used.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    /// It needs a name.
    #[error("the server at {0} needs a name of its own")]
    NoName(ServerUrl),
    /// A number or a list is out of bounds.
    #[error("{0}")]
    Invalid(String),
    /// The name is taken.
    #[error("there is a server {name} already, at {url}")]
    NameTaken {
        /// The name.
        name: HiveAlias,
        /// Where it is.
        url: ServerUrl,
    },
    /// It is attached already.
    #[error("the server at {url} is attached already, as {name}")]
    UrlTaken {
        /// By which name.
        name: HiveAlias,
        /// Where it is.
        url: ServerUrl,
    },
    /// There are too many.
    #[error("{MAX_SERVERS} servers are attached already, as many as can be")]
    TooMany,
    /// It does not answer, or not yet.
    #[error("the server at {url} cannot be used: {reason}")]
    Unusable {
        /// Where it is.
        url: ServerUrl,
        /// What it does.
        reason: String,
    },
    /// It answers, and not as it should.
    #[error("the server at {url} cannot be used: {reason}")]
    Wrong {
        /// Where it is.
        url: ServerUrl,
        /// What it does.
        reason: String,
    },
    /// The queen can have no connection to it, which is not its fault.
    #[error("the server at {url} cannot be looked at: {reason}")]
    OwnLimit {
        /// Where it is.
        url: ServerUrl,
        /// Why.
        reason: String,
    },
    /// Its certificate is not believed.
    #[error("the server at {url} cannot be used: {reason}")]
    Untrusted {
        /// Where it is.
        url: ServerUrl,
        /// What is wrong with it.
        reason: String,
    },
    /// The queen has no authorities whose certificates she could believe.
    #[error("the server at {url} cannot be used: {reason}")]
    NoTrust {
        /// Where it is.
        url: ServerUrl,
        /// Why.
        reason: String,
        /// What can be done about it.
        hint: &'static str,
    },
    /// It is the queen that it should be attached to.
    #[error("the server at {url} cannot be used: it is this queen herself")]
    Herself {
        /// Where it is.
        url: ServerUrl,
    },
    /// It is somewhere else.
    #[error("the server at {url} cannot be used: it redirects to {to}")]
    Moved {
        /// Where it was looked for.
        url: ServerUrl,
        /// Where it says to be.
        to: String,
    },
    /// It does not take the token, or wants one.
    #[error("the server at {url} cannot be used: {reason}")]
    Locked {
        /// Where it is.
        url: ServerUrl,
        /// What it says.
        reason: String,
    },
    /// It has not the models that are wanted.
    #[error("the server at {url} has no model {model:?}")]
    NoModel {
        /// Where it is.
        url: Box<ServerUrl>,
        /// What is missing.
        model: String,
        /// What it has.
        has: Vec<String>,
    },
    /// There is no such server.
    #[error("no server {0} is attached")]
    Unknown(HiveAlias),
    /// Its token cannot be kept.
    #[error("the token of the server cannot be kept")]
    Token(#[from] TokenError),
    /// The list cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The change was interrupted.
    #[error("the change was interrupted")]
    Interrupted(#[source] tokio::task::JoinError),
}

impl Servers {
    /// Reads the servers that were attached, and lets the registry wait for them.
    pub fn open(
        file: PathBuf,
        secrets: &Path,
        keyring: Keyring,
        pool: Pool,
        registry: Registry,
    ) -> anyhow::Result<Self> {
        let secrets = secrets.join("servers");
        let mut known = BTreeMap::new();
        for (name, stored) in store::read(&file)? {
            let token = stored_secret(&secrets, &token_file(&name)).unwrap_or_else(|error| {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(server = %name, %error, cause, "a server's token cannot be read");
                None
            });
            keyring.set_server(&name, token.as_ref());
            let server = Known::new(&name, stored, token);
            known.insert(name, server);
        }
        registry.expect_servers(known.keys().cloned().collect());
        let known = Mutex::new(known);
        let changing = Mutex::default();
        let is_unwritten = Notify::new();
        let shared =
            Shared { file, secrets, keyring, registry, pool, changing, known, is_unwritten };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Whether a server has this name.
    #[must_use]
    pub fn has(&self, name: &HiveAlias) -> bool {
        self.known().contains_key(name)
    }

    /// The servers that no worker tells of, since they have no model.
    #[must_use]
    pub fn without_models(&self) -> Vec<AttachedServer> {
        let all = self.known();
        let empty = all.iter().filter_map(|(name, known)| {
            let (state, reason) = known.health.why_no_models(&known.stored.models)?;
            Some(AttachedServer {
                server: name.clone(),
                url: known.stored.url.to_string(),
                engine: known.health.engine.as_str().to_owned(),
                state: state.to_owned(),
                reason,
            })
        });
        empty.collect()
    }

    /// Attaches a server, after a look at it. The same one again is changed.
    pub async fn attach(&self, attach: WorkerAttach) -> Result<Attached, ServerError> {
        let WorkerAttach { url, api, name, token, slots, models } = attach;
        let ServerApi::Openai = api;
        let url: ServerUrl = url.parse()?;
        let name = name.or_else(|| url.name()).filter(|name| !name.is_localhost());
        let name = name.ok_or_else(|| ServerError::NoName(url.clone()))?;
        if slots.is_some_and(|slots| !(1..=MAX_SLOTS).contains(&slots)) || models.len() > MAX_NAMED
        {
            let reason = format!("slots are 1 to {MAX_SLOTS}, and models at most {MAX_NAMED}");
            return Err(ServerError::Invalid(reason));
        }
        self.check_name(&name, &url)?;
        let token = token.map(Secret::from).or_else(|| self.token(&name));
        let (pool, own_id) = (&self.shared.pool, self.shared.keyring.own_id());
        let sight = Sight { own_id, url: &url, token: token.as_ref(), with_itself: true };
        let listing = match prober::probe(pool, sight).await {
            Probe::Listing(listing) => listing,
            Probe::Slow => {
                let reason = LATE.to_owned();
                return Err(ServerError::Unusable { url, reason });
            }
            Probe::OwnLimit(reason) => return Err(ServerError::OwnLimit { url, reason }),
            Probe::Loading => {
                let reason = format!("{LOADS}; try again when it has");
                return Err(ServerError::Unusable { url, reason });
            }
            Probe::Moved(to) => return Err(ServerError::Moved { url, to }),
            Probe::Herself => return Err(ServerError::Herself { url }),
            Probe::Locked(reason) => return Err(ServerError::Locked { url, reason }),
            Probe::Untrusted(reason) => return Err(ServerError::Untrusted { url, reason }),
            Probe::NoTrust { reason, hint } => {
                return Err(ServerError::NoTrust { url, reason, hint });
            }
            Probe::Wrong(reason) | Probe::Mute(reason) | Probe::Busy { reason, .. } => {
                return Err(ServerError::Wrong { url, reason });
            }
            Probe::Unreachable(reason) | Probe::Shut(reason) => {
                return Err(ServerError::Unusable { url, reason });
            }
        };
        let missing = models
            .iter()
            .find(|model| chosen(&name, std::slice::from_ref(*model), &listing.models).is_empty());
        if let Some(model) = missing.cloned() {
            let has = listing.models.into_iter().map(|model| model.name).collect();
            return Err(ServerError::NoModel { url: Box::new(url), model, has });
        }
        let stored = Stored { url, api, slots, models, found: None };
        let (servers, kept) = (self.clone(), name.clone());
        on_disk(move || servers.keep(&kept, stored, token)).await?;
        self.found(&name, None, Probe::Listing(listing));
        let known = self.known();
        let found = known.get(&name).map(|known| &known.health);
        let models = found.map(|health| health.models.clone()).unwrap_or_default();
        let left_out = found.map_or(0, |health| health.left_out);
        drop(known);
        Ok(Attached { name, models, left_out })
    }

    /// Forgets a server.
    pub async fn detach(&self, name: &HiveAlias) -> Result<(), ServerError> {
        let (servers, name) = (self.clone(), name.clone());
        on_disk(move || servers.forget(&name)).await
    }

    /// Looks at each server at an interval, until `stop` fires. To be run by one task.
    pub async fn run(self, every: Duration, stop: CancellationToken) {
        let mut ticks = interval(every.max(SHORTEST));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => {
                    for (name, Due { url, token, with_itself }) in self.due() {
                        let shared = Arc::clone(&self.shared);
                        looks.spawn(async move {
                            let (own_id, token) = (shared.keyring.own_id(), token.as_ref());
                            let sight = Sight { own_id, url: &url, token, with_itself };
                            let probe = prober::probe(&shared.pool, sight).await;
                            (name, url, probe)
                        });
                    }
                }
                Some(look) = looks.join_next() => match look {
                    Ok((name, url, probe)) => self.found(&name, Some(&url), probe),
                    Err(error) => tracing::error!(%error, "a look at a server ended early"),
                },
            }
        }
    }

    /// Writes down what is found at servers, until `stop` fires: whoever starts the queen while one is out
    /// of reach is told of its models. To be run by one task.
    pub async fn keep_found(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = self.shared.is_unwritten.notified() => {}
                () = stop.cancelled() => return,
            }
            let servers = self.clone();
            let written = on_disk(move || {
                let _turn = servers.turn();
                Ok(store::write(&servers.shared.file, servers.stored())?)
            });
            if let Err(error) = written.await {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, cause, "the models of attached servers are not written down");
                tokio::select! {
                    () = tokio::time::sleep(WRITE_AGAIN) => self.shared.is_unwritten.notify_one(),
                    () = stop.cancelled() => return,
                }
            }
        }
    }

    /// The servers that may be looked at, and at which nobody is looking.
    fn due(&self) -> Vec<(HiveAlias, Due)> {
        let (mut known, now) = (self.known(), clock::now());
        let is_due = |known: &Known| !known.is_looked_at && known.health.is_due(now);
        let due = known.iter_mut().filter(|(_, known)| is_due(known));
        due.map(|(name, known)| {
            known.is_looked_at = true;
            let (url, token) = (known.stored.url.clone(), known.token.clone());
            let with_itself = known.health.is_to_tell();
            (name.clone(), Due { url, token, with_itself })
        })
        .collect()
    }

    /// Takes in what was found at a server; nothing if it was detached or attached elsewhere meanwhile.
    fn found(&self, name: &HiveAlias, at: Option<&ServerUrl>, probe: Probe) {
        // Held until the registry knows, or it could be told of a server after it was detached.
        let mut all = self.known();
        let report = {
            let Some(known) = all.get_mut(name) else { return };
            if at.is_some() {
                known.is_looked_at = false;
            }
            if at.is_some_and(|url| *url != known.stored.url) {
                return;
            }
            let before = known.health.failure.clone();
            let is_list = matches!(probe, Probe::Listing(_));
            known.health.on_probe(name, &known.stored.models, probe, clock::now());
            let mut models = std::mem::take(&mut known.health.models);
            let others = all.iter().filter(|(other, _)| *other != name);
            set_apart(&mut models, others.flat_map(|(_, other)| &other.health.models));
            let Some(known) = all.get_mut(name) else { return };
            known.health.models = models;
            let found = is_list.then(|| known.health.found());
            if found.is_some() && found != known.stored.found {
                known.stored.found = found;
                self.shared.is_unwritten.notify_one();
            }
            let failure = known.health.failure.clone();
            let kind = |failure: &Option<ServerFailure>| failure.as_ref().map(|known| known.kind);
            match (&before, &failure) {
                (_, Some(failure)) if kind(&before) == Some(failure.kind) => {}
                (_, Some(ServerFailure { kind: FailureKind::Loading, .. })) => {
                    tracing::info!(server = %name, "an attached server loads its model");
                }
                (_, Some(failure)) => {
                    tracing::warn!(server = %name, reason = failure.reason, "an attached server cannot be used");
                }
                (Some(_), None) => tracing::info!(server = %name, "an attached server is back"),
                _ => {}
            }
            ServerReport {
                name: name.clone(),
                url: known.stored.url.clone(),
                engine: known.health.engine,
                slots: known.stored.slots.unwrap_or_else(|| known.health.slots()).min(MAX_SLOTS),
                most_answers: known.health.most_answers(),
                names_its_model: known.health.names_its_model(),
                models: known.health.models.clone(),
                is_named: !known.stored.models.is_empty(),
                failure,
            }
        };
        self.shared.registry.server_probed(&report, clock::now());
    }

    fn keep(
        &self,
        name: &HiveAlias,
        stored: Stored,
        token: Option<Secret>,
    ) -> Result<(), ServerError> {
        let _turn = self.turn();
        self.check_name(name, &stored.url)?;
        if let Some(token) = &token {
            store_secret(&self.shared.secrets, &token_file(name), token)?;
        }
        let mut all = self.stored();
        all.insert(name.clone(), stored.clone());
        store::write(&self.shared.file, all)?;
        self.shared.keyring.set_server(name, token.as_ref());
        self.shared.registry.server_attached(name);
        self.known().insert(name.clone(), Known::new(name, stored, token));
        Ok(())
    }

    fn forget(&self, name: &HiveAlias) -> Result<(), ServerError> {
        let _turn = self.turn();
        let mut others = self.stored();
        if others.remove(name).is_none() {
            return Err(ServerError::Unknown(name.clone()));
        }
        store::write(&self.shared.file, others)?;
        forget_secret(&self.shared.secrets, &token_file(name))?;
        let mut known = self.known();
        known.remove(name);
        self.shared.keyring.set_server(name, None);
        self.shared.registry.server_detached(name);
        drop(known);
        Ok(())
    }

    fn stored(&self) -> BTreeMap<HiveAlias, Stored> {
        self.known().iter().map(|(name, known)| (name.clone(), known.stored.clone())).collect()
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.shared.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_name(&self, name: &HiveAlias, url: &ServerUrl) -> Result<(), ServerError> {
        let known = self.known();
        match known.get(name) {
            Some(known) if known.stored.url != *url => {
                let url = known.stored.url.clone();
                return Err(ServerError::NameTaken { name: name.clone(), url });
            }
            Some(_) => return Ok(()),
            None => {}
        }
        // Its slots would be counted twice.
        let is_it = |(_, known): &(&HiveAlias, &Known)| known.stored.url == *url;
        match known.iter().find(is_it) {
            Some((name, _)) => Err(ServerError::UrlTaken { name: name.clone(), url: url.clone() }),
            None if known.len() >= MAX_SERVERS => Err(ServerError::TooMany),
            _ => Ok(()),
        }
    }

    fn token(&self, name: &HiveAlias) -> Option<Secret> {
        self.known().get(name).and_then(|known| known.token.clone())
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<HiveAlias, Known>> {
        // Nothing panics under this lock halfway through a change.
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn new(name: &HiveAlias, stored: Stored, token: Option<Secret>) -> Self {
        let before = stored.found.as_ref();
        let before = before.map(|found| Health::of_before(name, &stored.models, found));
        Self { stored, token, health: before.unwrap_or_default(), is_looked_at: false }
    }
}

/// Has a change carried out where the disk holds nobody up.
async fn on_disk<T: Send + 'static>(
    change: impl FnOnce() -> Result<T, ServerError> + Send + 'static,
) -> Result<T, ServerError> {
    tokio::task::spawn_blocking(change).await.map_err(ServerError::Interrupted)?
}

/// The file of a server's token, among the secrets of servers.
fn token_file(name: &HiveAlias) -> String {
    format!("{name}.token")
}
