//! An error as a person reads it: what happened, why, and what to do.

use std::error::Error;

use super::printable;

/// `error: …`, with every cause once, and the hint on a line of its own.
pub(crate) fn text(error: &dyn Error, hint: Option<&str>, color: bool) -> String {
    let (red, bold, end) = if color { ("\x1b[1;31m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
    let what = format!("{red}error:{end} {}\n", printable(&chain(error)));
    match hint {
        Some(hint) => what + &format!("{bold}hint:{end} {}\n", printable(hint)),
        None => what,
    }
}

/// `warning: …`.
pub(crate) fn warning(message: &str, color: bool) -> String {
    let (yellow, end) = if color { ("\x1b[1;33m", "\x1b[0m") } else { ("", "") };
    format!("{yellow}warning:{end} {}\n", printable(message))
}

/// The error and its causes on one line; a cause that its effect already names is left out.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{message}")]
    struct Layer {
        message: &'static str,
        #[source]
        cause: Option<Box<Layer>>,
    }

    fn layers(messages: &[&'static str]) -> Layer {
        let (message, rest) = messages.split_first().unwrap();
        let cause = (!rest.is_empty()).then(|| Box::new(layers(rest)));
        Layer { message, cause }
    }

    #[test]
    fn causes_follow_their_effect_and_the_hint_stands_alone() {
        let error = layers(&["cannot reach the queen", "connection refused"]);
        insta::assert_snapshot!(text(&error, Some("start it with `rbee-keeper up`"), false), @r"
        error: cannot reach the queen: connection refused
        hint: start it with `rbee-keeper up`
        ");
    }

    #[test]
    fn a_cause_is_told_once() {
        let error = layers(&["cannot open x: denied", "denied", "os error 13"]);
        assert_eq!(chain(&error), "cannot open x: denied: os error 13");
    }

    #[test]
    fn colours_are_only_where_they_were_asked_for() {
        let error = layers(&["broken"]);
        assert!(!text(&error, Some("mend it"), false).contains('\x1b'));
        assert!(text(&error, Some("mend it"), true).contains('\x1b'));
    }
}
