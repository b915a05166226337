//! Constraints on a vocabulary of single bytes.

use std::time::{Duration, Instant};

use llguidance::toktrie::ApproximateTokEnv;
use serde_json::{Value, json};

use super::*;
use worker_contract::OutputFormat;

/// The end token of `ApproximateTokEnv::single_byte`.
const END: TokenId = 261;

fn factory() -> ConstraintFactory {
    ConstraintFactory::new(&ApproximateTokEnv::single_byte_env()).unwrap()
}

/// Whether a text may follow, and whether it is complete then.
fn takes(mut constraint: Constraint, text: &str) -> (bool, bool) {
    for byte in text.bytes() {
        if !constraint.allows(i32::from(byte)) {
            return (false, false);
        }
        constraint.accept(i32::from(byte));
        assert_eq!(constraint.failed(), None, "{text:?}");
    }
    (true, constraint.is_finished() || constraint.allows(END))
}

#[test]
fn a_format_allows_its_texts_and_no_others() {
    let factory = factory();
    let person = json!({
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": false,
    });
    let schema = |schema: &Value| factory.json_schema(schema).unwrap();
    let object = || factory.constraint(&OutputFormat::JsonObject).unwrap().unwrap();
    let date = || factory.regex("^[0-9]{4}-[0-9]{2}$").unwrap();
    let sum = || factory.lark("start: N (\"+\" N)*\nN: /[0-9]+/").unwrap();
    let rows = vec![
        (schema(&person), r#"{"name": "Ada", "age": 36}"#, (true, true)),
        (schema(&person), "{\n  \"name\": \"Ada\",\n  \"age\": 36\n}", (true, true)),
        (schema(&person), r#"{"name": "Ada", "age""#, (true, false)),
        (schema(&person), r#"{"age": "old""#, (false, false)),
        (schema(&person), r#"{"name": "Ada", "age": 36, "x""#, (false, false)),
        (schema(&person), "{\n\n\n", (false, false)),
        (object(), r#"{"a": [1, {"b": null}]}"#, (true, true)),
        (object(), "[", (false, false)),
        (schema(&json!(true)), "[1]", (true, true)),
        (schema(&json!({"enum": ["red", "green"]})), "\"green\"", (true, true)),
        (schema(&json!({"enum": ["red", "green"]})), "\"blue", (false, false)),
        (date(), "2024-11", (true, true)),
        (date(), "2024-1", (true, false)),
        (date(), "^", (false, false)),
        (sum(), "1+22", (true, true)),
        (sum(), "1+", (true, false)),
    ];
    for (constraint, text, wanted) in rows {
        assert_eq!(takes(constraint, text), wanted, "{text}");
    }
    assert!(factory.constraint(&OutputFormat::Text).unwrap().is_none());
}

#[test]
fn a_complete_text_is_finished_without_an_end_token() {
    let mut constraint = factory().json_schema(&json!({"const": "abc"})).unwrap();
    for byte in b"\"abc\"" {
        assert!(!constraint.is_finished());
        constraint.accept(i32::from(*byte));
    }
    assert!(constraint.is_finished());
    constraint.accept(i32::from(b'x'));
    assert_eq!(constraint.failed(), None);
}

#[test]
fn a_token_that_does_not_fit_ends_the_answer_by_an_error() {
    let mut constraint = factory().regex("ab*").unwrap();
    constraint.accept(i32::from(b'a'));
    constraint.accept(i32::from(b'c'));
    assert!(constraint.failed().unwrap().contains("format"), "{:?}", constraint.failed());
    assert!(!constraint.is_finished() && constraint.mask().is_none());
    let fork = constraint.fork();
    assert_eq!(fork.failed(), constraint.failed());
}

#[test]
fn ends_are_ignored_while_anything_else_may_follow() {
    let mut goes_on = factory().regex("ab*").unwrap().ignoring_ends();
    goes_on.accept(i32::from(b'a'));
    assert!(!goes_on.allows(END));
    assert!(!goes_on.mask().unwrap().is_allowed(END.cast_unsigned()));
    let mut ends = factory().regex("a").unwrap().ignoring_ends();
    ends.accept(i32::from(b'a'));
    assert!(ends.is_finished());
    assert!(ends.mask().unwrap().is_allowed(END.cast_unsigned()));
}

#[test]
fn forks_do_not_see_each_others_tokens() {
    let mut one = factory().regex("(ab|cd)").unwrap();
    let mut other = one.fork();
    one.accept(i32::from(b'a'));
    assert!(one.allows(i32::from(b'b')) && !other.allows(i32::from(b'b')));
    other.accept(i32::from(b'c'));
    assert!(other.allows(i32::from(b'd')) && !one.allows(i32::from(b'd')));
}

/// What a format does to a request: refused, or accepted and then an answer of at most some tokens.
/// Also the longest time that it keeps the engine's thread from other answers.
fn outcome(format: &OutputFormat) -> (Result<String, String>, Duration) {
    let factory = factory();
    let mut constraint = match factory.constraint(format) {
        Ok(constraint) => constraint.unwrap(),
        Err(refused) => return (Err(refused.to_string()), Duration::ZERO),
    };
    let mut text = String::new();
    let mut longest = Duration::ZERO;
    for n in 0..200_usize {
        let started = Instant::now();
        let mask = constraint.mask();
        longest = longest.max(started.elapsed());
        let Some(mask) = mask else { break };
        if constraint.is_finished() {
            break;
        }
        let allowed: Vec<usize> = (0..256).filter(|t| mask.get(*t)).collect();
        let Some(byte) = allowed.get(n * 7919 % allowed.len().max(1)) else { break };
        text.push(char::from(u8::try_from(*byte).unwrap()));
        constraint.accept(i32::try_from(*byte).unwrap());
        longest = longest.max(started.elapsed());
    }
    let failure = constraint.failed().map(|failure| format!("failed: {failure}"));
    (Ok(failure.unwrap_or(text)), longest)
}

fn schema(schema: Value) -> OutputFormat {
    OutputFormat::JsonSchema { schema }
}

fn regex(pattern: &str) -> OutputFormat {
    OutputFormat::Regex { pattern: pattern.to_owned() }
}

fn lark(grammar: impl Into<String>) -> OutputFormat {
    OutputFormat::Lark { grammar: grammar.into() }
}

#[test]
fn what_cannot_be_followed_is_refused_with_its_field_and_reason() {
    let deep = (0..200).fold(json!({}), |inner, _| json!({"items": inner}));
    let unproductive = json!({
        "type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"],
    });
    let rows = [
        (schema(json!({"type": "nonsense"})), "nonsense"),
        (schema(json!(false)), "format.schema"),
        (schema(json!([1, 2])), "object"),
        (schema(json!({"type": "integer", "minimum": 5, "maximum": 3})), "format.schema"),
        (schema(json!({"allOf": [{"const": 1}, {"const": 2}]})), "format.schema"),
        (schema(json!({"enum": []})), "format.schema"),
        (schema(unproductive), "format.schema"),
        (schema(json!({"type": "string", "pattern": "("})), "format.schema"),
        (schema(json!({"type": "array", "uniqueItems": true})), "uniqueItems"),
        (schema(json!({"if": {"const": 1}, "then": {"const": 2}})), "if"),
        (schema(json!({"$ref": "#/$defs/missing"})), "missing"),
        (schema(json!({"$ref": "http://127.0.0.1:1/schema.json"})), "format.schema"),
        (schema(json!({"$ref": "file:///etc/passwd"})), "format.schema"),
        (schema(json!({"const": "x".repeat(10_000_000)})), "bytes"),
        (schema(deep), "deep"),
        (regex("(a"), "format.pattern"),
        (regex("^$"), "empty"),
        (regex(""), "empty"),
        (regex(r"[^\x00-\x{10FFFF}]"), "format.pattern"),
        (regex(&"(a?)".repeat(10_000)), "bytes"),
        (lark("begin: \"a\""), "format.grammar"),
        (lark("start: missing"), "missing"),
        (lark(""), "format.grammar"),
        (lark("x".repeat(300_000)), "bytes"),
        (
            lark(format!("start: {}\"a\"{}", "(".repeat(50_000), ")".repeat(50_000))),
            "format.grammar",
        ),
    ];
    let mut wrong = Vec::new();
    for (format, wanted) in rows {
        let started = Instant::now();
        let (outcome, _) = outcome(&format);
        let took = started.elapsed();
        let label: String = format!("{format:?}").chars().take(120).collect();
        match outcome {
            Err(reason) if reason.contains(wanted) && reason.len() < 500 => {}
            other => wrong.push(format!("{label}: {other:?}")),
        }
        if took > Duration::from_secs(5) {
            wrong.push(format!("{label}: {took:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn formats_that_are_costly_cost_a_bounded_time() {
    let chain: serde_json::Map<String, Value> = (0..4900)
        .map(|n| (format!("d{n}"), json!({"$ref": format!("#/$defs/d{}", n + 1)})))
        .chain([("d4900".to_owned(), json!({"const": 1}))])
        .collect();
    let nested_chain: serde_json::Map<String, Value> = (0..1000)
        .map(|n| {
            let next = json!({"$ref": format!("#/$defs/d{}", n + 1)});
            (format!("d{n}"), json!({"properties": {"a": next}, "allOf": [next]}))
        })
        .chain([("d1000".to_owned(), json!({"const": 1}))])
        .collect();
    let any_of = |n| json!({"anyOf": (0..n).map(|i| json!({"const": i})).collect::<Vec<_>>()});
    let many = |n| (0..n).map(|i| format!("value {i}")).collect::<Vec<_>>();
    let properties = |count| -> serde_json::Map<String, Value> {
        (0..count).map(|n| (format!("p{n}"), json!({"type": "string"}))).collect()
    };
    let names: Vec<String> = properties(4900).into_iter().map(|(name, _)| name).collect();
    let rows = [
        schema(json!({"$ref": "#/$defs/d0", "$defs": chain})),
        schema(json!({"$ref": "#/$defs/d0", "$defs": nested_chain})),
        schema(json!({"$ref": "#"})),
        schema(json!({"allOf": [{"$ref": "#"}]})),
        schema(json!({"allOf": (0..8).map(|_| any_of(60)).collect::<Vec<_>>()})),
        schema(json!({"enum": many(15_000)})),
        schema(json!({"type": "object", "properties": properties(4900)})),
        schema(json!({"type": "object", "properties": properties(4900), "required": names})),
        schema(json!({"type": "object", "properties": properties(900)})),
        schema(json!({"anyOf": vec![json!({"type": "array"}); 4900]})),
        schema(
            json!({"anyOf": (0..4900).map(|n| json!({"minItems": n, "type": "array"})).collect::<Vec<_>>()}),
        ),
        schema(json!({"type": "string", "maxLength": 1_000_000_000})),
        schema(json!({"type": "string", "minLength": 1_000_000_000})),
        schema(json!({"type": "array", "minItems": 1_000_000_000})),
        schema(json!({"type": "array", "items": {"type": "integer"}, "maxItems": 1_000_000_000})),
        schema(json!({"type": "number", "multipleOf": 1e-300})),
        schema(json!({"type": "string", "pattern": "(a|b)*a(a|b){5000}"})),
        schema(
            json!({"type": "string", "pattern": "^(.*a.*b.*c.*)(.*d.*e.*f.*)$", "minLength": 500}),
        ),
        schema(json!({"x-guidance": {"whitespace_pattern": "(((a?){99}){99}){99}"}})),
        regex("(a|b)*a(a|b){1000}"),
        regex(r"(\w{1,1000}){1,1000}(\w{1,1000}){1,1000}"),
        regex("(((a{0,100}){0,100}){0,100}){0,100}"),
        regex(&"(a?)".repeat(4000)),
        schema(json!({"pattern": "(a?)".repeat(4000), "type": "string"})),
        regex(&format!("{}a{}", "(".repeat(5000), ")*".repeat(5000))),
        regex(r"(\p{L}|\p{N}){1,500}x(\p{L}|\p{N}){1,500}y"),
        lark(format!("start: {}", "a? ".repeat(5000)) + "\na: \"a\""),
        lark(format!("start: \"x\" {}", "a? ".repeat(5000)) + "\na: \"a\""),
        lark(format!("start: \"x\" ({})", "|a".repeat(8000)) + "\na: \"a\""),
        lark("start: a\na: a a | a a a | \"b\" | "),
        lark("start: a*\na: b?\nb: a | \"x\""),
        lark(format!("start: /{}/", "(x+x+)+y".repeat(200))),
        lark(
            (0..800).map(|n| format!("s{n}: s{} \"x\"", n + 1)).collect::<Vec<_>>().join("\n")
                + "\nstart: s0\ns800: \"y\"",
        ),
        lark("start: %regex {\"substring_chars\": \"abc\"}"),
        lark("start: %json {\"$ref\": \"#\"}"),
        lark("start: <|tool|> /[a-z]+/"),
        lark("start: x{1000000}\nx: \"abc\" | \"d\""),
    ];
    let mut slow = Vec::new();
    for format in rows {
        let label: String = format!("{format:?}").chars().take(110).collect();
        let started = Instant::now();
        let (outcome, longest) = outcome(&format);
        let took = started.elapsed();
        let shown: String = format!("{outcome:?}").chars().take(160).collect();
        println!("{took:?}, one token {longest:?}: {label} => {shown}");
        // Ten times what they take alone on one core.
        if took > Duration::from_secs(20) || longest > Duration::from_secs(2) {
            slow.push(format!("{took:?}, one token {longest:?}: {label}"));
        }
    }
    assert!(slow.is_empty(), "{slow:#?}");
}
