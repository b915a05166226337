//! The sampler as a whole, on small vocabularies.

use llama_cpp_2::token::LlamaToken;
use llguidance::toktrie::ApproximateTokEnv;
use proptest::prelude::*;
use serde_json::json;

use super::constraint::ConstraintFactory;
use super::*;

fn sampler(sampling: &Sampling) -> TokenSampler {
    TokenSampler::new(sampling, 7, 4, 64)
}

fn greedy() -> Sampling {
    Sampling { temperature: Some(0.0), ..Sampling::default() }
}

/// Everything that narrows the choice down is off.
fn open() -> Sampling {
    Sampling {
        temperature: Some(1.0),
        top_k: Some(0),
        top_p: Some(1.0),
        min_p: Some(0.0),
        ..Sampling::default()
    }
}

#[test]
fn temperature_zero_takes_the_likeliest_token() {
    let mut room = Candidates::default();
    assert_eq!(sampler(&greedy()).choose(&[0.0, 3.0, 1.0, 2.0], 0, &mut room).token, 1);
}

#[test]
fn the_same_seed_and_position_give_the_same_token() {
    let logits = [0.0, 0.1, 0.2, 0.3];
    let mut room = Candidates::default();
    let mut draw =
        |position| sampler(&Sampling::default()).choose(&logits, position, &mut room).token;
    let first: Vec<_> = (0..50).map(&mut draw).collect();
    let again: Vec<_> = (0..50).map(&mut draw).collect();
    assert_eq!(first, again);
    assert!(first.iter().any(|token| *token != first[0]), "{first:?}");
}

#[test]
fn top_k_one_leaves_no_choice() {
    let mut one = sampler(&Sampling { top_k: Some(1), ..Sampling::default() });
    let mut room = Candidates::default();
    for position in 0..50 {
        assert_eq!(one.choose(&[0.0, 0.3, 0.2, 0.1], position, &mut room).token, 1);
    }
}

#[test]
fn a_frequency_penalty_pushes_a_repeated_token_away() {
    let mut penal = sampler(&Sampling { frequency_penalty: Some(2.0), ..greedy() });
    let mut room = Candidates::default();
    assert_eq!(penal.choose(&[1.0, 0.0, 0.0, 0.0], 0, &mut room).token, 0);
    penal.see_answer(0);
    assert_eq!(penal.choose(&[1.0, 0.5, 0.0, 0.0], 1, &mut room).token, 1);
}

#[test]
fn a_prompt_counts_for_repetition_but_not_for_presence() {
    let mut room = Candidates::default();
    let mut repeat = sampler(&Sampling { repeat_penalty: Some(4.0), ..greedy() });
    repeat.see_prompt(&[0]);
    assert_eq!(repeat.choose(&[1.0, 0.5, 0.0, 0.0], 0, &mut room).token, 1);
    let mut presence = sampler(&Sampling { presence_penalty: Some(2.0), ..greedy() });
    presence.see_prompt(&[0]);
    assert_eq!(presence.choose(&[1.0, 0.5, 0.0, 0.0], 0, &mut room).token, 0);
}

#[test]
fn the_repetition_penalty_looks_as_far_back_as_it_is_told() {
    let mut room = Candidates::default();
    let mut choice = |last_n| {
        let repeat = Some(4.0);
        let mut sampler =
            sampler(&Sampling { repeat_penalty: repeat, repeat_last_n: last_n, ..greedy() });
        sampler.see_prompt(&[0, 2, 3]);
        sampler.choose(&[1.0, 0.5, 0.0, 0.0], 0, &mut room).token
    };
    assert_eq!((choice(Some(3)), choice(Some(2)), choice(Some(0)), choice(None)), (1, 0, 0, 1));
}

#[test]
fn a_bias_makes_a_token_sure_or_impossible() {
    let mut room = Candidates::default();
    let mut choice = |logit_bias, base: Sampling| {
        let mut sampler = sampler(&Sampling { logit_bias, ..base });
        sampler.choose(&[1.0, 0.9, 0.8, 0.7], 5, &mut room).token
    };
    for base in [greedy, open] {
        assert_eq!(choice(vec![(3, 100.0)], base()), 3);
        assert_eq!(choice(vec![(0, -100.0), (1, -100.0), (2, -100.0)], base()), 3);
    }
}

#[test]
fn xtc_excludes_at_some_positions_and_always_at_the_same() {
    let xtc = Sampling { xtc_probability: Some(0.5), xtc_threshold: Some(0.3), ..open() };
    // Token 0 has 60 %, token 1 has 40 %: both are likely, so XTC leaves only token 1.
    let logits = [0.6_f32.ln(), 0.4_f32.ln(), -50.0, -50.0];
    let mut room = Candidates::default();
    let mut run = || -> Vec<TokenId> {
        let mut sampler = sampler(&xtc);
        (0..4000).map(|position| sampler.choose(&logits, position, &mut room).token).collect()
    };
    let first = run();
    assert_eq!(first, run());
    let share = first.iter().filter(|token| **token == 0).count() as f64 / 4000.0;
    assert!((share - 0.3).abs() < 0.03, "{share}");
}

#[test]
fn log_probabilities_are_the_models_own_whatever_the_filters_do() {
    let base = Sampling { logprobs: Some(2), logit_bias: vec![(3, 100.0)], ..greedy() };
    let mut room = Candidates::default();
    let chosen = sampler(&base).choose(&[2.0, 1.0, 0.0, 0.0], 0, &mut room);
    let logprobs = chosen.logprobs.unwrap();
    assert_eq!((chosen.token, logprobs.chosen.token), (3, 3));
    let sum = 2.0_f32.exp() + 1.0_f32.exp() + 2.0;
    assert!((logprobs.chosen.logprob + sum.ln()).abs() < 1e-5, "{logprobs:?}");
    assert_eq!(logprobs.top.iter().map(|t| t.token).collect::<Vec<_>>(), [0, 1]);
    let none = sampler(&greedy()).choose(&[0.0; 4], 0, &mut room);
    assert_eq!(none.logprobs, None);
}

#[test]
fn logits_that_are_no_numbers_give_some_token_and_no_crash() {
    let mut room = Candidates::default();
    for base in [greedy(), open(), Sampling::default()] {
        for logits in [[f32::NAN; 4], [f32::NEG_INFINITY; 4], [f32::INFINITY; 4]] {
            let all = Sampling {
                typical_p: Some(0.5),
                xtc_probability: Some(1.0),
                logprobs: Some(3),
                ..base.clone()
            };
            let token = sampler(&all).choose(&logits, 0, &mut room).token;
            assert!((0..4).contains(&token), "{logits:?}");
        }
    }
}

/// llama.cpp's own chain for the same settings, on the whole vocabulary.
fn llama_chain(sampling: &Sampling, vocabulary: usize, answer: &[TokenId]) -> LlamaSampler {
    let size = i32::try_from(vocabulary).unwrap();
    let mut penalties = LlamaSampler::penalties(
        size,
        64,
        sampling.repeat_penalty.unwrap_or(1.0),
        sampling.frequency_penalty.unwrap_or(0.0),
        sampling.presence_penalty.unwrap_or(0.0),
    );
    for token in answer {
        penalties.accept(LlamaToken(*token));
    }
    let biases: Vec<_> = sampling
        .logit_bias
        .iter()
        .map(|(token, bias)| {
            llama_cpp_2::token::logit_bias::LlamaLogitBias::new(LlamaToken(*token), *bias)
        })
        .collect();
    LlamaSampler::chain(
        [
            LlamaSampler::logit_bias(size, &biases),
            penalties,
            LlamaSampler::top_k(i32::try_from(sampling.top_k.unwrap_or(40)).unwrap()),
            LlamaSampler::typical(sampling.typical_p.unwrap_or(1.0), 1),
            LlamaSampler::top_p(sampling.top_p.unwrap_or(0.95), 1),
            LlamaSampler::min_p(sampling.min_p.unwrap_or(0.05), 1),
        ],
        true,
    )
}

fn settings() -> impl Strategy<Value = Sampling> {
    let filters = (0_u32..150, 0.0_f32..=1.0, 0.0_f32..=0.5, prop::option::of(0.1_f32..0.99));
    let penalties = (
        prop::option::of(0.5_f32..2.0),
        prop::option::of(-2.0_f32..2.0),
        prop::option::of(-2.0_f32..2.0),
    );
    let bias = prop::collection::vec((0_i32..300, -5.0_f32..5.0), 0..4);
    (filters, penalties, bias).prop_map(|(filters, penalties, logit_bias)| Sampling {
        top_k: Some(filters.0),
        top_p: Some(filters.1),
        min_p: Some(filters.2),
        typical_p: filters.3,
        repeat_penalty: penalties.0,
        presence_penalty: penalties.1,
        frequency_penalty: penalties.2,
        logit_bias,
        ..Sampling::default()
    })
}

proptest! {
    #[test]
    fn the_candidates_are_those_of_llama_cpps_chain(
        sampling in settings(),
        logits in prop::collection::vec(-12.0_f32..12.0, 300),
        answer in prop::collection::vec(0_i32..300, 0..30),
    ) {
        let mut ours = TokenSampler::new(&sampling, 1, 300, 64);
        for token in &answer {
            ours.see_answer(*token);
        }
        let mut room = Candidates::default();
        ours.choose(&logits, 0, &mut room);
        let mut chain = llama_chain(&sampling, 300, &answer);
        let all = logits.iter().enumerate().map(|(index, logit)| select::candidate(index, *logit));
        let mut theirs = LlamaTokenDataArray::new(all.collect(), false);
        theirs.apply_sampler(&mut chain);
        let pairs = |array: &LlamaTokenDataArray| {
            let mut pairs: Vec<_> =
                array.data.iter().map(|c| (c.id().0, c.logit().to_bits())).collect();
            pairs.sort_unstable();
            pairs
        };
        prop_assert_eq!(pairs(&room.array), pairs(&theirs));
    }

    #[test]
    fn a_sampler_that_is_told_an_answers_beginning_goes_on_as_the_one_that_made_it(
        mut sampling in settings(),
        xtc in 0.0_f32..1.0,
        cut in 0_usize..20,
    ) {
        sampling.xtc_probability = Some(xtc);
        let logits = |position: usize| -> Vec<f32> {
            (0..300).map(|t| ((t * 31 + position * 17) % 101) as f32 / 20.0).collect()
        };
        let mut room = Candidates::default();
        let mut run = |known: &[TokenId], to: usize| {
            let mut sampler = TokenSampler::new(&sampling, 9, 300, 64);
            sampler.see_prompt(&[1, 2, 3]);
            for token in known {
                sampler.see_answer(*token);
            }
            let mut answer = known.to_vec();
            for position in known.len()..to {
                let token = sampler.choose(&logits(position), position as u64, &mut room).token;
                sampler.see_answer(token);
                answer.push(token);
            }
            answer
        };
        let whole = run(&[], 20);
        prop_assert_eq!(run(&whole[..cut], 20), whole);
    }
}

/// The end token of the vocabulary of single bytes.
const END: TokenId = 261;

/// How many tokens it has.
const BYTES: usize = 262;

/// Logits that follow from nothing but the position: a model that has no idea of JSON.
fn noise(position: usize, vocabulary: usize) -> Vec<f32> {
    let number = |token: usize| {
        let mixed = choice_seed(position as u64, u32::try_from(token).unwrap() + 1);
        (mixed >> 40) as f32 / (1 << 24) as f32
    };
    (0..vocabulary).map(|token| number(token) * 12.0 - 6.0).collect()
}

/// Runs a sampler until its grammar is complete.
fn run(mut sampler: TokenSampler, known: &[TokenId]) -> Vec<TokenId> {
    let mut room = Candidates::default();
    let mut answer = known.to_vec();
    for token in known {
        sampler.see_answer(*token);
    }
    while !sampler.is_finished() {
        assert!(answer.len() < 2000, "the answer does not end");
        let position = answer.len();
        let token = sampler.choose(&noise(position, BYTES), position as u64, &mut room).token;
        assert_eq!(sampler.failed(), None);
        if token == END {
            break;
        }
        sampler.see_answer(token);
        answer.push(token);
    }
    answer
}

fn text(tokens: &[TokenId]) -> String {
    String::from_utf8(tokens.iter().map(|t| u8::try_from(*t).unwrap()).collect()).unwrap()
}

#[test]
fn a_forced_text_comes_out_exactly_however_it_is_sampled_and_wherever_it_is_cut() {
    let factory = ConstraintFactory::new(&ApproximateTokEnv::single_byte_env()).unwrap();
    let forced: String = (0..120_u8).map(|n| char::from(b'a' + n * 7 % 26)).collect();
    let constraint = factory.json_schema(&json!({"const": forced})).unwrap();
    let warm = Sampling { temperature: Some(1.5), xtc_probability: Some(0.5), ..open() };
    for sampling in [greedy(), Sampling::default(), warm] {
        let sampler = TokenSampler::new(&sampling, 3, 262, 4096).with_constraint(constraint.fork());
        let whole = run(sampler.for_choice(3), &[]);
        assert_eq!(text(&whole), format!("\"{forced}\""));
        for cut in 0..=whole.len() {
            assert_eq!(run(sampler.for_choice(3), &whole[..cut]), whole, "cut at {cut}");
        }
    }
}

#[test]
fn a_free_text_in_a_format_is_the_same_wherever_it_is_cut() {
    let factory = ConstraintFactory::new(&ApproximateTokEnv::single_byte_env()).unwrap();
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 4},
            "n": {"type": "integer", "minimum": 0, "maximum": 999},
        },
        "required": ["name", "tags", "n"],
        "additionalProperties": false,
    });
    let constraint = factory.json_schema(&schema).unwrap();
    for (sampling, seed) in [(greedy(), 1), (Sampling::default(), 2), (open(), 3), (open(), 4)] {
        let sampler = TokenSampler::new(&sampling, seed, 262, 4096);
        let sampler = sampler.with_constraint(constraint.fork());
        let whole = run(sampler.for_choice(seed), &[]);
        let value: serde_json::Value = serde_json::from_slice(
            &whole.iter().map(|t| u8::try_from(*t).unwrap()).collect::<Vec<_>>(),
        )
        .unwrap();
        assert!(value["n"].as_u64().unwrap() < 1000, "{value}");
        for cut in 0..=whole.len() {
            assert_eq!(run(sampler.for_choice(seed), &whole[..cut]), whole, "cut at {cut}");
        }
    }
}

#[test]
fn greedy_with_a_grammar_takes_the_likeliest_of_all_that_it_allows() {
    let factory = ConstraintFactory::new(&ApproximateTokEnv::single_byte_env()).unwrap();
    let constraint = factory.json_schema(&json!({"type": "object"})).unwrap();
    let mut sampler = TokenSampler::new(&greedy(), 0, 262, 64).with_constraint(constraint.fork());
    let mut follower = constraint.fork();
    let mut room = Candidates::default();
    for position in 0..60 {
        let logits = noise(position, BYTES);
        let chosen = sampler.choose(&logits, 0, &mut room).token;
        assert_eq!(Some(chosen), follower.likeliest(&logits), "at {position}");
        if chosen == END {
            break;
        }
        sampler.see_answer(chosen);
        follower.accept(chosen);
    }
}

#[test]
fn answers_of_one_request_differ_and_each_can_be_made_alone() {
    let base = TokenSampler::new(&open(), 5, 262, 4096);
    let mut room = Candidates::default();
    let mut run = |seed| -> Vec<TokenId> {
        let mut sampler = base.for_choice(seed);
        let chosen = (0..20).map(|p| sampler.choose(&noise(p, 262), p as u64, &mut room).token);
        chosen.collect()
    };
    let first = run(choice_seed(5, 0));
    let second = run(choice_seed(5, 1));
    assert_ne!(first, second);
    assert_eq!(second, run(choice_seed(5, 1)));
}

#[test]
fn a_sampler_can_be_used_from_any_thread() {
    fn check<T: Send + Sync>() {}
    check::<TokenSampler>();
    check::<ConstraintFactory>();
}
