//! Settings from environment variables: `RBEE_QUEEN__BIND` is `bind` of `[queen]`.
//!
//! Only variables with two underscores are settings; `RBEE_HOME` and the like mean other things. What is
//! neither is ignored, and told: it may be misspelt.

use serde::de::value::MapDeserializer;
use serde::de::{Deserializer, IntoDeserializer, Visitor};
use serde::{Deserialize, Serialize, forward_to_deserialize_any};

use crate::unknown_keys::{keys_of, nearest};
use crate::{Config, ConfigError};

const PREFIX: &str = "RBEE_";
const SEPARATOR: &str = "__";
const SECTIONS: [&str; 3] = ["queen", "hive", "worker"];

/// The sections whose keys are the user's own names, which a variable's name cannot always hold.
const IN_FILE_ONLY: [&str; 2] = ["models", "hives"];

/// The variables that are no settings, without their prefix.
const OTHERS: [&str; 7] =
    ["API_KEY", "BIN_DIR", "HOME", "LOG", "QUEEN_URL", "SANDBOX", "WORKER_TOKEN"];

/// How those begin that tests and scripts use.
const OF_DEVELOPERS: [&str; 3] = ["BUILD_", "FUZZ_", "TEST_"];

/// What is to be told of this process's variables that begin as those of rbee do and that nothing reads, a
/// sentence each.
#[must_use]
pub fn ignored_variables() -> Vec<String> {
    ignored_among(of_process())
}

fn ignored_among(env: impl IntoIterator<Item = (String, String)>) -> Vec<String> {
    let mut ignored: Vec<String> = env
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .filter_map(|(variable, _)| {
            let rest = variable.strip_prefix(PREFIX)?;
            let is_known = OTHERS.contains(&rest)
                || OF_DEVELOPERS.iter().any(|begin| rest.starts_with(begin))
                // Those are settings, or errors.
                || rest.contains(SEPARATOR);
            (!is_known).then(|| told(rest))
        })
        .collect();
    ignored.sort_unstable();
    ignored
}

/// What is told of an ignored variable, which is given without its prefix: all names have that in common.
fn told(rest: &str) -> String {
    let known: Vec<String> = settings().into_iter().chain(OTHERS.map(str::to_owned)).collect();
    let nearest = nearest(rest, known.iter().map(String::as_str));
    let meant = nearest.map(|name| format!("; did you mean {PREFIX}{name}?")).unwrap_or_default();
    format!("the environment variable {PREFIX}{rest} is none of rbee's and is ignored{meant}")
}

/// The names of all settings, without their prefix.
fn settings() -> Vec<String> {
    let names = SECTIONS.iter().flat_map(|section| {
        let keys = keys_of(section).unwrap_or_default();
        keys.iter().map(move |key| format!("{section}{SEPARATOR}{key}").to_ascii_uppercase())
    });
    names.collect()
}

/// The variables of this process that could be settings; others may hold anything.
pub(crate) fn of_process() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| name.starts_with(PREFIX))?;
            Some((name, value.to_string_lossy().into_owned()))
        })
        .collect()
}

/// The configuration with the variables' values in their places.
pub(crate) fn apply(
    config: Config,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let mut config = config;
    for (variable, value) in env {
        let Some(rest) = variable.strip_prefix(PREFIX) else { continue };
        let Some((section, key)) = rest.split_once(SEPARATOR) else { continue };
        if value.is_empty() {
            continue;
        }
        let (section, key) = (section.to_ascii_lowercase(), key.to_ascii_lowercase());
        let known = keys_of(&section).and_then(|keys| keys.iter().find(|known| **known == key));
        let Some(key) = known else {
            return Err(match IN_FILE_ONLY.iter().find(|named| **named == section) {
                Some(section) => ConfigError::InFileOnly { variable, section },
                None => unknown(variable),
            });
        };
        let set = Setting { variable: &variable, key, value: &value };
        match section.as_str() {
            "queen" => config.queen = set.in_section(&config.queen)?,
            "hive" => config.hive = set.in_section(&config.hive)?,
            _ => config.worker = set.in_section(&config.worker)?,
        }
    }
    Ok(config)
}

fn unknown(variable: String) -> ConfigError {
    let all: Vec<String> = settings().iter().map(|name| format!("{PREFIX}{name}")).collect();
    let nearest = nearest(&variable, all.iter().map(String::as_str)).map(str::to_owned);
    ConfigError::UnknownVariable { variable, nearest }
}

/// One setting that a variable makes.
struct Setting<'s> {
    variable: &'s str,
    key: &'static str,
    value: &'s str,
}

impl Setting<'_> {
    /// The section with this setting in it.
    fn in_section<'de, T>(&self, section: &T) -> Result<T, ConfigError>
    where
        T: Serialize + Deserialize<'de>,
    {
        let wrong =
            |message: String| ConfigError::Variable { variable: self.variable.to_owned(), message };
        let fields = toml::Table::try_from(section).map_err(|error| wrong(error.to_string()))?;
        let others = fields.into_iter().filter(|(key, _)| key != self.key);
        let all = others
            .map(|(key, value)| (key, Value::Known(value)))
            .chain([(self.key.to_owned(), Value::Text(self.value.to_owned()))]);
        T::deserialize(MapDeserializer::new(all))
            .map_err(|error: toml::de::Error| wrong(error.message().to_owned()))
    }
}

/// A value of a section: one that is there already, or a text whose type the field decides.
enum Value {
    Known(toml::Value),
    Text(String),
}

impl IntoDeserializer<'_, toml::de::Error> for Value {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Value {
    type Error = toml::de::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self {
            Self::Known(value) => value.deserialize_any(visitor),
            Self::Text(text) => visitor.visit_string(text),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self {
            Self::Text(text) => match text.trim().parse() {
                Ok(number) => visitor.visit_i64(number),
                Err(_) => visitor.visit_string(text),
            },
            Self::Known(value) => value.deserialize_u64(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_nothing_reads_is_told_with_the_nearest_one() {
        for (variable, meant) in [
            ("RBEE_QUEEN_BIND", Some("RBEE_QUEEN__BIND")),
            ("RBEE_QUEEN_ULR", Some("RBEE_QUEEN_URL")),
            ("RBEE_HOMES", Some("RBEE_HOME")),
            ("RBEE_WORKER_CTX_SIZE", Some("RBEE_WORKER__CTX_SIZE")),
            ("RBEE_XYZ", None),
        ] {
            let ignored = ignored_among([(variable.to_owned(), "x".to_owned())]);
            let meant = meant.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
            let expected = format!(
                "the environment variable {variable} is none of rbee's and is ignored{meant}"
            );
            assert_eq!(ignored, [expected]);
        }
    }

    #[test]
    fn variables_that_something_reads_are_not_told() {
        for (variable, value) in [
            ("RBEE_QUEEN__BIND", "x"),
            ("RBEE_QUEN__BIND", "an error elsewhere"),
            ("RBEE_QUEEN_URL", "x"),
            ("RBEE_LOG", "x"),
            ("RBEE_TEST_SEEDS", "1"),
            ("RBEE_QUEEN_BIND", ""),
            ("RBEENEST", "x"),
        ] {
            let ignored = ignored_among([(variable.to_owned(), value.to_owned())]);
            assert_eq!(ignored, Vec::<String>::new(), "{variable}");
        }
    }
}
