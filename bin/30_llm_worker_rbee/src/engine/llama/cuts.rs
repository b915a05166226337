//! Where a text can be cut so that its parts have, one after the other, the tokens of the whole.
//!
//! llama.cpp searches a text for the names of special tokens before anything else, longer names first, and
//! tokenizes what is between them piece by piece. That takes it time by the square of how many it finds, and
//! nothing ends it. A name that shares no part of itself with another one, nor with itself, is found whatever
//! stands around it, and is one token: behind it a text is cut, and by these names its tokens are counted
//! before there are any.

use std::collections::HashSet;

use aho_corasick::AhoCorasick;

/// How many names a part has at most before it is cut at the first place where it can be, and how many bytes.
pub(super) const PART: PartSize = PartSize { names: 256, bytes: 64 * 1024 };

/// A token whose name is searched for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Special {
    /// Its name.
    pub(super) name: Vec<u8>,
    /// Whether it is found only where names of control tokens are those tokens.
    pub(super) is_control: bool,
    /// Whether it takes the blanks behind it away.
    pub(super) strips_behind: bool,
}

/// When a part is long enough.
#[derive(Debug, Clone, Copy)]
pub(super) struct PartSize {
    pub(super) names: usize,
    pub(super) bytes: usize,
}

/// The names behind which texts are cut.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    finder: Option<AhoCorasick>,
    /// In the finder's order.
    sure: Vec<Special>,
}

/// A text in parts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parts<'t> {
    /// At least one, in order, with nothing between them.
    pub(super) texts: Vec<&'t str>,
    /// How many of the names were found: each is a token.
    pub(super) names: usize,
    /// The bytes of these names.
    pub(super) name_bytes: usize,
}

impl Cuts {
    /// Of all special tokens of a vocabulary.
    pub(super) fn new(specials: &[Special]) -> Self {
        let sure = sure(specials);
        let names = sure.iter().map(|special| &special.name);
        let finder = if sure.is_empty() { None } else { AhoCorasick::new(names).ok() };
        Self { finder, sure }
    }

    /// Cuts a text. `with_control`: names of control tokens are those tokens.
    pub(super) fn parts<'t>(&self, text: &'t str, with_control: bool, size: PartSize) -> Parts<'t> {
        let mut parts = Parts::default();
        let (mut begin, mut names) = (0, 0);
        for found in self.finder.iter().flat_map(|finder| finder.find_iter(text)) {
            let special = &self.sure[found.pattern().as_usize()];
            if special.is_control && !with_control {
                continue;
            }
            parts.names += 1;
            parts.name_bytes += found.len();
            names += 1;
            let behind = &text[found.end()..];
            let is_long = names >= size.names || found.end() - begin >= size.bytes;
            let strips = special.strips_behind && behind.bytes().next().is_some_and(is_blank);
            if is_long && !strips && !behind.is_empty() {
                parts.texts.push(&text[begin..found.end()]);
                (begin, names) = (found.end(), 0);
            }
        }
        parts.texts.push(&text[begin..]);
        parts
    }
}

/// Those that are found in any surroundings, and are no blanks at either end, which a neighbour could take away.
fn sure(specials: &[Special]) -> Vec<Special> {
    let names = || specials.iter().map(|special| special.name.as_slice());
    let beginnings: HashSet<&[u8]> =
        names().flat_map(|n| (1..n.len()).map(|at| &n[..at])).collect();
    let ends: HashSet<&[u8]> = names().flat_map(|n| (1..n.len()).map(|at| &n[at..])).collect();
    let overlaps = |name: &[u8]| {
        (1..name.len()).any(|at| beginnings.contains(&name[at..]) || ends.contains(&name[..at]))
    };
    let Some(inside) = inside_others(specials) else { return Vec::new() };
    let is_sure = |special: &Special, is_inside: bool| {
        let name = special.name.as_slice();
        let is_bare = |end: Option<&u8>| end.is_some_and(|byte| !is_blank(*byte));
        let is_text = std::str::from_utf8(name).is_ok();
        !is_inside && is_text && is_bare(name.first()) && is_bare(name.last()) && !overlaps(name)
    };
    let sure = specials.iter().zip(inside).filter(|(special, inside)| is_sure(special, *inside));
    sure.map(|(special, _)| special.clone()).collect()
}

/// For each name whether another one has it in itself, or is the same; `None` where that cannot be found out.
fn inside_others(specials: &[Special]) -> Option<Vec<bool>> {
    let finder = AhoCorasick::new(specials.iter().map(|special| &special.name)).ok()?;
    let mut inside = vec![false; specials.len()];
    for (outer, special) in specials.iter().enumerate() {
        for found in finder.find_overlapping_iter(&special.name) {
            let index = found.pattern().as_usize();
            inside[index] |= index != outer;
        }
    }
    Some(inside)
}

/// What C's `isspace` says.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn special(name: &str) -> Special {
        Special { name: name.into(), is_control: true, strips_behind: false }
    }

    fn sure_names(names: &[&str]) -> Vec<String> {
        let specials: Vec<Special> = names.iter().map(|name| special(name)).collect();
        sure(&specials).into_iter().map(|s| String::from_utf8(s.name).unwrap()).collect()
    }

    #[test]
    fn only_what_shares_nothing_with_another_name_is_sure() {
        let rows: [(&[&str], &[&str]); 9] = [
            (&["<|im_start|>", "<|im_end|>"], &["<|im_start|>", "<|im_end|>"]),
            (&["<a>", "<aa>", "</a>"], &["<a>", "<aa>", "</a>"]),
            (&["<a>b", "b<c>"], &[]),
            (&["aba"], &[]),
            (&["<a>", "[<a>]"], &["[<a>]"]),
            (&["<a>", "<a>"], &[]),
            (&["\n\n", "\n", "<a>"], &["<a>"]),
            (&[" <a>", "<b> "], &[]),
            (&[], &[]),
        ];
        for (names, expected) in rows {
            assert_eq!(sure_names(names), expected, "{names:?}");
        }
    }

    #[test]
    fn a_text_without_names_or_with_few_is_one_part() {
        let cuts = Cuts::new(&[special("<a>")]);
        for (text, names) in [("", 0), ("x <b>", 0), ("<a>", 1), ("x<a>y<a>", 2)] {
            let parts = cuts.parts(text, true, PART);
            let expected = Parts { texts: vec![text], names, name_bytes: 3 * names };
            assert_eq!(parts, expected);
        }
        assert_eq!(Cuts::default().parts("<a>", true, PART).texts, ["<a>"]);
    }

    #[test]
    fn a_part_ends_behind_a_name_once_it_is_long() {
        let cuts = Cuts::new(&[special("<a>")]);
        let few = PartSize { names: 2, bytes: 1000 };
        assert_eq!(cuts.parts("<a>x<a>y<a>z", true, few).texts, ["<a>x<a>", "y<a>z"]);
        let short = PartSize { names: 100, bytes: 6 };
        assert_eq!(cuts.parts("x<a>y<a>z", true, short).texts, ["x<a>y<a>", "z"]);
        assert_eq!(cuts.parts("<a>x<a>", true, few).texts, ["<a>x<a>"], "nothing is behind it");
        assert_eq!(cuts.parts("<a>x<a>y", false, few).names, 0, "they are plain text");
    }

    #[test]
    fn blanks_stay_with_the_name_that_takes_them_away() {
        let cuts = Cuts::new(&[Special { strips_behind: true, ..special("<a>") }]);
        let each = PartSize { names: 1, bytes: 1000 };
        assert_eq!(cuts.parts("<a> x<a>y", true, each).texts, ["<a> x<a>", "y"]);
    }

    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Fragment {
        Token(usize),
        Text(Vec<u8>),
    }

    #[derive(Debug, Clone)]
    struct Token {
        special: Special,
        strips_before: bool,
    }

    /// `tokenizer_st_partition` in llama.cpp.
    fn partition(text: &[u8], tokens: &[Token], with_control: bool) -> Vec<Fragment> {
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(tokens[*index].special.name.len()));
        let mut fragments = vec![Fragment::Text(text.to_vec())];
        for index in order.into_iter().filter(|i| with_control || !tokens[*i].special.is_control) {
            let whole = std::mem::take(&mut fragments);
            for fragment in whole {
                match fragment {
                    Fragment::Text(text) => split(&text, index, &tokens[index], &mut fragments),
                    token @ Fragment::Token(_) => fragments.push(token),
                }
            }
        }
        fragments.retain(|fragment| *fragment != Fragment::Text(Vec::new()));
        fragments
    }

    fn split(mut text: &[u8], index: usize, token: &Token, out: &mut Vec<Fragment>) {
        let name = token.special.name.as_slice();
        while let Some(at) = text.windows(name.len()).position(|window| window == name) {
            let (mut before, mut behind) = (&text[..at], &text[at + name.len()..]);
            if token.strips_before {
                let length = before.iter().rposition(|byte| !is_blank(*byte)).map_or(0, |n| n + 1);
                before = &before[..length];
            }
            if token.special.strips_behind {
                let from = behind.iter().position(|byte| !is_blank(*byte)).unwrap_or(behind.len());
                behind = &behind[from..];
            }
            out.push(Fragment::Text(before.to_vec()));
            out.push(Fragment::Token(index));
            text = behind;
        }
        out.push(Fragment::Text(text.to_vec()));
    }

    fn token() -> impl Strategy<Value = Token> {
        let name = "[<>ab\n ä]{1,4}|<[abä]{1,2}>";
        (name, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(name, is_control, strips_before, strips_behind)| {
                let special = Special { name: name.into(), is_control, strips_behind };
                Token { special, strips_before }
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn parts_have_the_fragments_of_the_whole(
            tokens in proptest::collection::vec(token(), 0..5),
            words in proptest::collection::vec((0..8_usize, "[<>ab\n ä]{0,3}"), 0..12),
            with_control: bool,
            names in 1..3_usize,
        ) {
            let mut text = String::new();
            for (index, word) in words {
                if let Some(token) = tokens.get(index) {
                    text.push_str(std::str::from_utf8(&token.special.name).unwrap());
                }
                text.push_str(&word);
            }
            let specials: Vec<Special> = tokens.iter().map(|t| t.special.clone()).collect();
            let size = PartSize { names, bytes: 1000 };
            let parts = Cuts::new(&specials).parts(&text, with_control, size);
            prop_assert_eq!(parts.texts.concat(), text.as_str());
            let cut = parts.texts.iter().flat_map(|part| partition(part.as_bytes(), &tokens, with_control));
            let whole = partition(text.as_bytes(), &tokens, with_control);
            let found = whole.iter().filter(|fragment| matches!(fragment, Fragment::Token(_)));
            prop_assert!(parts.names <= found.count());
            prop_assert_eq!(cut.collect::<Vec<_>>(), whole);
        }
    }
}
