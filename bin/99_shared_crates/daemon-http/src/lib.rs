//! The HTTP edge that every daemon of rbee has: who may come in, how much, and what an error
//! looks like. It knows no route.
#![warn(missing_docs)]

mod apart;
mod body;
mod check;
mod edge;
mod error;
mod foreign_page;
mod listen;
mod pages;
mod right;
mod server;
mod shutdown;

pub use apart::apart;
pub use body::{ApiJson, SmallJson};
pub use edge::{CallerExt, Edge, Edged, bearer, demand_secret, edge, refuse_hives};
pub use error::ApiError;
pub use listen::{BindError, UnsafeBind, bind, require_safe_bind};
pub use right::Right;
pub use server::{AnswerEnds, OwnThreads, Routes, Unfinished, Unhurried, serve, serve_beside};
pub use shutdown::keeps_workers;
