//! What comes out of queen, hive and worker is what llama.cpp's own loop makes.

use serde_json::json;
use test_cluster::Cluster;

use crate::bare_loop::Bare;
use crate::support::demo_model;

const PROMPT: &str = "The lighthouse keeper looked at the sea and";
const TOKENS: usize = 48;

#[tokio::test(flavor = "multi_thread")]
async fn greedy_text_through_the_whole_chain_is_that_of_llama_cpps_own_loop() {
    let engine_folder = llm_worker_rbee::engine::llama::engine_folder().unwrap();
    let bare = Bare::load(&demo_model(), &engine_folder);
    let mut context = bare.context(1, 2048, 1);
    let prompt = bare.tokenize(PROMPT);
    let answers = bare.greedy(&mut context, &[prompt], TOKENS, true);
    let wanted = bare.text(&answers[0]);

    let cluster = Cluster::builder().integrated().start().await.unwrap();
    cluster.import_demo_model().await.unwrap();
    let body = json!({
        "model": test_cluster::DEMO_ALIAS,
        "prompt": PROMPT,
        "temperature": 0,
        "max_tokens": TOKENS,
        "ignore_eos": true,
    });
    let answer = cluster.api().unwrap().post("/v1/completions", &body).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let text = answer.json().unwrap()["choices"][0]["text"].as_str().unwrap().to_owned();
    assert_eq!(text, wanted);
}
