//! The model's own chat template.

use minijinja::Error;
use minijinja::value::{Serde, Value};
use serde_json::{Map, json};
use worker_contract::ChatMessage;

use super::abilities::Abilities;
use super::conversation::for_template;
use super::family::Family;
use super::jinja::Jinja;
use super::tools::Offer;

/// A compiled chat template, and what is known of it.
#[derive(Debug)]
pub struct ChatTemplate {
    jinja: Jinja,
    bos: String,
    eos: String,
    family: Family,
    abilities: Abilities,
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
    /// The template does not show the last message's end.
    #[error(
        "the model's chat template does not show the last message as it is, so it cannot be continued"
    )]
    NotContinued,
}

/// What is rendered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conversation<'a> {
    /// The messages.
    pub(super) messages: &'a [ChatMessage],
    /// The functions that the model may call.
    pub(super) offer: Option<&'a Offer>,
    /// Variables from the request.
    pub(super) variables: &'a Map<String, serde_json::Value>,
}

/// Variables that a request cannot set.
pub(super) const OWN_VARIABLES: [&str; 5] =
    ["messages", "tools", "add_generation_prompt", "bos_token", "eos_token"];

/// Stands where a message goes on. No template changes letters.
const CONTINUED: &str = "rbee-continues-here";

impl ChatTemplate {
    /// Compiles a template; `bos` and `eos` are the texts of the model's start and end tokens, and
    /// `is_control` tells whether a text is one control token.
    pub fn new(
        source: &str,
        bos: String,
        eos: String,
        is_control: impl Fn(&str) -> bool,
    ) -> Result<Self, TemplateError> {
        let jinja = Jinja::new(source).map_err(TemplateError::Invalid)?;
        let family = Family::detect(source, &is_control);
        let abilities = Abilities {
            tools: false,
            calls: None,
            several_calls: false,
            results: false,
            system: true,
        };
        let mut template = Self { jinja, bos, eos, family, abilities };
        let render = |messages: &serde_json::Value, tools: Option<&serde_json::Value>| {
            template.render_json(messages, tools, &Map::new(), false).ok()
        };
        let mut abilities = Abilities::probe(render, family.writes_own_arguments());
        if !(family.is_native
            && (abilities.tools || family.can_be_told && abilities.calls.is_some()))
        {
            // The model is told of the functions in a form that the reader knows.
            template.family = family.told(&is_control);
            abilities = Abilities {
                tools: false,
                calls: None,
                several_calls: false,
                results: false,
                ..abilities
            };
        }
        template.abilities = abilities;
        Ok(template)
    }

    /// How the model writes calls and reasoning.
    #[must_use]
    pub fn family(&self) -> &Family {
        &self.family
    }

    /// The prompt for the assistant's next message.
    pub(super) fn render(&self, conversation: Conversation<'_>) -> Result<String, TemplateError> {
        self.render_conversation(conversation, true)
    }

    /// The prompt that ends where the last message, the assistant's, ends.
    ///
    /// As transformers' `continue_final_message`, except that the end is marked and not searched:
    /// the words of a message can stand behind it once more.
    pub(super) fn render_continued(
        &self,
        conversation: Conversation<'_>,
    ) -> Result<String, TemplateError> {
        let mut messages = conversation.messages.to_vec();
        if let Some(last) = messages.last_mut() {
            last.content.push_str(CONTINUED);
        }
        let marked = Conversation { messages: &messages, ..conversation };
        let mut prompt = self.render_conversation(marked, false)?;
        let at = prompt.rfind(CONTINUED).ok_or(TemplateError::NotContinued)?;
        prompt.truncate(at);
        Ok(prompt)
    }

    fn render_conversation(
        &self,
        conversation: Conversation<'_>,
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        let Conversation { messages, offer, variables } = conversation;
        let told = offer.filter(|_| !self.abilities.tools);
        let messages = for_template(messages, told, &self.family, self.abilities);
        let tools = offer.filter(|_| self.abilities.tools).map(Offer::as_json);
        self.render_json(&messages, tools.as_ref(), variables, add_generation_prompt)
            .map_err(|error| TemplateError::Refused(reason(&error)))
    }

    fn render_json(
        &self,
        messages: &serde_json::Value,
        tools: Option<&serde_json::Value>,
        variables: &Map<String, serde_json::Value>,
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        let mut context = variables.clone();
        let own = [
            json!(messages),
            json!(tools),
            json!(add_generation_prompt),
            json!(self.bos),
            json!(self.eos),
        ];
        for (name, value) in OWN_VARIABLES.into_iter().zip(own) {
            context.insert(name.to_owned(), value);
        }
        self.jinja.render(Value::from(Serde(context)))
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

    fn compile(source: &str) -> Result<ChatTemplate, TemplateError> {
        ChatTemplate::new(source, "<s>".to_owned(), "</s>".to_owned(), |_| false)
    }

    fn conversation<'a>(
        messages: &'a [ChatMessage],
        variables: &'a Map<String, serde_json::Value>,
    ) -> Conversation<'a> {
        Conversation { messages, offer: None, variables }
    }

    fn render(source: &str, messages: &[ChatMessage]) -> Result<String, TemplateError> {
        compile(source)?.render(conversation(messages, &Map::new()))
    }

    const CHATML: &str = concat!(
        "{% for message in messages %}\n",
        "    {{- '<|im_start|>' + message['role'] + '\\n' -}}\n",
        "    {{- message.content.strip() + '<|im_end|>' + '\\n' -}}\n",
        "{% endfor %}\n",
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    );

    #[test]
    fn chatml_is_rendered_as_transformers_does() {
        let prompt = render(CHATML, &[message(Role::User, " hi ")]).unwrap();
        assert_eq!(prompt, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
    }

    #[test]
    fn a_continued_message_is_the_end_of_the_prompt_with_its_space() {
        let template = compile(CHATML).unwrap();
        let messages = [message(Role::User, "<|im_end|> a"), message(Role::Assistant, "a ")];
        let prompt = template.render_continued(conversation(&messages, &Map::new())).unwrap();
        assert_eq!(prompt, "<|im_start|>user\n<|im_end|> a<|im_end|>\n<|im_start|>assistant\na ");
    }

    #[test]
    fn a_template_that_hides_the_last_message_cannot_continue_it() {
        let template = compile("{{ messages[0].content }}").unwrap();
        let messages = [message(Role::User, "q"), message(Role::Assistant, "a")];
        let error = template.render_continued(conversation(&messages, &Map::new())).unwrap_err();
        assert!(matches!(error, TemplateError::NotContinued), "{error}");
    }

    #[test]
    fn a_template_can_refuse_in_its_own_words() {
        let source = "{{ raise_exception('only one system message') }}";
        let error = render(source, &[message(Role::System, "x")]).unwrap_err();
        assert!(error.to_string().contains("only one system message"), "{error}");
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

    #[test]
    fn variables_of_the_request_reach_the_template() {
        let template = compile("{{ enable_thinking }} {{ messages | length }}").unwrap();
        let variables = json!({"enable_thinking": false, "messages": 3});
        let prompt = template
            .render(conversation(&[message(Role::User, "q")], variables.as_object().unwrap()))
            .unwrap();
        // As Python writes it, which is what templates are tried with.
        assert_eq!(prompt, "False 1");
    }
}
