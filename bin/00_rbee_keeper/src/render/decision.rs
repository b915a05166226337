//! What was decided, and why: one line each.

use std::fmt::Write as _;

use super::printable;
use crate::view::Decision;

/// The decisions, as they are given.
pub(crate) fn list(decisions: &[Decision]) -> String {
    let mut text = String::new();
    for Decision { at, kind, why } in decisions {
        let kind = kind.replace('_', " ");
        let _ = writeln!(text, "{at}  {kind:<14}  {}", why.replace('\n', " "));
    }
    if decisions.is_empty() {
        text.push_str("no decision is remembered\n");
    }
    printable(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_decision_is_one_line_whatever_a_hive_said() {
        let decision = |kind: &str, why: &str| Decision {
            at: "2026-11-24T10:00:00.000Z".into(),
            kind: kind.into(),
            why: why.into(),
        };
        let shown = list(&[
            decision("dispatch", "w-1 is the only worker that can take it"),
            decision("circuit_opened", "w-1 fails\n\u{1b}[2Jagain"),
        ]);
        assert_eq!(
            shown,
            "2026-11-24T10:00:00.000Z  dispatch        w-1 is the only worker that can take it\n\
             2026-11-24T10:00:00.000Z  circuit opened  w-1 fails \u{fffd}[2Jagain\n"
        );
        assert_eq!(list(&[]), "no decision is remembered\n");
    }
}
