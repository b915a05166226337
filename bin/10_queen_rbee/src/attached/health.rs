//! What follows from the probes of one server. Pure.

use std::time::{Duration, Instant};

use worker_contract::HiveAlias;

use super::Engine;
use super::listing::{Listed, Listing, Told};
use super::names::{is_called, meant, name_models};
use super::store::Found;
use crate::registry::{FailureKind, Served, ServerFailure};

/// The most models of one server that become workers.
pub(crate) const MAX_MODELS: usize = 256;
/// How often in a row a server must be out of reach to be gone.
const UNREACHABLE: u32 = 2;
/// How often in a row a server must be late to be given no more requests. One that computes can be.
const SLOW: u32 = 3;

/// The longest time for which a server that asks for it is not looked at.
const LEFT_ALONE: Duration = Duration::from_secs(10);

/// After how many lists a server is asked anew what it has: one that was started again between two looks
/// can have other slots.
const TOLD_FOR: u32 = 30;

/// For how long a server may load its model, whatever else is found meanwhile, until it lists it.
const LOADING: Duration = Duration::from_secs(600);
/// What is told of one that does.
pub(super) const LOADS: &str = "it loads its model";
/// Why a server that was given its time cannot be used.
pub(super) const LATE: &str = "it does not answer in time";

/// What one probe has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Probe {
    /// It answers, and has these models.
    Listing(Listing),
    /// Nobody is there.
    Unreachable(String),
    /// Its machine is there, and nobody listens at its port.
    Shut(String),
    /// Somebody is there, and the certificate is not believed.
    Untrusted(String),
    /// Somebody is there, and the queen has nobody whom she could believe who that is.
    NoTrust {
        /// Why.
        reason: String,
        /// What can be done about it.
        hint: &'static str,
    },
    /// Somebody is there, and gave no answer in time.
    Slow,
    /// Somebody is there, and has no time to list its models, or something in front of it does not reach it.
    Busy {
        /// What it says.
        reason: String,
        /// For how long it wants to be left alone, as it says, in seconds.
        retry_after_s: Option<u32>,
    },
    /// Somebody is there, and does not begin to speak.
    Mute(String),
    /// The queen can have no connection to it, which is not its fault.
    OwnLimit(String),
    /// It says that it loads its model.
    Loading,
    /// It refuses the token, or demands one.
    Locked(String),
    /// It sends whoever asks to another URL.
    Moved(String),
    /// The answer is not that of a server that can be used.
    Wrong(String),
    /// What asks is what answers.
    Herself,
}

/// What is known of one server.
#[derive(Debug, Clone, Default)]
pub(super) struct Health {
    pub(super) engine: Engine,
    /// Its models, the last that it listed.
    pub(super) models: Vec<Served>,
    /// How many of those that are wanted were too many.
    pub(super) left_out: usize,
    pub(super) failure: Option<ServerFailure>,
    /// How many requests it says to run at once.
    told_slots: Option<u32>,
    /// How many times more what it said of itself is believed; 0 where it has to be asked.
    told_for: u32,
    /// Its whole list, the last.
    listed: Vec<Listed>,
    /// It is known from before the queen was started only: one miss is enough.
    is_unseen: bool,
    unreachable: u32,
    slow: u32,
    loading_since: Option<Instant>,
    /// It has asked for no look before.
    left_alone_until: Option<Instant>,
}

impl Health {
    /// What an earlier queen knew of a server that this one has not looked at.
    pub(super) fn of_before(server: &HiveAlias, wanted: &[String], found: &Found) -> Self {
        let mut models = chosen(server, wanted, &found.models);
        models.truncate(MAX_MODELS);
        let (engine, told_slots) = (found.engine, found.slots);
        Self { engine, told_slots, models, is_unseen: true, ..Self::default() }
    }

    /// What is to be known of it by a later queen.
    pub(super) fn found(&self) -> Found {
        let listed = |model: &Served| Listed {
            name: model.name.clone(),
            context_length: model.context_length,
        };
        let models = self.models.iter().map(listed).collect();
        Found { engine: self.engine, slots: self.told_slots, models }
    }

    /// How many requests one of its models runs at once, as far as is known.
    pub(super) fn slots(&self) -> u32 {
        self.told_slots.unwrap_or(self.engine.usual_slots())
    }

    /// How many answers it makes to one request at most: llama-server has a slot for each, and some make one
    /// whatever they are asked for.
    pub(super) fn most_answers(&self) -> Option<u32> {
        match self.engine {
            Engine::LlamaServer => Some(self.told_slots.unwrap_or(1)),
            Engine::Ollama | Engine::LmStudio => Some(1),
            Engine::Vllm | Engine::Rbee | Engine::Unknown => None,
        }
    }

    /// Whether its answers tell the name by which it lists the model that gave them: llama-server's do, where
    /// it has one model. One that has several has processes for them, with other names.
    pub(super) fn names_its_model(&self) -> bool {
        self.engine == Engine::LlamaServer && self.told_slots.is_some() && self.listed.len() == 1
    }

    /// Whether it is to be asked what it is and has: it may be another one than it was.
    pub(super) fn is_to_tell(&self) -> bool {
        self.told_for == 0
    }

    /// Whether it may be looked at.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.left_alone_until.is_none_or(|until| now >= until)
    }

    /// Why none of its models is a worker, behind its state; `None` where one is.
    pub(super) fn why_no_models(&self, wanted: &[String]) -> Option<(&'static str, String)> {
        if !self.models.is_empty() {
            return None;
        }
        Some(match &self.failure {
            Some(ServerFailure { kind: FailureKind::Loading, reason }) => {
                ("loading", reason.clone())
            }
            Some(failure) => ("failed", failure.reason.clone()),
            None if self.is_unseen => ("unknown", "it has not been looked at yet".to_owned()),
            None if wanted.is_empty() => ("ready", "it lists no models".to_owned()),
            None => ("ready", "it lists none of the models that it was attached for".to_owned()),
        })
    }

    /// Takes a probe in. `wanted` are the models that are to be workers, all where none is named.
    pub(super) fn on_probe(
        &mut self,
        server: &HiveAlias,
        wanted: &[String],
        probe: Probe,
        now: Instant,
    ) {
        if let Probe::OwnLimit(reason) = probe {
            // Nothing was found: what was known of it stays.
            if self.is_unseen {
                self.failure = Some(ServerFailure { reason, kind: FailureKind::Gone });
            }
            return;
        }
        let is_first = std::mem::take(&mut self.is_unseen);
        let (unreachable, slow) = (self.unreachable + 1, self.slow + 1);
        (self.unreachable, self.slow) = (0, 0);
        self.left_alone_until = rest_of(&probe).map(|rest| now + rest);
        match probe {
            Probe::Listing(listing) => {
                // Where its list does not tell what it is, it has been asked before.
                if listing.engine != Engine::Unknown || listing.told != Told::NotAsked {
                    self.engine = listing.engine;
                }
                let is_changed = self.listed != listing.models;
                match listing.told {
                    Told::Slots(slots) => (self.told_slots, self.told_for) = (slots, TOLD_FOR),
                    Told::NotAsked if is_changed => self.told_for = 0,
                    Told::NotAsked => self.told_for = self.told_for.saturating_sub(1),
                }
                self.models = chosen(server, wanted, &listing.models);
                let too_many = self.models.len().saturating_sub(MAX_MODELS);
                self.left_out = too_many + if wanted.is_empty() { listing.more } else { 0 };
                self.models.truncate(MAX_MODELS);
                self.listed = listing.models;
                (self.failure, self.loading_since) = (None, None);
            }
            Probe::Unreachable(ref reason)
            | Probe::Untrusted(ref reason)
            | Probe::NoTrust { ref reason, .. }
            | Probe::Shut(ref reason) => {
                let is_shut = matches!(probe, Probe::Shut(_));
                let kind = if is_shut { FailureKind::Shut } else { FailureKind::Gone };
                let reason = reason.clone();
                self.unreachable = unreachable;
                self.told_for = 0;
                if is_first || unreachable >= UNREACHABLE {
                    self.failure = Some(ServerFailure { reason, kind });
                }
            }
            Probe::Slow | Probe::Mute(_) | Probe::Busy { .. } => {
                self.slow = slow;
                if is_first || slow >= SLOW {
                    let reason = match probe {
                        Probe::Mute(reason) | Probe::Busy { reason, .. } => reason,
                        _ => LATE.to_owned(),
                    };
                    self.failure = Some(ServerFailure { reason, kind: FailureKind::Unfit });
                }
            }
            Probe::OwnLimit(_) => {}
            Probe::Loading => {
                self.told_for = 0;
                let since = *self.loading_since.get_or_insert(now);
                let hangs = now.saturating_duration_since(since) > LOADING;
                let reason = if hangs { "it does not end to load its model" } else { LOADS };
                let kind = if hangs { FailureKind::Unfit } else { FailureKind::Loading };
                self.failure = Some(ServerFailure { reason: reason.to_owned(), kind });
            }
            Probe::Moved(to) => {
                let reason = format!("it redirects to {to}, which is to be attached instead");
                self.failure = Some(ServerFailure { reason, kind: FailureKind::Unfit });
            }
            Probe::Herself => {
                let reason = "it is this queen herself".to_owned();
                self.failure = Some(ServerFailure { reason, kind: FailureKind::Unfit });
            }
            Probe::Locked(reason) => {
                self.failure = Some(ServerFailure { reason, kind: FailureKind::Locked });
            }
            Probe::Wrong(reason) => {
                self.failure = Some(ServerFailure { reason, kind: FailureKind::Unfit });
            }
        }
    }
}

/// For how long a server is left alone as it says.
fn rest_of(probe: &Probe) -> Option<Duration> {
    let Probe::Busy { retry_after_s, .. } = probe else { return None };
    retry_after_s.map(|seconds| Duration::from_secs(seconds.into()).min(LEFT_ALONE))
}

/// The models that are wanted, under their names.
pub(super) fn chosen(server: &HiveAlias, wanted: &[String], listed: &[Listed]) -> Vec<Served> {
    let mut models = name_models(server, listed);
    if !wanted.is_empty() {
        let meant: Vec<_> = wanted.iter().map(|name| meant(&models, name)).collect();
        models.retain(|model| meant.iter().any(|name| is_called(model, name)));
    }
    models
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_miss_is_none_and_what_is_wrong_is_wrong_at_once() {
        let unreachable = || Probe::Unreachable("refused".into());
        let wrong = || Probe::Wrong("HTTP 500".into());
        let loading = || Probe::Loading;
        let own = || Probe::OwnLimit("too many open files".into());
        let mute = || Probe::Mute("no TLS".into());
        let shut = || Probe::Shut("refused".into());
        let busy = || busy(None);
        let for_ever = vec![loading(); 62];
        let again_and_again = (0..32).flat_map(|_| [loading(), unreachable()]).collect();
        let (gone, unfit) = (Some(FailureKind::Gone), Some(FailureKind::Unfit));
        let locked = Some(FailureKind::Locked);
        for (because, probes, expected) in [
            ("it is there", vec![list(&["a"])], None),
            ("a moment's failure", vec![list(&["a"]), unreachable()], None),
            ("it is gone", vec![list(&["a"]), unreachable(), unreachable()], gone),
            ("its port is shut", vec![list(&["a"]), shut(), shut()], Some(FailureKind::Shut)),
            ("it is back", vec![unreachable(), unreachable(), list(&["a"])], None),
            ("not in a row", vec![unreachable(), list(&["a"]), unreachable()], None),
            ("it computes", vec![list(&["a"]), Probe::Slow, Probe::Slow], None),
            ("it hangs", vec![Probe::Slow, Probe::Slow, Probe::Slow], unfit),
            ("it cannot speak for a moment", vec![list(&["a"]), mute(), Probe::Slow], None),
            ("it does not speak", vec![list(&["a"]), mute(), mute(), mute()], unfit),
            ("it has no time for a moment", vec![list(&["a"]), busy(), Probe::Slow], None),
            ("it has no time", vec![list(&["a"]), busy(), Probe::Slow, busy()], unfit),
            ("it was wrong before", vec![list(&["a"]), wrong(), busy()], unfit),
            ("the queen's own limit", vec![list(&["a"]), own(), own(), own()], None),
            ("nothing is forgotten", vec![unreachable(), own(), unreachable()], gone),
            ("it hung before", vec![Probe::Slow, Probe::Slow, own(), Probe::Slow], unfit),
            ("it is something else", vec![list(&["a"]), wrong()], unfit),
            ("its token is wrong", vec![list(&["a"]), Probe::Locked("no".into())], locked),
            ("it stays wrong", vec![wrong(), unreachable()], unfit),
            (
                "it has another certificate",
                vec![Probe::Untrusted("no".into()), unreachable()],
                gone,
            ),
            ("it loads", vec![list(&["a"]), loading()], Some(FailureKind::Loading)),
            ("it loads for ever", for_ever, unfit),
            ("it ends while it loads", again_and_again, unfit),
            ("it has loaded", vec![loading(), list(&["a"])], None),
        ] {
            let health = after(&[], probes);
            assert_eq!(health.failure.map(|failure| failure.kind), expected, "{because}");
        }
    }

    #[test]
    fn the_models_are_those_that_it_listed_last_and_that_are_wanted() {
        let names = |health: &Health| -> Vec<String> {
            health.models.iter().map(|model| model.name.clone()).collect()
        };
        let health = after(&[], vec![list(&["a", "b"]), list(&["b", "c"]), Probe::Slow]);
        assert_eq!(names(&health), ["b", "c"]);
        let health = after(&["org/b", "org-c"], vec![list(&["a", "org/b", "org/c"])]);
        assert_eq!(names(&health), ["org/b", "org/c"], "by either name");
        let tagged = || list(&["a:latest", "a:small", "b", "b:latest", "org/c:latest"]);
        for (wanted, expected) in [
            (&["a"][..], &["a:latest"][..]),
            (&["a:latest"], &["a:latest"]),
            (&["a:small"], &["a:small"]),
            (&["b"], &["b"]),
            (&["org-c"], &["org/c:latest"]),
            (&["org/c", "b"], &["b", "org/c:latest"]),
            (&["c"], &[]),
        ] {
            assert_eq!(names(&after(wanted, vec![tagged()])), expected, "{wanted:?}");
        }
    }

    #[test]
    fn a_server_without_models_says_why_it_has_none() {
        let wrong = || Probe::Wrong("HTTP 500".into());
        for (wanted, probes, expected) in [
            (&[][..], vec![list(&["a"])], None),
            (&[], vec![list(&["a"]), wrong()], None),
            (&[], vec![list(&[])], Some(("ready", "it lists no models"))),
            (
                &["b"],
                vec![list(&["a"])],
                Some(("ready", "it lists none of the models that it was attached for")),
            ),
            (&[], vec![list(&[]), wrong()], Some(("failed", "HTTP 500"))),
            (&[], vec![list(&[]), Probe::Loading], Some(("loading", LOADS))),
        ] {
            let wanted: Vec<String> = wanted.iter().map(|name: &&str| (*name).to_owned()).collect();
            let named: Vec<&str> = wanted.iter().map(String::as_str).collect();
            let told = after(&named, probes).why_no_models(&wanted);
            let told = told.as_ref().map(|(state, reason)| (*state, reason.as_str()));
            assert_eq!(told, expected);
        }
        let found = after(&[], vec![list(&[])]).found();
        let before = Health::of_before(&"nas".parse().unwrap(), &[], &found);
        assert_eq!(before.why_no_models(&[]).unwrap().0, "unknown");
    }

    #[test]
    fn of_too_many_models_the_first_are_taken_and_the_others_counted_unless_they_are_wanted() {
        let names: Vec<String> = (0..300).map(|n| format!("m{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let health = after(&[], vec![list(&names)]);
        assert_eq!((health.models.len(), health.left_out), (256, 44));
        let health = after(&["m299"], vec![list(&names)]);
        assert_eq!((health.models.len(), health.left_out), (1, 0));
        assert_eq!(health.models[0].name, "m299");
    }

    #[test]
    fn slots_are_those_that_it_told_when_it_was_asked_last() {
        let told = |told| Probe::Listing(Listing { told, ..listing(&["a"], Engine::LlamaServer) });
        let two = || told(Told::Slots(Some(2)));
        let not_asked = || told(Told::NotAsked);
        let unreachable = || Probe::Unreachable("refused".into());
        let list_of_b = || Probe::Listing(listing(&["b"], Engine::LlamaServer));
        let two_of_b = || {
            let told = Told::Slots(Some(2));
            Probe::Listing(Listing { told, ..listing(&["b"], Engine::LlamaServer) })
        };
        for (because, probes, slots, is_asked) in [
            ("nothing is known", vec![], 4, true),
            ("it has told", vec![two()], 2, false),
            ("once is enough", vec![two(), not_asked()], 2, false),
            ("it may be another one", vec![two(), unreachable()], 2, true),
            ("it is another one", vec![two(), unreachable(), told(Told::Slots(Some(1)))], 1, false),
            ("it loads anew", vec![two(), Probe::Loading], 2, true),
            ("it does not tell", vec![two(), unreachable(), told(Told::Slots(None))], 4, false),
            ("it lists others", vec![two(), list_of_b()], 2, true),
            ("and has told of that", vec![two(), list_of_b(), two_of_b()], 2, false),
            ("that was long ago", [vec![two()], vec![not_asked(); 30]].concat(), 2, true),
            ("not so long", [vec![two()], vec![not_asked(); 29]].concat(), 2, false),
            ("as many as vLLM has", vec![Probe::Listing(listing(&["a"], Engine::Vllm))], 64, true),
        ] {
            let health = after(&[], probes);
            assert_eq!((health.slots(), health.is_to_tell()), (slots, is_asked), "{because}");
        }
    }

    #[test]
    fn how_many_answers_it_makes_and_whose_they_are_follows_from_what_it_is() {
        let of = |engine, models, slots| {
            let told = Told::Slots(slots);
            Probe::Listing(Listing { told, ..listing(models, engine) })
        };
        let llama = Engine::LlamaServer;
        for (because, probe, most, is_named) in [
            ("a slot for each", of(llama, &["a"], Some(2)), Some(2), true),
            ("it has several models", of(llama, &["a", "b"], Some(2)), Some(2), false),
            ("it does not tell its slots", of(llama, &["a"], None), Some(1), false),
            ("Ollama makes one", of(Engine::Ollama, &["a"], None), Some(1), false),
            ("LM Studio makes one", of(Engine::LmStudio, &["a"], None), Some(1), false),
            ("vLLM makes any number", of(Engine::Vllm, &["a"], None), None, false),
            ("who knows", of(Engine::Unknown, &["a"], None), None, false),
        ] {
            let health = after(&[], vec![probe]);
            assert_eq!(
                (health.most_answers(), health.names_its_model()),
                (most, is_named),
                "{because}"
            );
        }
    }

    #[test]
    fn a_server_that_has_said_once_what_it_is_stays_that_while_its_list_does_not_tell() {
        let told = |engine| {
            let told = Told::Slots(None);
            Probe::Listing(Listing { told, ..listing(&["kim/tale"], engine) })
        };
        let untold = || Probe::Listing(listing(&["kim/tale"], Engine::Unknown));
        let unreachable = || Probe::Unreachable("refused".into());
        for (because, probes, engine) in [
            ("nothing is known", vec![untold()], Engine::Unknown),
            ("it has said so", vec![told(Engine::Ollama), untold()], Engine::Ollama),
            (
                "it is asked again",
                vec![told(Engine::Ollama), unreachable(), told(Engine::Unknown)],
                Engine::Unknown,
            ),
            ("its list tells", vec![told(Engine::Unknown), list(&["m"])], Engine::Ollama),
        ] {
            assert_eq!(after(&[], probes).engine, engine, "{because}");
        }
    }

    #[test]
    fn what_an_earlier_queen_knew_is_there_and_counts_as_gone_until_it_is_found_again() {
        let unreachable = || Probe::Unreachable("refused".into());
        let own = || Probe::OwnLimit("too many open files".into());
        let (gone, unfit) = (Some(FailureKind::Gone), Some(FailureKind::Unfit));
        for (because, probes, expected) in [
            ("one miss is enough", vec![unreachable()], gone),
            ("nobody can look", vec![own()], gone),
            ("nobody could look, then it is missed", vec![own(), unreachable()], gone),
            ("it computes, perhaps", vec![Probe::Slow], unfit),
            ("it has no time, perhaps", vec![busy(None)], unfit),
            ("it is there", vec![list(&["a", "b"])], None),
            ("it was there since", vec![list(&["a", "b"]), unreachable()], None),
        ] {
            let nas = "nas".parse().unwrap();
            let found = after(&[], vec![list(&["a", "b"])]).found();
            let mut health = Health::of_before(&nas, &[], &found);
            for probe in probes {
                health.on_probe(&nas, &[], probe, Instant::now());
            }
            assert_eq!(health.found(), found, "{because}");
            assert_eq!(health.failure.map(|failure| failure.kind), expected, "{because}");
        }
    }

    #[test]
    fn a_server_that_wants_to_be_left_alone_is_not_looked_at_for_a_while() {
        let (nas, begin) = ("nas".parse().unwrap(), Instant::now());
        for (because, probe, seconds) in [
            ("as it says", busy(Some(3)), 3),
            ("not for an hour", busy(Some(3600)), 10),
            ("it does not say", busy(None), 0),
            ("it lists its models", list(&["a"]), 0),
        ] {
            let mut health = Health::default();
            for probe in [list(&["a"]), busy(Some(5)), probe] {
                health.on_probe(&nas, &[], probe, begin);
            }
            let until = begin + Duration::from_secs(seconds);
            assert!(health.is_due(until), "{because}");
            assert_eq!(health.is_due(begin), seconds == 0, "{because}");
            if seconds > 0 {
                let before = begin + Duration::from_millis(1000 * seconds - 1);
                assert!(!health.is_due(before), "{because}");
            }
        }
    }

    fn busy(retry_after_s: Option<u32>) -> Probe {
        Probe::Busy { reason: "HTTP 429".into(), retry_after_s }
    }

    fn after(wanted: &[&str], probes: Vec<Probe>) -> Health {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        let mut health = Health::default();
        let begin = Instant::now();
        for (number, probe) in (0..).zip(probes) {
            let now = begin + Duration::from_secs(10 * number);
            health.on_probe(&"nas".parse().unwrap(), &wanted, probe, now);
        }
        health
    }

    fn list(names: &[&str]) -> Probe {
        Probe::Listing(listing(names, Engine::Ollama))
    }

    fn listing(names: &[&str], engine: Engine) -> Listing {
        let listed = |name: &&str| Listed { name: (*name).to_owned(), context_length: 0 };
        let models = names.iter().map(listed).collect();
        Listing { engine, models, more: 0, told: Told::NotAsked, loaded: None }
    }
}
