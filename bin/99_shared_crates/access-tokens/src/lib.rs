//! API tokens: made, listed, revoked and verified.
//!
//! A token is shown once and kept as its SHA-256. Beside the tokens that people make there is one
//! local secret, which rbee's own processes of one user use among themselves.
//! A damaged token file never opens access.
#![warn(missing_docs)]

mod authenticator;
mod digest;
mod file;
mod known;
mod secret;
mod store;
mod stored;

pub use authenticator::{Authenticator, Caller, Denied};
pub use secret::{Secret, local_secret};
pub use store::{NewToken, TokenError, TokenInfo, TokenStore};
pub use stored::{forget_secret, store_secret, stored_secret};
