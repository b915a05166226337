//! From what a request asks for to a grammar that can be followed.

use std::sync::OnceLock;

use llguidance::api::{ParserLimits, StopReason, TopLevelGrammar};
use llguidance::toktrie::TokEnv;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use worker_contract::OutputFormat;

use super::Constraint;
use super::schema::{self, MAX_REGEX_BYTES};

/// A model's vocabulary as `llguidance` walks it.
pub type TokenEnvironment = TokEnv;

/// What a grammar may cost. Times are llguidance's own figures for one core.
const LIMITS: ParserLimits = ParserLimits {
    // The engine compares each with each: 10 ms.
    max_items_in_row: 4000,
    // 20 ms; a schema of some thousand lines takes half of it.
    initial_lexer_fuel: 1_000_000,
    // 14 ms for one token.
    step_lexer_fuel: 200_000,
    step_max_items: 50_000,
    // Each state has 1 to 2 kB, and each answer its own: 64 MB at most.
    max_lexer_states: 32_000,
    max_grammar_size: 50_000,
    precompute_large_lexemes: false,
    // The state of the parser in an error would hold the answer's tokens.
    verbose_errors: false,
};

/// The longest Lark grammar of a request, in bytes, for the same reason.
const MAX_LARK_BYTES: usize = 16 * 1024;

/// The longest Lark grammar that is made here of JSON schemas, in bytes.
const MAX_OWN_LARK_BYTES: usize = 1024 * 1024;

const SCHEMA_FIELD: &str = "format.schema";
const LARK_FIELD: &str = "format.grammar";

/// The longest reason in an error, in characters.
const MAX_REASON: usize = 300;

/// The stack of the threads that read grammars: a chain of references is followed by recursion.
/// Only what is used of it takes memory.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// A format cannot be followed; it is the request's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} cannot be followed: {reason}")]
pub struct InvalidFormat {
    /// The field of the request.
    pub field: &'static str,
    reason: String,
}

impl InvalidFormat {
    fn new(field: &'static str, reason: impl Into<String>) -> Self {
        Self { field, reason: reason.into() }
    }

    /// The same for another field, where a grammar was made of something else than the format.
    #[must_use]
    pub fn at(self, field: &'static str) -> Self {
        Self { field, ..self }
    }
}

/// The model's tokens cannot be held to a grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the model's vocabulary cannot be held to a format: {0}")]
pub struct NoVocabulary(String);

/// Makes constraints for one model.
pub struct ConstraintFactory {
    parsers: ParserFactory,
}

impl std::fmt::Debug for ConstraintFactory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConstraintFactory").finish_non_exhaustive()
    }
}

impl ConstraintFactory {
    /// Sorts the vocabulary, which takes some hundred milliseconds where it is large.
    pub fn new(vocabulary: &TokenEnvironment) -> Result<Self, NoVocabulary> {
        let parsers = isolated(|| ParserFactory::new_simple(vocabulary)).map_err(NoVocabulary)?;
        let mut parsers =
            parsers.map_err(|error| NoVocabulary(short_reason(&error.to_string())))?;
        // It would write grammars and tokens to stderr.
        parsers.quiet();
        *parsers.limits_mut() = LIMITS;
        Ok(Self { parsers })
    }

    /// The constraint for a format; `None` where any text will do.
    pub fn constraint(&self, format: &OutputFormat) -> Result<Option<Constraint>, InvalidFormat> {
        match format {
            OutputFormat::Text => Ok(None),
            OutputFormat::JsonObject => self.json_schema(&json!({"type": "object"})).map(Some),
            OutputFormat::JsonSchema { schema } => self.json_schema(schema).map(Some),
            OutputFormat::Regex { pattern } => self.regex(pattern).map(Some),
            OutputFormat::Lark { grammar } if grammar.len() > MAX_LARK_BYTES => {
                let reason = format!("it has more than {MAX_LARK_BYTES} bytes");
                Err(InvalidFormat::new(LARK_FIELD, reason))
            }
            OutputFormat::Lark { grammar } => self.lark(grammar).map(Some),
        }
    }

    /// JSON that obeys a schema.
    pub fn json_schema(&self, schema: &Value) -> Result<Constraint, InvalidFormat> {
        let schema = Self::checked_schema(schema)?;
        self.make(SCHEMA_FIELD, TopLevelGrammar::from_json_schema(schema))
    }

    /// A schema as it may become a part of a Lark grammar (`%json`): with the white space that is
    /// allowed, after its size and form have been looked at.
    pub fn checked_schema(schema: &Value) -> Result<Value, InvalidFormat> {
        match isolated(|| schema::objection(schema)) {
            Ok(None) => Ok(schema::with_white_space(schema)),
            Ok(Some(reason)) | Err(reason) => Err(InvalidFormat::new(SCHEMA_FIELD, reason)),
        }
    }

    /// Text that a regular expression matches as a whole.
    pub fn regex(&self, pattern: &str) -> Result<Constraint, InvalidFormat> {
        const FIELD: &str = "format.pattern";
        if pattern.len() > MAX_REGEX_BYTES {
            let reason = format!("it has more than {MAX_REGEX_BYTES} bytes");
            return Err(InvalidFormat::new(FIELD, reason));
        }
        let pattern = without_anchors(pattern);
        if pattern.is_empty() {
            return Err(InvalidFormat::new(FIELD, "it matches nothing but an empty answer"));
        }
        self.make(FIELD, TopLevelGrammar::from_regex(pattern))
    }

    /// Text of a context-free grammar in `llguidance`'s dialect of Lark. Schemas in it are to be
    /// [checked](Self::checked_schema) one by one.
    pub fn lark(&self, grammar: &str) -> Result<Constraint, InvalidFormat> {
        if grammar.len() > MAX_OWN_LARK_BYTES {
            let reason = format!("it has more than {MAX_OWN_LARK_BYTES} bytes");
            return Err(InvalidFormat::new(LARK_FIELD, reason));
        }
        self.make(LARK_FIELD, TopLevelGrammar::from_lark(grammar.to_owned()))
    }

    fn make(
        &self,
        field: &'static str,
        grammar: TopLevelGrammar,
    ) -> Result<Constraint, InvalidFormat> {
        let invalid = |reason: &str| InvalidFormat::new(field, short_reason(reason));
        let matcher = isolated(move || {
            let mut matcher = Matcher::new(self.parsers.create_parser(grammar));
            if let Some(error) = matcher.get_error() {
                return Err(error);
            }
            // The first mask is needed anyway, and there is none where no text obeys the grammar.
            match matcher.compute_mask_or_eos().map_err(|error| error.to_string()) {
                Ok(_) => Ok(matcher),
                Err(error) if error.contains(&StopReason::NoExtensionBias.to_string()) => {
                    Err("no text can satisfy it".to_owned())
                }
                Err(error) => Err(error),
            }
        });
        matcher.and_then(|made| made).map(Constraint::new).map_err(|reason| invalid(&reason))
    }
}

/// A model's factory, made when it is first asked for.
#[derive(Debug, Default)]
pub struct LazyConstraintFactory(OnceLock<Result<ConstraintFactory, NoVocabulary>>);

impl LazyConstraintFactory {
    /// The factory, made of `vocabulary` if it is not there yet; others wait meanwhile.
    pub fn get(
        &self,
        vocabulary: impl FnOnce() -> Option<TokenEnvironment>,
    ) -> Result<&ConstraintFactory, NoVocabulary> {
        let make = || match vocabulary() {
            Some(vocabulary) => ConstraintFactory::new(&vocabulary),
            None => Err(NoVocabulary("no token of it ends a text".to_owned())),
        };
        self.0.get_or_init(make).as_ref().map_err(Clone::clone)
    }
}

/// The expression without a leading `^` and a trailing `$`, which say what holds anyway: it must
/// match the answer from its beginning to its end.
fn without_anchors(pattern: &str) -> &str {
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    match pattern.strip_suffix('$') {
        // An odd number of backslashes in front of it makes it a character like others.
        Some(rest) if (rest.len() - rest.trim_end_matches('\\').len()).is_multiple_of(2) => rest,
        _ => pattern,
    }
}

/// Reads a grammar where neither deep recursion nor a panic hurts: on a thread of its own.
fn isolated<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("grammar".to_owned());
        let thread = thread.stack_size(STACK_BYTES).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| format!("no thread to read it on: {error}"))?;
        thread.join().map_err(|_| "it cannot be read".to_owned())
    })
}

/// The engine's reason without traces, state and grammar, at a length for people.
pub(super) fn short_reason(reason: &str) -> String {
    let end =
        ["\n<", "<state>", "<backtrace>", "<non-verbose"].iter().filter_map(|m| reason.find(m));
    let reason = &reason[..end.min().unwrap_or(reason.len())];
    let words = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(MAX_REASON) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words,
    }
}
