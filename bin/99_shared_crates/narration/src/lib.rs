//! How daemons write their logs: one line an event, to stderr.
//!
//! `RBEE_LOG` chooses what is written, in the syntax of `tracing_subscriber::EnvFilter`
//! (`info`, `debug`, `warn,queen_rbee=debug`), but that a word alone is always a level: `debgu` would be a
//! part of the program, and all others silent. The default is `info`. Time is UTC; colours are for
//! terminals, unless `NO_COLOR` is set. A log that cannot be written, on a full disk say, is lost
//! and stops nothing; one that nobody reads holds nothing up ([`Log`]).
//!
//! [`with_causes`] tells an error with all its causes, for a line of a log or an answer.
#![warn(missing_docs)]

mod log;

use std::io::IsTerminal as _;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

pub use crate::log::{Log, tell};

/// The environment variable that chooses what is written.
pub const LOG_VARIABLE: &str = "RBEE_LOG";

/// What is written where nothing is chosen.
const DEFAULT: &str = "info";

/// What a word alone may be.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Sends the process's log events to stderr, by a thread of its own. Only the first call has an effect.
pub fn init(daemon: &'static str) -> Log {
    let wanted = std::env::var(LOG_VARIABLE).unwrap_or_default();
    let (filter, mistake) = filter(&wanted);
    let is_colourful = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (writer, log) = log::unhindered(std::io::stderr(), log::LINES);
    let subscriber = lines(filter, is_colourful, writer);
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        return log;
    }
    if let Some(mistake) = mistake {
        tracing::warn!(daemon, mistake, "RBEE_LOG is not understood; writing at level info");
    }
    log
}

/// The whole chain of causes in one line.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        text.push_str(": ");
        text.push_str(&deeper.to_string());
        cause = deeper.source();
    }
    text
}

/// The wanted filter, or the default one and what is wrong with the wanted one.
fn filter(wanted: &str) -> (EnvFilter, Option<String>) {
    let wanted = if wanted.trim().is_empty() { DEFAULT } else { wanted };
    let filter = match no_level(wanted) {
        Some(mistake) => Err(mistake),
        None => EnvFilter::try_new(wanted).map_err(|error| error.to_string()),
    };
    match filter {
        Ok(filter) => (filter, None),
        Err(mistake) => (EnvFilter::new(DEFAULT), Some(mistake)),
    }
}

/// What is wrong with the first word alone that is no level.
fn no_level(wanted: &str) -> Option<String> {
    let is_level = |word: &str| {
        LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word))
            || word.parse::<u8>().is_ok_and(|number| number <= 5)
    };
    let mut alone = wanted.split(',').map(str::trim).filter(|word| !word.contains(['=', '[']));
    let word = alone.find(|word| !word.is_empty() && !is_level(word))?;
    let lower = word.to_ascii_lowercase();
    let likeness = |level: &str| strsim::jaro_winkler(&lower, level);
    let nearest = LEVELS.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let meant = nearest.filter(|level| likeness(level) > 0.7);
    let meant = meant.map(|level| format!("; did you mean `{level}`?")).unwrap_or_default();
    let levels = LEVELS.join(", ");
    Some(format!("`{word}` is no level{meant} (levels: {levels}; of one part: PART=LEVEL)"))
}

fn lines<W>(filter: EnvFilter, is_colourful: bool, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(is_colourful)
        // It would be told on stderr, and a print there that fails is a panic.
        .log_internal_errors(false)
        .with_writer(writer)
        .finish()
}

#[cfg(test)]
mod tests {
    use std::io::{self, Seek as _, Write};
    use std::sync::Arc;

    use super::*;

    #[test]
    fn an_event_is_one_line_with_level_message_and_fields() {
        let log = written("", || {
            tracing::info!(port = 8500, "queen listens");
            tracing::debug!("not at this level");
            let _request = tracing::info_span!("request", id = "r-1").entered();
            tracing::warn!(reason = "a\nb", "no worker");
        });
        let all: Vec<&str> = log.lines().collect();
        assert_eq!(all.len(), 2, "{log}");
        assert!(all[0].ends_with("Z  INFO queen listens port=8500"), "{log}");
        let expected = "Z  WARN request{id=\"r-1\"}: no worker reason=\"a\\nb\"";
        assert!(all[1].ends_with(expected), "{log}");
    }

    #[test]
    fn the_variable_chooses_the_level_and_a_wrong_one_is_told() {
        let log = written("error", || tracing::warn!("w"));
        assert_eq!(log, "");
        let log = written("debug", || tracing::debug!("d"));
        assert!(log.contains("DEBUG d"), "{log}");
        for (wanted, is_wrong) in
            [("", false), (" ", false), ("warn,x=debug", false), ("x=loud", true)]
        {
            assert_eq!(filter(wanted).1.is_some(), is_wrong, "{wanted:?}");
        }
    }

    #[test]
    fn a_word_alone_that_is_no_level_is_a_mistake_and_silences_nothing() {
        for (wanted, word, meant) in [
            ("debgu", "debgu", "debug"),
            ("warning", "warning", "warn"),
            ("x=debug, Eror", "Eror", "error"),
            ("info,trase", "trase", "trace"),
        ] {
            let mistake = filter(wanted).1.unwrap();
            let told = format!("`{word}` is no level; did you mean `{meant}`?");
            assert!(mistake.starts_with(&told), "{wanted}: {mistake}");
            let log = written(wanted, || tracing::info!("i"));
            assert!(log.contains("INFO i"), "{wanted}: {log}");
        }
        let far = filter("queen_rbee").1.unwrap();
        assert!(
            far.starts_with("`queen_rbee` is no level (") && far.contains("PART=LEVEL"),
            "{far}"
        );
        for right in ["WARN", "off", "3", "info,", "warn,x[span{a}]=debug", "x[span]", "x=off"] {
            assert_eq!(filter(right).1, None, "{right}");
        }
    }

    #[test]
    fn an_error_is_told_with_all_its_causes() {
        #[derive(Debug)]
        struct Layer(&'static str, Option<Box<Layer>>);

        impl std::fmt::Display for Layer {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.0)
            }
        }

        impl std::error::Error for Layer {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                self.1.as_deref().map(|deeper| deeper as _)
            }
        }

        let deepest = Layer("connection refused", None);
        let error =
            Layer("no answer", Some(Box::new(Layer("cannot connect", Some(Box::new(deepest))))));
        assert_eq!(with_causes(&error), "no answer: cannot connect: connection refused");
    }

    #[test]
    fn a_log_that_cannot_be_written_stops_nothing() {
        struct FullDisk;

        impl Write for FullDisk {
            fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::StorageFull.into())
            }
        }

        let subscriber = lines(filter("").0, false, || FullDisk);
        tracing::subscriber::with_default(subscriber, || tracing::error!("lost"));
    }

    fn written(wanted: &str, log: impl FnOnce()) -> String {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let subscriber = lines(filter(wanted).0, false, Arc::clone(&file));
        tracing::subscriber::with_default(subscriber, log);
        (&*file).rewind().unwrap();
        io::read_to_string(&*file).unwrap()
    }
}
