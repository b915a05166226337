//! How daemons write their logs: one line an event, to stderr.
//!
//! `RBEE_LOG` chooses what is written, in the syntax of `tracing_subscriber::EnvFilter`
//! (`info`, `debug`, `warn,queen_rbee=debug`). The default is `info`.
#![warn(missing_docs)]

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// The environment variable that chooses what is written.
pub const LOG_VARIABLE: &str = "RBEE_LOG";

/// Sends the process's log events to stderr. Only the first call has an effect.
pub fn init(daemon: &'static str) {
    let wanted = std::env::var(LOG_VARIABLE).unwrap_or_default();
    let (filter, mistake) =
        match EnvFilter::try_new(if wanted.is_empty() { "info" } else { &wanted }) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new("info"), Some(error)),
        };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_writer(std::io::stderr)
        .finish();
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        return;
    }
    if let Some(error) = mistake {
        tracing::warn!(%error, daemon, "RBEE_LOG is not understood; writing at level info");
    }
}
