//! Long computations, apart from the threads that carry requests.

use crate::ApiError;

/// Does what takes more than some milliseconds on another thread: streams that share this one would stand
/// still meanwhile.
///
/// # Errors
/// The work panicked.
pub async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "what a request needed went wrong");
        ApiError::internal("something went wrong inside rbee; its log says more")
    })
}
