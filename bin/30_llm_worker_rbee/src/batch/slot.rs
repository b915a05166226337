//! The state of one running answer.

use std::sync::Arc;
use std::time::Instant;

use worker_contract::{Delta, FinishReason, InferenceEvent, TokenId, TokenLogprob, TokenLogprobs};

use super::draft::{Drafter, Luck};
use super::draft_model::Wanted;
use super::reply::{Ended, Reply};
use super::request::{Choice, Prepared};
use super::sequences::SequenceId;
use super::step::{NextImage, Sequence};
use crate::engine::MediaPart;
use crate::media::{Placed, is_media, positions};
use crate::metrics::Metrics;
use crate::sampling::Candidates;
use crate::text::{Ending, StopMatch, StopTexts, Utf8Stream};

/// What a slot needs to know of the model to turn tokens into text.
pub trait TextModel {
    /// Appends a token's bytes. Control tokens have some only where `with_control` is set.
    fn append_piece(&self, token: TokenId, with_control: bool, bytes: &mut Vec<u8>);
    /// Whether a token ends the text.
    fn is_end(&self, token: TokenId) -> bool;
}

impl TextModel for crate::engine::llama::Model {
    fn append_piece(&self, token: TokenId, with_control: bool, bytes: &mut Vec<u8>) {
        Self::append_piece(self, token, with_control, bytes);
    }
    fn is_end(&self, token: TokenId) -> bool {
        Self::is_end(self, token)
    }
}

/// One answer with its tokens and its text.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) reply: Arc<Reply>,
    choice: Choice,
    is_first: bool,
    /// Prompt and answer.
    tokens: Vec<TokenId>,
    /// The longest that `tokens` may become.
    context_length: usize,
    pub(super) serial: u64,
    /// The sequence that it computes in; `None` while it waits for another one's prefix.
    pub(super) sequence: Option<SequenceId>,
    /// The images among `tokens`, in their order.
    media: Arc<[Placed]>,
    /// How many of `tokens` are in the KV cache.
    pub(super) held: usize,
    /// The position behind those.
    pub(super) position: u32,
    utf8: Utf8Stream,
    stops: StopTexts,
    /// A token's text, kept for its room.
    piece: String,
    /// Text behind the stop texts, kept for its room.
    passed: String,
    /// What is to be shown next.
    delta: Delta,
    drafter: Option<Drafter>,
    /// How often a second model was right.
    model_luck: Luck,
    is_guess_of_model: bool,
    pub(super) guess: Vec<TokenId>,
    drafted: usize,
    accepted: usize,
    /// When its last token was chosen.
    decoded: Option<Instant>,
    /// Whether the tokens that the client already has are the whole answer.
    is_complete: bool,
}

/// What came of a step for one answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Tokens that were sampled.
    pub(super) tokens: usize,
    /// Guesses that were right.
    pub(super) accepted: usize,
    /// How the answer ended, if it did.
    pub(super) ended: Option<End>,
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// As it should.
    Finished(FinishReason),
    /// By an error: the form that it must have cannot be kept.
    Failed,
}

/// The slots of a request, one for each of its answers, which have computed nothing.
///
/// Tokens that the client already has pass through detokenizer, stop texts and penalties as if they
/// had just been made, and are not shown again.
pub(super) fn slots(
    request: Prepared,
    model: &impl TextModel,
    metrics: Metrics,
    context_length: u32,
    drafts: bool,
) -> Vec<Slot> {
    let media = Arc::clone(&request.media);
    let (reply, prompt, choices) = Reply::of(request, metrics);
    let reply = Arc::new(reply);
    let choices = choices.into_iter().enumerate();
    let slots = choices.map(|(number, mut choice)| {
        let resume = std::mem::take(&mut choice.resume);
        let mut slot = Slot {
            stops: StopTexts::new(reply.ends.stop.clone()),
            reply: Arc::clone(&reply),
            choice,
            is_first: number == 0,
            tokens: prompt.clone(),
            media: Arc::clone(&media),
            context_length: context_length as usize,
            serial: 0,
            sequence: None,
            held: 0,
            position: 0,
            utf8: Utf8Stream::default(),
            piece: String::new(),
            passed: String::new(),
            delta: Delta::default(),
            drafter: drafts.then(Drafter::default),
            model_luck: Luck::default(),
            is_guess_of_model: false,
            guess: Vec::new(),
            drafted: 0,
            accepted: 0,
            decoded: None,
            is_complete: false,
        };
        for token in resume {
            let stop = slot.take(token, None, model);
            let is_end = model.is_end(token) && !slot.reply.ends.ignore_eos;
            slot.is_complete = stop == StopMatch::Found || is_end;
            if slot.is_complete {
                break;
            }
        }
        slot.is_complete |= slot.choice.sampler.is_finished();
        slot.delta = slot.empty_delta();
        slot
    });
    slots.collect()
}

impl Slot {
    pub(super) fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// The tokens that are not in the KV cache yet, up to the next image.
    pub(super) fn pending(&self) -> &[TokenId] {
        let image = self.next_image();
        &self.tokens[self.held..image.map_or(self.tokens.len(), |image| image.at.max(self.held))]
    }

    /// The image that comes next or is computed in part.
    pub(super) fn next_image(&self) -> Option<&Placed> {
        self.media.iter().find(|image| image.end() > self.held)
    }

    /// Whether there is an image in the prompt.
    pub(super) fn has_images(&self) -> bool {
        !self.media.is_empty()
    }

    /// Takes note that the KV cache holds the first `held` of the tokens.
    pub(super) fn hold(&mut self, held: usize) {
        self.position = positions(&self.tokens[..held]);
        self.held = held;
    }

    /// Takes note that it holds `more` tokens of text.
    pub(super) fn hold_text(&mut self, more: usize) {
        self.held += more;
        self.position += u32::try_from(more).unwrap_or(u32::MAX);
    }

    /// What the engine computes next, where the first of `places` are an image's.
    pub(super) fn image_part(&self, places: usize) -> Option<MediaPart<'_>> {
        let image = self.next_image()?;
        let from = self.held.checked_sub(image.at)?;
        Some(MediaPart {
            media: &image.media,
            places: from..from + places,
            position: positions(&self.tokens[..image.at]),
            sequence: self.sequence?,
        })
    }

    /// The tokens that can be taken from elsewhere: the last one must be computed, for its logits.
    pub(super) fn reusable(&self) -> &[TokenId] {
        &self.tokens[..self.tokens.len().saturating_sub(1)]
    }

    /// Those of them that are computed in chunks.
    pub(super) fn reusable_prompt(&self) -> &[TokenId] {
        let reusable = self.reusable();
        &reusable[..reusable.len().min(self.reply.prompt_tokens)]
    }

    /// Why the answer ends before anything is computed for it, if it does.
    pub(super) fn ends_at_once(&self) -> Option<FinishReason> {
        if self.is_complete {
            return Some(self.stop_reason());
        }
        (self.may_add() == 0).then_some(FinishReason::Length)
    }

    /// The most tokens that the answer may still get.
    pub(super) fn may_add(&self) -> usize {
        let most = self.reply.ends.max_tokens;
        let left =
            most.map_or(usize::MAX, |most| (most as usize).saturating_sub(self.answer_len()));
        left.min(self.context_length.saturating_sub(self.tokens.len()))
    }

    /// What a step is planned by.
    pub(super) fn as_sequence(&self, slot: usize) -> Sequence {
        let pending = self.pending().len();
        let image = self
            .next_image()
            .filter(|_| pending == 0)
            .map(|image| NextImage { left: image.end() - self.held, whole: image.media.whole });
        let left = image.map_or(0, |image| image.left);
        Sequence {
            slot,
            serial: self.serial,
            pending,
            image,
            behind: self.tokens.len() - self.held - pending - left,
            held: self.held,
            prompt: self.reply.prompt_tokens,
            guessed: self.guess.len(),
            rests: self.sequence.is_none() || self.reply.is_behind(),
        }
    }

    /// Guesses the next tokens, at most `most`; `cost` is what each adds to a step, as a part of it.
    pub(super) fn draft(&mut self, most: usize, cost: f32) {
        self.guess.clear();
        self.is_guess_of_model = false;
        let most = most.min(self.may_add().saturating_sub(1));
        if let (Some(drafter), 1) = (&mut self.drafter, self.tokens.len() - self.held) {
            drafter.propose(&self.tokens, most, cost, &mut self.guess);
            let text = self.guess.iter().take_while(|token| !is_media(**token)).count();
            self.guess.truncate(text);
        }
    }

    /// What a second model is to guess for the slot `index`, where nothing was guessed yet.
    pub(super) fn wanted_of_model(
        &mut self,
        index: usize,
        most: usize,
        cost: f32,
    ) -> Option<Wanted<'_>> {
        let most = most.min(self.may_add().saturating_sub(1));
        let is_decoding = self.tokens.len() - self.held == 1;
        // The second model does not see the images.
        let may_guess = is_decoding && !self.has_images() && !self.model_luck.rests();
        if !self.guess.is_empty() || !may_guess {
            return None;
        }
        let most = self.model_luck.count(most, cost);
        self.is_guess_of_model = true;
        let guess = &mut self.guess;
        (most > 0).then_some(Wanted { slot: index, tokens: &self.tokens, most, guess })
    }

    /// Chooses the next token after each row, as long as the guess was right, and sends what can be
    /// shown. The last pending token's logits are the first row.
    pub(super) fn decode(
        &mut self,
        rows: &[&[f32]],
        model: &impl TextModel,
        room: &mut Candidates,
        now: Instant,
    ) -> Outcome {
        self.reply.sampled(now);
        let mut outcome = Outcome::default();
        for (number, logits) in rows.iter().enumerate() {
            let position = self.answer_len() as u64;
            let chosen = self.choice.sampler.choose(logits, position, room);
            if self.has_failed() {
                outcome.ended = Some(End::Failed);
                break;
            }
            outcome.tokens += 1;
            outcome.ended = self.after(chosen.token, chosen.logprobs, model);
            let guess = self.guess.get(number).filter(|_| number + 1 < rows.len());
            if outcome.ended.is_some() || guess != Some(&chosen.token) {
                break;
            }
            outcome.accepted += 1;
        }
        let guessed = rows.len() - 1;
        // A guess behind the answer's end was neither right nor wrong.
        let judged = if outcome.ended.is_some() { outcome.accepted } else { guessed };
        if self.is_guess_of_model {
            self.model_luck.learn(judged, outcome.accepted);
        } else if let Some(drafter) = &mut self.drafter {
            drafter.learn(judged, outcome.accepted);
        }
        let since = self.decoded.replace(now).map(|last| now.saturating_duration_since(last));
        self.reply.metrics.tokens(outcome.tokens, guessed, outcome.accepted, since);
        self.drafted += guessed;
        self.accepted += outcome.accepted;
        match outcome.ended {
            Some(End::Finished(reason)) => self.end(reason, now),
            None if has_content(&self.delta) => self.show(),
            _ => {}
        }
        outcome
    }

    /// Ends the answer: all text held back is shown, half a character is not.
    pub(super) fn finish(&mut self, reason: FinishReason, now: Instant) {
        self.release_text(if reason == FinishReason::Length { Ending::Cut } else { Ending::Said });
        self.end(reason, now);
    }

    /// What a chosen token leads to.
    fn after(
        &mut self,
        token: TokenId,
        logprobs: Option<TokenLogprobs>,
        model: &impl TextModel,
    ) -> Option<End> {
        if model.is_end(token) && !self.reply.ends.ignore_eos {
            self.tokens.push(token);
            self.release_text(Ending::Said);
            return Some(End::Finished(self.stop_reason()));
        }
        if self.take(token, logprobs, model) == StopMatch::Found {
            self.choice.output.finish(Ending::Said, &mut self.delta);
            return Some(End::Finished(self.stop_reason()));
        }
        if self.has_failed() {
            return Some(End::Failed);
        }
        if self.choice.sampler.is_finished() {
            self.release_text(Ending::Said);
            return Some(End::Finished(self.stop_reason()));
        }
        if self.may_add() == 0 {
            self.release_text(Ending::Cut);
            return Some(End::Finished(FinishReason::Length));
        }
        None
    }

    /// Ends the request by an error if the answer cannot have the form that it must have.
    fn has_failed(&self) -> bool {
        let failure = self.choice.sampler.failed();
        if let Some(reason) = failure {
            self.reply.fail("format_failed", reason.to_owned());
        }
        failure.is_some()
    }

    /// Takes a token into the answer.
    fn take(
        &mut self,
        token: TokenId,
        logprobs: Option<TokenLogprobs>,
        model: &impl TextModel,
    ) -> StopMatch {
        self.tokens.push(token);
        self.delta.tokens.push(token);
        self.delta.logprobs.extend(logprobs.map(|entry| with_texts(entry, model)));
        self.choice.sampler.see_answer(token);
        let with_control = self.choice.output.needs_control_tokens() && !model.is_end(token);
        model.append_piece(token, with_control, self.utf8.buffer());
        self.piece.clear();
        self.utf8.drain_into(&mut self.piece);
        self.passed.clear();
        let stop = self.stops.push(&self.piece, &mut self.passed);
        if !self.passed.is_empty() {
            self.choice.output.push(&self.passed, &mut self.delta);
        }
        stop
    }

    /// Text that was held back for a stop text, a call or a mark that did not come.
    fn release_text(&mut self, ending: Ending) {
        self.passed.clear();
        self.stops.finish(&mut self.passed);
        if !self.passed.is_empty() {
            self.choice.output.push(&self.passed, &mut self.delta);
        }
        self.choice.output.finish(ending, &mut self.delta);
    }

    fn stop_reason(&self) -> FinishReason {
        if self.choice.output.has_tool_calls() {
            FinishReason::ToolCalls
        } else {
            FinishReason::Stop
        }
    }

    fn end(&mut self, reason: FinishReason, now: Instant) {
        if has_content(&self.delta) || !self.delta.tokens.is_empty() {
            self.show();
        }
        let ended = Ended {
            index: self.choice.index,
            is_first: self.is_first,
            reason,
            tokens: self.answer_len(),
            drafted: self.drafted,
            accepted: self.accepted,
        };
        self.reply.end(ended, now);
    }

    fn show(&mut self) {
        let next = self.empty_delta();
        let delta = std::mem::replace(&mut self.delta, next);
        self.reply.send(InferenceEvent::Delta(delta));
    }

    fn empty_delta(&self) -> Delta {
        Delta { index: self.choice.index, ..Delta::default() }
    }

    fn answer_len(&self) -> usize {
        self.tokens.len() - self.reply.prompt_tokens
    }
}

/// Whether a delta has anything that a client sees.
fn has_content(delta: &Delta) -> bool {
    !delta.text.is_empty() || !delta.reasoning.is_empty() || !delta.tool_calls.is_empty()
}

/// The same entry with the texts of its tokens.
fn with_texts(mut entry: TokenLogprobs, model: &impl TextModel) -> TokenLogprobs {
    let fill = |one: &mut TokenLogprob| model.append_piece(one.token, true, &mut one.bytes);
    fill(&mut entry.chosen);
    entry.top.iter_mut().for_each(fill);
    entry
}
