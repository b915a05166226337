//! Pure rendering: a value goes in, text comes out. Nothing here prints, waits or looks at the clock.

pub(crate) mod decision;
pub(crate) mod detail;
pub(crate) mod error;
pub(crate) mod json;
pub(crate) mod progress;
pub(crate) mod rules;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod unit;

use daemon_lifecycle::LEAVES_WORKERS;

/// How the text is shown.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Style {
    /// Whether states have colours.
    pub(crate) color: bool,
    /// The terminal's width in columns; `None` for a file or a pipe, where nothing is wrapped.
    pub(crate) width: Option<u16>,
}

/// A queen's features that say something to people. That she leaves her workers is for programs to know.
pub(crate) fn for_people(features: &[String]) -> Vec<&str> {
    let says_something = |feature: &&str| *feature != LEAVES_WORKERS;
    features.iter().map(String::as_str).filter(says_something).collect()
}

/// The text without what would steer a terminal: escape sequences become visible.
pub(crate) fn printable(text: &str) -> String {
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t' || turns(c);
    if !text.contains(steers) {
        return text.to_owned();
    }
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

/// Whether a character turns the direction of the text around it, so that it reads as another one.
fn turns(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escape_sequence_cannot_reach_the_terminal() {
        assert_eq!(printable("a\tb\nc"), "a\tb\nc");
        assert_eq!(printable("\u{1b}[2Jgone\r"), "\u{fffd}[2Jgone\u{fffd}");
        assert_eq!(printable("a\u{202e}b\u{2066}c\u{2069}"), "a\u{fffd}b\u{fffd}c\u{fffd}");
        assert_eq!(printable("\u{200f}שלום é"), "\u{200f}שלום é", "words of all languages stay");
    }
}
