//! The operator's own rules: a script beside the configuration that may refuse places, prefer some to
//! others, and say how urgent requests are.
//!
//! The scheduler knows no script: it is handed what the script said of each place. A script that is
//! missing says nothing. One that fails or is slow says nothing either, for the decision that it was
//! asked about, and that is told in the log, in the log of decisions and in the metrics; one that
//! fails often is left alone for a while.

mod facts;
mod judge;
mod script;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use access_tokens::Authenticator;
use tokio_util::sync::CancellationToken;

pub use self::facts::{LoadFacts, PlaceFacts, RequestFacts, SpotFacts};
pub use self::judge::{Judge, Traced, Verdict};
pub(crate) use self::script::MAX_SCRIPT;
pub use self::script::{Script, ScriptError};
use crate::admission::Priority;
use crate::decisions::{Decided, Decisions, Kind};

/// The name of the script, beside the configuration.
pub(crate) const FILE: &str = "scheduler.rhai";
/// How often it is looked whether the file has changed.
const LOOK: Duration = Duration::from_secs(1);
/// After how many failures within a time a script is left alone: one that fails for one model only, and
/// says something of all others, costs as much with each.
const FAILURES: usize = 8;
const WITHIN: Duration = Duration::from_secs(60);
/// For how long it is.
const PAUSE: Duration = Duration::from_secs(10);
/// How often it is told that a script fails, at most.
const TELL: Duration = Duration::from_secs(60);

/// The rules. A clone is the same ones.
#[derive(Debug, Clone)]
pub struct Rules {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    decisions: Decisions,
    /// Knows the names of tokens.
    tokens: Option<Authenticator>,
    /// Whether there is a script at all: most of the time there is none, and nothing is locked.
    is_there: AtomicBool,
    state: Mutex<State>,
    failures: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    script: Option<Arc<Script>>,
    /// When it failed, as far as that counts.
    failed: VecDeque<Instant>,
    paused_until: Option<Instant>,
    told_at: Option<Instant>,
    /// Why its file could not be read, when that was told.
    unread: Option<String>,
}

/// What tells one version of a file from another.
type Version = (SystemTime, u64);

impl Rules {
    /// No rules yet. What becomes of them is recorded in `decisions`.
    #[must_use]
    pub fn none(decisions: Decisions) -> Self {
        Self::of(decisions, None)
    }

    /// No rules yet; scripts are told the names of these tokens.
    #[must_use]
    pub fn with_tokens(decisions: Decisions, tokens: Authenticator) -> Self {
        Self::of(decisions, Some(tokens))
    }

    fn of(decisions: Decisions, tokens: Option<Authenticator>) -> Self {
        let shared = Shared {
            decisions,
            tokens,
            is_there: AtomicBool::new(false),
            state: Mutex::default(),
            failures: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The name of the token that a caller asks with; empty where it has none.
    #[must_use]
    pub fn token_of(&self, caller: &str) -> String {
        let tokens = self.shared.tokens.as_ref();
        tokens.and_then(|tokens| tokens.token_name(caller)).unwrap_or_default()
    }

    /// Puts a script in the place of the one before, if it can be understood; else there is none.
    pub fn load(&self, text: &str) -> Result<(), ScriptError> {
        match Script::compile(text) {
            Ok(script) => {
                self.replace(Some(script));
                self.tell("loaded", format!("{FILE} was loaded"));
                Ok(())
            }
            Err(error) => {
                self.replace(None);
                self.tell("not_understood", format!("{FILE} is not used: {error}"));
                Err(error)
            }
        }
    }

    /// Uses no script any longer.
    pub fn remove(&self) {
        self.replace(None);
        self.tell("removed", format!("{FILE} is gone"));
    }

    /// How often a script failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.shared.failures.load(Relaxed)
    }

    /// The script, if there is one that says anything about places.
    #[must_use]
    pub fn for_places(&self) -> Option<Arc<Script>> {
        self.script().filter(|script| script.judges_places())
    }

    /// Whether there is a script.
    #[must_use]
    pub fn are_there(&self) -> bool {
        self.for_places().is_some() || self.judge_requests()
    }

    /// Whether there is a script that says how urgent requests are.
    #[must_use]
    pub fn judge_requests(&self) -> bool {
        self.script().is_some_and(|script| script.judges_requests())
    }

    /// How urgent a request is: as it says itself, or as the script says.
    #[must_use]
    pub fn priority(&self, request: &RequestFacts<'_>) -> Priority {
        let Some(script) = self.script().filter(|script| script.judges_requests()) else {
            return request.priority;
        };
        let priority = script.priority_of(request);
        self.heard(priority.as_ref().err());
        priority.unwrap_or(request.priority)
    }

    /// Notes how a script did.
    pub fn heard(&self, error: Option<&ScriptError>) {
        let Some(error) = error else { return };
        self.shared.failures.fetch_add(1, Relaxed);
        let (mut state, now) = (self.state(), Instant::now());
        state.failed.retain(|at| now.saturating_duration_since(*at) < WITHIN);
        state.failed.push_back(now);
        if state.failed.len() >= FAILURES {
            state.failed.clear();
            state.paused_until = Some(now + PAUSE);
        }
        let is_due = state.told_at.is_none_or(|at| now.saturating_duration_since(at) >= TELL);
        if is_due {
            state.told_at = Some(now);
            drop(state);
            let reason = match error {
                ScriptError::Slow { .. } => "slow",
                _ => "failed",
            };
            self.tell(reason, format!("{FILE}: {error}; the built-in policy decides"));
        }
    }

    /// Loads the script when it has changed, until `stop` fires. To be run by one task.
    pub async fn watch(self, file: PathBuf, stop: CancellationToken) {
        let mut known = None;
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let (rules, path) = (self.clone(), file.clone());
            let look = move || rules.look(&path, known);
            known = tokio::task::spawn_blocking(look).await.unwrap_or(known);
        }
    }

    /// Loads the script if its file is another one than the version that is known.
    pub(crate) fn look(&self, file: &std::path::Path, known: Option<Version>) -> Option<Version> {
        let found = std::fs::metadata(file).ok();
        // Who opens a pipe may wait for ever, and a device may give bytes without end.
        let is_file = found.as_ref().is_some_and(std::fs::Metadata::is_file);
        let version =
            found.map(|meta| (meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len()));
        match (version, known) {
            (None, Some(_)) => self.remove(),
            (Some(version), known) if known != Some(version) => match read(file, is_file) {
                // What is wrong is told.
                Ok(text) => drop(self.load(&text)),
                Err(error) => {
                    self.unread(format!("{FILE} cannot be read: {error}"));
                    // What is in the way may go, and leave the file as it is.
                    return None;
                }
            },
            (None, None) => self.state().unread = None,
            _ => {}
        }
        version
    }

    /// Uses no script, since its file cannot be read. That is told once.
    fn unread(&self, why: String) {
        if self.state().unread.as_ref() == Some(&why) {
            return;
        }
        self.replace(None);
        self.state().unread = Some(why.clone());
        self.tell("not_understood", why);
    }

    fn script(&self) -> Option<Arc<Script>> {
        if !self.shared.is_there.load(Relaxed) {
            return None;
        }
        let mut state = self.state();
        if state.paused_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        state.paused_until = None;
        state.script.clone()
    }

    fn replace(&self, script: Option<Script>) {
        self.shared.is_there.store(script.is_some(), Relaxed);
        *self.state() = State { script: script.map(Arc::new), ..State::default() };
    }

    fn tell(&self, reason: &'static str, why: String) {
        if matches!(reason, "loaded" | "removed") {
            tracing::info!(why, "the operator's rules have changed");
        } else {
            tracing::warn!(why, "the operator's rules are not followed");
        }
        self.shared.decisions.record(Decided::told(Kind::Rules, reason, why));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As much of a script as is enough to refuse one that is too long.
fn read(file: &std::path::Path, is_file: bool) -> std::io::Result<String> {
    if !is_file {
        return Err(std::io::Error::other("it is no regular file"));
    }
    let mut text = String::new();
    std::fs::File::open(file)?.take(MAX_SCRIPT as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}
