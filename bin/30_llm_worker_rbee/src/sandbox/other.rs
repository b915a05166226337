//! Systems without a sandbox of this kind.

use super::rights::Rights;
use super::{Outcome, QueenAddress};

pub(super) fn at_start(_rights: &Rights) -> Outcome {
    not_available()
}

pub(super) fn after_load(_rights: &Rights, _queen: Option<QueenAddress>) -> Outcome {
    not_available()
}

fn not_available() -> Outcome {
    let reason = format!("not available on {}", std::env::consts::OS);
    Outcome { landlock: Err(reason.clone()), seccomp: Err(reason) }
}
