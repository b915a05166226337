//! What was told last of everything that a dashboard shows, and what has changed since. Pure: what
//! there is is passed in.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};

use bytes::Bytes;
use serde::Serialize;

use super::ring::Ring;

/// What was told last of all things of one kind.
#[derive(Debug)]
pub(super) struct Views<K> {
    name: &'static str,
    gone: &'static str,
    /// The field with the thing's name.
    key: &'static str,
    told: BTreeMap<K, Told>,
    /// The number of the look at all things.
    look: u64,
}

#[derive(Debug)]
struct Told {
    print: Print,
    json: Bytes,
    seen: u64,
}

/// What stands for a thing: what it is, and its load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Print {
    pub(super) is: u64,
    pub(super) load: u64,
}

impl<K: Ord + Clone + Serialize> Views<K> {
    /// Nothing was told yet of things whose changes are events with these names.
    pub(super) fn new(name: &'static str, gone: &'static str, key: &'static str) -> Self {
        Self { name, gone, key, told: BTreeMap::new(), look: 0 }
    }

    /// Begins a look at all things.
    pub(super) fn begin(&mut self) {
        self.look += 1;
    }

    /// One thing is there. It is told if it is another one than before or, where loads are told, its
    /// load has changed. True if it is another one.
    pub(super) fn see(
        &mut self,
        key: &K,
        print: Print,
        with_load: bool,
        view: &impl Serialize,
        ring: &mut Ring,
    ) -> bool {
        let before = self.told.get_mut(key);
        let is_same = before.as_ref().is_some_and(|told| told.print.is == print.is);
        if let Some(told) = before {
            told.seen = self.look;
            if is_same && !(with_load && told.print.load != print.load) {
                return false;
            }
        }
        let json = Bytes::from(serde_json::to_vec(view).unwrap_or_default());
        ring.push(self.name, &json);
        self.told.insert(key.clone(), Told { print, json, seen: self.look });
        !is_same
    }

    /// Whether a thing was there at this look.
    pub(super) fn is_seen(&self, key: &K) -> bool {
        self.told.get(key).is_some_and(|told| told.seen == self.look)
    }

    /// Ends a look: what was not seen is gone. True if anything is.
    pub(super) fn end(&mut self, ring: &mut Ring) -> bool {
        let before = self.told.len();
        self.told.retain(|key, told| {
            let is_there = told.seen == self.look;
            if !is_there {
                let json = serde_json::json!({ self.key: key }).to_string();
                ring.push(self.gone, json.as_bytes());
            }
            is_there
        });
        self.told.len() != before
    }

    /// Writes all as a JSON array.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        for (index, told) in self.told.values().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&told.json);
        }
        out.push(b']');
    }
}

/// A number that stands for a value, for as long as the process runs.
pub(super) fn print_of(value: &impl Hash) -> u64 {
    print_by(|hasher| value.hash(hasher))
}

/// The same of what is fed to a hasher.
pub(super) fn print_by(feed: impl FnOnce(&mut DefaultHasher)) -> u64 {
    let mut hasher = DefaultHasher::new();
    feed(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::ring::Rest;

    #[test]
    fn only_changes_are_told_and_loads_only_where_they_are_asked_for() {
        let (mut views, mut ring) =
            (Views::new("worker", "worker_gone", "id"), Ring::new("a".into()));
        let mut told = 0;
        let mut look = |things: &[(&str, u64, u64)], with_load: bool| {
            views.begin();
            for (key, is, load) in things {
                let print = Print { is: *is, load: *load };
                views.see(&(*key).to_owned(), print, with_load, &(key, is, load), &mut ring);
            }
            views.end(&mut ring);
            ring.close();
            let mut text = String::new();
            while let Rest::Events(bytes, to) = ring.after(told) {
                text.push_str(std::str::from_utf8(&bytes).unwrap());
                told = to;
            }
            let data = text.lines().filter_map(|l| l.strip_prefix("data: "));
            data.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(look(&[("a", 1, 1), ("b", 1, 1)], false), r#"["a",1,1] ["b",1,1]"#);
        assert_eq!(look(&[("a", 1, 1), ("b", 1, 2)], false), "", "a load changes all the time");
        assert_eq!(look(&[("a", 1, 1), ("b", 1, 2)], true), r#"["b",1,2]"#);
        assert_eq!(look(&[("a", 2, 1), ("b", 1, 2)], false), r#"["a",2,1]"#);
        assert_eq!(look(&[("a", 2, 1)], true), r#"{"id":"b"}"#);
        let mut all = Vec::new();
        views.write(&mut all);
        assert_eq!(all, br#"[["a",2,1]]"#);
    }
}
