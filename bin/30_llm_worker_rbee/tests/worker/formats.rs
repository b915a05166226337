//! Answers that are held to a format, on the real model's vocabulary.

use std::collections::HashMap;

use llm_worker_rbee::engine::llama::{Model, Runtime};
use llm_worker_rbee::sampling::constraint::{Constraint, ConstraintFactory};
use llm_worker_rbee::sampling::{Candidates, Dry, TokenSampler};
use serde_json::{Value, json};
use worker_contract::{Sampling, TokenId};

use crate::support::{WorkerProcess, model_here, text, tokens};

fn load() -> (Runtime, Model) {
    let (runtime, model, _) = model_here(1, 512);
    (runtime, model)
}

/// Logits that follow from nothing but the position: a model that has no idea of any format.
#[derive(Default)]
struct Noise(HashMap<usize, Vec<f32>>);

impl Noise {
    fn at(&mut self, position: usize, vocabulary: u32) -> &[f32] {
        self.0.entry(position).or_insert_with(|| {
            let key = u32::try_from(position).unwrap() << 20;
            let mix = |token: u32| (token ^ key).wrapping_mul(0x9E37_79B9);
            let number = |token: u32| (mix(mix(token) >> 3) >> 8) as f32 / (1 << 24) as f32;
            (0..vocabulary).map(|token| number(token) * 20.0 - 10.0).collect()
        })
    }
}

/// Goes on after `known` until the grammar is complete.
fn run(
    model: &Model,
    noise: &mut Noise,
    sampling: &Sampling,
    constraint: Constraint,
    known: &[TokenId],
) -> Vec<TokenId> {
    let size = model.vocabulary_size();
    let mut sampler = TokenSampler::new(sampling, 11, size, 2048).with_constraint(constraint);
    let mut room = Candidates::default();
    let mut answer = known.to_vec();
    for token in known {
        sampler.see_answer(*token);
    }
    while !sampler.is_finished() {
        assert!(answer.len() < 1000, "the answer does not end");
        let logits = noise.at(answer.len(), size);
        let token = sampler.choose(logits, answer.len() as u64, &mut room).token;
        assert_eq!(sampler.failed(), None);
        if model.is_end(token) {
            break;
        }
        sampler.see_answer(token);
        answer.push(token);
    }
    answer
}

fn written(model: &Model, tokens: &[TokenId]) -> String {
    let pieces = tokens.iter().flat_map(|token| {
        let mut piece = Vec::new();
        model.append_piece(*token, false, &mut piece);
        piece
    });
    String::from_utf8(pieces.collect()).unwrap()
}

#[test]
fn a_forced_text_is_exact_on_a_real_vocabulary_wherever_it_is_cut() {
    let (_runtime, model) = load();
    let factory = ConstraintFactory::new(&model.token_environment().unwrap()).unwrap();
    let forced =
        "Żółw, 猫 & \"quotes\" \\ 0123456789 the quick brown fox; fn main() { let x = 1; }";
    let constraint = factory.json_schema(&json!({"const": {"a": forced, "b": [1, null]}})).unwrap();
    let mut noise = Noise::default();
    let greedy = Sampling { temperature: Some(0.0), ..Sampling::default() };
    let warm = Sampling {
        temperature: Some(2.0),
        top_k: Some(0),
        top_p: Some(1.0),
        min_p: Some(0.0),
        xtc_probability: Some(0.5),
        repeat_penalty: Some(1.5),
        ..Sampling::default()
    };
    for sampling in [greedy, Sampling::default(), warm] {
        let whole = run(&model, &mut noise, &sampling, constraint.fork(), &[]);
        let value: Value = serde_json::from_str(&written(&model, &whole)).unwrap();
        assert_eq!(value, json!({"a": forced, "b": [1, null]}));
        for cut in 0..=whole.len() {
            let again = run(&model, &mut noise, &sampling, constraint.fork(), &whole[..cut]);
            assert_eq!(again, whole, "cut at {cut}");
        }
    }
}

#[test]
fn dry_punishes_what_would_go_on_with_a_repetition_but_not_across_a_breaker() {
    let (_runtime, model) = load();
    let prompt = model.tokenize(" alpha beta gamma delta. Then alpha beta gamma", false);
    let delta = model.tokenize("gamma delta", false)[model.tokenize("gamma", false).len()];
    let mut logits = vec![0.0; model.vocabulary_size() as usize];
    logits[usize::try_from(delta).unwrap()] = 0.5;
    let choice = |breakers: &[&str]| {
        let sampling = Sampling {
            temperature: Some(0.0),
            dry_multiplier: Some(1.0),
            dry_sequence_breakers: Some(breakers.iter().map(|b| (*b).to_owned()).collect()),
            ..Sampling::default()
        };
        let dry = Dry::of(&sampling, 512).unwrap();
        let mut sampler = TokenSampler::new(&sampling, 0, model.vocabulary_size(), 512)
            .with_dry(model.dry_sampler(&dry), dry.last_n);
        sampler.see_prompt(&prompt);
        sampler.for_choice(1).choose(&logits, 0, &mut Candidates::default()).token
    };
    assert_ne!(choice(&["\n"]), delta);
    assert_eq!(choice(&["gamma"]), delta);
}

fn ask(format: Value, sampling: Value) -> Value {
    json!({
        "task": {"type": "chat", "messages": [{"role": "user", "content": "Describe a cat."}]},
        "format": format,
        "sampling": sampling,
    })
}

#[test]
fn the_worker_writes_what_a_schema_says() {
    let worker = WorkerProcess::ready(&["--slots", "1"]);
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "legs": {"type": "integer", "minimum": 0, "maximum": 9},
            "colour": {"enum": ["black", "white"]},
        },
        "required": ["name", "legs", "colour"],
        "additionalProperties": false,
    });
    let format = json!({"type": "json_schema", "schema": schema});
    for sampling in [json!({"temperature": 0}), json!({"temperature": 1.5, "seed": 4})] {
        let events = worker.events(&ask(format.clone(), sampling));
        let value: Value = serde_json::from_str(&text(&events)).unwrap();
        let colour = value["colour"].as_str().unwrap();
        assert!(["black", "white"].contains(&colour), "{value}");
        assert!(value["legs"].as_u64().unwrap() < 10, "{value}");
        assert_eq!(events.last().unwrap()["finish_reason"], "stop");
    }
    let pattern = ask(json!({"type": "regex", "pattern": "^(yes|no)$"}), json!({}));
    assert!(["yes", "no"].contains(&text(&worker.events(&pattern)).as_str()));
}

#[test]
fn a_forced_answer_resumes_at_every_token() {
    let worker = WorkerProcess::ready(&["--slots", "1"]);
    let format = json!({"type": "json_schema", "schema": {"const": "twelve Grün cats; 1, 2, 3"}});
    let mut ask = ask(format, json!({"temperature": 1.0, "seed": 9}));
    let events = worker.events(&ask);
    assert_eq!(text(&events), "\"twelve Grün cats; 1, 2, 3\"");
    let whole = tokens(&events);
    for cut in 0..whole.len() {
        ask["resume"] = json!(whole[..cut]);
        let rest = worker.events(&ask);
        assert_eq!(tokens(&rest), whole[cut..], "cut at {cut}");
    }
}

#[test]
fn formats_and_answers_that_cannot_be_made_are_refused_with_their_field() {
    let worker = WorkerProcess::ready(&["--slots", "1"]);
    let schema = |schema: Value| json!({"type": "json_schema", "schema": schema});
    let rows = [
        (schema(json!({"type": "nonsense"})), "format.schema", "nonsense"),
        (schema(json!({"enum": []})), "format.schema", "format.schema"),
        (schema(json!({"const": "x".repeat(300_000)})), "format.schema", "bytes"),
        (json!({"type": "regex", "pattern": "(a"}), "format.pattern", "(a"),
        (json!({"type": "lark", "grammar": "start: missing"}), "format.grammar", "missing"),
    ];
    for (format, field, wanted) in rows {
        let (status, body) = worker.post(&ask(format, json!({})));
        let error: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &error["error"]["param"]), (400, &json!(field)), "{body}");
        assert_eq!(error["error"]["code"], "invalid_format", "{body}");
        assert!(error["error"]["message"].as_str().unwrap().contains(wanted), "{body}");
    }
    let text = json!({"type": "text"});
    let sampling_rows = [
        (json!({"logit_bias": [[999_999_999, 1.0]]}), "logit_bias"),
        (json!({"logprobs": 21}), "logprobs"),
        (json!({"dry_base": 0.0}), "dry_base"),
    ];
    for (sampling, field) in sampling_rows {
        let (status, body) = worker.post(&ask(text.clone(), sampling));
        assert!(status == 400 && body.contains(field), "{status} {body}");
    }
    for (n, resume) in [(0, json!([])), (17, json!([])), (2, json!([1]))] {
        let mut body = ask(text.clone(), json!({}));
        body["n"] = json!(n);
        body["resume"] = resume;
        let (status, body) = worker.post(&body);
        assert!(status == 400 && body.contains("\"param\":\"n\""), "{status} {body}");
    }
}
