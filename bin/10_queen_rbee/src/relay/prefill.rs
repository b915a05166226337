//! Going on after a text instead of after tokens: where the answer, or a part of it, came from a server
//! that tells no tokens, or where the next one knows none. Pure.

use worker_contract::{
    Chat, ChatMessage, InferenceRequest, OutputFormat, Prompt, Role, Task, ToolChoice,
};

use crate::scheduler::Ways;

/// What the client has of an answer, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefill {
    /// The text that the worker goes on after.
    pub text: String,
    /// How many tokens it is, as far as one can tell.
    pub tokens: u32,
}

/// In which ways a request can be gone on with after a text; none where the text does not say all.
pub(super) fn ways_by_text(request: &InferenceRequest) -> Ways {
    // A form is kept from its first character on, and what is the same each time is so by its tokens.
    if !request.format.is_text() || request.deterministic {
        return Ways::NONE;
    }
    match &request.task {
        // Whether a call follows is decided where the message begins.
        Task::Chat(chat) if chat.tools.is_empty() && !continues_image(chat) => Ways::CHAT,
        Task::Completion { prompt: Prompt::Text(_) } => Ways::PROMPT,
        _ => Ways::NONE,
    }
}

/// In which ways a request can be begun.
pub(super) fn ways_to_begin(request: &InferenceRequest) -> Ways {
    let is_own = matches!(request.format, OutputFormat::Regex { .. } | OutputFormat::Lark { .. });
    if is_own || request.deterministic {
        return Ways::TOKENS | Ways::OWN;
    }
    match &request.task {
        Task::Chat(chat) if demands_call(chat) => Ways::TOKENS | Ways::CALL,
        // For a form of conversations all servers know a word.
        Task::Chat(_) => Ways::ALL,
        _ if request.format.is_text() => Ways::ALL,
        _ => Ways::TOKENS | Ways::FORM,
    }
}

/// Whether the answer is to continue the last message.
pub(crate) fn continues_last(request: &InferenceRequest) -> bool {
    matches!(&request.task, Task::Chat(chat) if chat.continue_last)
}

fn demands_call(chat: &Chat) -> bool {
    matches!(chat.tool_choice, ToolChoice::Required | ToolChoice::Named(_))
}

fn continues_image(chat: &Chat) -> bool {
    chat.continue_last && chat.messages.last().is_some_and(|last| !last.images.is_empty())
}

impl Prefill {
    /// What the client has, for a request. What a chat template could take away from its end stands for
    /// itself: it is left out here, and expected again from the worker.
    pub(super) fn of(request: &InferenceRequest, text: &str, tokens: u32) -> (Self, String) {
        let whole = match &request.task {
            Task::Chat(_) => text.trim_end(),
            _ => text,
        };
        let expected = text.get(whole.len()..).unwrap_or_default().to_owned();
        (Self { text: whole.to_owned(), tokens }, expected)
    }

    /// The request that has a worker of rbee go on.
    pub(super) fn continued(&self, request: &InferenceRequest) -> InferenceRequest {
        let mut request = request.clone();
        request.resume.clear();
        if let Some(most) = &mut request.sampling.max_tokens {
            *most = most.saturating_sub(self.tokens).max(1);
        }
        match &mut request.task {
            Task::Chat(chat) if !self.text.is_empty() => {
                if let Some(last) = chat.messages.last_mut().filter(|_| chat.continue_last) {
                    last.content.push_str(&self.text);
                } else {
                    chat.messages.push(ChatMessage::text(Role::Assistant, self.text.clone()));
                    chat.continue_last = true;
                }
            }
            Task::Completion { prompt: Prompt::Text(prompt) } => prompt.push_str(&self.text),
            _ => {}
        }
        request
    }
}

/// Takes from the beginning of `text` what is `expected` there; what is left of the expectation stays.
pub(super) fn skip(expected: &mut String, text: &mut String) {
    while let (Some(wanted), Some(found)) = (expected.chars().next(), text.chars().next()) {
        if wanted != found {
            expected.clear();
            return;
        }
        expected.drain(..wanted.len_utf8());
        text.drain(..found.len_utf8());
    }
}

#[cfg(test)]
mod tests {
    use worker_contract::RequestId;

    use super::*;
    use crate::attached::Engine;

    #[test]
    fn a_worker_of_rbee_goes_on_after_the_text() {
        let mut asked = request(Task::Chat(vec![ChatMessage::text(Role::User, "Hi")].into()));
        asked.sampling.max_tokens = Some(10);
        let (prefill, expected) = Prefill::of(&asked, "Hello \n", 3);
        assert_eq!((prefill.text.as_str(), expected.as_str()), ("Hello", " \n"));
        let continued = prefill.continued(&asked);
        let Task::Chat(chat) = &continued.task else { panic!("it was a chat") };
        assert_eq!(chat.messages[1], ChatMessage::text(Role::Assistant, "Hello"));
        assert!(chat.continue_last && continued.sampling.max_tokens == Some(7));
        let Task::Chat(again) = prefill.continued(&continued).task else { panic!("a chat") };
        assert_eq!(again.messages[1].content, "HelloHello", "what was begun is gone on with");

        let asked = request(Task::Completion { prompt: Prompt::Text("Once ".into()) });
        let (prefill, expected) = Prefill::of(&asked, "upon ", 3);
        assert!(expected.is_empty(), "a prompt is taken as it is");
        let prompt = Prompt::Text("Once upon ".into());
        assert_eq!(prefill.continued(&asked).task, Task::Completion { prompt });
    }

    #[test]
    fn what_the_text_does_not_say_cannot_be_gone_on_with() {
        let chat = || request(Task::Chat(vec![ChatMessage::text(Role::User, "Hi")].into()));
        assert_eq!(ways_by_text(&chat()), Ways::CHAT);
        let formatted = InferenceRequest { format: OutputFormat::JsonObject, ..chat() };
        let tokens = Task::Completion { prompt: Prompt::Tokens(vec![1]) };
        for request in [formatted, request(tokens)] {
            assert!(ways_by_text(&request).is_none());
        }
    }

    #[test]
    fn a_request_is_begun_where_what_it_asks_for_is_held_to() {
        let chat = || request(Task::Chat(vec![ChatMessage::text(Role::User, "Hi")].into()));
        let completion = || request(Task::Completion { prompt: Prompt::Text("Once".into()) });
        let (text, json) = (OutputFormat::Text, OutputFormat::JsonObject);
        let regex = OutputFormat::Regex { pattern: "a".into() };
        let (own, form) = (Ways::TOKENS | Ways::OWN, Ways::TOKENS | Ways::FORM);
        for (request, format, deterministic, expected) in [
            (chat(), &text, false, Ways::ALL),
            (chat(), &json, false, Ways::ALL),
            (chat(), &regex, false, own),
            (chat(), &json, true, own),
            (completion(), &text, false, Ways::ALL),
            (completion(), &json, false, form),
            (completion(), &regex, false, own),
        ] {
            let request = InferenceRequest { format: format.clone(), deterministic, ..request };
            assert_eq!(ways_to_begin(&request), expected, "{format:?}, {deterministic}");
        }
    }

    #[test]
    fn a_call_is_demanded_where_the_demand_is_known() {
        let call = Ways::TOKENS | Ways::CALL;
        for (choice, expected) in [
            (ToolChoice::Auto, Ways::ALL),
            (ToolChoice::None, Ways::ALL),
            (ToolChoice::Required, call),
            (ToolChoice::Named("f".into()), call),
        ] {
            let messages = vec![ChatMessage::text(Role::User, "Hi")];
            let chat = Chat { tool_choice: choice.clone(), ..messages.into() };
            let ways = ways_to_begin(&request(Task::Chat(chat)));
            assert_eq!(ways, expected, "{choice:?}");
            for (engine, knows) in [
                (Engine::Ollama, false),
                (Engine::LmStudio, true),
                (Engine::LlamaServer, true),
                (Engine::Vllm, true),
                (Engine::Rbee, true),
                (Engine::Unknown, true),
            ] {
                let is_demand = ways == call;
                assert_eq!(engine.ways().meet(ways), knows || !is_demand, "{engine:?}, {choice:?}");
            }
        }
    }

    #[test]
    fn what_is_expected_is_taken_away_once() {
        for (expected, text, left, rest) in [
            (" ", " world", "", "world"),
            (" ", "world", "", "world"),
            (" \n", " ", "\n", ""),
            (" \n", " x", "", "x"),
            ("", " x", "", " x"),
        ] {
            let (mut expected, mut text) = (expected.to_owned(), text.to_owned());
            skip(&mut expected, &mut text);
            assert_eq!((expected.as_str(), text.as_str()), (left, rest));
        }
    }

    fn request(task: Task) -> InferenceRequest {
        InferenceRequest::new(RequestId::random(), task)
    }
}
