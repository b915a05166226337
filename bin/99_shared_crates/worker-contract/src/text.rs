//! Texts that come in any length, kept to a limit.

/// The beginning of a text, of at most `most` bytes, without memory for the rest.
#[must_use]
pub fn cut(mut text: String, most: usize) -> String {
    truncate(&mut text, most);
    text.shrink_to_fit();
    text
}

/// The same, with an ellipsis behind it where something is missing.
#[must_use]
pub fn cut_visibly(mut text: String, most: usize) -> String {
    if truncate(&mut text, most) {
        text.push('…');
        text.shrink_to_fit();
    }
    text
}

/// Cuts between two characters; whether there was something to cut.
fn truncate(text: &mut String, most: usize) -> bool {
    if text.len() <= most {
        return false;
    }
    // The beginning of a text is always between two characters.
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.truncate(end);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_two_characters() {
        for (whole, expected) in [
            ("xxxxxxxxxx", "xxxxxxxxxx"),
            ("xxxxxxxxxxx", "xxxxxxxxxx"),
            ("ääääää", "äääää"),
            ("xääääää", "xääää"),
        ] {
            let kept = cut(whole.to_owned(), 10);
            assert_eq!(kept, expected, "{whole}");
            let ellipsis = if whole.len() > 10 { "…" } else { "" };
            assert_eq!(cut_visibly(whole.to_owned(), 10), kept + ellipsis, "{whole}");
        }
        assert_eq!(cut_visibly("ä".to_owned(), 1), "…");
    }
}
