//! A client that costs little: one buffer and one task for each answer, every token checked.

mod answer;
mod check;
mod connection;

pub(crate) use self::answer::{Outcome, Patience, reply, stream};
pub(crate) use self::connection::Connection;
