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

/// How the text is shown.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Style {
    /// Whether states have colours.
    pub(crate) color: bool,
    /// The terminal's width in columns; `None` for a file or a pipe, where nothing is wrapped.
    pub(crate) width: Option<u16>,
}

/// The text without what would steer a terminal: escape sequences become visible.
pub(crate) fn printable(text: &str) -> String {
    let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(steers) {
        return text.to_owned();
    }
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escape_sequence_cannot_reach_the_terminal() {
        assert_eq!(printable("a\tb\nc"), "a\tb\nc");
        assert_eq!(printable("\u{1b}[2Jgone\r"), "\u{fffd}[2Jgone\u{fffd}");
    }
}
