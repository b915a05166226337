//! `POST /v1/rerank`: the request, and the answer. The API is not OpenAI's: it is Jina's, which
//! llama-server and vLLM serve too.

use daemon_http::ApiError;
use serde::Serialize;
use serde_json::Value;
use worker_contract::{InferenceRequest, RequestId, Task};

use super::Body;
use super::error::{empty_array, invalid, too_long, wrong_type};
use super::fields::Fields;
use super::usage::InputUsage;

/// How many documents one query can be answered by.
const MAX_DOCUMENTS: usize = 2048;

/// A request for the order of documents, understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Rerank {
    /// The model as the client wrote it.
    pub model: String,
    /// What a worker is asked; its `model` is not set.
    pub request: InferenceRequest,
    /// How many documents there are.
    pub documents: usize,
    /// How many of the best are told.
    pub top_n: usize,
    /// The documents, where they are to come back.
    pub returned: Option<Vec<String>>,
}

/// Understands a request for the order of documents, or says which field is wrong.
pub fn read_rerank(body: Body, request_id: RequestId) -> Result<Rerank, ApiError> {
    let mut fields = Fields::new(body)?;
    let model = fields.required_text("model")?;
    let query = fields.required_text("query")?;
    if query.is_empty() {
        return Err(invalid("query", "it is empty"));
    }
    let documents = read_documents(fields.required("documents")?)?;
    let top_n = fields.count("top_n", 1)?.map_or(documents.len(), |n| n as usize);
    let is_returned = fields.flag("return_documents")?;
    fields.harmless(&["user"]);
    fields.finish()?;
    let returned = is_returned.then(|| documents.clone());
    let count = documents.len();
    let request = InferenceRequest::new(request_id, Task::Rerank { query, documents });
    Ok(Rerank { model, request, documents: count, top_n, returned })
}

fn read_documents(documents: Value) -> Result<Vec<String>, ApiError> {
    const PARAM: &str = "documents";
    let items = match documents {
        Value::Array(items) if items.is_empty() => return Err(empty_array(PARAM)),
        Value::Array(items) if items.len() > MAX_DOCUMENTS => {
            return Err(too_long(PARAM, MAX_DOCUMENTS, items.len()));
        }
        Value::Array(items) => items,
        other => return Err(wrong_type(PARAM, "an array of strings", &other)),
    };
    let read = |(index, item)| {
        let path = format!("{PARAM}[{index}]");
        match item {
            Value::String(text) => Ok(text),
            item @ Value::Object(_) => {
                let mut fields = Fields::of(path, item)?;
                let text = fields.required_text("text")?;
                fields.finish().map(|()| text)
            }
            other => Err(wrong_type(&path, "a string or an object with 'text'", &other)),
        }
    };
    items.into_iter().enumerate().map(read).collect()
}

/// The answer: the best `top_n` of all documents, the best first, of which these are the scores.
#[must_use]
pub fn ranking<'a>(
    model: &'a str,
    scores: &[f32],
    top_n: usize,
    documents: Option<&'a [String]>,
    usage: worker_contract::Usage,
) -> impl Serialize + use<'a> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let result = |index: usize| Ranked {
        index,
        relevance_score: scores[index],
        document: documents.and_then(|all| all.get(index)).map(|text| Document { text }),
    };
    Ranking {
        object: "list",
        model,
        results: order.into_iter().take(top_n).map(result).collect(),
        usage: InputUsage::from(usage),
    }
}

#[derive(Serialize)]
struct Ranking<'a> {
    object: &'static str,
    model: &'a str,
    results: Vec<Ranked<'a>>,
    usage: InputUsage,
}

#[derive(Serialize)]
struct Ranked<'a> {
    index: usize,
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<Document<'a>>,
}

#[derive(Serialize)]
struct Document<'a> {
    text: &'a str,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_texts_or_objects_with_one() {
        let fields =
            json!({"query": "q", "documents": ["a", {"text": "b"}], "return_documents": true});
        let read = read(fields).unwrap();
        let documents = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!((read.documents, read.top_n), (2, 2));
        assert_eq!(read.returned.as_deref(), Some(documents.as_slice()));
        assert_eq!(read.request.task, Task::Rerank { query: "q".into(), documents });
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |documents: Value| json!({"query": "q", "documents": documents});
        for (fields, code, param) in [
            (json!({"documents": ["a"]}), "missing_required_parameter", "query"),
            (json!({"documents": ["a"], "query": ""}), "invalid_value", "query"),
            (json!({"query": "q"}), "missing_required_parameter", "documents"),
            (with(json!("a")), "invalid_type", "documents"),
            (with(json!([])), "empty_array", "documents"),
            (with(json!(vec!["a"; 2049])), "array_above_max_length", "documents"),
            (with(json!(["a", 5])), "invalid_type", "documents[1]"),
            (with(json!([{"title": "a"}])), "missing_required_parameter", "documents[0].text"),
            (with(json!([{"image": "a", "text": "b"}])), "unknown_parameter", "documents[0].image"),
            (
                json!({"query": "q", "documents": ["a"], "top_n": 0}),
                "integer_below_min_value",
                "top_n",
            ),
            (json!({"query": "q", "documents": ["a"], "topn": 1}), "unknown_parameter", "topn"),
        ] {
            let error = read(fields.clone()).expect_err(&fields.to_string());
            assert_eq!(error.detail.code.as_deref(), Some(code), "{fields}: {error}");
            assert_eq!(error.detail.param.as_deref(), Some(param), "{fields}: {error}");
        }
    }

    #[test]
    fn the_best_come_first_and_equals_in_their_order() {
        let usage = worker_contract::Usage { prompt_tokens: 7, ..Default::default() };
        let documents = ["a", "b", "c", "d"].map(str::to_owned);
        let scores = [0.25, -1.5, 0.75, 0.25];
        insta::assert_json_snapshot!(ranking("m", &scores, 3, Some(&documents), usage), @r#"
        {
          "object": "list",
          "model": "m",
          "results": [
            {
              "index": 2,
              "relevance_score": 0.75,
              "document": {
                "text": "c"
              }
            },
            {
              "index": 0,
              "relevance_score": 0.25,
              "document": {
                "text": "a"
              }
            },
            {
              "index": 3,
              "relevance_score": 0.25,
              "document": {
                "text": "d"
              }
            }
          ],
          "usage": {
            "prompt_tokens": 7,
            "total_tokens": 7
          }
        }
        "#);
        let bare = serde_json::to_value(ranking("m", &scores, 9, None, usage)).unwrap();
        let indices: Vec<_> =
            bare["results"].as_array().unwrap().iter().map(|r| &r["index"]).collect();
        assert_eq!(indices, [2, 0, 3, 1]);
        assert_eq!(bare["results"][0].get("document"), None);
    }

    fn read(mut body: Value) -> Result<Rerank, ApiError> {
        body["model"] = json!("m");
        let Value::Object(body) = body else { panic!("an object") };
        read_rerank(body, "r-1".parse().unwrap())
    }
}
