//! The grammar of an answer that must be calls.
//!
//! It is in llguidance's dialect of Lark
//! (<https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md>), over text only: markers
//! that are control tokens are not in it, so that a model whose calls begin with one writes a plain
//! array, which the reader knows as well.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::family::CallSyntax;
use super::output::Syntax;
use super::tools::{Offer, parameters};

/// How many calls may follow the first.
const MORE_CALLS: u32 = 31;

/// The syntax that a family's model is held to where it must call.
#[must_use]
pub(super) fn forced_syntax(calls: CallSyntax) -> Syntax {
    match calls {
        CallSyntax::Marked(syntax @ (Syntax::Hermes | Syntax::Llama)) => syntax,
        _ => Syntax::Array,
    }
}

/// The grammar of one or more calls of the offered functions.
#[must_use]
pub(super) fn calls_grammar(offer: &Offer, syntax: Syntax) -> String {
    let (begin, arguments, end, separator) = match syntax {
        Syntax::Hermes => ("<tool_call>\n", "arguments", "\n</tool_call>", "\n"),
        Syntax::Llama => ("", "parameters", "", "; "),
        _ => ("", "arguments", "", ", "),
    };
    let is_array = !matches!(syntax, Syntax::Hermes | Syntax::Llama);
    let one = format!("{} call {}", literal(begin), literal(end));
    let more = if offer.parallel {
        format!("({} {one}){{0,{MORE_CALLS}}}", literal(separator))
    } else {
        String::new()
    };
    let (open, close) = if is_array { ("[", "]") } else { ("", "") };
    let mut grammar = format!("start: {} {one} {more} {}\n", literal(open), literal(close));
    let names: Vec<_> = (0..offer.tools().len()).map(|n| format!("call_{n}")).collect();
    // Writing to a string cannot fail.
    let _ = writeln!(grammar, "call: {}", names.join(" | "));
    for (n, tool) in offer.tools().iter().enumerate() {
        let head = format!("{{\"name\": {}, \"{arguments}\": ", json!(tool.name));
        let schema = schema(parameters(tool), tool.strict);
        let _ = writeln!(grammar, "call_{n}: {} arguments_{n} \"}}\"", literal(&head));
        let _ = writeln!(grammar, "arguments_{n}: %json {schema}");
    }
    grammar
}

/// The grammar of the arguments of the one function that is offered.
#[must_use]
pub(super) fn arguments_grammar(offer: &Offer) -> Option<String> {
    let [tool] = offer.tools() else { return None };
    Some(format!("start: %json {}\n", schema(parameters(tool), tool.strict)))
}

/// A schema with llguidance's options: written as Python's `json.dumps` does, which is what models
/// have seen; parts of a schema that are not supported are an error only where it is strict.
fn schema(mut schema: Value, strict: bool) -> Value {
    if let Some(object) = schema.as_object_mut() {
        object.entry("type").or_insert_with(|| json!("object"));
        let options = json!({
            "whitespace_flexible": false,
            "item_separator": ", ",
            "key_separator": ": ",
            "lenient": !strict,
        });
        object.insert("x-guidance".to_owned(), options);
    }
    schema
}

/// A literal of Lark, or nothing for an empty text. Its escapes are those of JSON.
fn literal(text: &str) -> String {
    if text.is_empty() { String::new() } else { json!(text).to_string() }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::tools::tests::tool;
    use super::*;
    use llguidance::api::TopLevelGrammar;
    use llguidance::toktrie::ApproximateTokEnv;
    use llguidance::{Matcher, ParserFactory};
    use worker_contract::{Chat, ToolChoice};

    fn offer(parallel: bool) -> Offer {
        let city = json!({
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
            "additionalProperties": false,
        });
        let tools = vec![tool("get_weather", city), tool("now", json!({"type": "object"}))];
        let chat = Chat {
            tools,
            tool_choice: ToolChoice::Required,
            parallel_tool_calls: parallel,
            ..Chat::from(Vec::new())
        };
        Offer::of(&chat).unwrap().unwrap()
    }

    /// Whether a grammar allows a text, from its beginning to its end.
    fn allows(grammar: &str, text: &str) -> bool {
        let environment = ApproximateTokEnv::single_byte_env();
        let factory = ParserFactory::new_simple(&environment).unwrap();
        let parser = factory.create_parser(TopLevelGrammar::from_lark(grammar.to_owned()));
        let mut matcher = Matcher::new(Ok(parser.unwrap_or_else(|e| panic!("{e}\n{grammar}"))));
        let bytes: Vec<u32> = text.bytes().map(u32::from).collect();
        matcher.try_consume_tokens(&bytes).unwrap() == bytes.len()
            && matcher.is_accepting().unwrap()
    }

    /// A text that a grammar allows: always the lowest byte of those that can follow, quotation marks
    /// and brackets that close first.
    pub(in crate::text) fn sample(grammar: &str) -> String {
        let environment = ApproximateTokEnv::single_byte_env();
        let factory = ParserFactory::new_simple(&environment).unwrap();
        let parser = factory.create_parser(TopLevelGrammar::from_lark(grammar.to_owned()));
        let mut matcher = Matcher::new(parser);
        let mut text = String::new();
        while !matcher.is_accepting().unwrap() {
            let mask = matcher.compute_mask().unwrap();
            let mut bytes = (b"\"}]".iter().copied()).chain(b' '..=b'~');
            let byte = bytes.find(|b| mask.is_allowed(u32::from(*b))).unwrap_or(b'\n');
            matcher.consume_token(u32::from(byte)).unwrap();
            text.push(char::from(byte));
            assert!(text.len() < 10_000, "{text}");
        }
        text
    }

    #[test]
    fn each_syntax_allows_its_calls_and_nothing_else() {
        let weather = r#"{"city": "Oslo", "days": 2}"#;
        let cases = [
            (
                Syntax::Hermes,
                format!(
                    "<tool_call>\n{{\"name\": \"get_weather\", \"arguments\": {weather}}}\n</tool_call>"
                ),
            ),
            (Syntax::Llama, format!("{{\"name\": \"get_weather\", \"parameters\": {weather}}}")),
            (Syntax::Array, format!("[{{\"name\": \"get_weather\", \"arguments\": {weather}}}]")),
        ];
        for (syntax, text) in cases {
            let grammar = calls_grammar(&offer(false), syntax);
            assert!(allows(&grammar, &text), "{text}\n{grammar}");
            for (from, to) in [("get_weather", "get_wether"), ("city", "town"), ("2", "\"2\"")] {
                assert!(!allows(&grammar, &text.replace(from, to)), "{from} as {to}");
            }
            assert!(!allows(&grammar, &format!("Sure. {text}")));
        }
    }

    #[test]
    fn several_calls_are_allowed_where_the_request_allows_them() {
        let call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
        let two = format!("{call}\n{call}");
        assert!(allows(&calls_grammar(&offer(true), Syntax::Hermes), &two));
        assert!(!allows(&calls_grammar(&offer(false), Syntax::Hermes), &two));
        let array = r#"[{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}]"#;
        assert!(allows(&calls_grammar(&offer(true), Syntax::Array), array));
    }

    #[test]
    fn names_and_descriptions_cannot_break_out_of_the_grammar() {
        let schema = json!({"type": "object", "description": "\"\n start: /.*/ \\"});
        let chat = Chat {
            tools: vec![tool("f", schema)],
            tool_choice: ToolChoice::Named("f".into()),
            ..Chat::from(Vec::new())
        };
        let offer = Offer::of(&chat).unwrap().unwrap();
        let grammar = calls_grammar(&offer, Syntax::Array);
        assert!(allows(&grammar, r#"[{"name": "f", "arguments": {"a": 1}}]"#), "{grammar}");
        assert!(!allows(&grammar, "anything"));
        assert!(allows(&arguments_grammar(&offer).unwrap(), "{}"));
    }
}
