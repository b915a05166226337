//! Keys that nothing reads, found with their place and the key that was probably meant.

use std::path::Path;

use rbee_operations::ModelPolicy;
use toml::de::DeTable;
use worker_contract::HiveAlias;

use crate::field_names::field_names;
use crate::load::line_of;
use crate::{Config, ConfigError, HiveConfig, QueenConfig, RemoteHive, WorkerConfig};

/// The keys of a section; `None` if there is no such section or its keys are the user's own.
pub(crate) fn keys_of(section: &str) -> Option<&'static [&'static str]> {
    match section {
        "queen" => Some(field_names::<QueenConfig>()),
        "hive" => Some(field_names::<HiveConfig>()),
        "worker" => Some(field_names::<WorkerConfig>()),
        _ => None,
    }
}

/// Refuses the first key that nothing reads.
pub(crate) fn refuse(text: &str, file: &Path, table: &DeTable<'_>) -> Result<(), ConfigError> {
    let check = Check { text, file };
    check.table("", field_names::<Config>(), table)?;
    for (section, value) in table {
        let Some(inner) = value.get_ref().as_table() else { continue };
        let section = section.get_ref().as_ref();
        if let Some(keys) = keys_of(section) {
            check.table(section, keys, inner)?;
        } else {
            let known = match section {
                "models" => field_names::<ModelPolicy>(),
                _ => field_names::<RemoteHive>(),
            };
            if section == "hives" {
                check.no_own_machine(inner)?;
            }
            for (alias, one) in inner {
                let Some(one) = one.get_ref().as_table() else { continue };
                check.name(section, alias.get_ref(), known, one)?;
                check.table(&format!("{section}.{}", alias.get_ref()), known, one)?;
            }
        }
    }
    Ok(())
}

/// The name that is most like a misspelt one, if any is.
pub(crate) fn nearest<'n>(
    wrong: &str,
    names: impl IntoIterator<Item = &'n str>,
) -> Option<&'n str> {
    names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(wrong, name), name))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

struct Check<'c> {
    text: &'c str,
    file: &'c Path,
}

impl Check<'_> {
    /// Refuses a table in the place of a key: the name had a dot, and TOML made several keys of it.
    fn name(
        &self,
        section: &str,
        alias: &str,
        known: &[&str],
        table: &DeTable<'_>,
    ) -> Result<(), ConfigError> {
        let (mut name, mut line, mut inner) = (alias.to_owned(), None, Some(table));
        while let Some(table) = inner {
            let next = table.iter().find_map(|(key, value)| {
                let table = value.get_ref().as_table()?;
                (!known.contains(&key.get_ref().as_ref())).then_some((key, table))
            });
            if let Some((key, _)) = next {
                name = format!("{name}.{}", key.get_ref());
                line = line.or(Some(line_of(self.text, key.span().start)));
            }
            inner = next.map(|(_, table)| table);
        }
        let Some(line) = line else { return Ok(()) };
        Err(ConfigError::DottedName {
            file: self.file.to_owned(),
            line,
            section: section.to_owned(),
            name,
        })
    }

    /// Refuses an entry for the queen's own machine, of which nobody would take notice.
    fn no_own_machine(&self, hives: &DeTable<'_>) -> Result<(), ConfigError> {
        let own = HiveAlias::localhost();
        let is_own = |name: &str| name == own.as_str();
        let Some(key) = hives.keys().find(|key| is_own(key.get_ref())) else { return Ok(()) };
        Err(ConfigError::Value {
            file: self.file.to_owned(),
            line: line_of(self.text, key.span().start),
            key: format!("hives.{own}"),
            message: "that is the queen's own machine, which has no entry".to_owned(),
        })
    }

    fn table(&self, place: &str, known: &[&str], table: &DeTable<'_>) -> Result<(), ConfigError> {
        let unknown = table
            .keys()
            .filter(|key| !known.contains(&key.get_ref().as_ref()))
            .min_by_key(|key| key.span().start);
        let Some(key) = unknown else { return Ok(()) };
        let named =
            |key: &str| if place.is_empty() { key.into() } else { format!("{place}.{key}") };
        Err(ConfigError::UnknownKey {
            file: self.file.to_owned(),
            line: line_of(self.text, key.span().start),
            nearest: nearest(key.get_ref(), known.iter().copied()).map(named),
            key: named(key.get_ref()),
        })
    }
}
