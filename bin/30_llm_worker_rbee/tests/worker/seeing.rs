//! Images, with small models of random weights.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{ImageFormat, RgbImage};
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::mtmd::{
    MtmdBitmap, MtmdContext, MtmdContextParams, MtmdInputText, mtmd_default_marker,
};
use llama_cpp_2::sampling::LlamaSampler;
use serde_json::{Value, json};
use test_cluster::Cluster;

use crate::bare_loop::Bare;
use crate::support::{WorkerProcess, block_on, client, events, tokens};
use crate::tiny_vision::{Sight, write_pair};

const ANSWER: usize = 24;

/// A picture of its own for each `what`.
fn drawn(what: u8) -> RgbImage {
    let bytes = |x: u32, y: u32| [x, y, x ^ y].map(|n| n.to_le_bytes()[0].wrapping_mul(what | 1));
    RgbImage::from_fn(112, 84, |x, y| image::Rgb(bytes(x, y)))
}

fn png(what: u8) -> String {
    let mut bytes = std::io::Cursor::new(Vec::new());
    drawn(what).write_to(&mut bytes, ImageFormat::Png).unwrap();
    STANDARD.encode(bytes.into_inner())
}

/// A question with images in it: `(place, what)`.
fn asked(content: &str, images: &[(usize, u8)]) -> Value {
    let images = images.iter().map(|(at, what)| json!({"at": at, "data": png(*what)}));
    json!({
        "task": {"type": "chat", "messages": [
            {"role": "user", "content": content, "images": images.collect::<Vec<_>>()},
        ]},
        "sampling": {"temperature": 0, "max_tokens": ANSWER, "ignore_eos": true},
    })
}

fn worker(folder: &Path, sight: Sight, more: &[&str]) -> WorkerProcess {
    let (model, projector) = write_pair(folder, sight);
    let args = [&["--mmproj", projector.to_str().unwrap(), "--ctx-size", "4096"], more].concat();
    WorkerProcess::ready_with(&model, &args)
}

fn cached(events: &[Value]) -> u64 {
    events.last().unwrap()["usage"]["cached_tokens"].as_u64().unwrap()
}

/// llama.cpp's own way: all of the prompt by its helper, then token by token.
fn by_llama_cpp(folder: &Path, sight: Sight, prompt: &str, pictures: &[u8]) -> (usize, Vec<i64>) {
    let (model, projector) = write_pair(folder, sight);
    let engine_folder = llm_worker_rbee::engine::llama::engine_folder().unwrap();
    let bare = Bare::load(&model, &engine_folder);
    let params = MtmdContextParams { use_gpu: false, n_threads: 1, ..Default::default() };
    let projector = projector.to_str().unwrap();
    let mut eyes = MtmdContext::init_from_file(projector, &bare.model, &params).unwrap();
    let bitmaps: Vec<MtmdBitmap> = pictures
        .iter()
        .map(|what| MtmdBitmap::from_image_data(112, 84, drawn(*what).as_raw()).unwrap())
        .collect();
    let text = MtmdInputText { text: prompt.to_owned(), add_special: true, parse_special: true };
    let chunks = eyes.tokenize(text, &bitmaps.iter().collect::<Vec<_>>()).unwrap();
    let mut context = bare.context(1, 4096, 1);
    let end = chunks.eval_chunks(&mut eyes, &mut context, 0, 0, 512, true).unwrap();
    let (mut sampler, mut batch) = (LlamaSampler::greedy(), LlamaBatch::new(1, 1));
    let mut answer = Vec::new();
    for position in (end..).take(ANSWER) {
        let token = sampler.sample(&context, -1);
        answer.push(i64::from(token.0));
        batch.clear();
        batch.add(token, position, &[0], true).unwrap();
        context.decode(&mut batch).unwrap();
    }
    (chunks.total_tokens(), answer)
}

fn check_against_llama_cpp(sight: Sight) {
    let folder = tempfile::tempdir().unwrap();
    let mark = mtmd_default_marker();
    let prompt = format!("user: One {mark} and {mark}{mark}: what?\nassistant:");
    let (prompt_tokens, wanted) = by_llama_cpp(folder.path(), sight, &prompt, &[1, 2, 1]);
    let worker = worker(folder.path(), sight, &[]);
    let content = "One  and : what?";
    let got = worker.events(&asked(content, &[(4, 1), (9, 2), (9, 1)]));
    assert_eq!(tokens(&got), wanted, "{sight:?}");
    let usage = &got.last().unwrap()["usage"];
    assert_eq!(usage["prompt_tokens"], prompt_tokens, "{sight:?}");
}

#[test]
fn a_row_of_image_tokens_is_answered_as_by_llama_cpp_itself() {
    check_against_llama_cpp(Sight::Row);
}

#[test]
fn image_tokens_that_look_at_each_other_are_answered_as_by_llama_cpp_itself() {
    check_against_llama_cpp(Sight::Whole);
}

#[test]
fn an_image_on_a_plane_is_answered_as_by_llama_cpp_itself() {
    check_against_llama_cpp(Sight::Plane);
}

#[test]
fn an_image_that_was_seen_before_is_not_computed_again() {
    for sight in [Sight::Row, Sight::Whole, Sight::Plane] {
        let folder = tempfile::tempdir().unwrap();
        // All that was computed stays in the KV cache.
        let worker = worker(folder.path(), sight, &["--prompt-cache-mib", "0"]);
        let first = worker.events(&asked("What is  here?", &[(8, 3)]));
        assert_eq!(cached(&first), 0);
        let again = worker.events(&asked("What is  here?", &[(8, 3)]));
        assert_eq!(tokens(&again), tokens(&first), "{sight:?}");
        let all = first.last().unwrap()["usage"]["prompt_tokens"].as_u64().unwrap();
        assert_eq!(cached(&again), all - 1, "{sight:?}");
        // Up to the image, and not into it: the start token, text and, where the projector has one, its
        // mark of an image's beginning. The tokenizer writes spaces so, and puts one in front.
        let mark = match sight {
            Sight::Row => "",
            Sight::Whole => "▁<start_of_image>",
            Sight::Plane => "▁<|vision_start|>",
        };
        let before = ["▁user:▁What▁is▁", mark].concat().len() as u64 + 1;
        let other = worker.events(&asked("What is  here?", &[(8, 4)]));
        assert_eq!(cached(&other), before, "{sight:?}");
        assert_ne!(tokens(&other), tokens(&first), "{sight:?}");
        let longer = worker.events(&asked("What is  there, and why?", &[(8, 3)]));
        assert!(cached(&longer) > before, "{sight:?}: {longer:?}");
    }
}

#[test]
fn answers_about_images_are_the_same_alone_in_a_crowd_and_resumed() {
    for sight in [Sight::Row, Sight::Whole, Sight::Plane] {
        let folder = tempfile::tempdir().unwrap();
        let worker = worker(folder.path(), sight, &["--batch-invariant", "--slots", "3"]);
        let before = "Before. ".repeat(20);
        let of = |what: u8| asked(&format!("{before}Now: "), &[(before.len() + 5, what)]);
        let alone: Vec<_> = (0..4).map(|what| tokens(&worker.events(&of(what)))).collect();
        let url = format!("{}/v1/inference", worker.url);
        let crowd = [0, 1, 2, 3, 3, 2, 1, 0];
        let bodies = block_on(futures::future::join_all(crowd.iter().map(|what| {
            let request = client().post(&url).json(&of(*what));
            async move { request.send().await.unwrap().text().await.unwrap() }
        })));
        for (what, body) in crowd.into_iter().zip(bodies) {
            assert_eq!(tokens(&events(&body)), alone[usize::from(what)], "{sight:?}");
        }
        let mut cut = of(2);
        cut["resume"] = json!(alone[2][..9]);
        assert_eq!(tokens(&worker.events(&cut)), alone[2][9..], "{sight:?}");
    }
}

#[test]
fn what_cannot_be_seen_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let worker = worker(folder.path(), Sight::Row, &[]);
    let check = |body: &Value, code: &str, said: &str| {
        let (status, text) = worker.post(body);
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, answer["error"]["code"].as_str()), (400, Some(code)), "{text}");
        assert!(text.contains(said), "{text}");
    };
    let with = |data: Value| {
        let mut body = asked("x", &[(0, 1)]);
        body["task"]["messages"][0]["images"][0] = data;
        body
    };
    let broken = png(1)[..200].to_owned();
    check(&with(json!({"data": broken})), "invalid_image", "messages[0]");
    check(&with(json!({"data": "AAAA"})), "invalid_image", "no PNG");
    check(&with(json!({"data": "?"})), "invalid_image", "base64");
    check(&with(json!({"at": 5, "data": png(1)})), "invalid_image", "place");
    let mut by_assistant = asked("x", &[(0, 1)]);
    by_assistant["task"]["messages"][0]["role"] = json!("assistant");
    check(&by_assistant, "invalid_image", "only the user");
    let many: Vec<(usize, u8)> = vec![(0, 1); 65];
    check(&asked("x", &many), "invalid_image", "at most 64");
    // The worker goes on.
    assert_eq!(tokens(&worker.events(&asked("x", &[(1, 1)]))).len(), ANSWER);
}

#[test]
fn a_model_without_a_projector_says_that_it_sees_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (model, _) = write_pair(folder.path(), Sight::Row);
    let worker = WorkerProcess::ready_with(&model, &[]);
    let (status, text) = worker.post(&asked("x", &[(0, 1)]));
    assert_eq!(status, 400);
    assert!(text.contains("unsupported_image") && text.contains("--mmproj"), "{text}");
}

#[test]
fn a_file_that_is_no_projector_for_the_model_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let (model, projector) = write_pair(folder.path(), Sight::Row);
    let path = |file: &Path| file.to_str().unwrap().to_owned();
    let broken = folder.path().join("broken.gguf");
    let whole = std::fs::read(&projector).unwrap();
    std::fs::write(&broken, &whole[..whole.len() / 2]).unwrap();
    for (model, projector, said) in [
        (&model, path(&model), "is no projector"),
        (&model, path(&broken), "truncated"),
        (&model, "/nowhere.gguf".to_owned(), "cannot read"),
        (&crate::support::demo_model(), path(&projector), "mismatch between text model"),
    ] {
        let worker = WorkerProcess::start(model, &["--mmproj", &projector]);
        worker.wait_for_state("failed");
        let health = worker.health();
        assert!(health["reason"].as_str().unwrap().contains(said), "{health}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_openai_client_shows_an_image_through_the_whole_chain() {
    let folder = tempfile::tempdir().unwrap();
    let (model, projector) = write_pair(folder.path(), Sight::Plane);
    let cluster = Cluster::builder().integrated().start().await.unwrap();
    let (model, projector) = (model.to_str().unwrap(), projector.to_str().unwrap());
    let import = ["model", "import", model, "--alias", "tiny-vl", "--mmproj", projector];
    let import = cluster.keeper(import).await.unwrap();
    assert_eq!(import.code, Some(0), "{import:?}");
    let ask = |what: u8| {
        let url = format!("data:image/png;base64,{}", png(what));
        json!({
            "model": "tiny-vl",
            "messages": [{"role": "user", "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": url}},
            ]}],
            "temperature": 0, "max_tokens": 8, "ignore_eos": true, "logprobs": true,
        })
    };
    let mut answers = Vec::new();
    for what in [1, 2, 1] {
        let api = cluster.api().unwrap();
        let answer = api.post("/v1/chat/completions", &ask(what)).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        answers.push(answer.json().unwrap());
    }
    let shown = |n: usize| answers[n]["choices"][0]["logprobs"]["content"][0]["bytes"].clone();
    let tokens = |n: usize| answers[n]["usage"]["completion_tokens"].clone();
    assert_eq!((tokens(0), tokens(1)), (json!(8), json!(8)));
    let logprob = |n: usize| answers[n]["choices"][0]["logprobs"]["content"][0]["logprob"].clone();
    assert_ne!(logprob(0), logprob(1), "another image");
    assert_eq!((shown(0), logprob(0)), (shown(2), logprob(2)), "the same image");
}
