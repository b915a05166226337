//! Each format: complete, cut off, several calls, values of each kind, and what is no call.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use worker_contract::{Chat, Delta};

use super::{WholeCalls, WholeSyntax};
use crate::text::output::{CallIds, Ending, calls::CallWriter};
use crate::text::tools::{Offer, tests::tool};

const SYNTAXES: [WholeSyntax; 6] = [
    WholeSyntax::QwenXml,
    WholeSyntax::Glm,
    WholeSyntax::Gemma4,
    WholeSyntax::KimiK2,
    WholeSyntax::MiniMax,
    WholeSyntax::Cohere,
];

fn offer() -> Offer {
    let schema = json!({"type": "object", "properties": {
        "city": {"type": "string"},
        "n": {"type": "integer"},
        "list": {"type": "array"},
        "object": {"type": "object", "properties": {
            "id": {"type": "string"},
            "ids": {"type": "array", "items": {"type": "string"}},
        }},
        "flag": {"type": "boolean"},
        "maybe": {"type": ["number", "null"]},
    }});
    let tools = vec![tool("f", schema), tool("get-time_2", json!({"type": "object"}))];
    Offer::of(&Chat { tools, ..Chat::from(Vec::new()) }).unwrap().unwrap()
}

/// An answer's content and calls.
fn read(syntax: WholeSyntax, text: &str) -> (String, Vec<String>) {
    read_until(syntax, text, Ending::Said)
}

fn read_until(syntax: WholeSyntax, text: &str, ending: Ending) -> (String, Vec<String>) {
    let writer = CallWriter::new(Arc::new(offer()), CallIds::new("request", 0, false));
    let mut reader = WholeCalls::new(syntax, writer);
    let mut delta = Delta::default();
    text.chars().for_each(|c| reader.push(c, &mut delta));
    reader.finish(ending, &mut delta);
    let call = |call: worker_contract::ToolCallDelta| {
        format!("{}({})", call.name.unwrap_or_default(), call.arguments)
    };
    (delta.text, delta.tool_calls.into_iter().map(call).collect())
}

fn check_calls(syntax: WholeSyntax, cases: &[(&str, &[&str])]) {
    for (text, calls) in cases {
        assert_eq!(
            read(syntax, text),
            (String::new(), calls.iter().map(ToString::to_string).collect()),
            "{text}"
        );
        let (content, inner) = read(syntax, &format!("Sure.\n{text}\nDone."));
        let (_, end) = syntax.markers();
        if text.ends_with(end) {
            assert_eq!((content.as_str(), inner.len()), ("Sure.Done.", calls.len()), "{text}");
        }
    }
}

fn check_content(syntax: WholeSyntax, texts: &[&str]) {
    for text in texts {
        assert_eq!(read(syntax, text), (text.to_string(), vec![]));
    }
}

#[test]
fn qwen_xml() {
    check_calls(
        WholeSyntax::QwenXml,
        &[
            (
                "<tool_call>\n<function=f>\n<parameter=n>\n3\n</parameter>\n<parameter=city>\n5\n</parameter>\n<parameter=flag>\nTrue\n</parameter>\n<parameter=maybe>\nnull\n</parameter>\n</function>\n</tool_call>",
                &[r#"f({"n":3,"city":"5","flag":true,"maybe":null})"#],
            ),
            (
                "<tool_call>\n<function=f>\n<parameter=object>\n{\"z\": [1, {\"a\": null}], \"id\": \"x\"}\n</parameter>\n<parameter=list>\n[\"a\", \"b\"]\n</parameter>\n</function>\n</tool_call>",
                &[r#"f({"object":{"z":[1,{"a":null}],"id":"x"},"list":["a","b"]})"#],
            ),
            // One end of a line at each end of a text is the format's, what is more is the value's.
            (
                "<tool_call><function=f><parameter=city>\n\n  a\n\n b \n\n</parameter></function></tool_call>",
                &[r#"f({"city":"\n  a\n\n b \n"})"#],
            ),
            (
                "<tool_call><function=f><parameter=city>a &amp; <b></parameter></p></parameter></function></tool_call>",
                &[r#"f({"city":"a &amp; <b></parameter></p>"})"#],
            ),
            // Of another type than declared: as it is. Undeclared: as it looks.
            (
                "<tool_call><function=f><parameter=n>many</parameter><parameter=x>1.5</parameter><parameter=y>one</parameter></function></tool_call>",
                &[r#"f({"n":"many","x":1.5,"y":"one"})"#],
            ),
            (
                "<tool_call>\n<function=f>\n</function>\n<function=get-time_2>\n</function>\n</tool_call>\n<tool_call>\n<function=f>\n</function>\n</tool_call>",
                &["f({})", "get-time_2({})", "f({})"],
            ),
            // Cut off behind the call: nothing of it is missing.
            ("<tool_call>\n<function=f>\n</function>\n", &["f({})"]),
            ("<tool_call>\n<function=f>\n</function>\n</tool_c", &["f({})"]),
        ],
    );
    check_content(
        WholeSyntax::QwenXml,
        &[
            "<tool_call>\n<function=rm>\n</function>\n</tool_call>",
            "<tool_call>\n<function=f>\n</function>\n<function=rm>\n</function>\n</tool_call>",
            "<tool_call></tool_call>",
            "<tool_call>\n<function=f>\n<parameter=n>\n3\n</parameter>\n",
            "<tool_call>\n<function=f>\n<parameter=n>\n3",
            "<tool_call>\n<function=f>\n<parameter=n>\n3\n</tool_call>",
            "<tool_call>\n<function=f>\n<parameter=>\n3\n</parameter>\n</function>\n</tool_call>",
            "<tool_call>\n<function=f",
            "<tool_call>{\"name\": \"f\"}</tool_call>",
            "<tool_call>\n<function=f>\n</function>\nand more</tool_call>",
        ],
    );
}

#[test]
fn minimax() {
    check_calls(
        WholeSyntax::MiniMax,
        &[
            (
                "<minimax:tool_call>\n<invoke name=\"f\">\n<parameter name=\"n\">3</parameter>\n<parameter name=\"city\">a &lt; \"b\"</parameter>\n<parameter name=\"object\">{\"id\": [1]}</parameter>\n</invoke>\n<invoke name=\"get-time_2\">\n</invoke>\n</minimax:tool_call>",
                &[r#"f({"n":3,"city":"a &lt; \"b\"","object":{"id":[1]}})"#, "get-time_2({})"],
            ),
            ("<minimax:tool_call><invoke name=\"f\"></invoke>", &["f({})"]),
            (
                "<minimax:tool_call><invoke name=\"f\"><parameter name=\"flag\">perhaps</parameter></invoke></minimax:tool_call>",
                &[r#"f({"flag":"perhaps"})"#],
            ),
        ],
    );
    check_content(
        WholeSyntax::MiniMax,
        &[
            "<minimax:tool_call><invoke name=\"rm\"></invoke></minimax:tool_call>",
            "<minimax:tool_call><invoke name=\"f\"><parameter name=\"n\">3</parameter>",
            "<minimax:tool_call><invoke name=\"f\"></invoke><invoke name=\"f\">",
            "<minimax:tool_call><invoke name=\"\"></invoke></minimax:tool_call>",
            "<minimax:tool_call>f</minimax:tool_call>",
        ],
    );
}

#[test]
fn glm() {
    check_calls(
        WholeSyntax::Glm,
        &[
            (
                "<tool_call>f\n<arg_key>n</arg_key>\n<arg_value>3</arg_value>\n<arg_key>city</arg_key>\n<arg_value>5\n</arg_value>\n</tool_call>",
                &[r#"f({"n":3,"city":"5\n"})"#],
            ),
            (
                "<tool_call>f<arg_key>list</arg_key><arg_value>[\"a\"]</arg_value><arg_key>object</arg_key><arg_value>{\"b\": {\"a\": [true]}}</arg_value></tool_call>\n<tool_call>get-time_2</tool_call>",
                &[r#"f({"list":["a"],"object":{"b":{"a":[true]}}})"#, "get-time_2({})"],
            ),
            (
                "<tool_call>f\n<arg_key>n</arg_key>\n<arg_value>many</arg_value>\n<arg_key>city</arg_key><arg_value></arg_value> b</arg_value>\n</tool_call>",
                &[r#"f({"n":"many","city":"</arg_value> b"})"#],
            ),
        ],
    );
    check_content(
        WholeSyntax::Glm,
        &[
            "<tool_call>rm</tool_call>",
            "<tool_call></tool_call>",
            // A name, or the first of two arguments: nobody knows what was to come.
            "<tool_call>f",
            "<tool_call>f\n<arg_key>n</arg_key>\n<arg_value>3</arg_value>\n",
            "<tool_call>f\n<arg_key>n</arg_key>\n</tool_call>",
            "<tool_call>f\n<arg_key>n</arg_key>\n<arg_value>3</tool_call>",
            "<tool_call>f\n<arg_value>3</arg_value></tool_call>",
        ],
    );
}

#[test]
fn gemma() {
    check_calls(
        WholeSyntax::Gemma4,
        &[
            (
                "<|tool_call>call:f{city:<|\"|>a, {\"b\"}: \\n\n<|\"|>,n:5,flag:false,maybe:null}<tool_call|>",
                &[r#"f({"city":"a, {\"b\"}: \\n\n","n":5,"flag":false,"maybe":null})"#],
            ),
            (
                "<|tool_call>call:f{ list: [<|\"|>a<|\"|>, b,] , object:{z:[[1],{}],<|\"|>an id<|\"|>:-2.5,id:7,ids:[8]}}<tool_call|><|tool_call>call:get-time_2{}<tool_call|>",
                &[
                    r#"f({"list":["a","b"],"object":{"z":[[1],{}],"an id":-2.5,"id":"7","ids":["8"]}})"#,
                    "get-time_2({})",
                ],
            ),
            // Strings stay strings, and bare values are what is declared.
            (
                "<|tool_call>call:f{n:<|\"|>5<|\"|>,city:5,flag:perhaps,x:5}<tool_call|>",
                &[r#"f({"n":"5","city":"5","flag":"perhaps","x":5})"#],
            ),
            ("<|tool_call>call:f{n:5}", &[r#"f({"n":5})"#]),
        ],
    );
    let deep = format!(
        "<|tool_call>call:f{{x:{}1{}}}<tool_call|>",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    check_content(
        WholeSyntax::Gemma4,
        &[
            "<|tool_call>call:rm{}<tool_call|>",
            "<|tool_call><tool_call|>",
            "<|tool_call>f{}<tool_call|>",
            "<|tool_call>call:f{n:5",
            "<|tool_call>call:f{n:5,city:<|\"|>Os",
            "<|tool_call>call:f{n:}<tool_call|>",
            "<|tool_call>call:f{:5}<tool_call|>",
            "<|tool_call>call:f{n:5 city:<|\"|>a<|\"|>}<tool_call|>",
            "<|tool_call>call:f{list:[1}<tool_call|>",
            "<|tool_call>call:f{,}<tool_call|>",
            "<|tool_call>call:f{} and more<tool_call|>",
            &deep,
        ],
    );
}

#[test]
fn kimi() {
    check_calls(
        WholeSyntax::KimiK2,
        &[
            (
                "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{\"z\": {\"b\": [1, 2.0]}, \"a\": \"é\\n\"}<|tool_call_end|>\n<|tool_call_begin|> get-time_2:1 <|tool_call_argument_begin|> {} <|tool_call_end|><|tool_calls_section_end|>",
                &[r#"f({"z":{"b":[1,2.0]},"a":"é\n"})"#, "get-time_2({})"],
            ),
            (
                "<|tool_calls_section_begin|><|tool_call_begin|>functions.f<|tool_call_argument_begin|>{}<|tool_call_end|>",
                &["f({})"],
            ),
        ],
    );
    check_content(
        WholeSyntax::KimiK2,
        &[
            "<|tool_calls_section_begin|><|tool_calls_section_end|>",
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.rm:0<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>[]<|tool_call_end|><|tool_calls_section_end|>",
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{\"a\": <|tool_call_end|><|tool_calls_section_end|>",
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{\"a\": 1}",
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0",
        ],
    );
}

#[test]
fn cohere() {
    check_calls(
        WholeSyntax::Cohere,
        &[
            (
                "<|START_ACTION|>[\n    {\"tool_call_id\": \"0\", \"tool_name\": \"f\", \"parameters\": {\"z\": [{}], \"a\": 1}},\n    {\"tool_call_id\": \"1\", \"tool_name\": \"get-time_2\", \"parameters\": {}}\n]<|END_ACTION|>",
                &[r#"f({"z":[{}],"a":1})"#, "get-time_2({})"],
            ),
            ("<|START_ACTION|>{\"tool_name\": \"f\"}<|END_ACTION|>", &["f({})"]),
            ("<|START_ACTION|>[{\"name\": \"f\", \"arguments\": {\"n\": 1}}]", &[r#"f({"n":1})"#]),
        ],
    );
    check_content(
        WholeSyntax::Cohere,
        &[
            "<|START_ACTION|>[]<|END_ACTION|>",
            "<|START_ACTION|>[{\"tool_name\": \"rm\", \"parameters\": {}}]<|END_ACTION|>",
            "<|START_ACTION|>[{\"tool_name\": \"f\", \"parameters\": \"x\"}]<|END_ACTION|>",
            "<|START_ACTION|>[{\"tool_name\": 1}]<|END_ACTION|>",
            "<|START_ACTION|>[{\"tool_name\": \"f\", \"parameters\": {\"n\": 1}}",
            "<|START_ACTION|>[1]<|END_ACTION|>",
        ],
    );
}

/// The text of a call as a model's template writes it.
fn written(syntax: WholeSyntax, arguments: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let each = |write: &dyn Fn(&str, &Value) -> String| -> String {
        arguments.as_object().unwrap().iter().map(|(key, value)| write(key, value)).collect()
    };
    let (begin, end) = syntax.markers();
    let inner = match syntax {
        WholeSyntax::QwenXml => {
            let all = each(&|k, v| format!("<parameter={k}>\n{}\n</parameter>\n", text(v)));
            format!("\n<function=f>\n{all}</function>\n")
        }
        WholeSyntax::MiniMax => {
            let all =
                each(&|k, v| format!("<parameter name=\"{k}\">\n{}\n</parameter>\n", text(v)));
            format!("\n<invoke name=\"f\">\n{all}</invoke>\n")
        }
        WholeSyntax::Glm => {
            let all = each(&|k, v| {
                format!("<arg_key>{k}</arg_key>\n<arg_value>{}</arg_value>\n", text(v))
            });
            format!("f\n{all}")
        }
        WholeSyntax::Gemma4 => format!("call:f{}", gemma_text(arguments)),
        WholeSyntax::KimiK2 => format!(
            "<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{arguments}<|tool_call_end|>"
        ),
        WholeSyntax::Cohere => format!("[{}]", json!({"tool_name": "f", "parameters": arguments})),
    };
    format!("{begin}{inner}{end}")
}

fn gemma_text(value: &Value) -> String {
    match value {
        Value::String(text) => format!("<|\"|>{text}<|\"|>"),
        Value::Array(all) => {
            format!("[{}]", all.iter().map(gemma_text).collect::<Vec<_>>().join(","))
        }
        Value::Object(all) => {
            let all: Vec<_> = all.iter().map(|(k, v)| format!("{k}:{}", gemma_text(v))).collect();
            format!("{{{}}}", all.join(","))
        }
        other => other.to_string(),
    }
}

/// JSON whose texts could be taken for other things.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z0-9 \\[\\]{}:,\"\\\\\n<>/é🦀]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-z]{1,4}", inner, 0..4)
                .prop_map(|all| all.into_iter().collect::<Value>()),
        ]
    })
}

proptest! {
    #[test]
    fn arguments_are_read_as_they_were_written(
        syntax in prop::sample::select(SYNTAXES.to_vec()),
        city in "[a-z0-9 \\[\\]{}:,\"\\\\\n<>/é🦀]{0,24}",
        n in any::<i64>(),
        flag in any::<bool>(),
        list in prop::collection::vec(values(), 0..4),
        id in "[a-z0-9]{0,8}",
        more in values(),
    ) {
        let arguments = json!({
            "n": n, "city": city, "flag": flag, "list": list, "object": {"more": more, "id": id},
        });
        let (content, calls) = read(syntax, &written(syntax, &arguments));
        prop_assert_eq!((content.as_str(), calls), ("", vec![format!("f({arguments})")]));
    }
}
