//! Text around tokens: conversations and templates in front, characters, stop texts, reasoning and
//! calls behind.

mod abilities;
mod call_grammar;
mod chat;
mod conversation;
mod detokenize;
mod family;
mod jinja;
mod output;
mod stop;
mod template;
mod tools;

#[cfg(test)]
mod template_tests;

pub use chat::{ChatError, ChatTurn};
pub use detokenize::Utf8Stream;
pub use family::{CallSyntax, Family};
pub use output::{AnswerShape, CallIds, Ending, OutputReader, Syntax, ThinkTags, WholeSyntax};
pub use stop::{StopMatch, StopTexts};
pub use template::{ChatTemplate, TemplateError};
pub use tools::{InvalidChat, Offer};
