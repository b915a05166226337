//! Which family a chat template is of: how its model writes calls and reasoning.
//!
//! A template shows the model's earlier calls as the model writes them, so its source has the
//! markers. What it has not, the model was not trained on.

use super::output::{HARMONY_MARKERS, Syntax, ThinkTags, WholeSyntax};

/// How a model writes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallSyntax {
    /// As JSON behind a marker.
    Marked(Syntax),
    /// In the messages of the harmony format.
    Harmony,
    /// In a form of its own, which is read when it is complete.
    Whole(WholeSyntax),
}

impl CallSyntax {
    /// The markers that begin calls.
    pub(super) fn begin(self) -> &'static [&'static str] {
        match self {
            Self::Marked(syntax) => syntax.begin(),
            Self::Harmony => HARMONY_MARKERS,
            Self::Whole(syntax) => syntax.begin(),
        }
    }
}

/// How a model writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// How it writes calls.
    pub calls: CallSyntax,
    /// Whether the template is known to show calls in that way. If not, the model is told how.
    pub is_native: bool,
    /// The tags around its reasoning, where it has any outside of the harmony format.
    pub thinking: Option<ThinkTags>,
    /// Whether the markers of calls are control tokens.
    pub calls_are_control: bool,
    /// Whether the tags of reasoning are control tokens.
    pub thinking_is_control: bool,
    /// Whether a model that was trained on the calls, but whose template does not show functions,
    /// can be told of them in words.
    pub can_be_told: bool,
}

/// What a template's source must have, and what it is then. The first that fits counts.
const CALLS: &[(&str, CallSyntax)] = &[
    ("<|channel|>", CallSyntax::Harmony),
    ("<｜tool▁call▁begin｜>", CallSyntax::Marked(Syntax::DeepSeek)),
    ("<｜tool▁calls▁begin｜>", CallSyntax::Marked(Syntax::DeepSeek)),
    ("[TOOL_CALLS]", CallSyntax::Marked(Syntax::Mistral)),
    ("<|tool_call>", CallSyntax::Whole(WholeSyntax::Gemma4)),
    ("<|tool_calls_section_begin|>", CallSyntax::Whole(WholeSyntax::KimiK2)),
    ("<minimax:tool_call>", CallSyntax::Whole(WholeSyntax::MiniMax)),
    ("<|START_ACTION|>", CallSyntax::Whole(WholeSyntax::Cohere)),
    ("<arg_key>", CallSyntax::Whole(WholeSyntax::Glm)),
    ("<function=", CallSyntax::Whole(WholeSyntax::QwenXml)),
    ("<tool_call>", CallSyntax::Marked(Syntax::Hermes)),
    ("<|python_tag|>", CallSyntax::Marked(Syntax::Llama)),
    ("ipython", CallSyntax::Marked(Syntax::Llama)),
];

const THINKING: &[ThinkTags] = &[
    ThinkTags { open: "<|channel>thought", close: "<channel|>" },
    ThinkTags { open: "<|START_THINKING|>", close: "<|END_THINKING|>" },
    ThinkTags { open: "[THINK]", close: "[/THINK]" },
    ThinkTags { open: "<think>", close: "</think>" },
];

impl Family {
    /// The family of a template's source.
    ///
    /// `is_control` tells whether a text is one control token of the model's vocabulary.
    #[must_use]
    pub fn detect(source: &str, is_control: impl Fn(&str) -> bool) -> Self {
        let found = CALLS.iter().find(|(marker, _)| source.contains(marker));
        let calls = found.map_or(CallSyntax::Marked(Syntax::Hermes), |(_, calls)| *calls);
        let thinking = THINKING.iter().find(|tags| {
            // DeepSeek's templates know only the end of the thinking, Gemma's write the beginning in
            // two parts.
            source.contains(tags.open) || source.contains(tags.close)
        });
        let thinking = thinking.copied().filter(|_| calls != CallSyntax::Harmony);
        Self {
            calls,
            is_native: found.is_some(),
            thinking,
            calls_are_control: calls.begin().iter().any(|marker| is_control(marker)),
            thinking_is_control: thinking.is_some_and(|tags| {
                // The word behind Gemma's token is ordinary text.
                is_control(tags.open) || is_control(tags.close)
            }),
            can_be_told: matches!(calls, CallSyntax::Marked(_)),
        }
    }

    /// The same model, told of functions in words and asked for the plainest of calls.
    pub(super) fn told(self, is_control: impl Fn(&str) -> bool) -> Self {
        // Harmony's messages have headers whatever is in them.
        if self.calls == CallSyntax::Harmony {
            return self;
        }
        let calls = CallSyntax::Marked(Syntax::Hermes);
        Self {
            calls,
            calls_are_control: calls.begin().iter().any(|marker| is_control(marker)),
            ..self
        }
    }

    /// Whether the model writes arguments in another way than as JSON.
    pub(super) fn writes_own_arguments(&self) -> bool {
        matches!(self.calls, CallSyntax::Whole(_))
    }

    /// Whether its template refuses ids of calls that are not nine letters and digits.
    pub(super) fn wants_short_ids(&self) -> bool {
        self.calls == CallSyntax::Marked(Syntax::Mistral)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_known_by_what_their_templates_write() {
        let cases = [
            ("<|start|>{{r}}<|channel|>", CallSyntax::Harmony),
            ("<tool_call>\\n", CallSyntax::Marked(Syntax::Hermes)),
            ("<tool_call>\\n<function=", CallSyntax::Whole(WholeSyntax::QwenXml)),
            ("Environment: ipython", CallSyntax::Marked(Syntax::Llama)),
            ("[TOOL_CALLS][", CallSyntax::Marked(Syntax::Mistral)),
            ("<｜tool▁calls▁begin｜>", CallSyntax::Marked(Syntax::DeepSeek)),
        ];
        for (source, calls) in cases {
            let family = Family::detect(source, |_| false);
            assert_eq!((family.calls, family.is_native), (calls, true), "{source}");
        }
        assert!(!Family::detect("<|im_start|>", |_| true).is_native);
    }

    #[test]
    fn control_tokens_are_wanted_only_where_markers_are_some() {
        let family = Family::detect("<think> [TOOL_CALLS]", |text| text == "[TOOL_CALLS]");
        assert!(family.calls_are_control && !family.thinking_is_control);
        assert_eq!(family.thinking.map(|tags| tags.open), Some("<think>"));
    }
}
