//! Stop texts: the answer ends before the first of them.
//!
//! Text that could be the beginning of a stop text is held back until it is known.

/// Looks for stop texts in a growing text.
#[derive(Debug, Default)]
pub struct StopTexts {
    texts: Vec<String>,
    held: String,
}

/// What became of a piece of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMatch {
    /// No stop text so far.
    None,
    /// A stop text came; nothing after it is given.
    Found,
}

impl StopTexts {
    /// Looks for any of `texts`; empty ones are ignored.
    #[must_use]
    pub fn new(texts: Vec<String>) -> Self {
        Self { texts: texts.into_iter().filter(|t| !t.is_empty()).collect(), held: String::new() }
    }

    /// Takes a piece of text and appends to `released` what is safe to show.
    pub fn push(&mut self, piece: &str, released: &mut String) -> StopMatch {
        if self.texts.is_empty() {
            released.push_str(piece);
            return StopMatch::None;
        }
        self.held.push_str(piece);
        let found = self.texts.iter().filter_map(|t| self.held.find(t.as_str())).min();
        if let Some(at) = found {
            released.push_str(&self.held[..at]);
            self.held.clear();
            return StopMatch::Found;
        }
        let keep = self.longest_beginning_at_end();
        let safe = self.held.len() - keep;
        released.push_str(&self.held[..safe]);
        self.held.drain(..safe);
        StopMatch::None
    }

    /// Gives what was held back, at the end of the answer.
    pub fn finish(&mut self, released: &mut String) {
        released.push_str(&self.held);
        self.held.clear();
    }

    /// The length of the longest end of the held text that begins a stop text.
    fn longest_beginning_at_end(&self) -> usize {
        let mut starts = self.held.char_indices().map(|(at, _)| at);
        let begins = |at: &usize| self.texts.iter().any(|t| t.starts_with(&self.held[*at..]));
        starts.find(begins).map_or(0, |at| self.held.len() - at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, StopMatch) {
        let mut texts = StopTexts::new(stops.iter().map(ToString::to_string).collect());
        let mut shown = String::new();
        for piece in pieces {
            if texts.push(piece, &mut shown) == StopMatch::Found {
                return (shown, StopMatch::Found);
            }
        }
        texts.finish(&mut shown);
        (shown, StopMatch::None)
    }

    #[test]
    fn a_stop_text_in_pieces_ends_the_answer_before_it() {
        assert_eq!(run(&["END"], &["abc E", "N", "D def"]), ("abc ".into(), StopMatch::Found));
        assert_eq!(run(&["END"], &["abc EN", "x"]), ("abc ENx".into(), StopMatch::None));
        assert_eq!(run(&["b", "ab"], &["xab"]), ("x".into(), StopMatch::Found));
        assert_eq!(run(&["\n\n"], &["a\n", "\nb"]), ("a".into(), StopMatch::Found));
        assert_eq!(run(&["🦀"], &["a🦀"]), ("a".into(), StopMatch::Found));
    }

    proptest! {
        #[test]
        fn the_pieces_do_not_matter(
            text in "[ab]{0,30}",
            stop in "[ab]{1,4}",
            cuts in prop::collection::vec(0_usize..30, 0..8),
        ) {
            let mut cuts: Vec<_> = cuts.iter().map(|c| c % (text.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([text.len()]) {
                pieces.push(&text[from..cut]);
                from = cut;
            }
            let wanted = text.find(&stop).map_or(text.as_str(), |at| &text[..at]);
            prop_assert_eq!(run(&[&stop], &pieces).0, wanted);
        }
    }
}
