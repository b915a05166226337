//! Text that comes character by character: markers are found in it, and space around it is held.
//!
//! Everything here depends on the characters alone, never on the pieces that they came in.

/// Looks for markers. Text that could be the beginning of one is held until it is known.
#[derive(Debug, Default)]
pub(super) struct Markers {
    held: String,
}

impl Markers {
    /// Takes a character; appends to `text` what belongs to no marker, and gives the marker that is
    /// complete. No marker may be the beginning of another.
    pub(super) fn push(
        &mut self,
        c: char,
        markers: &[&'static str],
        text: &mut String,
    ) -> Option<&'static str> {
        self.held.push(c);
        while !self.held.is_empty() {
            if let Some(found) = markers.iter().find(|m| **m == self.held) {
                self.held.clear();
                return Some(found);
            }
            if markers.iter().any(|m| m.starts_with(self.held.as_str())) {
                return None;
            }
            text.push(self.held.remove(0));
        }
        None
    }

    /// What is held: it has become text.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

/// The longest run of space that is held, in bytes. Only so much is ever dropped.
const HELD_SPACE: usize = 64;

/// Holds space back until it is known whether text follows it.
#[derive(Debug, Default)]
pub(super) struct Spaced {
    space: String,
    /// Whether space in front of the next text is dropped.
    drop_leading: bool,
}

impl Spaced {
    /// Space in front of the text is dropped.
    pub(super) fn trimmed() -> Self {
        Self { space: String::new(), drop_leading: true }
    }

    /// Takes a character and appends what can be shown to `out`.
    pub(super) fn push(&mut self, c: char, out: &mut String) {
        if !c.is_whitespace() {
            out.push_str(&self.space);
            self.space.clear();
            self.drop_leading = false;
            out.push(c);
        } else if !self.drop_leading {
            self.space.push(c);
            if self.space.len() > HELD_SPACE {
                out.push(self.space.remove(0));
            }
        }
    }

    /// Takes a text.
    pub(super) fn push_str(&mut self, text: &str, out: &mut String) {
        text.chars().for_each(|c| self.push(c, out));
    }

    /// Something that is no text begins here: the space in front of it is dropped, and the space
    /// after it will be.
    pub(super) fn interrupt(&mut self) {
        self.space.clear();
        self.drop_leading = true;
    }

    /// Gives the space at the end of the text.
    pub(super) fn finish(&mut self, out: &mut String) {
        out.push_str(&self.space);
        self.space.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_found_where_it_begins_first() {
        let mut markers = Markers::default();
        let mut text = String::new();
        let found: Vec<_> = "a <<tool> b<to"
            .chars()
            .filter_map(|c| markers.push(c, &["<tool>", "</tool>"], &mut text))
            .collect();
        assert_eq!(found, ["<tool>"]);
        assert_eq!(text, "a < b");
        assert_eq!(markers.take(), "<to");
    }

    #[test]
    fn space_is_kept_between_words_and_dropped_around_an_interruption() {
        let mut spaced = Spaced::default();
        let mut out = String::new();
        spaced.push_str("a  b \n", &mut out);
        spaced.interrupt();
        spaced.push_str("\n c \n", &mut out);
        spaced.finish(&mut out);
        assert_eq!(out, "a  bc \n");
    }

    #[test]
    fn a_run_of_space_without_end_is_shown_as_it_comes() {
        let mut spaced = Spaced::default();
        let mut out = String::new();
        spaced.push_str(&" ".repeat(10_000), &mut out);
        assert_eq!(out.len(), 10_000 - HELD_SPACE);
    }
}
