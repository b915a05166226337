//! The model's own chat template.
//!
//! Templates are Jinja as Hugging Face's `apply_chat_template` runs it
//! (<https://huggingface.co/docs/transformers/chat_templating>): `trim_blocks`, `lstrip_blocks`,
//! loop controls, Python's string methods, `raise_exception` and `strftime_now`.

use jiff::ZonedDateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, context};
use worker_contract::ChatMessage;

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

/// A template cannot be used, or refuses a conversation.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The model's template is not understood.
    #[error("the model's chat template is not valid Jinja: {0:#}")]
    Invalid(#[source] Error),
    /// The template does not allow this conversation.
    #[error("the model's chat template refuses these messages: {0}")]
    Refused(String),
}

const NAME: &str = "chat";

impl ChatTemplate {
    /// Compiles a template; `bos` and `eos` are the texts of the model's start and end tokens.
    pub fn new(source: String, bos: String, eos: String) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(TemplateError::Invalid)?);
        environment.set_fuel(Some(10_000_000));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| -> Result<String, Error> {
            jiff::fmt::strtime::format(&format, &ZonedDateTime::now())
                .map_err(|e| Error::new(ErrorKind::InvalidOperation, e.to_string()))
        });
        environment.add_template_owned(NAME, source).map_err(TemplateError::Invalid)?;
        Ok(Self { environment, bos, eos })
    }

    /// The prompt for the assistant's next message.
    pub fn render(&self, messages: &[ChatMessage]) -> Result<String, TemplateError> {
        let template = self.environment.get_template(NAME).map_err(TemplateError::Invalid)?;
        template
            .render(context! {
                messages => Serde(messages),
                add_generation_prompt => true,
                bos_token => &self.bos,
                eos_token => &self.eos,
            })
            .map_err(|error| TemplateError::Refused(reason(&error)))
    }
}

/// The template's own words where it raised them, else where it failed.
fn reason(error: &Error) -> String {
    error.detail().map_or_else(|| error.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use worker_contract::Role;

    fn message(role: Role, content: &str) -> ChatMessage {
        ChatMessage::text(role, content)
    }

    fn render(source: &str, messages: &[ChatMessage]) -> Result<String, TemplateError> {
        ChatTemplate::new(source.to_owned(), "<s>".to_owned(), "</s>".to_owned())?.render(messages)
    }

    #[test]
    fn chatml_is_rendered_as_transformers_does() {
        let source = concat!(
            "{% for message in messages %}\n",
            "    {{- '<|im_start|>' + message['role'] + '\\n' -}}\n",
            "    {{- message.content.strip() + '<|im_end|>' + '\\n' -}}\n",
            "{% endfor %}\n",
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        );
        let prompt = render(source, &[message(Role::User, " hi ")]).unwrap();
        assert_eq!(prompt, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
    }

    #[test]
    fn a_template_can_refuse_in_its_own_words() {
        let source = "{{ raise_exception('only one system message') }}";
        let error = render(source, &[message(Role::System, "x")]).unwrap_err();
        assert!(error.to_string().contains("only one system message"), "{error}");
    }

    #[test]
    fn an_endless_template_ends() {
        let source =
            "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}";
        assert!(render(source, &[]).is_err());
    }

    #[test]
    fn the_date_is_known() {
        let year = render("{{ strftime_now('%Y') }}", &[]).unwrap();
        assert!(year.len() == 4 && year.bytes().all(|b| b.is_ascii_digit()), "{year}");
    }

    #[test]
    fn an_invalid_template_says_so() {
        assert!(matches!(render("{% for %}", &[]), Err(TemplateError::Invalid(_))));
    }
}
