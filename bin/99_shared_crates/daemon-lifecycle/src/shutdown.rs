//! Ending on a signal.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::LifecycleError;

/// A token that the first SIGTERM or SIGINT cancels. The second one ends the process at once, with
/// exit code 143 or 130.
///
/// To be called once, inside a tokio runtime.
///
/// # Errors
/// When the system does not let the process listen to signals.
pub fn shutdown_token() -> Result<CancellationToken, LifecycleError> {
    let terminate = signal(SignalKind::terminate()).map_err(LifecycleError::Signals)?;
    let interrupt = signal(SignalKind::interrupt()).map_err(LifecycleError::Signals)?;
    let stop = CancellationToken::new();
    // It lives as long as the process, so nobody waits for its end.
    TaskTracker::new().spawn(listen(terminate, interrupt, stop.clone()));
    Ok(stop)
}

#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "whoever signals twice does not want to wait for anything"
)]
async fn listen(mut terminate: Signal, mut interrupt: Signal, stop: CancellationToken) {
    next(&mut terminate, &mut interrupt).await;
    tracing::info!("stopping; a second signal ends at once");
    stop.cancel();
    let code = next(&mut terminate, &mut interrupt).await;
    std::process::exit(code);
}

/// Waits for either signal and gives the exit code that goes with it.
async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> i32 {
    tokio::select! {
        _ = terminate.recv() => 143,
        _ = interrupt.recv() => 130,
    }
}
