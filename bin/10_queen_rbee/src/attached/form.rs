//! The form that an answer must have, in a word that the server knows: others it passes over, and answers
//! as it likes. Pure.

use serde_json::{Value, json};
use worker_contract::OutputFormat;

use super::Engine;
use super::body::{Body, Endpoint};

/// OpenAI's word, which all know in conversations, and vLLM, whatever its age, in completions, too.
const OPENAIS: &str = "response_format";
/// llama-server's, the only one that it knows in completions.
const LLAMA_SERVERS: &str = "json_schema";

/// All fields that can say a form.
const FIELDS: [&str; 8] = [
    OPENAIS,
    LLAMA_SERVERS,
    "grammar",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
];

/// Writes a form of JSON so that the server holds to it. What the client wrote in OpenAI's words stays as it
/// is where they are understood; another queen understands all that this one does.
pub(super) fn write_form(
    body: &mut Body,
    endpoint: Endpoint,
    engine: Engine,
    format: &OutputFormat,
) {
    let is_own_word = endpoint == Endpoint::Completion && engine == Engine::LlamaServer;
    if engine == Engine::Rbee || !is_own_word && is_openais(body) {
        return;
    }
    let (name, form) = match format {
        OutputFormat::JsonSchema { schema } if is_own_word => (LLAMA_SERVERS, schema.clone()),
        OutputFormat::JsonObject if is_own_word => (LLAMA_SERVERS, json!({"type": "object"})),
        OutputFormat::JsonSchema { schema } => {
            let named = json!({"name": "answer", "schema": schema, "strict": true});
            (OPENAIS, json!({"type": "json_schema", "json_schema": named}))
        }
        OutputFormat::JsonObject => (OPENAIS, json!({"type": "json_object"})),
        // Grammars go to no server.
        OutputFormat::Text | OutputFormat::Regex { .. } | OutputFormat::Lark { .. } => return,
    };
    for field in FIELDS {
        body.remove(field);
    }
    body.insert(name.into(), form);
}

/// Whether the form is said as OpenAI has it: a schema right beside the type is another's word.
fn is_openais(body: &Body) -> bool {
    let Some(said) = body.get(OPENAIS) else { return false };
    match said["type"].as_str() {
        Some("json_schema") => said["json_schema"]["schema"].is_object(),
        Some("json_object") => said.get("schema").is_none_or(Value::is_null),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use worker_contract::RequestId;

    use super::*;
    use crate::dialect::openai::{read_chat, read_completion};

    #[test]
    fn a_form_is_said_in_the_word_that_the_server_knows() {
        let schema = json!({"type": "object", "properties": {"z": {}, "a": {}}});
        let openais =
            json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
        let ours = json!({"type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": true}});
        let of = |name: &str, form: &Value| json!({name: form});
        let (theirs, written) = (of(OPENAIS, &openais), of(OPENAIS, &ours));
        let object = of(OPENAIS, &json!({"type": "json_object"}));
        let (chat, completion) = (Endpoint::Chat, Endpoint::Completion);
        let (llama, ollama, vllm) = (Engine::LlamaServer, Engine::Ollama, Engine::Vllm);
        for (endpoint, engine, said, expected) in [
            (chat, llama, theirs.clone(), &theirs),
            (chat, ollama, theirs.clone(), &theirs),
            (chat, llama, json!({"guided_json": schema}), &written),
            (chat, vllm, json!({"guided_json": schema}), &written),
            (chat, Engine::Unknown, json!({"guided_json": schema.to_string()}), &written),
            (chat, llama, json!({"structured_outputs": {"json": schema}}), &written),
            (chat, Engine::LmStudio, json!({"json_schema": schema, "grammar": ""}), &written),
            (
                chat,
                ollama,
                of(OPENAIS, &json!({"type": "json_object", "schema": schema})),
                &written,
            ),
            (
                chat,
                ollama,
                of(OPENAIS, &json!({"type": "json_schema", "schema": schema})),
                &written,
            ),
            (chat, ollama, json!({"structured_outputs": {"json_object": true}}), &object),
            (chat, ollama, object.clone(), &object),
            (chat, Engine::Rbee, json!({"guided_json": schema}), &json!({"guided_json": schema})),
            (completion, vllm, theirs.clone(), &theirs),
            (completion, vllm, json!({"guided_json": schema}), &written),
            (completion, llama, theirs.clone(), &json!({"json_schema": schema})),
            (completion, llama, json!({"guided_json": schema}), &json!({"json_schema": schema})),
            (completion, llama, object.clone(), &json!({"json_schema": {"type": "object"}})),
            (chat, llama, json!({OPENAIS: {"type": "text"}}), &json!({OPENAIS: {"type": "text"}})),
            (chat, llama, json!({}), &json!({})),
        ] {
            let mut body = said.as_object().unwrap().clone();
            write_form(&mut body, endpoint, engine, &format(endpoint, &said));
            assert_eq!(Value::Object(body).to_string(), expected.to_string(), "{engine:?}: {said}");
        }
    }

    /// The form that a request asks for.
    fn format(endpoint: Endpoint, said: &Value) -> OutputFormat {
        let mut sent = said.as_object().unwrap().clone();
        sent.insert("model".into(), "m".into());
        let id = RequestId::random();
        if endpoint == Endpoint::Chat {
            sent.insert("messages".into(), json!([{"role": "user", "content": "Hi"}]));
            return read_chat(sent, id).unwrap().request.format;
        }
        sent.insert("prompt".into(), "Hi".into());
        read_completion(sent, id).unwrap().first.request.format
    }
}
