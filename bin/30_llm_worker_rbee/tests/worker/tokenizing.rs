//! Texts in parts: they have the tokens that llama.cpp gives the whole, in time that grows as they do, and are refused
//! or given up on the way.

use std::cell::Cell;
use std::time::{Duration, Instant};

use llm_worker_rbee::engine::llama::{Model, NotTokenized, Runtime, TokenCount};
use proptest::prelude::*;

use crate::support::{demo_model, model_here, model_of};

/// What a tokenizer may join with its neighbours, or a name with what is beside it.
const BETWEEN: [&str; 12] =
    [" ", "\n", "\n\n", "   ", "\t", "\u{b}", "▁", "<", ">", "|", "<s", "im_end|>"];

/// What a text is made of: some of `names`, and what stands between them.
fn texts(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    let word = prop_oneof![
        4 => proptest::sample::select(names).prop_map(str::to_owned),
        3 => proptest::sample::select(&BETWEEN[..]).prop_map(str::to_owned),
        3 => "[a-zA-Z]{1,8}",
        1 => "[0-9]{1,6}",
        1 => "\\PC{1,3}",
    ];
    proptest::collection::vec(word, 0..2500).prop_map(|words| words.concat())
}

fn check(model: &Model, names: &'static [&'static str]) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) };
    proptest!(config, |(text in texts(names), template_output: bool)| {
        let whole = model.tokenize(&text, template_output);
        let within = |most| model.tokenize_within(&text, template_output, most, || true);
        prop_assert_eq!(within(usize::MAX), Ok(whole.clone()));
        // What a text has at least is no more than it has.
        prop_assert_eq!(within(whole.len()), Ok(whole.clone()));
        if !whole.is_empty() {
            let refused = within(whole.len() - 1);
            prop_assert!(matches!(refused, Err(NotTokenized::TooLong(_))), "{:?}", refused);
        }
    });
}

#[test]
fn parts_have_the_tokens_of_the_whole() {
    let runtime = Runtime::init().unwrap();
    let demo = demo_model();
    let story = demo.with_file_name("stories260K.gguf");
    let (model, _) = model_of(&runtime, demo, 1, 512);
    check(
        &model,
        &["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<file_sep>", "<|im_start|>user\n"],
    );
    if story.is_file() {
        let (model, _) = model_of(&runtime, story, 1, 512);
        check(&model, &["<s>", "</s>", "<unk>", "<s> "]);
    }
    let (model, _) = model_of(&runtime, test_cluster::embedding_model().unwrap(), 1, 512);
    check(&model, &["[CLS]", "[SEP]", "[MASK]", "[UNK]"]);
}

#[test]
fn a_text_of_control_tokens_takes_time_as_it_is_long_and_is_given_up_on_the_way() {
    let (_runtime, model, _) = model_here(1, 512);
    let text = "<|im_start|>".repeat(100_000);
    let begun = Instant::now();
    let tokens = model.tokenize_within(&text, true, usize::MAX, || true).unwrap();
    assert_eq!(tokens.len(), 100_000);
    // By the square of their number it would be half a minute.
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    let asked = Cell::new(0);
    let given_up = model.tokenize_within(&text, true, usize::MAX, || {
        asked.set(asked.get() + 1);
        asked.get() < 3
    });
    assert_eq!((given_up, asked.get()), (Err(NotTokenized::GivenUp), 3));
}

#[test]
fn what_cannot_fit_is_refused_before_it_is_tokenized() {
    let (_runtime, model, _) = model_here(1, 512);
    let begun = Instant::now();
    for (text, least) in [("<|im_end|>".repeat(300_000), 300_000), ("x".repeat(50_000_000), 50_000)]
    {
        let refused = model.tokenize_within(&text, true, 8191, || panic!("it is not begun"));
        let Err(NotTokenized::TooLong(TokenCount::AtLeast(tokens))) = refused else {
            panic!("{refused:?}")
        };
        assert!(tokens >= least, "{tokens}");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
}
