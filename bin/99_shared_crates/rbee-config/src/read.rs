//! From text and environment to one configuration.

use std::path::Path;

use serde::Deserialize as _;
use toml::{Table, Value};

use crate::{Config, ConfigError};

/// How much of a name may differ so that another one was perhaps meant (Jaro-Winkler, 0 to 1).
const NEAR: f64 = 0.75;

/// The file's configuration with the environment's values in it.
pub(crate) fn merged(
    text: &str,
    file: &Path,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    // The file is read by itself first, so that its mistakes are told with their line.
    let mut config: Config = toml::from_str(text).map_err(|error| in_file(text, file, &error))?;
    let mut table: Table = toml::from_str(text).map_err(|error| in_file(text, file, &error))?;
    let mut env: Vec<_> = env.into_iter().collect();
    env.sort();
    for (name, value) in env {
        let Some((section, key)) = name.strip_prefix("RBEE_").and_then(|n| n.split_once("__"))
        else {
            continue;
        };
        let (section, key) = (section.to_ascii_lowercase(), key.to_ascii_lowercase());
        // One variable at a time, so that a mistake names the variable that made it.
        config = with_value(&mut table, &section, &key, &value)
            .map_err(|message| ConfigError::InvalidVariable { name, message })?;
    }
    Ok(config)
}

/// The configuration after one key was set. A text that reads as a number or a truth value is tried
/// as such first.
fn with_value(
    table: &mut Table,
    section: &str,
    key: &str,
    text: &str,
) -> Result<Config, String> {
    let typed = text
        .parse::<i64>()
        .map(Value::Integer)
        .or_else(|_| text.parse::<bool>().map(Value::Boolean))
        .ok();
    let mut mistake = String::new();
    for value in typed.into_iter().chain([Value::String(text.to_owned())]) {
        let mut changed = table.clone();
        let entry = changed.entry(section.to_owned()).or_insert_with(|| Table::new().into());
        let Some(entry) = entry.as_table_mut() else {
            return Err(format!("{section} is no section"));
        };
        entry.insert(key.to_owned(), value);
        match Config::deserialize(changed.clone()) {
            Ok(config) => {
                *table = changed;
                return Ok(config);
            }
            Err(error) if mistake.is_empty() => mistake = suggest(error.message()),
            Err(_) => {}
        }
    }
    if !mistake.contains(text) {
        mistake = format!("{text:?}: {mistake}");
    }
    Err(mistake)
}

fn in_file(text: &str, file: &Path, error: &toml::de::Error) -> ConfigError {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = 1 + text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
    let said = text.lines().nth(line - 1).unwrap_or("").trim();
    let mut message = suggest(error.message());
    if !said.is_empty() && !message.contains(said) {
        message = format!("`{said}`: {message}");
    }
    ConfigError::Invalid { file: file.to_owned(), line, message }
}

/// Serde's words for an unknown field, with the nearest known one.
///
/// Serde writes: unknown field `x`, expected one of `a`, `b`.
fn suggest(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let [unknown, known @ ..] = quoted.as_slice() else { return message.to_owned() };
    if !message.starts_with("unknown field") {
        return message.to_owned();
    }
    let nearness = |name: &&&str| strsim::jaro_winkler(unknown, name);
    let nearest = known.iter().max_by(|a, b| nearness(a).total_cmp(&nearness(b)));
    match nearest.filter(|name| nearness(name) >= NEAR) {
        Some(nearest) => format!("unknown key `{unknown}`; did you mean `{nearest}`?"),
        None => format!("unknown key `{unknown}`; known are {}", known.join(", ")),
    }
}
