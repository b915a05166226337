//! `POST /v1/embeddings`: the request, and the answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daemon_http::ApiError;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use worker_contract::{InferenceRequest, Prompt, RequestId, Task};

use super::Body;
use super::completions::read_tokens;
use super::error::{empty_array, invalid, too_long, wrong_type, wrong_value};
use super::fields::Fields;
use super::usage::InputUsage;

/// As many texts as OpenAI's API takes at once.
const MAX_INPUTS: usize = 2048;

/// A request for vectors, understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// The model as the client wrote it.
    pub model: String,
    /// What a worker is asked; its `model` is not set.
    pub request: InferenceRequest,
    /// How many vectors are asked for.
    pub inputs: usize,
    /// How vectors are written.
    pub encoding: Encoding,
    /// The length that vectors must have.
    pub dimensions: Option<u32>,
}

/// How a vector is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As an array of numbers.
    Float,
    /// As the base64 of its numbers' bytes, each 32 bits, little-endian.
    Base64,
}

/// Understands a request for vectors, or says which field is wrong.
pub fn read_embeddings(body: Body, request_id: RequestId) -> Result<Embeddings, ApiError> {
    let mut fields = Fields::new(body)?;
    let model = fields.required_text("model")?;
    let inputs = read_inputs(fields.required("input")?)?;
    let encoding = match fields.text("encoding_format")?.as_deref() {
        None | Some("float") => Encoding::Float,
        Some("base64") => Encoding::Base64,
        Some(other) => return Err(wrong_value("encoding_format", other, "'float' and 'base64'")),
    };
    let dimensions = fields.count("dimensions", 1)?;
    fields.harmless(&["user"]);
    // llama-server's number for the length 1, which vectors have here.
    fields.only("embd_normalize", |norm| *norm == json!(2), " but as 2")?;
    fields.finish()?;
    let count = inputs.len();
    let request = InferenceRequest::new(request_id, Task::Embed { inputs });
    Ok(Embeddings { model, request, inputs: count, encoding, dimensions })
}

/// A text, token ids, or an array of these.
fn read_inputs(input: Value) -> Result<Vec<Prompt>, ApiError> {
    const PARAM: &str = "input";
    let items = match input {
        Value::String(text) => return Ok(vec![read_text(PARAM, text)?]),
        Value::Array(items) => items,
        other => return Err(wrong_type(PARAM, "a string or an array", &other)),
    };
    match items.as_slice() {
        [] => return Err(empty_array(PARAM)),
        [Value::Number(_), ..] => return Ok(vec![Prompt::Tokens(read_tokens(PARAM, &items)?)]),
        _ if items.len() > MAX_INPUTS => return Err(too_long(PARAM, MAX_INPUTS, items.len())),
        _ => {}
    }
    let read = |(index, item)| {
        let path = format!("{PARAM}[{index}]");
        match item {
            Value::String(text) => read_text(&path, text),
            Value::Array(tokens) if tokens.is_empty() => Err(empty_array(&path)),
            Value::Array(tokens) => read_tokens(&path, &tokens).map(Prompt::Tokens),
            other => Err(wrong_type(&path, "a string or an array of token ids", &other)),
        }
    };
    items.into_iter().enumerate().map(read).collect()
}

fn read_text(path: &str, text: String) -> Result<Prompt, ApiError> {
    if text.is_empty() { Err(invalid(path, "it is empty")) } else { Ok(Prompt::Text(text)) }
}

/// Checks the length of a vector against the one that was asked for: a model has one, and shortened
/// vectors are worth something only with models that are trained for it.
pub fn check_dimensions(asked: Option<u32>, vector: &[f32]) -> Result<(), ApiError> {
    let Some(asked) = asked.filter(|asked| *asked as usize != vector.len()) else { return Ok(()) };
    let got = vector.len();
    let why = format!("this model's vectors have {got} dimensions, not {asked}; leave it out");
    Err(invalid("dimensions", &why))
}

/// The answer with the vectors of all inputs, in their order.
#[must_use]
pub fn embeddings<'a>(
    model: &'a str,
    vectors: &'a [Vec<f32>],
    encoding: Encoding,
    usage: worker_contract::Usage,
) -> impl Serialize + use<'a> {
    let written = |(index, numbers): (usize, &'a Vec<f32>)| Item {
        object: "embedding",
        index,
        embedding: Vector { numbers, encoding },
    };
    List {
        object: "list",
        data: vectors.iter().enumerate().map(written).collect(),
        model,
        usage: InputUsage::from(usage),
    }
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: Vec<Item<'a>>,
    model: &'a str,
    usage: InputUsage,
}

#[derive(Serialize)]
struct Item<'a> {
    object: &'static str,
    index: usize,
    embedding: Vector<'a>,
}

struct Vector<'a> {
    numbers: &'a [f32],
    encoding: Encoding,
}

impl Serialize for Vector<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.encoding {
            Encoding::Float => self.numbers.serialize(serializer),
            Encoding::Base64 => {
                let bytes: Vec<u8> = self.numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
                serializer.serialize_str(&STANDARD.encode(bytes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_texts_or_tokens_one_or_many() {
        let text = |text: &str| Prompt::Text(text.into());
        for (input, expected) in [
            (json!("a"), vec![text("a")]),
            (json!(["a", "b"]), vec![text("a"), text("b")]),
            (json!([1, 2]), vec![Prompt::Tokens(vec![1, 2])]),
            (json!([[1, 2], [3]]), vec![Prompt::Tokens(vec![1, 2]), Prompt::Tokens(vec![3])]),
            (json!(["a", [3]]), vec![text("a"), Prompt::Tokens(vec![3])]),
        ] {
            let read = read(json!({"input": input})).unwrap();
            assert_eq!(read.inputs, expected.len());
            assert_eq!(read.request.task, Task::Embed { inputs: expected });
            assert_eq!((read.encoding, read.dimensions), (Encoding::Float, None));
        }
        let options =
            json!({"input": "a", "encoding_format": "base64", "dimensions": 3, "user": "u"});
        let read = read(options).unwrap();
        assert_eq!((read.encoding, read.dimensions), (Encoding::Base64, Some(3)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (fields, code, param) in [
            (json!({}), "missing_required_parameter", "input"),
            (json!({"input": 5}), "invalid_type", "input"),
            (json!({"input": ""}), "invalid_value", "input"),
            (json!({"input": []}), "empty_array", "input"),
            (json!({"input": ["a", ""]}), "invalid_value", "input[1]"),
            (json!({"input": [[1], []]}), "empty_array", "input[1]"),
            (json!({"input": [1, "a"]}), "invalid_type", "input[1]"),
            (json!({"input": [[1, "a"]]}), "invalid_type", "input[0][1]"),
            (json!({"input": [{}]}), "invalid_type", "input[0]"),
            (json!({"input": vec!["a"; 2049]}), "array_above_max_length", "input"),
            (json!({"input": "a", "encoding_format": "hex"}), "invalid_value", "encoding_format"),
            (json!({"input": "a", "dimensions": 0}), "integer_below_min_value", "dimensions"),
            (
                json!({"input": "a", "embd_normalize": -1}),
                "unsupported_parameter",
                "embd_normalize",
            ),
            (json!({"input": "a", "stream": true}), "unknown_parameter", "stream"),
        ] {
            let error = read(fields.clone()).expect_err(&fields.to_string());
            assert_eq!(error.detail.code.as_deref(), Some(code), "{fields}: {error}");
            assert_eq!(error.detail.param.as_deref(), Some(param), "{fields}: {error}");
        }
        assert!(
            check_dimensions(Some(2), &[0.5, 0.5]).is_ok() && check_dimensions(None, &[]).is_ok()
        );
        let error = check_dimensions(Some(3), &[0.5, 0.5]).unwrap_err();
        assert!(error.detail.message.contains("2 dimensions, not 3"), "{error}");
    }

    #[test]
    fn vectors_are_written_as_the_api_reference_shows_them() {
        let usage = worker_contract::Usage { prompt_tokens: 7, ..Default::default() };
        let vectors = [vec![0.25, -1.0], vec![1.0, 0.0]];
        insta::assert_json_snapshot!(embeddings("m", &vectors, Encoding::Float, usage), @r#"
        {
          "object": "list",
          "data": [
            {
              "object": "embedding",
              "index": 0,
              "embedding": [
                0.25,
                -1.0
              ]
            },
            {
              "object": "embedding",
              "index": 1,
              "embedding": [
                1.0,
                0.0
              ]
            }
          ],
          "model": "m",
          "usage": {
            "prompt_tokens": 7,
            "total_tokens": 7
          }
        }
        "#);
        let packed =
            serde_json::to_value(embeddings("m", &vectors, Encoding::Base64, usage)).unwrap();
        assert_eq!(packed["data"][0]["embedding"], "AACAPgAAgL8=");
    }

    fn read(mut body: Value) -> Result<Embeddings, ApiError> {
        body["model"] = json!("m");
        let Value::Object(body) = body else { panic!("an object") };
        read_embeddings(body, "r-1".parse().unwrap())
    }
}
