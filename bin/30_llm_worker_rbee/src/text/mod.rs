//! Text around tokens: templates in front, characters and stop texts behind.

mod detokenize;
mod stop;
mod template;

pub use detokenize::Utf8Stream;
pub use stop::{StopMatch, StopTexts};
pub use template::{ChatTemplate, TemplateError};
