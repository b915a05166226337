//! The built command line, run as people and scripts run it.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it says")]

mod consent;
mod support;
mod with_queen;
mod without_queen;
