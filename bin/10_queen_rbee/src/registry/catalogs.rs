//! Which files the names of models stand for, over all hives' catalogs: a decision looks it up and reads no
//! catalog. Pure.

use std::collections::HashMap;

use worker_contract::{ModelAlias, ModelEntry, Sha256Digest};

/// The names and files of all catalogs.
#[derive(Debug, Default)]
pub(super) struct Catalogs {
    /// The files of each name, and how many entries say so. None is without a file.
    files: HashMap<ModelAlias, Vec<(Sha256Digest, usize)>>,
    /// The names of each file. None is without a name.
    names: HashMap<Sha256Digest, Vec<ModelAlias>>,
}

impl Catalogs {
    /// A hive's catalog is another one than before.
    pub(super) fn replace(&mut self, before: &[ModelEntry], by: &[ModelEntry]) {
        let is_same = |(one, other): (&ModelEntry, &ModelEntry)| {
            (&one.alias, &one.sha256) == (&other.alias, &other.sha256)
        };
        // Nearly every report has the catalog of the one before.
        if before.len() == by.len() && before.iter().zip(by).all(is_same) {
            return;
        }
        for entry in by {
            self.add(entry);
        }
        for entry in before {
            self.remove(entry);
        }
    }

    /// Whether a catalog has a name.
    pub(super) fn have(&self, model: &ModelAlias) -> bool {
        self.files.contains_key(model)
    }

    /// The files that a name stands for.
    pub(super) fn files_of(&self, model: &ModelAlias) -> impl Iterator<Item = &Sha256Digest> {
        self.files.get(model).into_iter().flatten().map(|(file, _)| file)
    }

    /// Whether a file has another name than this one.
    pub(super) fn is_also_called(&self, file: &Sha256Digest, model: &ModelAlias) -> bool {
        self.names.get(file).is_some_and(|names| names.iter().any(|name| name != model))
    }

    fn add(&mut self, entry: &ModelEntry) {
        let (name, file) = (&entry.alias, &entry.sha256);
        let files = self.files.entry(name.clone()).or_default();
        if let Some((_, count)) = files.iter_mut().find(|(known, _)| known == file) {
            *count += 1;
            return;
        }
        files.push((file.clone(), 1));
        self.names.entry(file.clone()).or_default().push(name.clone());
    }

    fn remove(&mut self, entry: &ModelEntry) {
        let (name, file) = (&entry.alias, &entry.sha256);
        let Some(files) = self.files.get_mut(name) else { return };
        let Some(place) = files.iter().position(|(known, _)| known == file) else { return };
        files[place].1 -= 1;
        if files[place].1 > 0 {
            return;
        }
        files.remove(place);
        if files.is_empty() {
            self.files.remove(name);
        }
        if let Some(names) = self.names.get_mut(file) {
            names.retain(|known| known != name);
            if names.is_empty() {
                self.names.remove(file);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::doubles::entry;

    const NAMES: [&str; 3] = ["a", "b", "c"];
    const DIGITS: [&str; 3] = ["0", "1", "2"];

    proptest! {
        #[test]
        fn whatever_catalogs_come_and_go_what_is_known_is_what_a_look_at_all_of_them_finds(
            changes in prop::collection::vec(
                (0_usize..3, prop::collection::vec((0_usize..3, 0_usize..3), 0..5)),
                1..20,
            ),
        ) {
            let mut known = Catalogs::default();
            let mut hives: [Vec<ModelEntry>; 3] = Default::default();
            for (hive, catalog) in changes {
                let catalog: Vec<_> = catalog.into_iter().map(|(name, file)| one(name, file)).collect();
                known.replace(&hives[hive], &catalog);
                hives[hive] = catalog;
                let all = || hives.iter().flatten();
                for name in NAMES.map(|name| name.parse::<ModelAlias>().unwrap()) {
                    let files: HashSet<_> =
                        all().filter(|it| it.alias == name).map(|it| &it.sha256).collect();
                    prop_assert_eq!(known.have(&name), !files.is_empty());
                    prop_assert_eq!(known.files_of(&name).count(), files.len());
                    prop_assert_eq!(known.files_of(&name).collect::<HashSet<_>>(), files);
                    for file in DIGITS.map(digest) {
                        let is_also_called =
                            all().any(|it| it.sha256 == file && it.alias != name);
                        prop_assert_eq!(known.is_also_called(&file, &name), is_also_called);
                    }
                }
            }
            for catalog in &hives {
                known.replace(catalog, &[]);
            }
            prop_assert!(known.files.is_empty() && known.names.is_empty());
        }
    }

    fn one(name: usize, file: usize) -> ModelEntry {
        ModelEntry { sha256: digest(DIGITS[file]), ..entry(NAMES[name], 1) }
    }

    fn digest(digit: &str) -> Sha256Digest {
        digit.repeat(64).parse().unwrap()
    }
}
