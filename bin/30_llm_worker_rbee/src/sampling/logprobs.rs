//! How likely the chosen token and others were.

use llama_cpp_2::token::data::LlamaTokenData;
use worker_contract::{TokenId, TokenLogprob, TokenLogprobs};

use super::select::{Top, largest};
use super::softmax::log_sum_exp;

/// What stands for an impossible token: JSON has no infinity. OpenAI's API has the same value.
const IMPOSSIBLE: f32 = -9999.0;

/// The log probabilities of `chosen` and of the `top` likeliest tokens by the model's own logits;
/// `room` is overwritten.
pub(super) fn logprobs(
    logits: &[f32],
    chosen: TokenId,
    top: usize,
    room: &mut Vec<LlamaTokenData>,
) -> TokenLogprobs {
    let sum = log_sum_exp(logits, largest(logits));
    let entry = |token: TokenId, logit: f32| {
        #[expect(clippy::cast_possible_truncation, reason = "f32 is what the contract promises")]
        let logprob = (f64::from(logit) - sum) as f32;
        // Also what is no number becomes impossible.
        let logprob = if logprob > IMPOSSIBLE { logprob.min(0.0) } else { IMPOSSIBLE };
        TokenLogprob { token, logprob, bytes: Vec::new() }
    };
    let logit = usize::try_from(chosen).ok().and_then(|index| logits.get(index));
    let mut likeliest = Top::new(top, room);
    if top > 0 {
        likeliest.offer_all(logits);
    }
    likeliest.finish();
    TokenLogprobs {
        chosen: entry(chosen, logit.copied().unwrap_or(f32::NEG_INFINITY)),
        top: room.iter().map(|c| entry(c.id().0, c.logit())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_the_softmax_of_the_logits() {
        let logits = [1.0_f32, 2.0, 3.0, f32::NEG_INFINITY];
        let found = logprobs(&logits, 0, 2, &mut Vec::new());
        let sum = 1.0_f32.exp() + 2.0_f32.exp() + 3.0_f32.exp();
        let wanted = |logit: f32| (logit.exp() / sum).ln();
        let check = |entry: &TokenLogprob, token: TokenId, logit: f32| {
            assert_eq!(entry.token, token);
            assert!((entry.logprob - wanted(logit)).abs() < 1e-5, "{entry:?}");
        };
        check(&found.chosen, 0, 1.0);
        assert_eq!(found.top.len(), 2);
        check(&found.top[0], 2, 3.0);
        check(&found.top[1], 1, 2.0);
    }

    #[test]
    fn an_impossible_token_has_a_number_that_json_can_write() {
        for logits in [[0.0, f32::NEG_INFINITY], [f32::NAN; 2], [f32::NEG_INFINITY; 2]] {
            let found = logprobs(&logits, 1, 0, &mut Vec::new());
            assert_eq!(found.chosen.logprob.to_bits(), IMPOSSIBLE.to_bits(), "{logits:?}");
            assert!(found.top.is_empty());
        }
    }
}
