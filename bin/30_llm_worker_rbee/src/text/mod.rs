//! Text around tokens: templates in front, characters and stop texts behind.

mod detokenize;
mod output;
mod stop;
mod template;

pub use detokenize::Utf8Stream;
pub use output::OutputReader;
pub use stop::{StopMatch, StopTexts};
pub use template::{ChatTemplate, TemplateError};
