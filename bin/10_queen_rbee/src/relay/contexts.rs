//! Whose contexts a request fits, as far as workers have shown. Pure.

use tokio::time::Instant;
use worker_contract::{ModelAlias, WorkerId};

use super::Failure;

/// Which contexts have turned out too short for a request, and which have held what there is of its
/// answer. A context of 0 is one that is not told.
#[derive(Debug, Default)]
pub(super) struct Contexts {
    /// The longest of those that were too short.
    too_short: u32,
    /// Whose were too short.
    refused_by: Vec<WorkerId>,
    /// What the last of them said, where the client has nothing yet.
    refusal: Option<Failure>,
    /// Whether it has asked for the start of a longer one.
    has_asked: bool,
    /// The longest of those that gave some of the answer.
    gave: u32,
    /// Those of them that do not tell.
    gave_untold: Vec<WorkerId>,
    /// When one was full of an answer that could have gone on, where nothing of it has come since.
    cut_at: Option<Instant>,
}

impl Contexts {
    /// A worker gives some of the answer.
    pub(super) fn gave(&mut self, worker: &WorkerId, context: u32) {
        self.refusal = None;
        self.cut_at = None;
        self.gave = self.gave.max(context);
        if context == 0 && !self.gave_untold.contains(worker) {
            self.gave_untold.push(worker.clone());
        }
    }

    /// A worker's context is too short. False if it has said so before.
    pub(super) fn refused(&mut self, worker: &WorkerId, context: u32) -> bool {
        self.too_short = self.too_short.max(context);
        let is_news = !self.refused_by.contains(worker);
        if is_news {
            self.refused_by.push(worker.clone());
        }
        is_news
    }

    /// A worker's context is full of an answer that could go on in a longer one.
    pub(super) fn cut(&mut self, worker: &WorkerId, context: u32, now: Instant) {
        self.refused(worker, context);
        self.cut_at = Some(now);
    }

    /// Whether one was full of what there is of the answer, which is a whole one where none is longer.
    pub(super) fn is_cut(&self) -> bool {
        self.cut_at.is_some()
    }

    /// Since when that is so.
    pub(super) fn cut_at(&self) -> Option<Instant> {
        self.cut_at
    }

    /// Asks for the start of a worker with a longer context. False if it has done so before: what was started
    /// then has turned out too short as well, and the next one may, too.
    pub(super) fn asks_for_start(&mut self) -> bool {
        !std::mem::replace(&mut self.has_asked, true)
    }

    /// The same for an answer that is begun anew.
    pub(super) fn anew(&self) -> Self {
        Self { has_asked: self.has_asked, ..Self::default() }
    }

    /// The client has nothing yet but that a worker said this.
    pub(super) fn keep(&mut self, refusal: Failure) {
        self.refusal = Some(refusal);
    }

    /// Whether one has refused it since its context was too short.
    pub(super) fn has_refusal(&self) -> bool {
        self.refusal.is_some()
    }

    /// What the last one said whose context was too short.
    pub(super) fn take_refusal(&mut self) -> Option<Failure> {
        self.refusal.take()
    }

    /// The longest context that was too short; 0 if none was.
    pub(super) fn too_short(&self) -> u32 {
        self.too_short
    }

    /// Whose were too short.
    pub(super) fn refused_by(&self) -> &[WorkerId] {
        &self.refused_by
    }

    /// Whether what there is of the answer fills the context of each worker that gave some, where it is
    /// too long for that of `worker`: then only its end is missing.
    pub(super) fn is_full(&self, worker: &WorkerId, context: u32) -> bool {
        match context {
            0 => self.gave == 0 && self.gave_untold == [worker.clone()],
            context => self.gave_untold.is_empty() && context >= self.gave,
        }
    }
}

/// What to do where a context of so many tokens is too short for a prompt, and the model was trained for one
/// of so many; 0 where nobody knows.
pub(crate) fn longer_context(model: &ModelAlias, too_short: u32, trained: u32) -> String {
    if trained > 0 && too_short >= trained {
        return format!("{model} was trained for contexts of {trained} tokens: shorten the prompt");
    }
    let most = if trained > 0 { format!(" (up to {trained})") } else { String::new() };
    format!(
        "shorten the prompt, or give workers of {model} that are started a longer context: \
         rbee-keeper model policy {model} --ctx-size N{most}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_context_is_advised_only_where_the_model_has_one() {
        let model = "m".parse().unwrap();
        for (too_short, trained, expected) in [
            (2048, 4096, "--ctx-size N (up to 4096)"),
            (2048, 0, "rbee-keeper model policy m --ctx-size N"),
            (4096, 4096, "trained for contexts of 4096 tokens: shorten the prompt"),
        ] {
            let advice = longer_context(&model, too_short, trained);
            assert!(advice.ends_with(expected), "{advice}");
        }
    }

    #[test]
    fn an_answer_is_full_only_where_no_longer_context_gave_some_of_it() {
        for (gave, (worker, context), expected) in [
            (vec![("a", 2048)], ("b", 2048), true),
            (vec![("a", 2048)], ("b", 4096), true),
            (vec![("a", 2048)], ("b", 256), false),
            (vec![("a", 256), ("b", 2048)], ("a", 256), false),
            (vec![("a", 0)], ("a", 0), true),
            (vec![("a", 0)], ("b", 0), false),
            (vec![("a", 0)], ("b", 2048), false),
            (vec![("a", 2048)], ("b", 0), false),
            (vec![("a", 0), ("b", 2048)], ("a", 0), false),
        ] {
            let mut contexts = Contexts::default();
            for (worker, context) in &gave {
                contexts.gave(&worker.parse().unwrap(), *context);
            }
            let is_full = contexts.is_full(&worker.parse().unwrap(), context);
            assert_eq!(is_full, expected, "{gave:?} {worker} {context}");
        }
    }

    #[test]
    fn each_worker_is_news_once_and_the_longest_context_counts() {
        let (mut contexts, worker) = (Contexts::default(), |name: &str| name.parse().unwrap());
        assert!(contexts.refused(&worker("a"), 512) && contexts.refused(&worker("b"), 256));
        assert!(!contexts.refused(&worker("a"), 0));
        assert_eq!((contexts.too_short(), contexts.refused_by().len()), (512, 2));
    }

    #[test]
    fn an_answer_that_was_cut_is_a_whole_one_until_more_of_it_comes() {
        let (mut contexts, worker) = (Contexts::default(), |name: &str| name.parse().unwrap());
        contexts.gave(&worker("a"), 256);
        assert!(!contexts.is_cut());
        contexts.cut(&worker("a"), 256, Instant::now());
        contexts.refused(&worker("b"), 512);
        assert!(contexts.is_cut());
        contexts.gave(&worker("c"), 2048);
        assert!(!contexts.is_cut());
    }

    #[test]
    fn a_start_is_asked_for_once_also_by_an_answer_that_is_begun_anew() {
        let mut contexts = Contexts::default();
        contexts.refused(&"a".parse().unwrap(), 512);
        assert!(contexts.asks_for_start() && !contexts.asks_for_start());
        let mut anew = contexts.anew();
        assert_eq!((anew.too_short(), anew.asks_for_start()), (0, false));
    }
}
