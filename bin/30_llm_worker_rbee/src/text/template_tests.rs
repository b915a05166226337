//! Conversations through the templates of each family.

use serde_json::json;
use worker_contract::{Chat, ChatMessage, RequestId, Role, ToolCall, ToolChoice};

use super::tools::tests::tool;
use super::{CallSyntax, ChatTemplate, ChatTurn, Ending, Syntax, WholeSyntax};

fn template(name: &str) -> ChatTemplate {
    let path = format!("{}/tests/templates/{name}.jinja", env!("CARGO_MANIFEST_DIR"));
    let source = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    ChatTemplate::new(&source, "<s>".to_owned(), "</s>".to_owned(), |_| false).unwrap()
}

const ALL: [&str; 7] =
    ["llama3", "qwen3", "qwen3-coder", "mistral", "gemma2", "deepseek-v3.1", "gpt-oss"];

fn text(role: Role, content: &str) -> ChatMessage {
    ChatMessage::text(role, content)
}

fn call(id: &str, name: &str, arguments: &str) -> ToolCall {
    ToolCall { id: id.into(), name: name.into(), arguments: arguments.into() }
}

fn result(id: &str, content: &str) -> ChatMessage {
    ChatMessage { tool_call_id: Some(id.into()), ..text(Role::Tool, content) }
}

/// A conversation with functions, two calls at once and their results.
fn conversation() -> Chat {
    let city = json!({
        "type": "object",
        "properties": {"city": {"type": "string", "description": "<the city>"}},
        "required": ["city"],
    });
    let calls = vec![
        call("call_1", "get_weather", r#"{"city": "Oslo"}"#),
        call("call_2", "get_weather", r#"{"city": "Zürich"}"#),
    ];
    Chat {
        tools: vec![tool("get_weather", city), tool("now", json!({"type": "object"}))],
        ..Chat::from(vec![
            text(Role::System, "Be brief."),
            text(Role::User, "Compare the weather."),
            ChatMessage { tool_calls: calls, ..text(Role::Assistant, "") },
            result("call_1", "rain"),
            result("call_2", "sun"),
        ])
    }
}

fn turn(template: &ChatTemplate, chat: &Chat) -> ChatTurn {
    ChatTurn::new(template, chat, false).unwrap()
}

#[test]
fn each_template_shows_functions_calls_and_results() {
    for name in ALL {
        let prompt = turn(&template(name), &conversation()).prompt;
        insta::assert_snapshot!(format!("prompt of {name}"), prompt);
        for needle in ["Be brief.", "get_weather", "now", "Oslo", "Zürich", "rain", "sun"] {
            assert!(prompt.contains(needle), "{name} does not show {needle}:\n{prompt}");
        }
    }
}

#[test]
fn the_reader_follows_what_the_template_shows() {
    let syntax = |name| template(name).family().calls;
    assert_eq!(syntax("llama3"), CallSyntax::Marked(Syntax::Llama));
    assert_eq!(syntax("qwen3"), CallSyntax::Marked(Syntax::Hermes));
    assert_eq!(syntax("qwen3-coder"), CallSyntax::Whole(WholeSyntax::QwenXml));
    assert_eq!(syntax("mistral"), CallSyntax::Marked(Syntax::Mistral));
    assert_eq!(syntax("gemma2"), CallSyntax::Marked(Syntax::Hermes));
    assert_eq!(syntax("deepseek-v3.1"), CallSyntax::Marked(Syntax::DeepSeek));
    assert_eq!(syntax("gpt-oss"), CallSyntax::Harmony);
}

#[test]
fn functions_are_not_offered_where_none_may_be_called() {
    for name in ALL {
        let chat = Chat { tool_choice: ToolChoice::None, ..conversation() };
        let prompt = turn(&template(name), &chat).prompt;
        assert!(!prompt.contains("the city"), "{name}:\n{prompt}");
    }
}

#[test]
fn a_message_is_continued_where_it_ends() {
    for name in ALL {
        let chat = Chat {
            continue_last: true,
            ..Chat::from(vec![text(Role::User, "Say a poem."), text(Role::Assistant, "Roses are ")])
        };
        let prompt = turn(&template(name), &chat).prompt;
        assert!(prompt.ends_with("Roses are "), "{name}:\n{prompt}");
    }
}

#[test]
fn an_empty_beginning_is_none() {
    let messages = vec![text(Role::User, "Hi"), text(Role::Assistant, "")];
    let chat = Chat { continue_last: true, ..Chat::from(messages) };
    let prompt = turn(&template("qwen3"), &chat).prompt;
    assert_eq!(prompt, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}

/// Content and reasoning of an answer after a conversation.
fn answer(turn: &ChatTurn, text: &str) -> (String, String) {
    let mut delta = worker_contract::Delta::default();
    let mut reader = turn.reader(&RequestId::random(), 0);
    reader.push(text, &mut delta);
    reader.finish(Ending::Said, &mut delta);
    (delta.text, delta.reasoning)
}

#[test]
fn thinking_that_the_prompt_begins_is_reasoning() {
    let variables = json!({"thinking": true});
    let chat = Chat {
        template_variables: variables.as_object().unwrap().clone(),
        ..Chat::from(vec![text(Role::User, "Hi")])
    };
    let turn = turn(&template("deepseek-v3.1"), &chat);
    assert!(turn.prompt.ends_with("<think>"), "{}", turn.prompt);
    assert_eq!(answer(&turn, "hm</think>Yes"), ("Yes".into(), "hm".into()));
}

#[test]
fn a_continued_answer_goes_on_in_the_part_that_it_stands_in() {
    let continued = |name, beginning: &str| {
        let messages = vec![text(Role::User, "Hi"), text(Role::Assistant, beginning)];
        turn(&template(name), &Chat { continue_last: true, ..Chat::from(messages) })
    };
    let qwen = continued("gemma2", "Roses ");
    assert_eq!(answer(&qwen, "<think>"), ("<think>".into(), String::new()));
    let harmony = continued("gpt-oss", "Roses ");
    assert_eq!(answer(&harmony, "are red"), ("are red".into(), String::new()));
}

#[test]
fn an_answer_that_is_held_to_a_form_leaves_no_room_for_thinking() {
    let variables = json!({"thinking": true});
    let chat = Chat {
        template_variables: variables.as_object().unwrap().clone(),
        ..Chat::from(vec![text(Role::User, "Hi")])
    };
    let turn = ChatTurn::new(&template("deepseek-v3.1"), &chat, true).unwrap();
    assert!(turn.prompt.ends_with("<think>\n</think>\n\n"), "{}", turn.prompt);
    assert_eq!(answer(&turn, "{\"a\": 1}"), ("{\"a\": 1}".into(), String::new()));
    let turn = ChatTurn::new(&template("gpt-oss"), &chat, true).unwrap();
    assert!(turn.prompt.ends_with("<|start|>assistant<|channel|>final<|message|>"));
    assert_eq!(answer(&turn, "{\"a\": 1}"), ("{\"a\": 1}".into(), String::new()));
}

#[test]
fn an_answer_that_must_be_a_call_is_one_in_every_family() {
    for name in ALL {
        for choice in [ToolChoice::Required, ToolChoice::Named("now".into())] {
            let chat = Chat { tool_choice: choice.clone(), ..conversation() };
            let turn = turn(&template(name), &chat);
            let grammar = turn.grammar.clone().unwrap_or_else(|| panic!("{name}: no grammar"));
            let call = super::call_grammar::tests::sample(&grammar);
            let mut delta = worker_contract::Delta::default();
            let mut reader = turn.reader(&RequestId::random(), 0);
            call.chars().for_each(|c| reader.push(&c.to_string(), &mut delta));
            reader.finish(Ending::Said, &mut delta);
            assert!(reader.has_tool_calls(), "{name}, {choice:?}: {call}");
            assert_eq!((delta.text.as_str(), delta.reasoning.as_str()), ("", ""), "{name}: {call}");
            let name_of_first = delta.tool_calls[0].name.as_deref();
            assert!(matches!(name_of_first, Some("now" | "get_weather")), "{name}: {call}");
        }
    }
}

#[test]
fn requests_that_cannot_be_are_refused_by_their_field() {
    let template = template("qwen3");
    let user = || text(Role::User, "Hi");
    let with_calls = ChatMessage { tool_calls: vec![call("1", "f", "{}")], ..user() };
    let variables = json!({"messages": 1});
    let deep = (0..40).fold(json!(1), |value, _| json!([value]));
    let deep = json!({"deep": deep});
    let cases = [
        (Chat::from(vec![with_calls]), "messages[0].tool_calls"),
        (Chat { continue_last: true, ..Chat::from(vec![user()]) }, "continue_last"),
        (
            Chat {
                template_variables: variables.as_object().unwrap().clone(),
                ..Chat::from(vec![user()])
            },
            "template_variables.messages",
        ),
        (
            Chat {
                template_variables: deep.as_object().unwrap().clone(),
                ..Chat::from(vec![user()])
            },
            "template_variables",
        ),
    ];
    for (chat, param) in cases {
        let error = ChatTurn::new(&template, &chat, false).unwrap_err();
        assert!(error.to_string().starts_with(&format!("{param}: ")), "{error}");
    }
    // A client keeps what it was answered, also if that was nothing.
    let nothing = vec![user(), text(Role::Assistant, ""), text(Role::User, "")];
    assert!(ChatTurn::new(&template, &Chat::from(nothing), false).is_ok());
    let silent =
        ChatMessage { tool_calls: vec![call("1", "f", "{}")], ..text(Role::Assistant, "") };
    let fine = Chat::from(vec![user(), silent, text(Role::Tool, ""), text(Role::System, "")]);
    assert!(ChatTurn::new(&template, &fine, false).is_ok());
}
