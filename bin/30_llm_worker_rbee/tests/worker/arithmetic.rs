//! What a sequence computes beside others differs only by rounding from what it computes alone.
//!
//! llama.cpp's results depend on the shape of a batch. So texts may part where two tokens are nearly
//! equally likely; here the same tokens are computed in different batches (teacher forcing), and
//! their logits are compared.

use llm_worker_rbee::engine::llama::LlamaEngine;
use llm_worker_rbee::engine::{BatchEntry, Engine as _};

use crate::support::model_here;

/// How far logits may be apart. Measured on the demo model (Q4_1): 1.5 at most, where logits span
/// about 40.
const TOLERANCE: f32 = 4.0;

const TEXT: &str = "The ferry crossed the bay every evening, and every evening it came back empty. \
    Nobody knew why the old captain kept the lamps burning, but the children of the village said \
    that he was waiting for someone. One night in March the wind turned, the fog came in from the \
    sea, and for the first time in years a passenger stood at the pier.";

#[test]
fn logits_in_mixed_batches_are_those_of_the_sequence_alone_up_to_rounding() {
    let (runtime, model, context) = model_here(4, 4096);
    let tokens = model.tokenize(&TEXT.repeat(2), false);
    assert!(tokens.len() > 120);

    let mut alone = LlamaEngine::new(&runtime, &model, context).unwrap();
    let wanted: Vec<Vec<f32>> = (0..tokens.len())
        .map(|n| {
            alone.step(&[entry(tokens[n], n, 0)]).unwrap();
            alone.logits(0).to_vec()
        })
        .collect();

    // The same tokens: a chunk of the prompt, then one by one; always beside three others that
    // decode or have a chunk of their own.
    let mut crowd = LlamaEngine::new(&runtime, &model, context).unwrap();
    let mut held = [0_usize; 4];
    let mut seen = 0;
    let mut largest = 0.0_f32;
    while held[0] < tokens.len() {
        let count = if held[0] == 0 { 100 } else { 1 };
        let mut batch: Vec<BatchEntry> = Vec::new();
        for other in [1_usize, 2] {
            batch.push(entry(tokens[held[other] % tokens.len()], held[other], other));
            held[other] += 1;
        }
        for _ in 0..(held[0] % 7) {
            batch.push(entry(tokens[(held[3] * 3) % tokens.len()], held[3], 3));
            held[3] += 1;
        }
        let first = batch.len();
        batch.extend((0..count).map(|n| entry(tokens[held[0] + n], held[0] + n, 0)));
        crowd.step(&batch).unwrap();
        for n in 0..count {
            let (got, wanted) = (crowd.logits(first + n), &wanted[held[0] + n]);
            let apart = got.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < TOLERANCE, "token {}: {apart}", held[0] + n);
            largest = largest.max(apart);
            let (top, other_top) = (likeliest(got), likeliest(wanted));
            let tie = (wanted[top] - wanted[other_top]).abs();
            assert!(top == other_top || tie < 2.0 * apart, "token {}: {tie}", held[0] + n);
            seen += 1;
        }
        held[0] += count;
    }
    assert_eq!(seen, tokens.len());
    println!("logits were at most {largest} apart");
}

fn entry(token: i32, position: usize, sequence: usize) -> BatchEntry {
    BatchEntry {
        token,
        position: u32::try_from(position).unwrap(),
        sequence: u32::try_from(sequence).unwrap(),
        wants_logits: true,
    }
}

fn likeliest(logits: &[f32]) -> usize {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.expect("there are logits").0
}
