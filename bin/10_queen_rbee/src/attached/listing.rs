//! `GET /v1/models` of a server: what it says. Pure.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Engine;
use super::chunk::if_it_is_one;

/// The most models of a list that are looked at.
const MAX_LISTED: usize = 4096;
/// The longest name of a model, in bytes.
const MAX_NAME: usize = 512;

/// What a server serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listing {
    /// What it is.
    pub(super) engine: Engine,
    /// Its models.
    pub(super) models: Vec<Listed>,
    /// How many more it has that were not looked at.
    pub(super) more: usize,
    /// What it says of itself, where it was asked.
    pub(super) told: Told,
    /// A model that is said to be loaded, by one that loads them as they are asked for.
    pub(super) loaded: Option<String>,
}

/// What a server says of itself beside its list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Told {
    /// It was not asked, or did not answer.
    #[default]
    NotAsked,
    /// It was asked, and told how many requests it runs at once, or nothing of that.
    Slots(Option<u32>),
}

/// A model of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listed {
    /// Its name there.
    pub(super) name: String,
    /// Its longest context, in tokens; 0 where the server does not tell.
    pub(super) context_length: u32,
}

/// Reads a list; `None` if it is none. What of it is no model is left out.
pub(super) fn read_listing(body: &[u8]) -> Option<Listing> {
    let page: Page = serde_json::from_slice(body).ok()?;
    // Ollama says null where it has no model.
    let entries = page.data.unwrap_or_default();
    let is_any = !entries.is_empty();
    let entries: Vec<Entry> = entries.into_iter().filter_map(Item::entry).collect();
    if is_any && entries.is_empty() {
        return None;
    }
    // Ollama calls the owner of kim/tale kim.
    let owners = entries.iter().filter_map(|entry| entry.owned_by.as_deref());
    let known = owners.map(Engine::by_owner).find(|engine| *engine != Engine::Unknown);
    let engine = known.unwrap_or_default();
    let loaded = entries.iter().find(|entry| entry.is_loaded()).map(|entry| entry.id.clone());
    let usable = |entry: &Entry| (1..=MAX_NAME).contains(&entry.id.len());
    let mut listed = entries.into_iter().filter(usable).map(|entry| {
        let of_meta = entry.meta.and_then(|meta| meta.n_ctx.or(meta.n_ctx_train));
        let context = entry.max_model_len.or(of_meta);
        Listed { name: entry.id, context_length: context.unwrap_or(0) }
    });
    let models = listed.by_ref().take(MAX_LISTED).collect();
    Some(Listing { engine, models, more: listed.count(), told: Told::NotAsked, loaded })
}

/// Whether somebody answers `GET /api/version` as Ollama does.
pub(super) fn is_ollamas_version(body: &[u8]) -> bool {
    serde_json::from_slice::<Version>(body).is_ok_and(|it| !it.version.is_empty())
}

/// Whether `GET /props` is that of a llama-server with several models, each with slots of its own.
pub(super) fn is_router(body: &[u8]) -> bool {
    serde_json::from_slice::<Props>(body).is_ok_and(|props| props.role.as_deref() == Some("router"))
}

/// Reads `GET /props` of llama-server: how many slots it has. One with several models does not say it there.
pub(super) fn read_slots(body: &[u8]) -> Option<u32> {
    let props: Props = serde_json::from_slice(body).ok()?;
    props.total_slots.filter(|slots| *slots > 0)
}

#[derive(Deserialize)]
struct Props {
    #[serde(default)]
    role: Option<String>,
    #[serde(default)]
    total_slots: Option<u32>,
}

#[derive(Deserialize)]
struct Version {
    version: String,
}

#[derive(Deserialize)]
struct Page {
    /// Without it, it is something else.
    #[serde(deserialize_with = "Option::deserialize")]
    data: Option<Vec<Item>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Item {
    Model(Entry),
    Other(IgnoredAny),
}

impl Item {
    fn entry(self) -> Option<Entry> {
        match self {
            Self::Model(entry) => Some(entry),
            Self::Other(IgnoredAny) => None,
        }
    }
}

#[derive(Deserialize)]
struct Entry {
    id: String,
    #[serde(default, deserialize_with = "if_it_is_one")]
    owned_by: Option<String>,
    /// vLLM's.
    #[serde(default, deserialize_with = "if_it_is_one")]
    max_model_len: Option<u32>,
    /// llama-server's.
    #[serde(default, deserialize_with = "if_it_is_one")]
    meta: Option<Meta>,
    /// That of a llama-server with several models. Others mean something else by it.
    #[serde(default)]
    status: Option<Value>,
}

impl Entry {
    fn is_loaded(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status["value"] == "loaded")
    }
}

#[derive(Deserialize)]
struct Meta {
    /// What each of its slots has.
    #[serde(default, deserialize_with = "if_it_is_one")]
    n_ctx: Option<u32>,
    /// What the model was trained for, which is all that older ones tell.
    #[serde(default, deserialize_with = "if_it_is_one")]
    n_ctx_train: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_of_known_servers_are_understood() {
        for (body, engine, names) in [
            (
                r#"{"object":"list","data":[{"id":"qwen2.5:7b","object":"model","created":1,"owned_by":"library"}]}"#,
                Engine::Ollama,
                vec![("qwen2.5:7b", 0)],
            ),
            (
                r#"{"object":"list","data":[{"id":"org/m","owned_by":"vllm","root":"org/m","max_model_len":4096,"permission":[]}]}"#,
                Engine::Vllm,
                vec![("org/m", 4096)],
            ),
            (
                r#"{"models":[],"data":[{"id":"m.gguf","owned_by":"llamacpp","meta":{"n_ctx_train":2048}}]}"#,
                Engine::LlamaServer,
                vec![("m.gguf", 2048)],
            ),
            (
                r#"{"data":[{"id":"m","owned_by":"llamacpp","meta":{"n_ctx":512,"n_ctx_train":2048}}]}"#,
                Engine::LlamaServer,
                vec![("m", 512)],
            ),
            (
                r#"{"data":[{"id":"a"},{"id":""},{"id":"b","owned_by":"organization_owner"}]}"#,
                Engine::LmStudio,
                vec![("a", 0), ("b", 0)],
            ),
            (
                r#"{"data":[{"id":"kim/tale:v1","owned_by":"kim"},{"id":"m:1","owned_by":"library"}]}"#,
                Engine::Ollama,
                vec![("kim/tale:v1", 0), ("m:1", 0)],
            ),
            (
                r#"{"data":[{"id":"kim/tale:v1","owned_by":"kim"}]}"#,
                Engine::Unknown,
                vec![("kim/tale:v1", 0)],
            ),
            (
                r#"{"data":[{"object":"model"},7,{"id":5},{"id":"a","owned_by":"vllm"},{"id":null}]}"#,
                Engine::Vllm,
                vec![("a", 0)],
            ),
            (r#"{"object":"list","data":null}"#, Engine::Unknown, vec![]),
        ] {
            let listing = read_listing(body.as_bytes()).unwrap();
            assert_eq!(listing.engine, engine);
            let found: Vec<_> =
                listing.models.iter().map(|m| (m.name.as_str(), m.context_length)).collect();
            assert_eq!(found, names);
        }
    }

    #[test]
    fn a_model_is_listed_whatever_is_said_of_it() {
        for (said, context) in [
            (r#""max_model_len":"4096""#, 0),
            (r#""max_model_len":4096.5"#, 0),
            (r#""max_model_len":-1"#, 0),
            (r#""max_model_len":10000000000,"meta":{"n_ctx":512}"#, 512),
            (r#""meta":512"#, 0),
            (r#""meta":{"n_ctx":"512","n_ctx_train":2048}"#, 2048),
            (r#""meta":{"n_ctx_train":-1}"#, 0),
            (r#""owned_by":["vllm"],"max_model_len":4096"#, 4096),
            (r#""owned_by":{"name":"vllm"}"#, 0),
        ] {
            let listing = read_listing(format!(r#"{{"data":[{{"id":"m",{said}}}]}}"#).as_bytes());
            let model = Listed { name: "m".into(), context_length: context };
            assert_eq!(listing.unwrap().models, [model], "{said}");
        }
    }

    #[test]
    fn of_a_very_long_list_the_rest_is_counted() {
        let entries: Vec<String> = (0..5000).map(|n| format!(r#"{{"id":"m{n}"}}"#)).collect();
        let body = format!(r#"{{"data":[{}]}}"#, entries.join(","));
        let listing = read_listing(body.as_bytes()).unwrap();
        assert_eq!((listing.models.len(), listing.more), (4096, 904));
    }

    #[test]
    fn the_slots_of_a_llama_server_are_those_that_it_tells() {
        for (body, expected) in [
            (r#"{"default_generation_settings":{"n_ctx":4096},"total_slots":2}"#, Some(2)),
            (r#"{"role":"router","max_instances":4}"#, None),
            (r#"{"total_slots":0}"#, None),
            (r#"{"total_slots":"2"}"#, None),
            ("<html>", None),
        ] {
            assert_eq!(read_slots(body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn of_several_models_the_first_that_is_loaded_is_told() {
        for (status, expected) in [
            (r#"{"value":"loaded","args":[]}"#, Some("b")),
            (r#"{"value":"unloaded"}"#, None),
            (r#""loaded""#, None),
            ("null", None),
        ] {
            let body = format!(
                r#"{{"data":[{{"id":"a","owned_by":"llamacpp","status":{{"value":"unloaded"}}}},
                {{"id":"b","owned_by":"llamacpp","status":{status}}}]}}"#
            );
            let listing = read_listing(body.as_bytes()).unwrap();
            assert_eq!(
                (listing.models.len(), listing.loaded.as_deref()),
                (2, expected),
                "{status}"
            );
        }
        assert!(is_router(br#"{"role":"router","max_instances":4}"#));
        assert!(!is_router(br#"{"total_slots":4}"#) && !is_router(br#"{"role":7}"#));
    }

    #[test]
    fn ollama_is_known_by_what_it_says_of_its_version() {
        for (body, expected) in [
            (r#"{"version":"0.33.0"}"#, true),
            (r#"{"version":""}"#, false),
            (r#"{"version":3}"#, false),
            (r#"{"error":"Unexpected endpoint or method. (GET /api/version)"}"#, false),
            ("<html>", false),
        ] {
            assert_eq!(is_ollamas_version(body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn what_is_no_list_is_none() {
        for body in ["", "<html>", "{}", "[]", r#"{"data":{}}"#, r#"{"data":[{"name":"m"}]}"#] {
            assert_eq!(read_listing(body.as_bytes()), None, "{body}");
        }
    }
}
