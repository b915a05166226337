//! API tokens: made, listed, revoked and verified.
//!
//! A token is shown once and kept as its SHA-256. Beside the tokens that people make there is one
//! local secret, which rbee's own processes of one user use among themselves.
//! Nothing here logs; a damaged token file never opens access.
#![warn(missing_docs)]

mod authenticator;
mod file;
mod secret;
mod store;

pub use authenticator::{Authenticator, Caller, Denied};
pub use secret::{Secret, local_secret};
pub use store::{NewToken, TokenError, TokenInfo, TokenStore};
