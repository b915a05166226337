//! What an attached server is asked: the client's own words, with what must be another. Pure.

use serde_json::{Map, Value, json};
use worker_contract::{Chat, ChatMessage, InferenceRequest, Task, ToolChoice};

use super::Engine;
use super::form::write_form;
use crate::dialect::openai::{ENABLE_THINKING, NO_EFFORT, REASONING_EFFORT};
use crate::registry::Server;
use crate::relay::{Prefill, continues_last};

/// The object of a request's body.
pub(super) type Body = Map<String, Value>;

/// The field that says how vectors are written.
const ENCODING: &str = "encoding_format";

/// The fields that say whether the last message is continued.
const CONTINUE: &str = "continue_final_message";
const GENERATE: &str = "add_generation_prompt";

/// The two names of how much a repetition counts against a token: llama.cpp's, and that of vLLM.
const REPEAT: &str = "repeat_penalty";
const REPETITION: &str = "repetition_penalty";

/// The fields that say which functions may be called, and whether one must be.
const TOOLS: &str = "tools";
const TOOL_CHOICE: &str = "tool_choice";

/// The field that a template is told in, but for what has a field of its own.
const VARIABLES: &str = "chat_template_kwargs";

/// A request as the client sent it.
#[derive(Debug, Clone, PartialEq)]
pub struct Original {
    endpoint: Endpoint,
    /// `None` where no server was attached when it came: it goes to rbee's own workers only.
    body: Option<Body>,
}

/// Where a request was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completion,
    /// `/v1/embeddings`.
    Embeddings,
    /// `/v1/rerank`.
    Rerank,
}

impl Original {
    /// A request that was sent to an endpoint.
    #[must_use]
    pub fn new(endpoint: Endpoint, body: Body) -> Self {
        Self { endpoint, body: Some(body) }
    }

    /// A request that no server of somebody else will get.
    #[must_use]
    pub fn of_no_server(endpoint: Endpoint) -> Self {
        Self { endpoint, body: None }
    }

    /// Whether a server can be given it.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.body.is_some()
    }

    /// Takes a field out of it.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.body.as_mut()?.remove(name)
    }

    /// The same with another value of a field, where it is kept.
    #[must_use]
    pub fn with(&self, name: &str, value: Value) -> Self {
        let mut body = self.body.clone();
        if let Some(body) = &mut body {
            body.insert(name.to_owned(), value);
        }
        Self { endpoint: self.endpoint, body }
    }

    /// Whether a server is asked for vectors in base64.
    #[must_use]
    pub fn is_packed_by(&self, engine: Engine) -> bool {
        let encoding = self.body.as_ref().and_then(|body| body.get(ENCODING));
        self.endpoint == Endpoint::Embeddings
            && encoding.is_some_and(|encoding| encoding == "base64")
            && engine.packs_vectors()
    }

    /// The same without a wish for how vectors are written.
    #[must_use]
    pub fn unpacked(&self) -> Self {
        let mut unpacked = self.clone();
        unpacked.take(ENCODING);
        unpacked
    }

    /// Where it was sent to.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// The body for a server. `request` is the same in our words, and says what part of it is wanted;
    /// `prefill` is what the client has of that part already.
    #[must_use]
    pub fn body_for(
        &self,
        server: &Server,
        request: &InferenceRequest,
        prefill: Option<&Prefill>,
    ) -> Body {
        let mut body = self.body.clone().unwrap_or_default();
        body.insert("model".into(), server.model.as_str().into());
        match self.endpoint {
            Endpoint::Rerank => {
                // The scores of all documents are wanted; the queen chooses the best and adds their texts.
                body.remove("top_n");
                body.remove("return_documents");
                return body;
            }
            Endpoint::Embeddings => {
                // The client gets the encoding that it asked for in any case.
                if !self.is_packed_by(server.engine) {
                    body.remove(ENCODING);
                }
                return body;
            }
            Endpoint::Chat | Endpoint::Completion => {}
        }
        body.insert("stream".into(), true.into());
        match body.get_mut("stream_options").and_then(Value::as_object_mut) {
            Some(options) => {
                options.insert("include_usage".into(), true.into());
            }
            None => {
                body.insert("stream_options".into(), json!({"include_usage": true}));
            }
        }
        for name in ["n", "best_of"] {
            if body.get(name).is_some_and(|n| !n.is_null() && *n != request.n) {
                body.insert(name.into(), request.n.into());
            }
        }
        // Servers give answer number i the seed and i: one that is asked for alone has its own.
        let seed = body.get("seed").and_then(Value::as_i64);
        if let Some(seed) = seed.filter(|_| request.first_choice > 0) {
            body.insert("seed".into(), seed.wrapping_add(request.first_choice.into()).into());
        }
        if server.engine.knows_only_max_tokens() {
            say_too(&mut body, "max_tokens", "max_completion_tokens");
        }
        penalize(&mut body, server.engine);
        if let Task::Chat(chat) = &request.task {
            choose_calls(&mut body, server.engine, chat);
            say_effort(&mut body, server.engine, chat);
        }
        write_form(&mut body, self.endpoint, server.engine, &request.format);
        let has_nothing = prefill.is_none_or(|prefill| prefill.text.is_empty());
        if has_nothing && server.engine == Engine::LlamaServer && ends_with_nothing(request) {
            begin_instead(&mut body);
        } else if continues_last(request) {
            continue_last(&mut body, server.engine);
        }
        if let Some(prefill) = prefill {
            go_on(&mut body, server.engine, request, prefill);
        }
        body
    }
}

impl Endpoint {
    /// Its path at a server.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completion => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Rerank => "/v1/rerank",
        }
    }
}

/// Says in a word, too, what a request says in another one.
fn say_too(body: &mut Body, word: &str, other: &str) {
    if is_said(body, other) && !is_said(body, word) {
        let said = body[other].clone();
        body.insert(word.into(), said);
    }
}

fn is_said(body: &Body, name: &str) -> bool {
    body.get(name).is_some_and(|value| !value.is_null())
}

/// Says how much a repetition counts by the name that the server knows: each passes over the other one.
fn penalize(body: &mut Body, engine: Engine) {
    let names: &[_] = match engine {
        Engine::LlamaServer => &[(REPEAT, REPETITION)],
        Engine::Vllm => &[(REPETITION, REPEAT)],
        Engine::Rbee => &[],
        Engine::Ollama | Engine::LmStudio | Engine::Unknown => {
            &[(REPEAT, REPETITION), (REPETITION, REPEAT)]
        }
    };
    for (word, other) in names {
        say_too(body, word, other);
    }
}

/// Has the server give what follows the last message, and that alone: else llama-server tells the beginning
/// again, and vLLM begins a second message. A client that says otherwise gets a second one from vLLM;
/// llama-server continues the last one whatever a request says.
fn continue_last(body: &mut Body, engine: Engine) {
    if matches!(engine, Engine::Vllm | Engine::LlamaServer) {
        body.insert(CONTINUE.into(), true.into());
        body.insert(GENERATE.into(), false.into());
    }
}

/// Says which functions may be called, and whether one must be, so that the server holds to it. llama-server takes
/// all but a word for `auto`, and LM Studio may; hardly anybody knows a choice among some of the functions. What is
/// not offered is not called.
fn choose_calls(body: &mut Body, engine: Engine, chat: &Chat) {
    let is_among_some =
        body.get(TOOL_CHOICE).is_some_and(|choice| choice["type"] == "allowed_tools");
    let word = match &chat.tool_choice {
        // It knows no `tool_choice`.
        ToolChoice::None if engine == Engine::Ollama => {
            body.shift_remove(TOOLS);
            body.shift_remove(TOOL_CHOICE);
            return;
        }
        ToolChoice::Named(name) if matches!(engine, Engine::LlamaServer | Engine::LmStudio) => {
            offer_only(body, |offered| offered == name);
            body.insert("parallel_tool_calls".into(), chat.parallel_tool_calls.into());
            "required"
        }
        choice if is_among_some && engine != Engine::Rbee => {
            offer_only(body, |offered| chat.tools.iter().any(|tool| tool.name == offered));
            if *choice == ToolChoice::Required { "required" } else { "auto" }
        }
        _ => return,
    };
    body.insert(TOOL_CHOICE.into(), word.into());
}

/// Offers only some of the functions.
fn offer_only(body: &mut Body, is_offered: impl Fn(&str) -> bool) {
    if let Some(Value::Array(tools)) = body.get_mut(TOOLS) {
        tools.retain(|tool| tool["function"]["name"].as_str().is_some_and(&is_offered));
    }
}

/// Says how much is to be thought in a field that the server knows: an older llama-server passes over that of
/// OpenAI, and Ollama over what is for templates.
fn say_effort(body: &mut Body, engine: Engine, chat: &Chat) {
    let variables = &chat.template_variables;
    let is_off = variables.get(ENABLE_THINKING) == Some(&Value::Bool(false));
    match engine {
        Engine::LlamaServer if is_said(body, REASONING_EFFORT) => {
            body.insert(VARIABLES.into(), variables.clone().into());
        }
        Engine::Ollama if is_off && !is_said(body, REASONING_EFFORT) => {
            body.insert(REASONING_EFFORT.into(), NO_EFFORT.into());
        }
        _ => {}
    }
}

/// Whether the message that is to be continued is empty, after others.
fn ends_with_nothing(request: &InferenceRequest) -> bool {
    let Task::Chat(chat) = &request.task else { return false };
    let is_nothing = |last: &ChatMessage| {
        last.content.is_empty()
            && last.images.is_empty()
            && last.reasoning.as_deref().unwrap_or_default().is_empty()
    };
    match chat.messages.as_slice() {
        [_, .., last] => chat.continue_last && is_nothing(last),
        _ => false,
    }
}

/// Has an answer begun in place of an empty one continued: llama-server would leave out what its template
/// begins an answer with, and the model makes that up.
fn begin_instead(body: &mut Body) {
    body.remove(CONTINUE);
    body.remove(GENERATE);
    if let Some(Value::Array(messages)) = body.get_mut("messages") {
        messages.pop();
    }
}

/// Has the server go on after the text that the client has.
fn go_on(body: &mut Body, engine: Engine, request: &InferenceRequest, prefill: &Prefill) {
    for name in ["max_tokens", "max_completion_tokens"] {
        if let Some(most) = body.get(name).and_then(Value::as_u64) {
            let left = most.saturating_sub(u64::from(prefill.tokens)).max(1);
            body.insert(name.into(), left.into());
        }
    }
    let text = &prefill.text;
    if text.is_empty() {
        return;
    }
    match &request.task {
        Task::Chat(chat) => {
            let Some(Value::Array(messages)) = body.get_mut("messages") else { return };
            let begun = chat.messages.last().filter(|_| chat.continue_last);
            match (begun, messages.last_mut()) {
                (Some(begun), Some(last)) => {
                    last["content"] = format!("{}{text}", begun.content).into();
                }
                _ => messages.push(json!({"role": "assistant", "content": text})),
            }
            continue_last(body, engine);
        }
        _ => match body.get_mut("prompt") {
            Some(Value::String(prompt)) => prompt.push_str(text),
            Some(Value::Array(prompts)) => {
                if let [Value::String(prompt)] = prompts.as_mut_slice() {
                    prompt.push_str(text);
                }
            }
            _ => {}
        },
    }
}

#[cfg(test)]
mod tests {
    use worker_contract::{Prompt, RequestId};

    use super::*;
    use crate::dialect::openai::{read_chat, read_completion, read_rerank};

    #[test]
    fn what_the_client_sent_is_passed_on_in_its_order_and_only_the_model_is_another() {
        let sent = json!({
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
            "temperature": 0.7, "model": "here", "seed": 9_007_199_254_740_993_i64,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema":
                {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "null"}}}}},
            "stream": false, "user": "u",
        });
        let body = chat(&sent, Engine::Ollama, None);
        let expected = sent.to_string().replace(r#""here""#, r#""org/there""#);
        let expected = expected.replace(
            r#""stream":false,"user":"u"}"#,
            r#""stream":true,"user":"u","stream_options":{"include_usage":true}}"#,
        );
        assert_eq!(Value::Object(body).to_string(), expected);
    }

    #[test]
    fn an_answer_that_has_begun_is_gone_on_with_in_the_words_of_the_server() {
        let sent = json!({
            "model": "here", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10, "n": 3,
        });
        let prefill = Prefill { text: "Hello".into(), tokens: 4 };
        for engine in [Engine::LlamaServer, Engine::Vllm] {
            let body = chat(&sent, engine, Some(&prefill));
            assert_eq!(body["messages"][1], json!({"role": "assistant", "content": "Hello"}));
            assert_eq!((&body["max_tokens"], &body["n"]), (&json!(6), &json!(1)));
            assert_eq!(body["continue_final_message"], true);
            assert_eq!(body["add_generation_prompt"], false);
        }
        assert!(!chat(&sent, Engine::Rbee, Some(&prefill)).contains_key("continue_final_message"));
        let sent = json!({
            "model": "here",
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": [{"type": "text", "text": "Well. "}]},
            ],
        });
        let body = chat(&sent, Engine::LlamaServer, Some(&prefill));
        assert_eq!(body["messages"][1]["content"], "Well. Hello");
        for prompt in [json!("Once"), json!(["Once"])] {
            let sent = json!({"model": "here", "prompt": prompt}).as_object().unwrap().clone();
            let request = read_completion(sent.clone(), RequestId::random()).unwrap().first.request;
            let original = Original::new(Endpoint::Completion, sent);
            let body = original.body_for(&server(Engine::Unknown), &request, Some(&prefill));
            assert!(body["prompt"].to_string().contains(r#""OnceHello""#), "{body:?}");
        }
    }

    #[test]
    fn who_can_is_told_to_continue_a_last_message_of_the_assistant_unless_the_client_says_otherwise()
     {
        const NAMES: [&str; 2] = ["continue_final_message", "add_generation_prompt"];
        let (told, untold) = ([Some(true), Some(false)], [None, None]);
        for (engine, role, said, expected) in [
            (Engine::LlamaServer, "assistant", json!({}), told),
            (Engine::Vllm, "assistant", json!({}), told),
            (Engine::Vllm, "assistant", json!({NAMES[0]: true}), told),
            (Engine::Vllm, "assistant", json!({NAMES[0]: null, NAMES[1]: false}), told),
            (Engine::Vllm, "assistant", json!({NAMES[0]: false}), [Some(false), None]),
            (Engine::LlamaServer, "assistant", json!({NAMES[1]: true}), [None, Some(true)]),
            (Engine::LlamaServer, "user", json!({}), untold),
            (Engine::Rbee, "assistant", json!({}), untold),
            (Engine::Ollama, "assistant", json!({}), untold),
            (Engine::LmStudio, "assistant", json!({}), untold),
            (Engine::Unknown, "assistant", json!({}), untold),
        ] {
            let last = json!({"role": role, "content": "My favourite colour is"});
            let mut sent = said.clone();
            sent["model"] = "here".into();
            sent["messages"] = json!([{"role": "user", "content": "Hi"}, last]);
            let body = chat(&sent, engine, None);
            let found = NAMES.map(|name| body.get(name).and_then(Value::as_bool));
            assert_eq!(found, expected, "{engine:?}, {role}: {said}");
            assert_eq!(body["messages"][1], last, "{engine:?}");
        }
    }

    #[test]
    fn llama_server_is_not_told_to_continue_a_message_that_is_empty() {
        let user = json!({"role": "user", "content": "Hi"});
        let last = |content: Value| json!({"role": "assistant", "content": content});
        let (begins, goes_on) = ([None, None], [Some(true), Some(false)]);
        for (engine, last, count, expected) in [
            (Engine::LlamaServer, last(json!("")), 1, begins),
            (Engine::LlamaServer, last(json!([{"type": "text", "text": ""}])), 1, begins),
            (Engine::LlamaServer, last(json!("A")), 2, goes_on),
            (Engine::Vllm, last(json!("")), 2, goes_on),
        ] {
            for said in [json!({}), json!({CONTINUE: true}), json!({GENERATE: false})] {
                let mut sent = said.clone();
                sent["model"] = "here".into();
                sent["messages"] = json!([user, last]);
                let body = chat(&sent, engine, None);
                let found = [CONTINUE, GENERATE].map(|n| body.get(n).and_then(Value::as_bool));
                let messages = body["messages"].as_array().map(Vec::len);
                assert_eq!((messages, found), (Some(count), expected), "{engine:?}: {last} {said}");
            }
        }
        let sent = json!({"model": "here", "messages": [user, last(json!(""))]});
        let prefill = Prefill { text: "Hello".into(), tokens: 1 };
        let body = chat(&sent, Engine::LlamaServer, Some(&prefill));
        assert_eq!(body["messages"], json!([user, last(json!("Hello"))]), "it has begun");
        assert_eq!(body[CONTINUE], true);
    }

    #[test]
    fn the_length_of_an_answer_is_limited_in_a_word_that_the_server_knows() {
        let messages = json!([{"role": "user", "content": "Hi"}]);
        let both = json!({"max_tokens": 9, "max_completion_tokens": 9});
        let (older, newer) = (json!({"max_tokens": 9}), json!({"max_completion_tokens": 9}));
        let none = json!({"max_tokens": null, "max_completion_tokens": 9});
        for (engine, sent, expected) in [
            (Engine::Ollama, &newer, [Some(9), Some(9)]),
            (Engine::LmStudio, &newer, [Some(9), Some(9)]),
            (Engine::Ollama, &none, [Some(9), Some(9)]),
            (Engine::Ollama, &older, [Some(9), None]),
            (Engine::Ollama, &both, [Some(9), Some(9)]),
            (Engine::Ollama, &json!({}), [None, None]),
            // Some refuse to be told in both words.
            (Engine::Unknown, &newer, [None, Some(9)]),
            (Engine::Vllm, &newer, [None, Some(9)]),
        ] {
            let mut sent = sent.clone();
            (sent["model"], sent["messages"]) = ("here".into(), messages.clone());
            let body = chat(&sent, engine, None);
            let said = |name: &str| body.get(name).and_then(Value::as_u64);
            let found = ["max_tokens", "max_completion_tokens"].map(said);
            assert_eq!(found, expected, "{engine:?}: {sent}");
        }
        let sent = json!({"model": "here", "messages": messages, "max_completion_tokens": 9});
        let prefill = Prefill { text: String::new(), tokens: 4 };
        let body = chat(&sent, Engine::Ollama, Some(&prefill));
        assert_eq!(body["max_tokens"], 5, "what is left of it");
    }

    #[test]
    fn what_a_repetition_costs_is_told_by_the_name_that_the_server_knows() {
        let (older, newer) = (json!({REPEAT: 1.3}), json!({REPETITION: 1.3}));
        let nothing = json!({REPEAT: null, REPETITION: 1.3});
        for (engine, sent, expected) in [
            (Engine::LlamaServer, &newer, [Some(1.3), Some(1.3)]),
            (Engine::LlamaServer, &nothing, [Some(1.3), Some(1.3)]),
            (Engine::LlamaServer, &older, [Some(1.3), None]),
            (Engine::Vllm, &older, [Some(1.3), Some(1.3)]),
            (Engine::Vllm, &newer, [None, Some(1.3)]),
            (Engine::LmStudio, &newer, [Some(1.3), Some(1.3)]),
            (Engine::Unknown, &older, [Some(1.3), Some(1.3)]),
            (Engine::Rbee, &older, [Some(1.3), None]),
            (Engine::Vllm, &json!({}), [None, None]),
        ] {
            let mut sent = sent.clone();
            sent["model"] = "here".into();
            sent["messages"] = json!([{"role": "user", "content": "Hi"}]);
            let body = chat(&sent, engine, None);
            let found = [REPEAT, REPETITION].map(|n| body.get(n).and_then(Value::as_f64));
            assert_eq!(found, expected, "{engine:?}: {sent}");
        }
    }

    #[test]
    fn functions_that_may_not_be_called_are_not_offered_where_nobody_could_say_so() {
        let tools = json!([{"type": "function", "function": {"name": "f"}}]);
        for (engine, choice, is_offered) in [
            (Engine::Ollama, json!("none"), false),
            (Engine::Ollama, json!("auto"), true),
            (Engine::Ollama, json!(null), true),
            (Engine::Vllm, json!("none"), true),
        ] {
            let messages = json!([{"role": "user", "content": "Hi"}]);
            let sent = json!({
                "model": "here", "messages": messages, "tools": tools, "tool_choice": choice,
            });
            let body = chat(&sent, engine, None);
            let found = ["tools", "tool_choice"].map(|name| body.contains_key(name));
            assert_eq!(found, [is_offered; 2], "{engine:?}, {choice}");
        }
    }

    #[test]
    fn a_choice_of_functions_is_told_in_the_words_that_the_server_knows() {
        let function = |name: &str| json!({"type": "function", "function": {"name": name}});
        let named = function("g");
        let among = |mode: &str| json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named]}});
        let (llama, vllm) = (Engine::LlamaServer, Engine::Vllm);
        for (engine, choice, expected, offered) in [
            (llama, named.clone(), json!("required"), 1),
            (Engine::LmStudio, named.clone(), json!("required"), 1),
            (vllm, named.clone(), named.clone(), 2),
            (Engine::Unknown, named.clone(), named.clone(), 2),
            (llama, among("auto"), json!("auto"), 1),
            (llama, among("required"), json!("required"), 1),
            (vllm, among("required"), json!("required"), 1),
            (Engine::Ollama, among("auto"), json!("auto"), 1),
            (Engine::Rbee, among("auto"), among("auto"), 2),
            (llama, json!("required"), json!("required"), 2),
            (llama, json!(null), json!(null), 2),
        ] {
            let sent = json!({
                "model": "here", "messages": [{"role": "user", "content": "Hi"}],
                "tools": [function("f"), named], "tool_choice": choice,
            });
            let body = chat(&sent, engine, None);
            let tools = body["tools"].as_array().unwrap();
            let found = (&body["tool_choice"], tools.len(), tools.last());
            assert_eq!(found, (&expected, offered, Some(&named)), "{engine:?}, {choice}");
            let is_one = body.get("parallel_tool_calls") == Some(&json!(false));
            assert_eq!(is_one, choice == named && offered == 1, "{engine:?}, {choice}");
        }
    }

    #[test]
    fn how_much_is_thought_is_told_in_a_field_that_the_server_knows() {
        let effort = |word: &str| json!({"reasoning_effort": word});
        let variables = |fields: Value| json!({"chat_template_kwargs": fields});
        let off = variables(json!({"enable_thinking": false}));
        let both = json!({"reasoning_effort": "low", "chat_template_kwargs": {"a": 1}});
        let nothing = json!({"enable_thinking": false, "reasoning_effort": "none"});
        for (engine, said, expected, told) in [
            (Engine::LlamaServer, &effort("low"), json!("low"), effort("low")),
            (Engine::LlamaServer, &effort("none"), json!("none"), nothing),
            (Engine::LlamaServer, &both, json!("low"), json!({"a": 1, "reasoning_effort": "low"})),
            (Engine::LlamaServer, &off, json!(null), json!({"enable_thinking": false})),
            (Engine::Ollama, &off, json!("none"), json!({"enable_thinking": false})),
            (
                Engine::Ollama,
                &variables(json!({"enable_thinking": true})),
                json!(null),
                json!({"enable_thinking": true}),
            ),
            (Engine::Ollama, &effort("low"), json!("low"), json!(null)),
            (Engine::Vllm, &effort("low"), json!("low"), json!(null)),
        ] {
            let mut sent = said.clone();
            sent["model"] = "here".into();
            sent["messages"] = json!([{"role": "user", "content": "Hi"}]);
            let body = Value::Object(chat(&sent, engine, None));
            assert_eq!(body["reasoning_effort"], expected, "{engine:?}: {said}");
            assert_eq!(body["chat_template_kwargs"], told, "{engine:?}: {said}");
        }
    }

    #[test]
    fn of_a_rerank_all_scores_are_wanted_and_no_texts() {
        let sent = json!({
            "model": "here", "query": "q", "documents": ["a", "b"], "top_n": 1, "return_documents": true,
        });
        let sent = sent.as_object().unwrap().clone();
        let request = read_rerank(sent.clone(), RequestId::random()).unwrap().request;
        let body = Original::new(Endpoint::Rerank, sent);
        let body = body.body_for(&server(Engine::LlamaServer), &request, None);
        let expected = json!({"model": "org/there", "query": "q", "documents": ["a", "b"]});
        assert_eq!(Value::Object(body), expected);
    }

    #[test]
    fn vectors_are_asked_for_in_base64_where_the_client_wants_them_so_and_the_server_takes_it() {
        for (engine, wanted, expected) in [
            (Engine::LlamaServer, Some("base64"), Some("base64")),
            (Engine::Vllm, Some("base64"), Some("base64")),
            (Engine::Rbee, Some("base64"), Some("base64")),
            (Engine::Ollama, Some("base64"), Some("base64")),
            (Engine::LmStudio, Some("base64"), None),
            (Engine::Unknown, Some("base64"), None),
            (Engine::Vllm, Some("float"), None),
            (Engine::Vllm, None, None),
        ] {
            let mut sent = json!({"model": "here", "input": "a"});
            if let Some(wanted) = wanted {
                sent["encoding_format"] = wanted.into();
            }
            let inputs = vec![Prompt::Text("a".into())];
            let request = InferenceRequest::new(RequestId::random(), Task::Embed { inputs });
            let original = Original::new(Endpoint::Embeddings, sent.as_object().unwrap().clone());
            let encoding = |original: &Original| {
                let body = original.body_for(&server(engine), &request, None);
                body.get("encoding_format").and_then(Value::as_str).map(str::to_owned)
            };
            assert_eq!(encoding(&original).as_deref(), expected, "{engine:?}");
            assert_eq!(encoding(&original.unpacked()), None, "{engine:?}");
        }
    }

    fn chat(sent: &Value, engine: Engine, prefill: Option<&Prefill>) -> Body {
        let sent = sent.as_object().unwrap().clone();
        let mut request = read_chat(sent.clone(), RequestId::random()).unwrap().request;
        request.n = 1;
        Original::new(Endpoint::Chat, sent).body_for(&server(engine), &request, prefill)
    }

    #[test]
    fn an_answer_that_is_asked_for_alone_has_the_seed_that_it_has_among_the_others() {
        for (seed, first_choice, expected) in [
            (json!(5), 0, json!(5)),
            (json!(5), 2, json!(7)),
            (json!(-1), 1, json!(0)),
            (json!(null), 2, json!(null)),
        ] {
            let sent = json!({
                "model": "m", "messages": [{"role": "user", "content": "Hi"}], "n": 3, "seed": seed,
            });
            let sent = sent.as_object().unwrap().clone();
            let read = read_chat(sent.clone(), RequestId::random()).unwrap().request;
            let request = InferenceRequest { n: 1, first_choice, ..read };
            let original = Original::new(Endpoint::Chat, sent);
            let body = original.body_for(&server(Engine::LlamaServer), &request, None);
            assert_eq!((&body["seed"], &body["n"]), (&expected, &json!(1)));
        }
    }

    fn server(engine: Engine) -> Server {
        let url = "http://h:1".parse().unwrap();
        let model = "org/there".into();
        Server { url, model, engine, most_answers: None, names_its_model: false }
    }
}
