//! SIGTERM and SIGINT: the first asks, the second insists.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::LifecycleError;

/// A token that the first SIGTERM or SIGINT cancels; the second one ends the process at once, with
/// the exit code that a shell gives for it (143, 130).
///
/// To be called once, inside a tokio runtime.
pub fn shutdown_token() -> Result<CancellationToken, LifecycleError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(LifecycleError::Listen)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(LifecycleError::Listen)?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    #[expect(clippy::disallowed_methods, reason = "it listens until the process ends")]
    tokio::spawn(async move {
        loop {
            let code = tokio::select! {
                _ = terminate.recv() => 143,
                _ = interrupt.recv() => 130,
            };
            if cancelled.is_cancelled() {
                #[expect(clippy::exit, reason = "the second signal means: at once")]
                std::process::exit(code);
            }
            cancelled.cancel();
        }
    });
    Ok(token)
}
