//! API tokens: made, listed, revoked and verified.
//!
//! A token is shown once and kept as its SHA-256. Beside the tokens that people make there is one
//! local secret, which rbee's own processes of one user use among themselves, and one secret for each
//! hive of another machine, which opens that hive's reports and nothing else.
//! A damaged token file never opens access.
#![warn(missing_docs)]

mod authenticator;
mod database;
mod digest;
mod earlier;
mod error;
mod file;
mod hive_secrets;
mod known;
mod secret;
mod store;
mod stored;
mod ticket;

pub use authenticator::{Authenticator, Caller, Denied};
pub use error::TokenError;
pub use hive_secrets::HiveSecrets;
pub use secret::{Secret, local_secret};
pub use store::{NewToken, RevokedToken, TokenInfo, TokenStore};
pub use stored::{forget_secret, store_secret, stored_secret};
pub use ticket::Ticket;
