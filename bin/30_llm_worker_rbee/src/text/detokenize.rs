//! Bytes of tokens to whole characters.
//!
//! A token can end in the middle of a UTF-8 character. What is not whole stays until the next
//! token, and is never shown where the answer ends before it; bytes that can never become a
//! character are shown as U+FFFD, as the standard library's lossy conversion does.

/// Collects bytes and gives whole characters.
#[derive(Debug, Default)]
pub struct Utf8Stream {
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// The bytes that are not whole characters yet; a token's bytes are appended here.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.pending
    }

    /// Moves all whole characters to the end of `text`.
    pub fn drain_into(&mut self, text: &mut String) {
        let mut rest: &[u8] = &self.pending;
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(bad) = error.error_len() else {
                        rest = after;
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[bad..];
                }
            }
        }
        let keep_from = self.pending.len() - rest.len();
        self.pending.drain(..keep_from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The pieces that are shown, and the bytes that are left at the end.
    fn streamed(bytes: &[u8], cuts: &[usize]) -> (Vec<String>, Vec<u8>) {
        let mut stream = Utf8Stream::default();
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts.iter().map(|c| c % (bytes.len() + 1)).chain([bytes.len()]) {
            if cut <= from {
                continue;
            }
            stream.buffer().extend_from_slice(&bytes[from..cut]);
            from = cut;
            let mut piece = String::new();
            stream.drain_into(&mut piece);
            pieces.push(piece);
        }
        (pieces, stream.pending)
    }

    #[test]
    fn a_character_in_two_tokens_appears_once_and_whole() {
        let (pieces, left) = streamed("a🦀b".as_bytes(), &[3]);
        assert_eq!(pieces, ["a", "🦀b"]);
        assert!(left.is_empty());
    }

    #[test]
    fn half_a_character_at_the_end_is_not_shown() {
        let (pieces, left) = streamed(&"a🦀".as_bytes()[..3], &[]);
        assert_eq!(pieces, ["a"]);
        assert_eq!(left.len(), 2);
    }

    proptest! {
        #[test]
        fn any_cut_of_a_text_gives_the_text(text in "\\PC{0,40}", mut cuts in prop::collection::vec(any::<usize>(), 0..10)) {
            let bytes = text.as_bytes();
            for cut in &mut cuts {
                *cut %= bytes.len() + 1;
            }
            cuts.sort_unstable();
            prop_assert_eq!(streamed(bytes, &cuts).0.concat(), text);
        }

        #[test]
        fn any_bytes_give_what_the_lossy_conversion_gives(bytes in prop::collection::vec(any::<u8>(), 0..40), mut cuts in prop::collection::vec(any::<usize>(), 0..10)) {
            for cut in &mut cuts {
                *cut %= bytes.len() + 1;
            }
            cuts.sort_unstable();
            let (pieces, left) = streamed(&bytes, &cuts);
            let all = pieces.concat() + &String::from_utf8_lossy(&left);
            prop_assert_eq!(all, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}
