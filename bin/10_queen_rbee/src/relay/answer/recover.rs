//! What follows from trouble with a worker: the next try, or the failure.

mod dead;

use std::time::Duration;

use axum::http::StatusCode;
use tokio::time::Instant;
use worker_contract::{ErrorDetail, WorkerId};

use super::{Answer, State};
use crate::clock;
use crate::dispatch::NoPlace;
use crate::registry::{Failed, Place};
use crate::relay::Failure;
use crate::relay::contexts::longer_context;
use crate::relay::failure::Trouble;
use crate::relay::reason::Reason;
use crate::relay::retry::{Mishap, Verdict};

/// After how long another server is asked, or the same again, where one failed.
const SECOND_OPINION: Duration = Duration::from_millis(50);

/// After how long an answer that has begun is gone on with where the queen could have no connection.
const CONNECTIONS_END: Duration = Duration::from_millis(500);

/// How a worker that is to blame failed.
#[derive(Debug)]
struct Broke {
    reason: Reason,
    is_connection: bool,
    /// Whether the request may have got there.
    is_reached: bool,
    /// Whether the worker had begun to answer it.
    has_answered: bool,
}

/// What follows from a refusal.
#[derive(Debug)]
enum Refused {
    /// The worker is to blame, for this.
    IsBlamed(Reason),
    /// Somebody else is asked, or the answer is over.
    GoesOn,
    /// The context is too short, as the worker says so: a longer one is sought.
    SeeksLonger(Reason),
}

impl Answer {
    /// After trouble with a worker: the next try, or the failure. Who refuses the request at last is recorded.
    pub(super) fn recover(&mut self, trouble: Trouble, place: Place) -> Result<(), Failure> {
        let worker_id = place.worker_id.clone();
        let next = self.after_trouble(trouble, place);
        if let Err(Failure::Refused { status, detail }) = &next {
            self.log_refused(&worker_id, *status, detail);
        }
        next
    }

    fn after_trouble(&mut self, trouble: Trouble, place: Place) -> Result<(), Failure> {
        self.asides.clear();
        let broke = match trouble {
            Trouble::Refused { status, detail } => match self.refused(status, detail, &place)? {
                Refused::IsBlamed(reason) => {
                    Broke { reason, is_connection: false, is_reached: true, has_answered: true }
                }
                Refused::GoesOn => return Ok(()),
                Refused::SeeksLonger(reason) => {
                    self.seek_longer(&reason, place);
                    return Ok(());
                }
            },
            Trouble::Deadline => return Err(self.late_at(&place)),
            Trouble::TooMuch(reason) => return Err(self.too_much(reason, &place)),
            Trouble::OwnLimit(reason) => return self.on_own_limit(reason, &place),
            Trouble::Busy { status, detail, retry_after_s } => {
                return self.on_busy(status, detail, retry_after_s, &place);
            }
            Trouble::Lacking { status, detail, recorded } => {
                return self.on_lack(status, detail, &recorded, &place);
            }
            Trouble::Fewer(reason) => {
                let worker_id = &place.worker_id;
                tracing::debug!(%worker_id, reason, "the other answers are asked for one by one");
                self.record.goes_on();
                return self.seek_on(&place.worker_id, reason.into());
            }
            Trouble::Queues { reason, other } => {
                self.leave_queue(&reason, &place, other);
                return Ok(());
            }
            Trouble::LockedOut(reason) => {
                self.on_lockout(reason, &place);
                return Ok(());
            }
            Trouble::Failed { reason, is_connection, is_reached, has_answered } => {
                Broke { reason, is_connection, is_reached, has_answered }
            }
        };
        self.broke(broke, place)
    }

    /// The queen can have no connection. Every worker is reached in the same way, so that none is sought for a
    /// request that can be sent again; an answer that has begun waits until some connection ends.
    fn on_own_limit(&mut self, reason: String, place: &Place) -> Result<(), Failure> {
        if !self.progress.has_begun() {
            return Err(Failure::OwnLimit(reason));
        }
        let worker_id = &place.worker_id;
        tracing::warn!(%worker_id, reason, "an answer that has begun waits for a connection");
        self.state = State::Seeking(Some(Instant::now() + CONNECTIONS_END));
        Ok(())
    }

    /// After a refusal: what follows, or the failure.
    fn refused(
        &mut self,
        status: StatusCode,
        detail: ErrorDetail,
        place: &Place,
    ) -> Result<Refused, Failure> {
        let reason = Reason::said(place, status, &detail);
        let is_too_long = detail.code.as_deref() == Some("context_length_exceeded");
        if self.progress.has_begun() {
            if is_too_long && self.progress.tokens() > 0 {
                return Ok(self.too_long_to_go_on(reason, place));
            }
            // Where another worker took it before, this one is to blame.
            return Ok(Refused::IsBlamed(reason));
        }
        let is_in_doubt = is_in_doubt(status, place);
        if is_in_doubt && self.doubt.is_none() {
            self.ask_another(&reason, Failure::Refused { status, detail }, place);
            return Ok(Refused::GoesOn);
        }
        if is_in_doubt && !self.is_as_doubted(&detail) {
            return Ok(Refused::IsBlamed(reason));
        }
        let refusal = Failure::Refused { status, detail };
        if self.may_be_served_here(place, status) {
            self.ask_rbee(&reason, refusal, place);
            return Ok(Refused::GoesOn);
        }
        if is_too_long {
            return self.too_long_to_begin(reason, refusal, place);
        }
        Err(refusal)
    }

    /// Nobody knows whose fault it is before another one, or the same again, says the same.
    fn ask_another(&mut self, reason: &Reason, refusal: Failure, place: &Place) {
        let worker_id = &place.worker_id;
        let told = reason.recorded();
        tracing::info!(%worker_id, reason = told, "a server fails, perhaps over the request");
        self.log_again(worker_id, reason, false);
        self.doubt = Some(refusal);
        self.tries.avoid(place.as_failed());
        self.record.tries_again(false);
        self.state = State::Seeking(Some(Instant::now() + SECOND_OPINION));
    }

    /// A worker of rbee may take what a server refuses.
    fn ask_rbee(&mut self, reason: &Reason, refusal: Failure, place: &Place) {
        let worker_id = &place.worker_id;
        let told = reason.recorded();
        tracing::info!(%worker_id, reason = told, "a server refuses what a worker may take");
        self.log_elsewhere(worker_id, reason);
        self.record.tries_again(false);
        self.refusal = Some(refusal);
        self.state = State::Seeking(None);
    }

    /// A worker's context does not hold what there is of the answer: that is its end where no longer one
    /// held it before; else it goes on there.
    fn too_long_to_go_on(&mut self, reason: Reason, place: &Place) -> Refused {
        let (worker_id, context) = (&place.worker_id, place.context_tokens);
        // A server may add up the prompt and all the tokens that are allowed, of which some may be left.
        let may_reckon_ahead =
            place.target.server.is_some() && self.request.sampling.max_tokens.is_some();
        if may_reckon_ahead {
            return Refused::IsBlamed(reason);
        }
        if self.contexts.is_full(worker_id, context) {
            self.fill();
            return Refused::GoesOn;
        }
        // Only by its failures it is kept from being asked for ever.
        if context == 0 {
            return Refused::IsBlamed(reason);
        }
        self.contexts.refused(worker_id, context);
        self.last_failure.get_or_insert_with(|| (worker_id.clone(), reason.clone()));
        Refused::SeeksLonger(reason)
    }

    /// A worker's context does not hold the prompt: one that has a longer one is asked, if there is one.
    fn too_long_to_begin(
        &mut self,
        reason: Reason,
        refusal: Failure,
        place: &Place,
    ) -> Result<Refused, Failure> {
        let worker_id = &place.worker_id;
        let is_news = self.contexts.refused(worker_id, place.context_tokens);
        let refusal = self.advised(refusal);
        if !is_news || !self.may_find_longer(place) {
            return Err(refusal);
        }
        self.tries.avoid(place.as_failed());
        self.contexts.keep(refusal);
        Ok(Refused::SeeksLonger(reason))
    }

    /// Whether a worker with a longer context is there, or would be started. For what a server of somebody
    /// else refuses none is started, and for one request not a second one.
    fn may_find_longer(&mut self, place: &Place) -> bool {
        let (too_short, others_than) = (self.contexts.too_short(), self.contexts.refused_by());
        let registry = self.relay.dispatcher.registry();
        registry.has_longer_context(&self.model, too_short, others_than)
            || place.target.server.is_none()
                && place.context_tokens > 0
                && registry.would_start_longer(&self.model, too_short, clock::now())
                && self.contexts.asks_for_start()
    }

    /// A refusal of a prompt that is too long, with what can be done about it.
    fn advised(&self, refusal: Failure) -> Failure {
        let registry = self.relay.dispatcher.registry();
        let trained = registry.trained_context(&self.model);
        match (refusal, trained) {
            (Failure::Refused { status, mut detail }, Some(trained)) if detail.hint.is_none() => {
                detail.hint = Some(longer_context(&self.model, self.contexts.too_short(), trained));
                Failure::Refused { status, detail }
            }
            (refusal, _) => refusal,
        }
    }

    pub(super) fn seek_longer(&mut self, reason: &Reason, place: Place) {
        let (worker_id, context) = (place.worker_id.clone(), place.context_tokens);
        let told = reason.recorded();
        tracing::info!(%worker_id, context, reason = told, "a context is too short for a request");
        // The worker may make room for one with a longer context once it is idle.
        drop(place);
        // Where nobody has one, nobody is sought.
        if !self.relay.dispatcher.refuses(&self.wanted()) {
            self.log_longer(&worker_id, reason);
        }
        self.record.tries_again(self.progress.has_begun());
        self.state = State::Seeking(None);
    }

    /// After a failure that the worker is to blame for.
    fn broke(&mut self, broke: Broke, place: Place) -> Result<(), Failure> {
        let Broke { reason, is_connection, is_reached, has_answered } = broke;
        let (worker_id, now) = (place.worker_id.clone(), Instant::now());
        let registry = self.relay.dispatcher.registry();
        let failed = Failed { request: self.number, is_connection };
        let blame = registry.worker_failed(&place, failed, now.into_std());
        if blame.has_opened {
            self.log_opened(&worker_id, &reason);
        }
        // Of a server's process nobody hears whether it has ended.
        let is_server = place.target.server.is_some();
        let may_be_blamed = is_reached && !blame.was_ending && !is_server;
        let (by, process) = (place.as_failed(), place.process());
        let (died, fallen) = (place.target.died.clone(), place.target.fallen.clone());
        if is_connection && may_be_blamed {
            fallen.add(self.number);
        }
        drop(place);
        let given = self.progress.given_in_all();
        let got = given.saturating_sub(self.had);
        self.had = self.had.max(given);
        let mishap = Mishap {
            is_connection,
            may_be_blamed,
            has_answered,
            is_empty: is_server && is_connection && has_answered && given == 0,
            got,
            again: self.progress.tokens_again(),
            was_alone: blame.was_alone,
            process,
            died,
            fallen,
            at: now.into_std(),
            lived: now.saturating_duration_since(self.asked_at),
            hangs: blame.hangs,
        };
        let verdict = self.tries.on_mishap(by, mishap, fastrand::f64());
        tracing::warn!(
            request_id = %self.request.request_id,
            %worker_id,
            reason = reason.recorded(),
            ?verdict,
            tokens = self.progress.tokens(),
            "a worker failed a request"
        );
        let pause = match verdict {
            // What is whole as it is, is not held back by another try.
            Verdict::Again(pause) if !self.contexts.is_cut() => pause,
            verdict => {
                let is_given_up = verdict == Verdict::GiveUp;
                return Err(Failure::WorkerFailed { worker_id, reason, is_given_up });
            }
        };
        self.seek_on(&worker_id, reason.clone())?;
        let has_begun = self.progress.has_begun();
        let turn = self.relay.shared.budget(|budget| budget.spend(has_begun, now.into_std()));
        let pause = pause.max(turn);
        // Where nobody can go on, nobody is sought.
        if !has_begun || !self.relay.dispatcher.refuses(&self.wanted()) {
            self.log_again(&worker_id, &reason, is_connection);
        }
        self.record.tries_again(has_begun);
        self.last_failure = Some((worker_id, reason));
        self.state = State::Seeking((!pause.is_zero()).then(|| now + pause));
        Ok(())
    }

    /// Somebody is sought who goes on with what there is of the answer, or begins it anew.
    fn seek_on(&mut self, worker_id: &WorkerId, reason: Reason) -> Result<(), Failure> {
        if self.progress.ways(&self.request).is_none() && self.asking.is_whole {
            self.begin_anew();
        }
        if self.progress.ways(&self.request).is_none() {
            let reason = reason.and("no other can go on with what it gave of the answer");
            let worker_id = worker_id.clone();
            return Err(Failure::WorkerFailed { worker_id, reason, is_given_up: false });
        }
        self.state = State::Seeking(None);
        Ok(())
    }

    /// A worker has it in its queue, and another one has given it a place. Nobody has failed.
    fn leave_queue(&mut self, reason: &str, place: &Place, other: Box<Place>) {
        let worker_id = &place.worker_id;
        tracing::info!(%worker_id, reason, "a request leaves a worker's queue for another worker");
        self.log_leaves_queue(worker_id, reason);
        self.left.push(worker_id.clone());
        self.log_placed(&other);
        self.record.tries_again(self.progress.has_begun());
        self.state = State::Placed(other);
    }

    /// After more than an answer has. It is not gone on with: nobody could take all of that as a prompt.
    pub(super) fn too_much(&self, reason: String, place: &Place) -> Failure {
        let (worker_id, reason, now) =
            (place.worker_id.clone(), Reason::from(reason), clock::now());
        let failed = Failed { request: self.number, is_connection: false };
        let registry = self.relay.dispatcher.registry();
        if registry.worker_failed(place, failed, now).has_opened {
            self.log_opened(&worker_id, &reason);
        }
        tracing::warn!(%worker_id, reason = reason.recorded(), "a worker gives an answer without an end");
        Failure::WorkerFailed { worker_id, reason, is_given_up: false }
    }

    /// Whether nobody can go on with what there is of an answer of which its client has nothing.
    pub(super) fn may_begin_anew(&self, no_place: &NoPlace) -> bool {
        let can_nobody = no_place.is_nobody_left()
            || matches!(no_place, NoPlace::TooShort { .. } | NoPlace::Resting(_));
        can_nobody && self.asking.is_whole && self.progress.tokens() > 0
    }

    pub(super) fn begin_anew(&mut self) {
        self.log_anew();
        // Nobody goes on with what is void: the request is sent again.
        self.record.tries_again(false);
        self.progress.begin_anew(&mut self.request);
        self.ready.clear();
        // What was computed before and is computed again is no progress: `had` stays.
        self.contexts = self.contexts.anew();
    }

    /// Whether a worker of rbee may take what a server of somebody else refuses: one that is there, or,
    /// where the server does not say that the request is at fault, one that is started for it.
    fn may_be_served_here(&self, place: &Place, status: StatusCode) -> bool {
        place.target.server.is_some()
            && self.refusal.is_none()
            && self.is_able_here()
            && (self.is_run_here() || !is_about_request(status) && self.may_be_started())
    }

    /// Whether a worker of rbee runs the model, or is about to.
    pub(super) fn is_run_here(&self) -> bool {
        self.relay.dispatcher.registry().runs(&self.model)
    }

    /// Whether a hive has the model, so that a worker may be started.
    pub(super) fn may_be_started(&self) -> bool {
        self.relay.dispatcher.registry().is_in_catalog(&self.model)
    }

    /// Ends the answer that is being given, or the last one, at what the client has of it.
    pub(super) fn fill(&mut self) {
        let (ended, done) = self.progress.filled_context();
        self.state = if done.is_some() { State::Ended } else { State::Seeking(None) };
        self.record.outcome = if done.is_some() { "done" } else { self.record.outcome };
        self.ready.extend(ended.into_iter().chain(done));
    }

    /// Whether a server says the same of the request as the one before.
    fn is_as_doubted(&self, detail: &ErrorDetail) -> bool {
        matches!(&self.doubt, Some(Failure::Refused { detail: before, .. }) if before.message == detail.message)
    }
}

/// Whether nobody knows if the request is at fault, or the server.
fn is_in_doubt(status: StatusCode, place: &Place) -> bool {
    status.is_server_error() || place.target.server.is_some() && !is_about_request(status)
}

/// Whether a status says that the request is at fault: few do.
fn is_about_request(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 413 | 414 | 415 | 422 | 431)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::Arc;

    use access_tokens::{HiveSecrets, Secret};
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;
    use turmoil::net::TcpListener;
    use worker_contract::{
        FinishReason, InferenceRequest, ModelAlias, Prompt, RequestId, Task, WorkerHeartbeat,
    };

    use super::*;
    use crate::admission::Priority;
    use crate::attached::{Endpoint, Original};
    use crate::connection::Pool;
    use crate::decisions::{Decisions, Kind};
    use crate::dispatch::Dispatcher;
    use crate::doubles::{Nowhere, server};
    use crate::http::describe;
    use crate::keyring::Keyring;
    use crate::policy::Policies;
    use crate::prompt::PromptChain;
    use crate::registry::{Ask, Placed, Registry, Rest};
    use crate::relay::{Asking, Part, Relay};
    use crate::scheduler::Demand;
    use crate::spawner::Spawner;

    #[tokio::test(start_paused = true)]
    async fn what_is_cut_when_the_queen_ends_counts_as_that() {
        let (folder, cut) = (tempfile::tempdir().unwrap(), CancellationToken::new());
        let relay = relay(folder.path()).cut_by(cut.clone());
        let model: ModelAlias = "m".parse().unwrap();
        let figures = relay.metrics().model(&model);
        let mut answer = answer(&relay, &model);
        answer.state = State::Seeking(Some(Instant::now() + Duration::from_secs(3600)));
        cut.cancel();
        let Some(Err(failure)) = answer.next().await else { panic!("it ends so") };
        assert!(matches!(failure, Failure::NoPlace(NoPlace::Stopping)), "{failure:?}");
        assert!(answer.next().await.is_none());
        drop(answer);
        assert_eq!((figures.ended_so("stopping"), figures.ended_so("cancelled")), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_when_the_queen_cuts_gets_no_place_that_is_free_by_then() {
        let (folder, cut) = (tempfile::tempdir().unwrap(), CancellationToken::new());
        let relay = relay(folder.path()).cut_by(cut.clone());
        cut.cancel();
        let mut answer = answer(&relay, &"m".parse().unwrap());
        let Some(Err(failure)) = answer.next().await else { panic!("it ends so") };
        assert!(matches!(failure, Failure::NoPlace(NoPlace::Stopping)), "{failure:?}");
        let counts = relay.dispatcher().decisions().counts();
        assert_eq!(counts, BTreeMap::from([((Kind::GiveUp, "stopping"), 1)]));
    }

    #[tokio::test(start_paused = true)]
    async fn the_queens_own_limit_ends_no_answer_that_has_begun_and_blames_nobody() {
        for has_begun in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let relay = relay(folder.path());
            let model: ModelAlias = "m".parse().unwrap();
            let prompt = PromptChain::default();
            let ask = Ask::of(Demand::of(&model), &prompt);
            let placed = relay.dispatcher().registry().place(&ask, clock::now());
            let Placed::At(place) = placed else { panic!("{placed:?}") };
            let mut answer = answer(&relay, &model);
            if has_begun {
                answer.progress.begin();
            }
            let recovered = answer.recover(Trouble::OwnLimit("too many files".into()), place);
            if has_begun {
                recovered.unwrap();
                assert!(matches!(answer.state, State::Seeking(Some(_))), "{:?}", answer.state);
            } else {
                assert!(matches!(recovered, Err(Failure::OwnLimit(_))), "{recovered:?}");
            }
            assert!(answer.tries.failed().is_empty() && answer.last_failure.is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_whole_answer_is_held_back_for_a_moment_where_the_longer_worker_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let relay = relay(folder.path());
        let (registry, model) = (relay.dispatcher().registry(), "m".parse().unwrap());
        registry.worker_beat(beat("w-2", 2048), clock::now()).unwrap();
        let prompt = PromptChain::default();
        let place = |other: &str| {
            let barred = [other.parse().unwrap()];
            let ask = Ask::of(Demand { barred: &barred, ..Demand::of(&model) }, &prompt);
            let placed = registry.place(&ask, clock::now());
            let Placed::At(place) = placed else { panic!("{placed:?}") };
            place
        };
        let (short, _long) = (place("w-2"), place("w-1"));
        let mut answer = answer(&relay, &model);
        for event in [
            json!({"type": "started", "request_id": "r", "prompt_tokens": 1, "cached_tokens": 0, "seed": 1}),
            json!({"type": "delta", "text": "a", "tokens": [1]}),
        ] {
            answer.progress.on_event(serde_json::from_value(event).unwrap());
        }
        answer.progress.begin();
        answer.go_on_longer(short);
        let began = Instant::now();
        let Some(Ok(Part::Done { finish_reason, .. })) = answer.next().await else {
            panic!("it is whole")
        };
        assert_eq!(finish_reason, FinishReason::Length);
        // Nobody begins in the last hundredth of a second.
        let took = began.elapsed().as_secs_f64().round();
        assert!((took - 5.0).abs() < 0.5, "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_waited_for_a_server_that_rests_is_told_so() {
        let folder = tempfile::tempdir().unwrap();
        let relay = relay(folder.path());
        let (registry, now) = (relay.dispatcher().registry(), clock::now());
        registry.server_probed(&server("nas", "served"), now);
        let rest = Rest::new(503, None, Some(Duration::from_secs(3600)), now);
        registry.worker_rests(&"nas-served".parse().unwrap(), rest);
        for (model, expected) in [
            (
                "served",
                "the request's deadline has passed after 0 tokens: nas takes no more at present: HTTP 503; \
                 it wants to be left alone for another 3600 s",
            ),
            ("m", "no worker for m could take the request before its deadline"),
        ] {
            let model: ModelAlias = model.parse().unwrap();
            let mut answer = answer(&relay, &model);
            let failure = answer.no_place(NoPlace::Deadline { model, word: None });
            let told = describe(failure, registry);
            assert_eq!((told.status.as_u16(), &*told.detail.message), (504, expected));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_failed_and_waited_after_that_is_told_of_both() {
        let folder = tempfile::tempdir().unwrap();
        let relay = relay(folder.path());
        let model: ModelAlias = "m".parse().unwrap();
        let head = "the last worker, w-1, failed it: its connection broke";
        for (word, expected) in [
            (None, head.to_owned()),
            (
                Some("it waits its turn".to_owned()),
                format!("{head}; it has waited since then, the last word on it: it waits its turn"),
            ),
        ] {
            let mut answer = answer(&relay, &model);
            answer.last_failure = Some(("w-1".parse().unwrap(), "its connection broke".into()));
            let model = model.clone();
            let failure = answer.no_place(NoPlace::Deadline { model, word });
            let Failure::Late { why, .. } = failure else { panic!("{failure:?}") };
            assert_eq!((why.to_string(), why.recorded()), (expected.clone(), &*expected));
        }
    }

    #[test]
    fn what_a_queen_did_not_hear_while_she_stood_still_is_no_silence_of_the_worker() {
        let mut sim = turmoil::Builder::new().build();
        sim.host("worker", || async {
            let listener = TcpListener::bind(("0.0.0.0", 9300)).await?;
            let (mut stream, _) = listener.accept().await?;
            assert!(stream.read(&mut [0; 1024]).await? > 0);
            let begun = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n\
                data: {\"type\":\"started\",\"request_id\":\"r\",\"prompt_tokens\":1,\"cached_tokens\":0,\"seed\":1}\n\n\
                data: {\"type\":\"delta\",\"text\":\"a\",\"tokens\":[1]}\n\n";
            stream.write_all(begun.as_bytes()).await?;
            std::future::pending().await
        });
        sim.client("queen", async {
            stands_still().await;
            Ok(())
        });
        sim.run().unwrap();
    }

    /// A queen stands still for four seconds, while a worker has begun an answer, and then is there for one.
    async fn stands_still() {
        let folder = tempfile::tempdir().unwrap();
        let relay = relay(folder.path());
        let said = WorkerHeartbeat { address: "http://worker:9300".into(), ..beat("w-1", 2048) };
        relay.dispatcher().registry().worker_beat(said, clock::now()).unwrap();
        let mut answer = answer(&relay, &"m".parse().unwrap());
        loop {
            match answer.next().await {
                Some(Ok(Part::Delta(_))) => break,
                Some(Ok(_)) => {}
                end => panic!("{end:?}"),
            }
        }
        let state = std::mem::replace(&mut answer.state, State::Ended);
        let State::Reading(mut reading) = state else { panic!("{state:?}") };
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(answer.on_alarm(&mut reading).is_none(), "four seconds in which she heard nobody");
        assert!(answer.alarm.deadline() > Instant::now(), "what has come is read first");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(answer.on_alarm(&mut reading).is_some(), "a second in which she listened");
    }

    pub(super) fn answer(relay: &Relay, model: &ModelAlias) -> Box<Answer> {
        let task = Task::Completion { prompt: Prompt::Text("a".into()) };
        let asking = Asking {
            caller: "local".into(),
            deadline: Instant::now() + Duration::from_secs(60),
            priority: Priority::Interactive,
            session: None,
            via: String::new(),
            is_whole: false,
        };
        let request = InferenceRequest::new(RequestId::random(), task);
        relay.answer(model, request, Original::of_no_server(Endpoint::Completion), asking)
    }

    /// A relay whose only worker is ready.
    pub(super) fn relay(folder: &Path) -> Relay {
        let policies = Policies::open(&folder.join("p.db"), BTreeMap::new(), 0).unwrap();
        let registry = Registry::new(Duration::from_secs(2), Vec::new(), clock::now());
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let spawner = Spawner::new(Arc::new(Nowhere), registry.clone(), policies, tasks, stop);
        registry.worker_beat(beat("w-1", 1), clock::now()).unwrap();
        let dispatcher = Dispatcher::new(registry, spawner, Decisions::in_memory(), 8);
        let secrets = HiveSecrets::open(folder).unwrap();
        let keyring = Keyring::new(Secret::from("secret".to_owned()), secrets);
        Relay::new(dispatcher, keyring, Pool::default(), Duration::from_secs(1))
    }

    /// A ready worker with one slot and such a context.
    pub(super) fn beat(id: &str, context: u32) -> WorkerHeartbeat {
        let beat = json!({
            "worker_id": id, "hive_id": "localhost", "address": "http://127.0.0.1:1",
            "model": {"name": "m", "digest": "0".repeat(64), "context_length": context},
            "device": "CPU-0", "state": "ready", "slots": {"total": 1, "busy": 0}, "queued": 0,
            "kv_cache": {"used_tokens": 0, "capacity_tokens": 1}, "tokens_per_second": 0.0,
            "engine_build": "x", "pid": 1,
        });
        serde_json::from_value(beat).unwrap()
    }
}
