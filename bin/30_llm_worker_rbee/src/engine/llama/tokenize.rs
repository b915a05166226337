//! From a text to its tokens, within bounds: what cannot fit is refused before it is tokenized as far as that
//! can be told, and what nobody waits for any more is given up between two parts of it.

use std::fmt;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token_type::LlamaTokenAttr;
use llama_cpp_2::vocab::LlamaVocab;
use worker_contract::TokenId;

use super::cuts::{Cuts, PART, Parts, Special, is_blank};
use super::model::Model;

/// Tokenizers that leave nothing of a text out and change nothing but blanks: each byte is in some token.
const KEEP_EVERYTHING: [&str; 3] = ["llama", "gpt2", "gemma4"];

/// How many tokens a text has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenCount {
    /// As many.
    Exactly(usize),
    /// It was not counted further.
    AtLeast(usize),
}

impl TokenCount {
    /// With so many tokens more.
    #[must_use]
    pub fn and(self, more: usize) -> Self {
        match self {
            Self::Exactly(tokens) => Self::Exactly(tokens + more),
            Self::AtLeast(tokens) => Self::AtLeast(tokens + more),
        }
    }
}

impl fmt::Display for TokenCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(tokens) => write!(f, "{tokens} tokens"),
            Self::AtLeast(tokens) => write!(f, "at least {tokens} tokens"),
        }
    }
}

/// A text has no tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTokenized {
    /// It has more than were allowed.
    TooLong(TokenCount),
    /// Nobody waits for them any more.
    GivenUp,
}

/// What is known of a vocabulary before a text comes.
#[derive(Debug, Default)]
pub(super) struct Tokenizer {
    cuts: Cuts,
    /// The bytes of the longest token; `None` where a token can stand for any number of bytes.
    longest: Option<usize>,
    /// Whether special tokens take blanks away that stand beside them.
    strips_blanks: bool,
}

impl Tokenizer {
    /// Looks at every token of the vocabulary once.
    pub(super) fn of(llama: &LlamaModel) -> Self {
        let kind = llama.meta_val_str("tokenizer.ggml.model").unwrap_or_default();
        if matches!(kind.as_str(), "" | "no_vocab" | "none") {
            return Self::default();
        }
        let vocab = llama.vocab();
        let mut tokenizer = Self::default();
        let (mut specials, mut longest, mut piece) = (Some(Vec::new()), 0, Vec::new());
        for token in vocab.tokens() {
            piece.clear();
            vocab.token_to_piece_into(token, &mut piece, true, None);
            let name = vocab.text(token).unwrap_or_default().to_bytes();
            // Names of byte-level BPE are in letters of its own; others have a letter for a space, which stands for
            // itself, too.
            longest =
                longest.max(if kind == "gpt2" { piece.len() } else { piece.len().max(name.len()) });
            let attributes = vocab.attr(token);
            let has = |attribute| attributes.contains(attribute);
            let is_control = has(LlamaTokenAttr::Control) || has(LlamaTokenAttr::Unknown);
            if !is_control && !has(LlamaTokenAttr::UserDefined) {
                continue;
            }
            let strips_behind = has(LlamaTokenAttr::RStrip);
            tokenizer.strips_blanks |= strips_behind || has(LlamaTokenAttr::LStrip);
            // Names cannot be compared with one that is not known whole, such as one with a zero byte in it.
            specials = specials.filter(|_| piece == name);
            if let Some(specials) = &mut specials {
                specials.push(Special { name: piece.clone(), is_control, strips_behind });
            }
        }
        tokenizer.cuts = Cuts::new(&specials.unwrap_or_default());
        tokenizer.longest = Some(longest).filter(|_| KEEP_EVERYTHING.contains(&kind.as_str()));
        tokenizer
    }

    /// The number of tokens that a text has at least.
    fn fewest(&self, parts: &Parts<'_>) -> usize {
        let Some(longest) = self.longest.filter(|longest| *longest > 0) else { return parts.names };
        let stays = |byte: &u8| !self.strips_blanks || !is_blank(*byte);
        let bytes = |part: &&str| part.bytes().filter(stays).count();
        let bytes: usize = parts.texts.iter().map(bytes).sum();
        parts.names + bytes.saturating_sub(parts.name_bytes).div_ceil(longest)
    }
}

impl Model {
    /// The tokens of a text, as llama.cpp makes them in one go.
    ///
    /// `template_output`: the text comes from the chat template, so that names of control tokens
    /// in it are those tokens and the start token is already there, if the model wants one.
    #[must_use]
    pub fn tokenize(&self, text: &str, template_output: bool) -> Vec<TokenId> {
        let adds_ends = self.adds_ends(text, template_output);
        ids(&self.llama.vocab(), text, adds_ends, template_output).collect()
    }

    /// The same tokens where there are no more than `most`. `is_wanted` is asked before each part of a long text.
    pub fn tokenize_within(
        &self,
        text: &str,
        template_output: bool,
        most: usize,
        is_wanted: impl Fn() -> bool,
    ) -> Result<Vec<TokenId>, NotTokenized> {
        let adds_ends = self.adds_ends(text, template_output);
        self.tokens_within(text, adds_ends, template_output, most, is_wanted)
    }

    /// The number of tokens that a template's text has at least; it is told without tokenizing it.
    #[must_use]
    pub fn fewest_tokens(&self, text: &str) -> usize {
        self.tokenizer.fewest(&self.tokenizer.cuts.parts(text, true, PART))
    }

    /// Whether a template's text has the start token already.
    #[must_use]
    pub fn starts_itself(&self, text: &str) -> bool {
        let bos = self.special_text(self.llama.vocab().bos());
        bos.is_some_and(|bos| text.starts_with(&bos))
    }

    /// The tokens of a text that is to be filled in between two others, in the order prefix, suffix,
    /// middle, as llama-server's `/infill` has them; `None` where the model has no tokens for it.
    pub fn tokenize_infill(
        &self,
        prefix: &str,
        suffix: &str,
        most: usize,
        is_wanted: impl Fn() -> bool,
    ) -> Result<Option<Vec<TokenId>>, NotTokenized> {
        let vocab = self.llama.vocab();
        let [pre, suf, mid] = [vocab.fim_pre(), vocab.fim_suf(), vocab.fim_mid()].map(|t| t.0);
        if [pre, suf, mid].iter().any(|token| *token < 0) {
            return Ok(None);
        }
        let bos = Some(vocab.bos().0).filter(|bos| vocab.should_add_bos() && *bos >= 0);
        let mut tokens: Vec<_> = bos.into_iter().chain([pre]).collect();
        tokens.extend(self.tokens_within(prefix, false, false, most, &is_wanted)?);
        tokens.push(suf);
        tokens.extend(self.tokens_within(suffix, false, false, most, &is_wanted)?);
        tokens.push(mid);
        Ok(Some(fitting(tokens, most)?))
    }

    /// `adds_ends`: the model's own start and end tokens are put around it, as far as it wants them.
    /// `with_control`: names of control tokens in it are those tokens.
    pub(super) fn tokens_within(
        &self,
        text: &str,
        adds_ends: bool,
        with_control: bool,
        most: usize,
        is_wanted: impl Fn() -> bool,
    ) -> Result<Vec<TokenId>, NotTokenized> {
        let parts = self.tokenizer.cuts.parts(text, with_control, PART);
        let fewest = self.tokenizer.fewest(&parts);
        if fewest > most {
            return Err(NotTokenized::TooLong(TokenCount::AtLeast(fewest)));
        }
        let vocab = self.llama.vocab();
        let is_one = parts.texts.len() == 1;
        let (mut tokens, end) =
            if adds_ends && !is_one { ends(&vocab) } else { (Vec::new(), None) };
        for part in parts.texts {
            if !is_wanted() {
                return Err(NotTokenized::GivenUp);
            }
            tokens.extend(ids(&vocab, part, adds_ends && is_one, with_control));
            if tokens.len() > most && !is_one {
                return Err(NotTokenized::TooLong(TokenCount::AtLeast(tokens.len())));
            }
        }
        tokens.extend(end);
        fitting(tokens, most)
    }

    fn adds_ends(&self, text: &str, template_output: bool) -> bool {
        !(template_output && self.starts_itself(text))
    }
}

/// The tokens, where there are no more than `most`.
pub(super) fn fitting(tokens: Vec<TokenId>, most: usize) -> Result<Vec<TokenId>, NotTokenized> {
    let length = tokens.len();
    if length > most { Err(NotTokenized::TooLong(TokenCount::Exactly(length))) } else { Ok(tokens) }
}

fn ids(
    vocab: &LlamaVocab<'_>,
    text: &str,
    adds_ends: bool,
    with_control: bool,
) -> impl Iterator<Item = TokenId> {
    vocab.tokenize(text.as_bytes(), adds_ends, with_control).into_iter().map(|token| token.0)
}

/// The tokens that a model wants in front of a text and behind it: those around a text of nothing.
fn ends(vocab: &LlamaVocab<'_>) -> (Vec<TokenId>, Option<TokenId>) {
    let mut start: Vec<TokenId> = ids(vocab, "", true, false).collect();
    let has_end = start.len() > 1 || !vocab.should_add_bos();
    let end = if has_end { start.pop() } else { None };
    (start, end)
}
