//! What the query of `POST /v1/shutdown` says.

use crate::ApiError;

/// Whether a daemon that is asked to end leaves its workers: `workers=keep`. They end with it where nothing is said.
///
/// # Errors
/// The query says something else.
pub fn keeps_workers(query: Option<&str>) -> Result<bool, ApiError> {
    match query {
        None | Some("" | "workers=stop") => Ok(false),
        Some("workers=keep") => Ok(true),
        Some(_) => {
            let message = "the only parameter is workers, which is stop or keep";
            Err(ApiError::bad_request("invalid_value", message).param("workers"))
        }
    }
}
