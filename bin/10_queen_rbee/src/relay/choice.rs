//! One of the answers to a request: which of its tokens were passed on, and whether it is over. Pure.

use worker_contract::{Delta, TokenId, TokenLogprobs, ToolCallDelta};

/// One answer.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// The tokens that were passed on.
    given: Vec<TokenId>,
    /// The text that was passed on.
    text: String,
    /// Whether more than text was passed on: reasoning or calls.
    has_more: bool,
    /// Whether it may be a message of its own, beside the one that it was to continue.
    stands_apart: bool,
    /// Whether a part was passed on whose tokens are not known, or not as those of this answer.
    lacks_tokens: bool,
    /// Tokens that stand for nothing yet.
    pending: Vec<TokenId>,
    pending_logprobs: Vec<TokenLogprobs>,
    /// How many calls have begun.
    calls: u32,
    /// Tokens that came, whether they stand for something or not.
    seen: u32,
    /// Those of them that were passed on.
    passed_on: u32,
    is_ended: bool,
}

/// A part that cannot come here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfOrder;

impl Choice {
    /// Takes a part; gives it on as soon as it says something, with the tokens of earlier ones that
    /// did not.
    ///
    /// Whoever tells no tokens is believed to give one with each part.
    pub(super) fn take(
        &mut self,
        mut delta: Delta,
        tells_tokens: bool,
    ) -> Result<Option<Delta>, OutOfOrder> {
        if self.is_ended {
            return Err(OutOfOrder);
        }
        self.check_calls(&delta.tool_calls)?;
        let says_something =
            !(delta.text.is_empty() && delta.reasoning.is_empty() && delta.tool_calls.is_empty());
        let tokens = if tells_tokens { delta.tokens.len() } else { usize::from(says_something) };
        self.seen = self.seen.saturating_add(u32::try_from(tokens).unwrap_or(u32::MAX));
        if !says_something {
            self.pending.append(&mut delta.tokens);
            self.pending_logprobs.append(&mut delta.logprobs);
            return Ok(None);
        }
        if !self.pending.is_empty() {
            put_before(&mut delta.tokens, &mut self.pending);
        }
        // A server tells them without tokens.
        if !self.pending_logprobs.is_empty() {
            put_before(&mut delta.logprobs, &mut self.pending_logprobs);
        }
        self.given.extend_from_slice(&delta.tokens);
        self.passed_on = self.seen;
        self.lacks_tokens |= !tells_tokens;
        self.has_more |= !(delta.reasoning.is_empty() && delta.tool_calls.is_empty());
        self.text.push_str(&delta.text);
        Ok(Some(delta))
    }

    /// Takes something that is neither text nor reasoning nor a call, and that no other can go on after.
    pub(super) fn take_beside(&mut self) -> Result<(), OutOfOrder> {
        if self.is_ended {
            return Err(OutOfOrder);
        }
        self.seen = self.seen.saturating_add(1);
        self.passed_on = self.seen;
        (self.lacks_tokens, self.has_more) = (true, true);
        Ok(())
    }

    /// What was said of the last tokens, which stand for no text, once it has ended. What a worker of rbee says of
    /// those is of a text that it was to stop at.
    pub(super) fn take_rest(&mut self) -> Option<Vec<TokenLogprobs>> {
        let is_rest = self.is_ended && self.pending.is_empty() && !self.pending_logprobs.is_empty();
        is_rest.then(|| std::mem::take(&mut self.pending_logprobs))
    }

    /// Ends it. False if it has ended already.
    pub(super) fn end(&mut self) -> bool {
        !std::mem::replace(&mut self.is_ended, true)
    }

    /// Whether it has ended.
    pub(super) fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// The tokens that were passed on.
    pub(super) fn given(&self) -> &[TokenId] {
        &self.given
    }

    /// Whether nothing of it was passed on.
    pub(super) fn is_untouched(&self) -> bool {
        self.passed_on == 0 && !self.is_ended
    }

    /// How many tokens were passed on, as far as one can tell.
    pub(super) fn passed_on(&self) -> u32 {
        self.passed_on
    }

    /// The text that was passed on, if it is all that was and stands where it was asked for.
    pub(super) fn text(&self) -> Option<&str> {
        (!self.has_more && !self.stands_apart).then_some(&self.text)
    }

    /// What was passed on may be a message of its own.
    pub(super) fn stand_apart(&mut self) {
        self.stands_apart = true;
    }

    /// Whether the tokens that were passed on are all of it.
    pub(super) fn has_tokens_of_all(&self) -> bool {
        !self.lacks_tokens
    }

    /// It is gone on with after its text: tokens that come are not those after the ones before.
    pub(super) fn leave_tokens(&mut self) {
        self.lacks_tokens = true;
    }

    /// How many tokens it has.
    pub(super) fn seen(&self) -> u32 {
        self.seen
    }

    /// Takes the worker's word for how many tokens it has.
    pub(super) fn has_tokens(&mut self, tokens: u32) {
        self.seen = tokens;
    }

    /// Drops what was not passed on: another worker makes it again.
    pub(super) fn forget_pending(&mut self) {
        if !self.is_ended {
            self.seen = self.passed_on;
        }
        self.pending.clear();
        self.pending_logprobs.clear();
    }

    /// A call begins with its id and its name, and calls begin in the order of their numbers.
    fn check_calls(&mut self, deltas: &[ToolCallDelta]) -> Result<(), OutOfOrder> {
        for delta in deltas {
            let begins = delta.id.is_some() && delta.name.is_some();
            match delta.index {
                index if index == self.calls && begins => self.calls += 1,
                index if index < self.calls && delta.id.is_none() && delta.name.is_none() => {}
                _ => return Err(OutOfOrder),
            }
        }
        Ok(())
    }
}

/// Moves all items of `first` before those of `items`.
fn put_before<T>(items: &mut Vec<T>, first: &mut Vec<T>) {
    first.append(items);
    std::mem::swap(items, first);
}

#[cfg(test)]
mod tests {
    use worker_contract::TokenLogprob;

    use super::*;

    #[test]
    fn what_says_nothing_yet_comes_with_what_does() {
        let mut choice = Choice::default();
        assert_eq!(choice.take(part("", 1), true), Ok(None));
        let given = choice.take(part("🐝", 2), true).unwrap().unwrap();
        assert_eq!(
            (given.tokens.as_slice(), choice.given()),
            ([1, 2].as_slice(), [1, 2].as_slice())
        );
        let tokens: Vec<_> = given.logprobs.iter().map(|entry| entry.chosen.token).collect();
        assert_eq!(tokens, [1, 2]);
        let reasoning = Delta { reasoning: "Hm".into(), ..part("", 3) };
        assert_eq!(choice.take(reasoning.clone(), true), Ok(Some(reasoning)));
        assert_eq!(choice.take(part("", 4), true), Ok(None));
        choice.forget_pending();
        assert_eq!(choice.take(part("x", 5), true).unwrap().unwrap().tokens, [5]);
        assert_eq!(choice.given(), [1, 2, 3, 5]);
    }

    #[test]
    fn log_probabilities_of_what_says_nothing_yet_come_with_what_does_where_no_tokens_are_told() {
        let untold = |text, token| Delta { tokens: Vec::new(), ..part(text, token) };
        let mut choice = Choice::default();
        for token in [1, 2] {
            assert_eq!(choice.take(untold("", token), false), Ok(None));
        }
        let given = choice.take(untold("🐝", 3), false).unwrap().unwrap();
        let of: Vec<_> = given.logprobs.iter().map(|entry| entry.chosen.token).collect();
        assert_eq!((of, given.tokens.len()), (vec![1, 2, 3], 0));
        let next = choice.take(untold("!", 4), false).unwrap().unwrap();
        assert_eq!(next.logprobs.len(), 1, "they come once");
        assert_eq!(choice.take(untold("", 5), false), Ok(None));
        choice.forget_pending();
        assert_eq!(choice.take(untold("?", 6), false).unwrap().unwrap().logprobs.len(), 1);
    }

    #[test]
    fn what_a_server_says_of_last_tokens_that_stand_for_nothing_comes_once_the_answer_has_ended() {
        let untold = |text, token| Delta { tokens: Vec::new(), ..part(text, token) };
        let mut choice = Choice::default();
        assert!(choice.take(untold("Hi", 1), false).unwrap().is_some());
        assert_eq!(choice.take(untold("", 2), false), Ok(None));
        assert_eq!(choice.take_rest(), None, "more may come");
        choice.end();
        let rest = choice.take_rest().unwrap();
        assert_eq!(rest.iter().map(|entry| entry.chosen.token).collect::<Vec<_>>(), [2]);
        assert_eq!(choice.take_rest(), None, "it comes once");

        let mut ours = Choice::default();
        assert_eq!(ours.take(part("", 1), true), Ok(None));
        ours.end();
        assert_eq!(ours.take_rest(), None, "of a text at which it was to stop");
    }

    #[test]
    fn nobody_goes_on_after_what_is_neither_text_nor_tokens() {
        let mut choice = Choice::default();
        choice.take_beside().unwrap();
        assert!(!choice.is_untouched() && choice.passed_on() == 1);
        assert!(choice.text().is_none() && !choice.has_tokens_of_all());
        choice.end();
        assert_eq!(choice.take_beside(), Err(OutOfOrder));
    }

    #[test]
    fn a_call_begins_once_with_id_and_name_and_in_order() {
        let begin = |index| call(index, Some("c"), Some("f"));
        let more = |index| call(index, None, None);
        let mut choice = Choice::default();
        for bad in [begin(1), more(0), call(0, Some("c"), None), call(0, None, Some("f"))] {
            assert_eq!(choice.take(bad, true), Err(OutOfOrder));
        }
        for good in [begin(0), more(0), begin(1), more(0), more(1)] {
            assert!(choice.take(good, true).unwrap().is_some());
        }
        for bad in [begin(0), begin(3), more(2)] {
            assert_eq!(choice.take(bad, true), Err(OutOfOrder));
        }
        assert!(choice.end() && !choice.end() && choice.is_ended());
        assert_eq!(choice.take(more(0), true), Err(OutOfOrder));
    }

    fn part(text: &str, token: TokenId) -> Delta {
        let chosen = TokenLogprob { token, logprob: -0.5, bytes: Vec::new() };
        Delta {
            text: text.into(),
            tokens: vec![token],
            logprobs: vec![TokenLogprobs { chosen, top: Vec::new() }],
            ..Delta::default()
        }
    }

    fn call(index: u32, id: Option<&str>, name: Option<&str>) -> Delta {
        let arguments = "{".to_owned();
        let (id, name) = (id.map(str::to_owned), name.map(str::to_owned));
        Delta { tool_calls: vec![ToolCallDelta { index, id, name, arguments }], ..Delta::default() }
    }
}
