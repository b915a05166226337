//! What the models of a server are called here. Pure.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use sha2::{Digest as _, Sha256};
use worker_contract::{HiveAlias, ModelAlias, WorkerId};

use super::listing::Listed;
use crate::registry::{LATEST, Served};

/// The longest name of a model.
const MAX_ALIAS: usize = 96;
/// What the name of a model may have beside letters and digits.
const IN_ALIAS: &str = "._:-";
/// The longest id of a worker.
const MAX_ID: usize = 64;

/// Gives each model of a server a name of its own and a worker's id. One whose name can stay keeps it;
/// of several that would be called the same, the others get a piece of a digest behind it.
pub(super) fn name_models(server: &HiveAlias, listed: &[Listed]) -> Vec<Served> {
    let is_kept = |model: &&Listed| model.name.parse::<ModelAlias>().is_ok();
    let kept = listed.iter().filter(is_kept);
    let changed = listed.iter().filter(|model| !is_kept(model));
    let (mut aliases, mut ids, mut known) = (HashSet::new(), HashSet::new(), HashSet::new());
    let mut named = Vec::new();
    for model in kept.chain(changed) {
        if !known.insert(&model.name) {
            continue;
        }
        let alias = unique(&legal(&model.name, IN_ALIAS), MAX_ALIAS, &model.name, &mut aliases);
        let id = format!("{server}-{}", legal(&model.name, "._-"));
        let id = unique(&id, MAX_ID, &model.name, &mut ids);
        if let (Ok(alias), Ok(worker_id)) = (alias.parse(), id.parse::<WorkerId>()) {
            let name = model.name.clone();
            named.push(Served { worker_id, alias, name, context_length: model.context_length });
        }
    }
    named
}

/// Gives those models another name that would be called as another one is on some other server: of those
/// that a name suits, the one that is called so there has it, else the first in the order of the alphabet.
/// So a model has one name here, whichever servers have it.
pub(super) fn set_apart<'a>(models: &mut [Served], others: impl Iterator<Item = &'a Served>) {
    let is_changed = |model: &Served| model.alias.as_str() != model.name;
    let by_name = models.iter().enumerate().filter(|(_, model)| is_changed(model));
    let by_name: HashMap<_, _> = by_name.map(|(at, m)| (m.alias.to_string(), at)).collect();
    if by_name.is_empty() {
        return;
    }
    let mut yields = HashSet::new();
    for other in others {
        let suits = if is_changed(other) {
            Cow::Owned(legal(&other.name, IN_ALIAS))
        } else {
            Cow::Borrowed(other.name.as_str())
        };
        let Some(at) = by_name.get(suits.as_ref()) else { continue };
        let is_before = |model: &Served| {
            other.name != model.name && (!is_changed(other) || other.name < model.name)
        };
        if models.get(*at).is_some_and(is_before) {
            yields.insert(*at);
        }
    }
    for at in yields {
        let Some(model) = models.get_mut(at) else { continue };
        if let Ok(alias) = with_digest(model.alias.as_str(), MAX_ALIAS, &model.name).parse() {
            model.alias = alias;
        }
    }
}

/// The name of the model that is meant by a name that somebody wrote: it with `:latest` behind it, where no
/// model is called just so.
pub(super) fn meant<'a>(models: &[Served], name: &'a str) -> Cow<'a, str> {
    if models.iter().any(|model| is_called(model, name)) {
        Cow::Borrowed(name)
    } else {
        Cow::Owned(format!("{name}{LATEST}"))
    }
}

/// Whether a model is meant by a name that somebody wrote: its own, or the one that it has here.
pub(super) fn is_called(served: &Served, name: &str) -> bool {
    served.name == name || served.alias.as_str() == name
}

/// The text with what a name cannot have in it replaced, so that it is one.
fn legal(text: &str, extra: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let c = if c.is_ascii_alphanumeric() || extra.contains(c) { c } else { '-' };
        let repeats = matches!(c, '-' | '.') && out.ends_with(c);
        let begins = out.is_empty() && !c.is_ascii_alphanumeric();
        if !repeats && !begins {
            out.push(c);
        }
    }
    let end = out.trim_end_matches(['-', '.']).len();
    out.truncate(end);
    if out.is_empty() { "model".to_owned() } else { out }
}

/// The name, cut to `max` bytes, and with a piece of `of`'s digest where it was cut or is taken.
fn unique(name: &str, max: usize, of: &str, taken: &mut HashSet<String>) -> String {
    if name.len() <= max && taken.insert(name.to_owned()) {
        return name.to_owned();
    }
    let name = with_digest(name, max, of);
    taken.insert(name.clone());
    name
}

/// The name, cut so that it has `max` bytes with a piece of `of`'s digest behind it.
fn with_digest(name: &str, max: usize, of: &str) -> String {
    let digest = Sha256::digest(of.as_bytes());
    let bytes = digest.iter().take(4);
    let piece = bytes.fold(String::new(), |piece, byte| format!("{piece}{byte:02x}"));
    // What is here is ASCII.
    let begin = name.get(..name.len().min(max - piece.len() - 1)).unwrap_or(name);
    format!("{}-{piece}", begin.trim_end_matches(['-', '.']))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_stay_where_they_can_and_are_told_apart_where_they_cannot() {
        let names = ["a/b", "a-b", "qwen2.5:7b", "org/Model-8B.gguf", "/models/x", "ä"];
        let models = named(&names);
        let shown: Vec<_> = models.iter().map(|m| (m.alias.as_str(), m.name.as_str())).collect();
        assert_eq!(
            shown[..4],
            [
                ("a-b", "a-b"),
                ("qwen2.5:7b", "qwen2.5:7b"),
                ("a-b-c14cddc0", "a/b"),
                ("org-Model-8B.gguf", "org/Model-8B.gguf"),
            ]
        );
        assert_eq!(shown[4..], [("models-x", "/models/x"), ("model", "ä")]);
        assert_eq!(models[1].worker_id.as_str(), "nas-qwen2.5-7b");
        assert!(is_called(&models[2], "a/b") && is_called(&models[2], "a-b-c14cddc0"));
    }

    #[test]
    fn a_model_has_one_name_and_no_two_have_the_same_whichever_servers_they_are_on() {
        for (here, there, expected) in [
            (vec!["a/b"], vec!["x"], vec!["a-b"]),
            (vec!["a/b"], vec!["a/b"], vec!["a-b"]),
            (vec!["a/b"], vec!["a-b", "a/b"], vec!["a-b-c14cddc0"]),
            (vec!["a-b", "a/b"], vec!["a/b"], vec!["a-b", "a-b-c14cddc0"]),
            (vec!["a-b"], vec!["a/b"], vec!["a-b"]),
            (vec!["a/b"], vec!["a b"], vec!["a-b-c14cddc0"]),
            (vec!["a b"], vec!["a/b"], vec!["a-b"]),
        ] {
            let (mut models, others) = (named(&here), named(&there));
            set_apart(&mut models, others.iter());
            let aliases: Vec<_> = models.iter().map(|model| model.alias.as_str()).collect();
            assert_eq!(aliases, expected, "{here:?} beside {there:?}");
        }
    }

    proptest! {
        #[test]
        fn every_model_gets_a_name_and_an_id_that_no_other_has(
            names in prop::collection::hash_set("\\PC{1,120}", 0..20),
        ) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let models = named(&names);
            prop_assert_eq!(models.len(), names.len());
            let aliases: HashSet<_> = models.iter().map(|m| &m.alias).collect();
            let ids: HashSet<_> = models.iter().map(|m| &m.worker_id).collect();
            prop_assert_eq!((aliases.len(), ids.len()), (names.len(), names.len()));
        }
    }

    fn named(names: &[&str]) -> Vec<Served> {
        let listed = |name: &&str| Listed { name: (*name).to_owned(), context_length: 0 };
        let listed: Vec<_> = names.iter().map(listed).collect();
        name_models(&"nas".parse().unwrap(), &listed)
    }
}
