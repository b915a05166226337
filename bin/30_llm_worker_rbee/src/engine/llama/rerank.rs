//! What a reranking model needs: its classification head, and a query and a document as one text.

use llama_cpp_2::token::LlamaToken;
use worker_contract::TokenId;

use super::model::Model;
use super::tokenize::{NotTokenized, fitting};
use crate::gguf::Header;

/// Whether a model has a classification head.
pub(super) fn has_classifier(header: &Header) -> bool {
    let is_head = |name: &str| matches!(name, "cls.weight" | "cls.output.weight");
    header.tensors.iter().any(|tensor| is_head(&tensor.name))
}

impl Model {
    /// A query and a document as one text, in the form in which a reranking model was trained.
    ///
    /// By the model's template `rerank` where it has one (Qwen3), else `[BOS] query [EOS] [SEP]
    /// document [EOS]` with those of the special tokens that the model's vocabulary asks for: what
    /// llama-server does in `format_prompt_rerank`. BERT's own vocabulary has `[SEP]` in the place
    /// of `[EOS]`, and the document ends with it here, as in BERT's training.
    ///
    /// Where there are no more than `most` tokens; `is_wanted` is asked before each part of a long text.
    pub fn query_and_document(
        &self,
        query: &str,
        document: &str,
        most: usize,
        is_wanted: impl Fn() -> bool,
    ) -> Result<Vec<TokenId>, NotTokenized> {
        let vocab = self.llama.vocab();
        // By its key: the binding's call for a named template reads memory that it has freed.
        if let Ok(template) = self.llama.meta_val_str("tokenizer.chat_template.rerank") {
            let text = filled(&template, query, document);
            return self.tokens_within(&text, false, true, most, is_wanted);
        }
        let eos = if vocab.eos().0 < 0 { vocab.sep() } else { vocab.eos() };
        let bos = vocab.should_add_bos().then(|| vocab.bos());
        let end = vocab.should_add_eos().then_some(eos);
        let separator = vocab.should_add_sep().then(|| vocab.sep());
        let text = |text: &str| self.tokens_within(text, false, false, most, &is_wanted);
        let own = |token: Option<LlamaToken>| token.map(|token| token.0).filter(|id| *id >= 0);
        let mut tokens = Vec::new();
        tokens.extend(own(bos));
        tokens.extend(text(query)?);
        tokens.extend(own(end));
        tokens.extend(own(separator));
        tokens.extend(text(document)?);
        tokens.extend(own(end.or(separator)));
        fitting(tokens, most)
    }
}

/// The template with both texts in it. What stands in the texts is never replaced.
fn filled(template: &str, query: &str, document: &str) -> String {
    let places = [("{query}", query), ("{document}", document)];
    let mut text = String::with_capacity(template.len() + query.len() + document.len());
    let mut rest = template;
    loop {
        let next = places.iter().filter_map(|(name, value)| Some((rest.find(name)?, name, value)));
        let Some((at, name, value)) = next.min_by_key(|(at, ..)| *at) else { break };
        text.push_str(&rest[..at]);
        text.push_str(value);
        rest = &rest[at + name.len()..];
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::filled;

    #[test]
    fn only_the_template_has_places() {
        let rows = [
            ("<q>{query}<d>{document}", "a", "b", "<q>a<d>b"),
            ("{document}|{query}|{query}", "a", "b", "b|a|a"),
            ("{query} {document}", "{document}", "{query}", "{document} {query}"),
            ("neither", "a", "b", "neither"),
            ("ä{query}", "ö", "", "äö"),
        ];
        for (template, query, document, expected) in rows {
            assert_eq!(filled(template, query, document), expected);
        }
    }
}
