//! Who waits for a faster worker though another one has room, and whom that keeps from a place. Pure.

use std::time::Instant;

use super::Waiting;
use super::kinds::Kind;
use crate::admission::Priority;
use crate::registry::SessionKey;
use crate::scheduler::{Ahead, WaitReason};

/// How many of those that wait so are asked about though others of their kinds were: each look asks again.
const MOST_ASKED: usize = 16;

/// Those of a queue that wait for a faster worker, or for a place since the last ones are kept for such.
#[derive(Debug, Default)]
pub(super) struct Patient<'a> {
    /// What was said of those that were asked about.
    asked: Vec<(Needs<'a>, WaitReason)>,
    /// Those that wait for a faster worker.
    ahead: Vec<Ahead>,
}

/// What bears on whether a request waits for a faster worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs<'a> {
    answer_tokens: u32,
    /// How many blocks its prompt has,
    blocks: usize,
    /// and the digest of the last one, which depends on all of them.
    last_block: Option<u64>,
    session: Option<&'a SessionKey>,
    priority: Priority,
    kind: Kind<'a>,
    since: Instant,
    deadline: Instant,
}

impl Waiting {
    pub(super) fn needs<'a>(&'a self, kind: Kind<'a>) -> Needs<'a> {
        let wanted = &self.wanted;
        let blocks = wanted.prompt.blocks();
        Needs {
            answer_tokens: wanted.answer_tokens,
            blocks: blocks.len(),
            last_block: blocks.last().copied(),
            session: wanted.session.as_ref(),
            priority: wanted.priority,
            kind,
            since: self.since,
            deadline: wanted.deadline,
        }
    }
}

impl Needs<'_> {
    /// Whether it waits where another one does.
    fn are_met_as(&self, other: &Self) -> bool {
        self.answer_tokens == other.answer_tokens
            && self.blocks == other.blocks
            && self.last_block == other.last_block
            && self.session == other.session
            && self.kind == other.kind
            && self.since >= other.since
            && self.deadline >= other.deadline
    }

    /// What it waits for where another one that it is met as waits so: it came later, and has longer.
    fn reason_as(&self, other: &Self, reason: WaitReason) -> WaitReason {
        let WaitReason::Sooner { most, patience } = reason else { return reason };
        let longer = (self.since - other.since).min(self.deadline - other.deadline);
        WaitReason::Sooner { most, patience: patience + longer }
    }
}

impl<'a> Patient<'a> {
    /// Those that wait for a faster worker.
    pub(super) fn ahead(&self) -> &[Ahead] {
        &self.ahead
    }

    /// What the next request waits for, where that follows from what one like it does; it is counted then.
    pub(super) fn one_more(&mut self, needs: &Needs<'_>) -> Option<WaitReason> {
        let waiting = self.ahead.len();
        let has_a_share = |reason: &WaitReason| match reason {
            WaitReason::Sooner { most, .. } => u32::try_from(waiting).is_ok_and(|it| it < *most),
            _ => true,
        };
        let alike = self.asked.iter().filter(|(asked, _)| needs.are_met_as(asked));
        let mut reasons = alike.map(|(asked, reason)| needs.reason_as(asked, *reason));
        let reason = reasons.find(has_a_share)?;
        self.count(needs.priority, reason);
        Some(reason)
    }

    /// Somebody was asked about and waits so. Whether the next one of its kind is asked about, too, if it differs.
    pub(super) fn waits(&mut self, needs: Needs<'a>, reason: WaitReason) -> bool {
        self.count(needs.priority, reason);
        let is_more = self.asked.len() < MOST_ASKED;
        if is_more {
            self.asked.push((needs, reason));
        }
        is_more
    }

    fn count(&mut self, priority: Priority, reason: WaitReason) {
        if let WaitReason::Sooner { patience, .. } = reason {
            self.ahead.push(Ahead { priority, patience });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::wanted;
    use super::super::{Wait, Wanted};
    use super::*;
    use crate::clock;
    use crate::prompt::PromptChain;

    const SOONER: WaitReason = WaitReason::Sooner { most: 3, patience: Duration::from_secs(1) };

    #[test]
    fn those_that_are_alike_wait_unasked_as_many_as_have_a_share() {
        let all: Vec<_> = (0..5).map(|_| waiting(wanted(None))).collect();
        let needs: Vec<_> = all.iter().map(needs_of).collect();
        let mut patient = Patient::default();
        assert_eq!(patient.one_more(&needs[0]), None);
        assert!(patient.waits(needs[0], SOONER));
        let unasked = needs[1..4].iter().map(|needs| patient.one_more(needs).is_some());
        assert_eq!(unasked.collect::<Vec<_>>(), [true, true, false]);
        assert!(patient.waits(needs[3], WaitReason::Kept));
        assert_eq!(patient.one_more(&needs[4]), Some(WaitReason::Kept));
        assert_eq!(patient.ahead().len(), 3);
    }

    #[test]
    fn who_has_come_later_waits_longer_unless_its_deadline_is_as_near() {
        let second = Duration::from_secs(1);
        let first = waiting(wanted(None));
        let later = |deadline| {
            let since = first.since + 3 * second;
            Waiting { since, ..waiting(Wanted { deadline, ..first.wanted.clone() }) }
        };
        let deadline = first.wanted.deadline;
        let others = [later(deadline), later(deadline + 2 * second), later(deadline + 9 * second)];
        let mut patient = Patient::default();
        patient.waits(needs_of(&first), WaitReason::Sooner { most: 9, patience: second });
        for other in &others {
            assert!(patient.one_more(&needs_of(other)).is_some());
        }
        let seconds: Vec<_> = patient.ahead().iter().map(|it| it.patience.as_secs()).collect();
        assert_eq!(seconds, [1, 1, 3, 4]);
    }

    #[test]
    fn who_differs_in_what_decides_is_asked_about() {
        let (hasty, second) = (wanted(None), Duration::from_secs(1));
        let first = Wanted { deadline: hasty.deadline + second, ..hasty.clone() };
        let session = SessionKey { caller: "local".into(), name: "mine".into() };
        let rows = [
            Wanted { answer_tokens: 3, ..first.clone() },
            Wanted { session: Some(session), ..first.clone() },
            hasty,
            Wanted { barred: vec!["w-1".parse().unwrap()], ..first.clone() },
            Wanted { prompt: long_prompt().into(), ..first.clone() },
        ];
        let earlier = waiting(first.clone());
        let asked = Waiting { since: earlier.since + second, ..waiting(first) };
        let mut patient = Patient::default();
        patient.waits(needs_of(&asked), SOONER);
        let beside_it = |wanted| Waiting { since: asked.since, ..waiting(wanted) };
        for other in rows.map(beside_it).iter().chain([&earlier]) {
            assert_eq!(patient.one_more(&needs_of(other)), None, "{other:?}");
        }
    }

    #[test]
    fn a_few_that_differ_are_asked_about_and_their_kind_no_longer_then() {
        let all: Vec<_> =
            (0..100).map(|n| waiting(Wanted { answer_tokens: n, ..wanted(None) })).collect();
        let mut patient = Patient::default();
        let asked = all.iter().filter(|waiting| patient.waits(needs_of(waiting), WaitReason::Kept));
        assert_eq!(asked.count(), MOST_ASKED);
    }

    fn waiting(wanted: Wanted) -> Waiting {
        let (answer, _) = tokio::sync::oneshot::channel();
        let told = Wait::Start.into();
        Waiting { wanted, since: clock::now(), told, answer }
    }

    fn needs_of(waiting: &Waiting) -> Needs<'_> {
        waiting.needs(waiting.wanted.kind(false, false))
    }

    fn long_prompt() -> PromptChain {
        let prompt = worker_contract::Prompt::Text("a".repeat(200));
        let task = worker_contract::Task::Completion { prompt };
        let id = worker_contract::RequestId::random();
        PromptChain::of(&worker_contract::InferenceRequest::new(id, task))
    }
}
