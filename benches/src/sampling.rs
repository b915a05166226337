//! What it takes to choose a token, against llama.cpp's own chain of samplers on the same logits.

use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llm_worker_rbee::sampling::{Candidates, TokenSampler, choice_seed};
use worker_contract::Sampling;

use crate::figures::{median, table};

/// As many tokens as Qwen's models know.
const VOCABULARY: u32 = 151_936;
/// Tokens that are chosen in a round, and those before that are not counted.
const TURNS: usize = 40;
const WARM_UP: usize = 20;
/// Rows of logits, which take turns: one alone would stay in the cache.
const ROWS: u64 = 4;
/// Tokens of the prompt, and of the answer so far.
const PROMPT: i32 = 500;
const ANSWER: i32 = 64;

pub(crate) fn measure(rounds: usize) -> Result<String> {
    let logits: Vec<Vec<f32>> = (0..ROWS).map(noise).collect();
    let rows = settings().map(|(label, sampling)| compare(label, &sampling, &logits, rounds));
    let rows = rows.into_iter().collect::<Result<_>>()?;
    let title = format!("Choosing one of {VOCABULARY} tokens, µs");
    Ok(table(&title, &["sampling", "rbee", "llama.cpp's chain", "ratio (median)"], rows))
}

fn settings() -> [(&'static str, Sampling); 6] {
    let greedy = Sampling { temperature: Some(0.0), ..Sampling::default() };
    let open = Sampling {
        temperature: Some(1.0),
        top_k: Some(0),
        top_p: Some(1.0),
        min_p: Some(0.0),
        ..Sampling::default()
    };
    let logprobs = Sampling { logprobs: Some(5), ..greedy.clone() };
    let repeat = Sampling { repeat_penalty: Some(1.1), ..Sampling::default() };
    let nucleus = Sampling { top_k: Some(0), ..Sampling::default() };
    [
        ("greedy", greedy),
        ("greedy, logprobs 5", logprobs),
        ("default filters", Sampling::default()),
        ("default, repeat penalty", repeat),
        ("top_k 0, top_p 0.95", nucleus),
        ("no filter", open),
    ]
}

fn compare(
    label: &str,
    sampling: &Sampling,
    logits: &[Vec<f32>],
    rounds: usize,
) -> Result<Vec<String>> {
    let mut sampler = TokenSampler::new(sampling, 1, VOCABULARY, 4096);
    sampler.see_prompt(&(0..PROMPT).collect::<Vec<_>>());
    let mut chain = llama_chain(sampling)?;
    let mut room = Candidates::default();
    let mut array = LlamaTokenDataArray::new(Vec::new(), false);
    let (mut own, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..WARM_UP + rounds * TURNS {
        let logits = &logits[turn % logits.len()];
        let mine = micros(|| {
            black_box(sampler.choose(logits, turn as u64, &mut room));
        });
        let others = micros(|| {
            array.data.clear();
            array.sorted = false;
            array.data.extend((0..).zip(logits).map(candidate));
            array.apply_sampler(&mut chain);
            black_box(&array);
        });
        if turn >= WARM_UP {
            own.push(mine);
            theirs.push(others);
            ratios.push(mine / others);
        }
    }
    Ok(vec![
        label.to_owned(),
        format!("{:.0}", median(&own)),
        format!("{:.0}", median(&theirs)),
        format!("{:.3}", median(&ratios)),
    ])
}

/// llama.cpp's own chain for the same settings, with the answer so far.
fn llama_chain(sampling: &Sampling) -> Result<LlamaSampler> {
    let penalty = sampling.repeat_penalty.unwrap_or(1.0);
    let size = i32::try_from(VOCABULARY)?;
    let mut penalties = LlamaSampler::penalties(size, 64, penalty, 0.0, 0.0);
    for token in 0..ANSWER {
        penalties.accept(LlamaToken(token));
    }
    let samplers = [
        penalties,
        LlamaSampler::top_k(i32::try_from(sampling.top_k.unwrap_or(40))?),
        LlamaSampler::top_p(sampling.top_p.unwrap_or(0.95), 1),
        LlamaSampler::min_p(sampling.min_p.unwrap_or(0.05), 1),
    ];
    Ok(LlamaSampler::chain(samplers, true))
}

fn candidate((token, logit): (i32, &f32)) -> LlamaTokenData {
    LlamaTokenData::new(LlamaToken(token), *logit, 0.0)
}

/// Logits from -6 to 6 that are the same in each run.
fn noise(row: u64) -> Vec<f32> {
    let number = |token: u32| (choice_seed(row, token + 1) >> 40) as f32 / (1 << 24) as f32;
    (0..VOCABULARY).map(|token| number(token) * 12.0 - 6.0).collect()
}

fn micros(work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_secs_f64() * 1e6
}
