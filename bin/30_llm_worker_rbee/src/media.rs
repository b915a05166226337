//! An image's places in a sequence of tokens.
//!
//! An image takes as many places of the KV cache as it has embeddings. Each place has a number as a
//! token has, below zero, that is made of the image's digest: so the books of computed prompts find an
//! image again as they find text. Two bits of a number tell whether the image begins there, and
//! whether the position of what follows is one higher: models with M-RoPE lay an image out on a plane,
//! and count it as long as its longer side.
//!
//! A sequence is cut only where an image begins or ends.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use worker_contract::TokenId;

const BEGINS: u32 = 0b01;
const ADVANCES: u32 = 0b10;
const FLAG_BITS: u32 = 2;

/// A part of an image that is ready for the model: what it takes in place of tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Media {
    /// What it is made of, by content.
    pub digest: [u8; 32],
    /// The embeddings, one after the other.
    pub embeddings: Arc<[f32]>,
    /// How many there are.
    pub tokens: u32,
    /// How they are laid out.
    pub layout: Layout,
    /// Whether all of them must be computed at once, because each looks at all others.
    pub whole: bool,
}

/// How the places of an image get their positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// One after the other, as text.
    Line,
    /// On planes: for each place time, row, column and depth beyond the image's first position
    /// (M-RoPE), and by how much the image moves what follows.
    Planes {
        /// For each place.
        places: Vec<[Place; 4]>,
        /// What follows stands this much behind the image's first position.
        length: u32,
    },
}

/// One coordinate of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Counted from the image's first position.
    Relative(u32),
    /// As it is.
    Absolute(u32),
}

/// An image in a prompt.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The index of its first place.
    pub at: usize,
    /// The image.
    pub media: Arc<Media>,
}

impl Placed {
    /// The index behind its last place.
    #[must_use]
    pub fn end(&self) -> usize {
        self.at + self.media.tokens as usize
    }
}

impl Media {
    /// Its numbers in a sequence.
    pub fn ids(&self) -> impl Iterator<Item = TokenId> {
        let length = match &self.layout {
            Layout::Line => self.tokens,
            Layout::Planes { length, .. } => *length,
        };
        let mut words = [0_u32; 8];
        (0..self.tokens).map(move |place| {
            let word = place as usize % words.len();
            if word == 0 {
                words = block(&self.digest, place);
            }
            let begins = if place == 0 { BEGINS } else { 0 };
            let advances = if place < length { ADVANCES } else { 0 };
            // The highest bit stays clear, so that the complement is below zero.
            let number = (words[word] << FLAG_BITS & i32::MAX.cast_unsigned()) | begins | advances;
            (!number).cast_signed()
        })
    }
}

/// Whether a number is that of an image's place.
#[must_use]
pub fn is_media(token: TokenId) -> bool {
    token < 0
}

/// The position behind a sequence.
#[must_use]
pub fn positions(tokens: &[TokenId]) -> u32 {
    let advances = |token: &&TokenId| !is_media(**token) || flags(**token) & ADVANCES != 0;
    u32::try_from(tokens.iter().filter(advances).count()).unwrap_or(u32::MAX)
}

/// The largest number of places, at most `length`, after which `tokens` can be cut.
#[must_use]
pub fn cut(tokens: &[TokenId], length: usize) -> usize {
    if !tokens.get(length).is_some_and(|token| continues(*token)) {
        return length;
    }
    let begins = |token: &TokenId| !continues(*token);
    tokens[..length].iter().rposition(begins).unwrap_or(0)
}

/// How many places two sequences begin with in common, cut as both can be cut.
#[must_use]
pub fn common_prefix(one: &[TokenId], other: &[TokenId]) -> usize {
    let length = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    // An image that one of them has only in part goes on in the other.
    cut(one, length).min(cut(other, length))
}

/// Whether a place is one of an image's later ones.
fn continues(token: TokenId) -> bool {
    is_media(token) && flags(token) & BEGINS == 0
}

fn flags(token: TokenId) -> u32 {
    (!token).cast_unsigned()
}

fn block(digest: &[u8; 32], place: u32) -> [u32; 8] {
    let hash = Sha256::new().chain_update(digest).chain_update(place.to_le_bytes()).finalize();
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(hash.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: u8, tokens: u32, layout: Layout) -> Media {
        Media { digest: [name; 32], embeddings: [].into(), tokens, layout, whole: false }
    }

    fn ids(name: u8, tokens: u32) -> Vec<TokenId> {
        image(name, tokens, Layout::Line).ids().collect()
    }

    #[test]
    fn places_are_no_tokens_and_tell_images_apart() {
        let one = ids(1, 100);
        assert!(one.iter().all(|id| is_media(*id)) && one.len() == 100);
        assert_eq!(one, ids(1, 100));
        assert_ne!(one[0], ids(2, 100)[0]);
        let distinct: std::collections::HashSet<_> = one.iter().collect();
        assert_eq!(distinct.len(), 100);
    }

    #[test]
    fn an_image_on_a_plane_is_as_long_as_its_longer_side() {
        let plane = Layout::Planes { places: Vec::new(), length: 4 };
        let tokens: Vec<_> =
            [5, 6].into_iter().chain(image(1, 12, plane).ids()).chain([7]).collect();
        assert_eq!(positions(&tokens[..2]), 2);
        assert_eq!(positions(&tokens[..14]), 6);
        assert_eq!(positions(&tokens), 7);
        assert_eq!(positions(&ids(1, 12)), 12);
    }

    #[test]
    fn a_sequence_is_never_cut_inside_an_image() {
        let tokens: Vec<_> =
            [5, 6].into_iter().chain(ids(1, 4)).chain(ids(2, 3)).chain([7]).collect();
        let cuts: Vec<_> = (0..=tokens.len()).map(|length| cut(&tokens, length)).collect();
        assert_eq!(cuts, [0, 1, 2, 2, 2, 2, 6, 6, 6, 9, 10]);
    }

    #[test]
    fn a_part_of_an_image_is_nothing_in_common() {
        let with =
            |image: Vec<TokenId>| [5].into_iter().chain(image).chain([7]).collect::<Vec<_>>();
        let (one, other) = (with(ids(1, 4)), with(ids(2, 4)));
        assert_eq!(common_prefix(&one, &one), 6);
        assert_eq!(common_prefix(&one, &other), 1);
        assert_eq!(common_prefix(&one[..3], &one), 1, "begun and never finished");
        assert_eq!(common_prefix(&one[..5], &one), 5);
        assert_eq!(common_prefix(&[1, 2, 3], &[1, 2, 4]), 2);
    }
}
