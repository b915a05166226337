//! What a client calls the fields that a worker names in its errors.

use daemon_http::ApiError;

/// The names of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldNames {
    text: &'static str,
    format: Option<String>,
}

impl FieldNames {
    /// The names of a request whose text is in the field `text`.
    #[must_use]
    pub fn of(text: &'static str) -> Self {
        Self { text, format: None }
    }

    /// The same, where `format` is the field that says the answer's form.
    pub(super) fn with_format(self, format: Option<String>) -> Self {
        Self { format, ..self }
    }

    /// A worker's error in the client's words.
    #[must_use]
    pub fn reword(&self, mut error: ApiError) -> ApiError {
        let Some(param) = error.detail.param.take() else { return error };
        let reworded = self.reworded(param.clone());
        // What is wrong with a field is a sentence about it, and begins with its name.
        let rest = error.detail.message.strip_prefix(param.as_str());
        if let Some(rest) = rest.filter(|rest| rest.starts_with(' ')) {
            error.detail.message = format!("{reworded}{rest}");
        }
        error.detail.param = Some(reworded);
        error
    }

    fn reworded(&self, param: String) -> String {
        match param.as_str() {
            "messages" | "prompt" | "inputs" => self.text.to_owned(),
            "continue_last" => "messages".to_owned(),
            "template_variables" => "chat_template_kwargs".to_owned(),
            // Whether a task can be done depends on the model.
            "task" => "model".to_owned(),
            format if format == "format" || format.starts_with("format.") => {
                self.format.clone().unwrap_or(param)
            }
            one_of_many => match one_of_many.strip_prefix("inputs[") {
                Some(rest) => format!("{}[{rest}", self.text),
                None => param,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_quoted_in_the_words_of_the_client() {
        let chat = FieldNames::of("messages").with_format(Some("guided_regex".into()));
        let (prompt, vectors) = (FieldNames::of("prompt"), FieldNames::of("input"));
        for (names, param, expected) in [
            (&chat, "messages", "messages"),
            (&chat, "format.pattern", "guided_regex"),
            (&chat, "format", "guided_regex"),
            (&chat, "template_variables", "chat_template_kwargs"),
            (&chat, "tool_choice", "tool_choice"),
            (&prompt, "messages", "prompt"),
            (&prompt, "task", "model"),
            (&prompt, "format.schema", "format.schema"),
            (&vectors, "inputs", "input"),
            (&vectors, "inputs[3]", "input[3]"),
            (&vectors, "documents[3]", "documents[3]"),
        ] {
            let message = format!("{param} has 9 tokens, which {param} cannot have");
            let told = names.reword(ApiError::bad_request("x", message).param(param)).detail;
            assert_eq!(told.param.as_deref(), Some(expected), "{param}");
            let message = format!("{expected} has 9 tokens, which {param} cannot have");
            assert_eq!(told.message, message, "its first word is the field's name");
        }
        for message in ["formats are many", "the prompt has 9 tokens", "format", ""] {
            let told = chat.reword(ApiError::bad_request("x", message).param("format")).detail;
            assert_eq!(told.message, message);
        }
        assert_eq!(chat.reword(ApiError::bad_request("x", "y")).detail.param, None);
    }
}
