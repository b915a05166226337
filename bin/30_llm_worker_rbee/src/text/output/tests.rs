//! Answers of each family, whole, broken and in pieces.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;
use worker_contract::{Chat, Delta, ToolCallDelta, ToolChoice};

use super::{AnswerShape, CallIds, Ending, OutputReader};
use crate::text::family::{CallSyntax, Family};
use crate::text::tools::Offer;
use crate::text::tools::tests::tool;

/// An answer, its deltas put together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Answer {
    content: String,
    reasoning: String,
    /// Id, name and arguments.
    calls: Vec<(String, String, String)>,
}

impl Answer {
    fn add(&mut self, delta: Delta) {
        self.content.push_str(&delta.text);
        self.reasoning.push_str(&delta.reasoning);
        for ToolCallDelta { index, id, name, arguments } in delta.tool_calls {
            if let (Some(id), Some(name)) = (id, name) {
                assert_eq!(index as usize, self.calls.len(), "calls come in order");
                self.calls.push((id, name, String::new()));
            }
            self.calls[index as usize].2.push_str(&arguments);
        }
    }
}

fn shape(source: &str, parallel: bool) -> AnswerShape {
    let object = json!({"type": "object", "properties": {"city": {"type": "string"}, "n": {"type": "integer"}}});
    let tools = vec![tool("get_weather", object.clone()), tool("now", object)];
    let chat = Chat { tools, parallel_tool_calls: parallel, ..Chat::from(Vec::new()) };
    AnswerShape {
        family: Family::detect(source, |_| true),
        offer: Offer::of(&chat).unwrap().map(Arc::new),
        inside_thinking: false,
        begun: String::new(),
        at_beginning: true,
    }
}

fn read<'a>(shape: &AnswerShape, pieces: impl IntoIterator<Item = &'a str>) -> Answer {
    read_until(shape, pieces, Ending::Said)
}

fn read_until<'a>(
    shape: &AnswerShape,
    pieces: impl IntoIterator<Item = &'a str>,
    ending: Ending,
) -> Answer {
    let mut reader = OutputReader::for_chat(shape, CallIds::new("request", 0, false));
    let mut answer = Answer::default();
    for piece in pieces {
        let mut delta = Delta::default();
        reader.push(piece, &mut delta);
        answer.add(delta);
    }
    let mut delta = Delta::default();
    reader.finish(ending, &mut delta);
    answer.add(delta);
    assert_eq!(reader.has_tool_calls(), !answer.calls.is_empty());
    answer
}

/// Content, reasoning, and calls as `name(arguments)`.
fn summary(answer: &Answer) -> (String, String, Vec<String>) {
    let calls = answer.calls.iter().map(|(_, name, arguments)| format!("{name}({arguments})"));
    (answer.content.clone(), answer.reasoning.clone(), calls.collect())
}

const HERMES: &str = "<tool_call> <think>";
const LLAMA: &str = "ipython";
const MISTRAL: &str = "[TOOL_CALLS] [THINK]";
const DEEPSEEK: &str = "<｜tool▁calls▁begin｜> </think>";
const HARMONY: &str = "<|start|><|channel|>";
const QWEN_XML: &str = "<tool_call><function=";
const GLM: &str = "<tool_call><arg_key> <think>";
const GEMMA4: &str = "<|tool_call> <|channel>thought <channel|>";
const KIMI: &str = "<|tool_calls_section_begin|>";
const MINIMAX: &str = "<minimax:tool_call> <think>";
const COHERE: &str = "<|START_ACTION|> <|START_THINKING|>";

type Case = (&'static str, &'static str, &'static str, &'static str, &'static [&'static str]);

/// Template, text, content, reasoning, calls.
const CASES: &[Case] = &[
    (HERMES, "Hello <b>you</b> \n", "Hello <b>you</b> \n", "", &[]),
    (
        HERMES,
        "<think>\nhm\n</think>\n\nSure.\n<tool_call>\n{\"name\": \"now\", \"arguments\": {\"a\": \"</x>\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Zürich 🦀\"}}\n</tool_call>\n",
        "Sure.",
        "hm",
        &["now({\"a\": \"</x>\"})", "get_weather({\"city\": \"Zürich 🦀\"})"],
    ),
    (HERMES, "<tool_call>{\"name\": \"now\"}</tool_call> Done.", "Done.", "", &["now({})"]),
    // Broken ends: a partial call, or content.
    (
        HERMES,
        "<tool_call>\n{\"name\": \"now\", \"arguments\": {\"a\": [1, 2",
        "",
        "",
        &["now({\"a\": [1, 2)"],
    ),
    (
        HERMES,
        "<tool_call>\n{\"name\": \"now\", \"arguments\": {\"a\": 1\n</tool_call>\nok",
        "ok",
        "",
        &["now({\"a\": 1\n)"],
    ),
    (HERMES, "a <tool_call>\n{\"name\": \"no", "a <tool_call>\n{\"name\": \"no", "", &[]),
    (
        HERMES,
        "<tool_call>{\"name\": \"rm\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"rm\", \"arguments\": {}}",
        "",
        &[],
    ),
    (HERMES, "<tool_call>what<tool_call>{\"name\": \"now\"}", "<tool_call>what", "", &["now({})"]),
    (HERMES, "<tool_call>{\"arguments\": {}}", "<tool_call>{\"arguments\": {}}", "", &[]),
    (LLAMA, "{\"name\": \"now\", \"parameters\": {}}", "", "", &["now({})"]),
    (
        LLAMA,
        "\n<|python_tag|>{\"type\": \"function\", \"name\": \"now\", \"parameters\": {}}; {\"name\": \"now\", \"parameters\": {\"a\": 1}}",
        "",
        "",
        &["now({})", "now({\"a\": 1})"],
    ),
    (LLAMA, "{\"name\": \"Bob\", \"age\": 3}", "{\"name\": \"Bob\", \"age\": 3}", "", &[]),
    (LLAMA, "{\"items\": [1]} x", "{\"items\": [1]} x", "", &[]),
    (LLAMA, "Use {\"name\": \"now\"}", "Use {\"name\": \"now\"}", "", &[]),
    (LLAMA, "<|python_tag|>print(1)", "print(1)", "", &[]),
    (
        MISTRAL,
        "[THINK]hm[/THINK]Sure. [TOOL_CALLS] [{\"name\": \"now\", \"arguments\": {}, \"id\": \"abcdefghi\"}, {\"name\": \"now\", \"arguments\": {\"a\": [1]}}]",
        "Sure.",
        "hm",
        &["now({})", "now({\"a\": [1]})"],
    ),
    (
        MISTRAL,
        "[TOOL_CALLS]now[ARGS]{\"a\": 1}[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{\"city\": \"x\"}",
        "",
        "",
        &["now({\"a\": 1})", "get_weather({\"city\": \"x\"})"],
    ),
    (MISTRAL, "[TOOL_CALLS]rm[ARGS]{\"a\": 1}", "rm{\"a\": 1}", "", &[]),
    (MISTRAL, "[TOOL_CALLS][{\"name\": \"rm\"}]", "[{\"name\": \"rm\"}]", "", &[]),
    (MISTRAL, "[1] and [TOOL", "[1] and [TOOL", "", &[]),
    (
        DEEPSEEK,
        "Sure.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "Sure.",
        "",
        &["now({\"a\": 1})", "now({})"],
    ),
    (
        DEEPSEEK,
        "<think>hm</think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "",
        "hm",
        &["now({\"a\": 1})", "now({})"],
    ),
    (
        DEEPSEEK,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>rm<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜>",
        "rm{\"a\": 1}",
        "",
        &[],
    ),
    (
        HARMONY,
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.now <|constrain|>json<|message|>{\"a\": \"<\"} <|call|>",
        "",
        "hm",
        &["now({\"a\": \"<\"})"],
    ),
    (HARMONY, " to=functions.now<|channel|>commentary json<|message|>", "", "", &["now()"]),
    (
        HARMONY,
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary<|message|>Let me see.<|end|><|start|>assistant<|channel|>analysis<|message|>b<|end|><|start|>assistant<|channel|>final<|message|>4 < 5<|return|>",
        "Let me see.\n\n4 < 5",
        "a\n\nb",
        &[],
    ),
    (HARMONY, "Just text <|", "Just text <|", "", &[]),
    (HARMONY, "<|channel|>final<|message|>no end", "no end", "", &[]),
    (HARMONY, "<|channel|>commentary to=functions.rm<|message|>{}<|call|>", "{}", "", &[]),
    (
        QWEN_XML,
        "Sure.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=n>\n3\n</parameter>\n</function>\n</tool_call>",
        "Sure.",
        "",
        &["get_weather({\"city\":\"Oslo\",\"n\":3})"],
    ),
    (
        QWEN_XML,
        "<tool_call>\n<function=rm>\n</function>\n</tool_call>",
        "<tool_call>\n<function=rm>\n</function>\n</tool_call>",
        "",
        &[],
    ),
    (QWEN_XML, "<tool_call>\n<function=get", "<tool_call>\n<function=get", "", &[]),
    (
        GLM,
        "<think>hm</think><tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n</tool_call>",
        "",
        "hm",
        &["get_weather({\"city\":\"Oslo\"})"],
    ),
    (
        GEMMA4,
        "<|channel>thought\nhm<channel|>Sure.<|tool_call>call:get_weather{city:<|\"|>Oslo<|\"|>,n:3}<tool_call|>",
        "Sure.",
        "hm",
        &["get_weather({\"city\":\"Oslo\",\"n\":3})"],
    ),
    (
        KIMI,
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{\"a\": 1}<|tool_call_end|><|tool_calls_section_end|>",
        "",
        "",
        &["now({\"a\":1})"],
    ),
    (
        MINIMAX,
        "<think>hm</think>\n\n<minimax:tool_call>\n<invoke name=\"get_weather\">\n<parameter name=\"n\">3</parameter>\n</invoke>\n</minimax:tool_call>",
        "",
        "hm",
        &["get_weather({\"n\":3})"],
    ),
    (
        COHERE,
        "<|START_THINKING|>hm<|END_THINKING|><|START_ACTION|>[{\"tool_call_id\": \"0\", \"tool_name\": \"now\", \"parameters\": {\"a\": 1}}]<|END_ACTION|>",
        "",
        "hm",
        &["now({\"a\":1})"],
    ),
];

#[test]
fn each_family_is_read_and_broken_calls_are_not_lost() {
    for (source, text, content, reasoning, calls) in CASES {
        let read = summary(&read(&shape(source, true), [*text]));
        let calls: Vec<_> = calls.iter().map(ToString::to_string).collect();
        assert_eq!(read, (content.to_string(), reasoning.to_string(), calls), "{text}");
    }
}

#[test]
fn an_answer_that_is_cut_in_a_call_shows_nothing_of_its_marks() {
    let calls = [
        (HERMES, "Sure.<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>", 5),
        (DEEPSEEK, "Sure.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}", 5),
        (MISTRAL, "Sure.[TOOL_CALLS][{\"name\": \"now\", \"arguments\": {}}]", 5),
        (GLM, "Sure.<tool_call>now\n<arg_key>a</arg_key>", 5),
        (KIMI, "Sure.<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0", 5),
    ];
    for (source, text, shown) in calls {
        let marker = text[shown..].char_indices().map(|(at, _)| shown + at);
        for cut in marker.chain([text.len()]) {
            let answer = read_until(&shape(source, true), [&text[..cut]], Ending::Cut);
            // The beginning of a marker is text, for all that is known.
            let begun = text[shown..cut].find(['>', ']']).is_some();
            if begun {
                assert_eq!(answer.content, "Sure.", "{}", &text[..cut]);
            }
        }
    }
    let said = read_until(&shape(HERMES, true), ["<tool_call>{\"na"], Ending::Said);
    assert_eq!(said.content, "<tool_call>{\"na", "the model meant it so");
}

#[test]
fn what_must_be_a_call_is_never_text() {
    let tools = vec![tool("now", json!({"type": "object"}))];
    let chat = Chat { tools, tool_choice: ToolChoice::Required, ..Chat::from(Vec::new()) };
    let offer = Offer::of(&chat).unwrap().map(Arc::new);
    let text = "{\"name\": \"now\", ";
    for cut in 1..text.len() {
        let shape = AnswerShape { offer: offer.clone(), ..shape(LLAMA, true) };
        assert_eq!(read_until(&shape, [&text[..cut]], Ending::Cut).content, "", "{cut}");
    }
    assert_eq!(read_until(&shape(LLAMA, true), [&text[..9]], Ending::Cut).content, text[..9]);
}

#[test]
fn one_call_is_reported_where_only_one_may_be() {
    let call = "<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>";
    let answer = read(&shape(HERMES, false), [call, call, " Done."]);
    assert_eq!(summary(&answer), ("Done.".into(), String::new(), vec!["now({})".into()]));
}

#[test]
fn without_functions_markers_of_calls_are_text() {
    let shape = AnswerShape { offer: None, ..shape(HERMES, true) };
    let answer = read(&shape, ["<think>a</think>b <tool_call>{}"]);
    assert_eq!(summary(&answer), ("b <tool_call>{}".into(), "a".into(), vec![]));
}

#[test]
fn ten_megabytes_of_arguments_are_read_character_by_character() {
    let value = "x".repeat(10_000_000);
    let text = format!("<tool_call>{{\"name\": \"now\", \"arguments\": {{\"a\": \"{value}\"}}}}");
    let shape = shape(HERMES, true);
    let mut reader = OutputReader::for_chat(&shape, CallIds::new("request", 0, false));
    let mut answer = Answer::default();
    for c in text.chars() {
        let mut delta = Delta::default();
        reader.push(c.encode_utf8(&mut [0; 4]), &mut delta);
        answer.add(delta);
    }
    assert_eq!(answer.calls[0].2.len(), value.len() + "{\"a\": \"\"}".len());
}

#[test]
fn a_call_that_is_read_whole_has_a_longest_length() {
    let text = format!("<tool_call><function=now>{}", "x".repeat(2 * 1024 * 1024));
    let answer = read(&shape(QWEN_XML, true), [text.as_str()]);
    assert_eq!(answer.content, text);
}

#[test]
fn arguments_are_streamed_as_they_come() {
    let shape = shape(HERMES, true);
    let mut reader = OutputReader::for_chat(&shape, CallIds::new("request", 0, false));
    let mut parts = |piece: &str| {
        let mut delta = Delta::default();
        reader.push(piece, &mut delta);
        delta.tool_calls
    };
    let first = parts("<tool_call>\n{\"name\": \"now\", \"arguments\": {\"a\"");
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].name.as_deref(), first[0].arguments.as_str()), (Some("now"), "{\"a\""));
    let next = parts(": 1");
    assert_eq!((next[0].name.as_deref(), next[0].arguments.as_str()), (None, ": 1"));
}

/// The pieces of a text between cuts.
fn pieces<'a>(text: &'a str, cuts: &[usize]) -> Vec<&'a str> {
    let mut at: Vec<_> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
    at.push(text.len());
    at.sort_unstable();
    let mut from = 0;
    let mut pieces = Vec::new();
    for cut in at.into_iter().filter(|cut| text.is_char_boundary(*cut)) {
        pieces.push(&text[from..cut]);
        from = cut;
    }
    pieces
}

/// Texts made of what the families' answers are made of, in any order.
fn scrambled() -> impl Strategy<Value = String> {
    let parts: Vec<&'static str> = vec![
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<|python_tag|>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "[CALL_ID]",
        "[THINK]",
        "[/THINK]",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
        "function",
        "<|channel|>",
        "<|message|>",
        "<|start|>",
        "assistant",
        "<|end|>",
        "<|call|>",
        "analysis",
        "final",
        " to=functions.now",
        "{\"name\": \"now\", ",
        "\"arguments\": ",
        "\"parameters\": ",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "\\",
        "\\ud83e",
        "now",
        ",",
        ";",
        " ",
        "\n",
        "```json",
        "a",
        "é🦀",
        "<",
        "<function=now>",
        "</function>",
        "<parameter=city>",
        "</parameter>",
        "<arg_key>n</arg_key>",
        "<arg_value>",
        "</arg_value>",
        "<|\"|>",
        "city:",
        "<|tool_calls_section_begin|><|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        "<minimax:tool_call>",
        "<invoke name=\"now\">",
        "</invoke>",
        "<|START_ACTION|>",
        "<|END_ACTION|>",
        "<|tool_call>",
        "call:now{",
        "<tool_call|>",
    ];
    prop::collection::vec(prop::sample::select(parts), 0..30).prop_map(|parts| parts.concat())
}

const SOURCES: [&str; 11] =
    [HERMES, LLAMA, MISTRAL, DEEPSEEK, HARMONY, QWEN_XML, GLM, GEMMA4, KIMI, MINIMAX, COHERE];

proptest! {
    #[test]
    fn the_pieces_do_not_matter(
        case in prop::sample::select(CASES.to_vec()),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
        end in any::<usize>(),
    ) {
        let mut end = end % (case.1.len() + 1);
        while !case.1.is_char_boundary(end) {
            end -= 1;
        }
        for text in [case.1, &case.1[..end]] {
            let shape = shape(case.0, true);
            let whole = read(&shape, [text]);
            prop_assert_eq!(&read(&shape, pieces(text, &cuts)), &whole);
            let each: Vec<_> = text.split_inclusive(|_| true).collect();
            prop_assert_eq!(&read(&shape, each), &whole);
        }
    }

    #[test]
    fn no_text_is_too_strange(
        text in scrambled(),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
        source in prop::sample::select(SOURCES.to_vec()),
        parallel in any::<bool>(),
        inside_thinking in any::<bool>(),
    ) {
        let shape = AnswerShape { inside_thinking, ..shape(source, parallel) };
        let whole = read(&shape, [text.as_str()]);
        prop_assert_eq!(&read(&shape, pieces(&text, &cuts)), &whole);
        // Letters are in no marker but `function`, and never lost.
        let letters = |text: &str| text.matches("é🦀").count();
        let shown = letters(&whole.content) + letters(&whole.reasoning)
            + whole.calls.iter().map(|call| letters(&call.2)).sum::<usize>();
        prop_assert!(shown <= letters(&text));
    }

    #[test]
    fn text_without_markers_is_content_as_it_is(
        text in "[a-z {}\"\\[\\]:,<>\n|]{0,60}",
        source in prop::sample::select(SOURCES.to_vec()),
    ) {
        let answer = read(&shape(source, true), [text.as_str()]);
        prop_assert_eq!(answer, Answer { content: text, ..Answer::default() });
    }

    #[test]
    fn a_resumed_answer_goes_on_as_if_it_had_not_been_cut(
        case in prop::sample::select(CASES.to_vec()),
        at in any::<usize>(),
    ) {
        let mut at = at % (case.1.len() + 1);
        while !case.1.is_char_boundary(at) {
            at -= 1;
        }
        let shape = shape(case.0, true);
        let mut first = OutputReader::for_chat(&shape, CallIds::new("request", 0, false));
        let mut answer = Answer::default();
        for c in case.1[..at].split_inclusive(|_| true) {
            let mut delta = Delta::default();
            first.push(c, &mut delta);
            answer.add(delta);
        }
        let mut second = OutputReader::for_chat(&shape, CallIds::new("request", 0, false));
        second.push(&case.1[..at], &mut Delta::default());
        let mut delta = Delta::default();
        second.push(&case.1[at..], &mut delta);
        answer.add(delta);
        let mut delta = Delta::default();
        second.finish(Ending::Said, &mut delta);
        answer.add(delta);
        prop_assert_eq!(answer, read(&shape, [case.1]));
    }
}

#[test]
fn a_family_is_what_its_source_says() {
    let wanted = CallSyntax::Harmony;
    assert_eq!(Family::detect(HARMONY, |_| true).calls, wanted);
}
