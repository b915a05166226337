//! Jobs over their life: begun, followed, cancelled, failed, refused, forgotten.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::join_all;
use job_server::{JobError, JobRegistry, Limits, Outcome, Replayed, SubmitError};
use rbee_operations::{JobState, JobSummary, Operation};
use serde_json::json;
use tokio::sync::{Notify, oneshot};

use crate::support::{
    draining, ended, endless, event, follow, going_on, looking, messages, operation, scripted,
    within,
};

#[tokio::test]
async fn a_stream_opened_early_late_twice_or_behind_an_id_gives_the_same_events() {
    let registry = JobRegistry::in_memory(Limits::default());
    let go_on = Arc::new(Notify::new());
    let executor = {
        let go_on = Arc::clone(&go_on);
        scripted(move |job| {
            let go_on = Arc::clone(&go_on);
            async move {
                job.say("one");
                job.say_with("two", json!({"n": 2}));
                go_on.notified().await;
                job.warn("three");
                Ok(Outcome::new("four", json!({"done": true})))
            }
        })
    };
    let id = registry.submit(&operation(), "local", &executor).unwrap();

    let mut early = Box::pin(registry.follow(&id, None).unwrap());
    let mut seen = vec![within("the first event", early.next()).await.unwrap()];
    seen.push(within("the second event", early.next()).await.unwrap());
    assert_eq!(registry.get(&id).unwrap().state, JobState::Running);
    go_on.notify_one();
    seen.extend(within("the rest", early.collect::<Vec<_>>()).await);

    assert_eq!(messages(&seen), ["one", "two", "three", "four", "[DONE]"]);
    assert_eq!(seen, follow(&registry, &id, None).await);
    assert_eq!(seen, follow(&registry, &id, None).await);
    assert_eq!(seen[2..], follow(&registry, &id, Some(2)).await);
    assert_eq!(follow(&registry, &id, Some(4)).await, [Replayed::Done]);
    assert_eq!(event(&seen[3]).event, "hive_list");
    assert_eq!(event(&seen[3]).data, Some(json!({"done": true})));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_at_once_all_get_every_event() {
    const EVENTS: u64 = 3000;
    let registry = JobRegistry::in_memory(Limits::default());
    let executor = scripted(|job| async move {
        for n in 1..EVENTS {
            job.say(n.to_string());
            if n % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(Outcome::said(EVENTS.to_string()))
    });
    let id = registry.submit(&operation(), "local", &executor).unwrap();
    let all = join_all((0..20).map(|_| follow(&registry, &id, None))).await;
    let expected: Vec<_> =
        (1..=EVENTS).map(|n| n.to_string()).chain(["[DONE]".to_owned()]).collect();
    for seen in all {
        assert_eq!(messages(&seen), expected);
    }
}

#[tokio::test]
async fn a_reader_that_never_reads_does_not_slow_the_job_and_learns_what_it_missed() {
    let limits = Limits { events_per_job: 100, ..Limits::default() };
    let registry = JobRegistry::in_memory(limits);
    let (started, start) = oneshot::channel();
    let start = Mutex::new(Some(start));
    let executor = scripted(move |job| {
        let start = start.lock().unwrap().take();
        async move {
            job.say("first");
            start.unwrap().await.unwrap();
            for n in 0..100_000 {
                job.say(format!("event {n}"));
            }
            Ok(Outcome::said("last"))
        }
    });
    let id = registry.submit(&operation(), "local", &executor).unwrap();
    let mut slow = Box::pin(registry.follow(&id, None).unwrap());
    let first = within("the first event", slow.next()).await.unwrap();
    assert_eq!(event(&first).message, "first");
    started.send(()).unwrap();

    // The job ends although this reader takes nothing meanwhile.
    assert_eq!(ended(&registry, &id).await.state, JobState::Succeeded);
    let rest: Vec<_> = within("the rest", slow.collect()).await;
    assert_eq!(rest[0], Replayed::Gap { missed: 99_901, first_available: 99_903 });
    assert_eq!(rest.len(), 1 + 100 + 1);
    assert_eq!(messages(&rest[100..]), ["last", "[DONE]"]);
}

#[tokio::test]
async fn cancelling_reaches_the_executor_and_ends_the_job_as_cancelled() {
    let registry = JobRegistry::in_memory(Limits::default());
    let cleaned_up = Arc::new(AtomicBool::new(false));
    let executor = {
        let cleaned_up = Arc::clone(&cleaned_up);
        scripted(move |job| {
            let cleaned_up = Arc::clone(&cleaned_up);
            async move {
                job.cancelled().cancelled().await;
                job.say("cleaning up");
                cleaned_up.store(true, Ordering::SeqCst);
                Err(JobError::cancelled())
            }
        })
    };
    let id = registry.submit(&operation(), "local", &executor).unwrap();
    registry.cancel(&id).unwrap();
    registry.cancel(&id).unwrap();
    let seen = follow(&registry, &id, None).await;
    let last = event(&seen[seen.len() - 2]);
    assert_eq!((last.event.as_str(), &seen[seen.len() - 1]), ("cancelled", &Replayed::Done));
    assert_eq!(registry.get(&id).unwrap().state, JobState::Cancelled);
    assert!(cleaned_up.load(Ordering::SeqCst) || seen.len() == 2, "begun but not told to stop");

    let again = registry.cancel(&id).unwrap();
    assert_eq!(again.state, JobState::Cancelled);
    assert_eq!(seen, follow(&registry, &id, None).await);
}

#[tokio::test(start_paused = true)]
async fn an_executor_that_does_not_stop_is_dropped_after_ten_seconds() {
    struct Guard(Arc<AtomicBool>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicBool::new(false));
    let registry = JobRegistry::in_memory(Limits::default());
    let executor = {
        let dropped = Arc::clone(&dropped);
        scripted(move |job| {
            let guard = Guard(Arc::clone(&dropped));
            async move {
                let _guard = guard;
                job.say("deaf");
                std::future::pending().await
            }
        })
    };
    let id = registry.submit(&operation(), "local", &executor).unwrap();
    let mut events = Box::pin(registry.follow(&id, None).unwrap());
    events.next().await.unwrap();
    let cancelled = tokio::time::Instant::now();
    registry.cancel(&id).unwrap();
    assert_eq!(event(&events.next().await.unwrap()).event, "cancelled");
    assert_eq!(cancelled.elapsed().as_secs(), 10);
    assert!(dropped.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_panic_fails_its_job_and_no_other() {
    let registry = JobRegistry::in_memory(Limits::default());
    let at_once = scripted(|job| {
        assert!(job.caller() != "local", "a bug before the future is made");
        async { Ok(Outcome::said("unreachable")) }
    });
    let later = scripted(|job| async move {
        job.say("so far, so good");
        tokio::task::yield_now().await;
        panic!("a bug that knows the prompt");
    });
    for executor in [at_once, later] {
        let id = registry.submit(&operation(), "local", &executor).unwrap();
        let seen = follow(&registry, &id, None).await;
        let error = event(&seen[seen.len() - 2]);
        assert_eq!((error.event.as_str(), error.code.as_deref()), ("error", Some("internal")));
        assert!(!error.message.contains("prompt"), "{}", error.message);
        assert_eq!(seen.last(), Some(&Replayed::Done));
        assert_eq!(registry.get(&id).unwrap().state, JobState::Failed);
    }
    assert_eq!(registry.running(), 0);
    let fine = scripted(|_| async { Ok(Outcome::said("fine")) });
    let id = registry.submit(&operation(), "local", &fine).unwrap();
    assert_eq!(ended(&registry, &id).await.state, JobState::Succeeded);
}

#[tokio::test]
async fn one_job_over_the_limit_is_refused_until_another_ends() {
    let registry = JobRegistry::in_memory(Limits { running: 2, ..Limits::default() });
    let executor = endless();
    let first = registry.submit(&operation(), "local", &executor).unwrap();
    registry.submit(&operation(), "local", &executor).unwrap();
    let refused = registry.submit(&operation(), "local", &executor);
    assert_eq!(refused, Err(SubmitError::TooManyRunning { limit: 2 }));
    assert_eq!(registry.list().len(), 2);
    registry.cancel(&first).unwrap();
    ended(&registry, &first).await;
    let admitted = async {
        while registry.submit(&operation(), "local", &executor).is_err() {
            tokio::task::yield_now().await;
        }
    };
    within("a free place", admitted).await;
}

#[tokio::test]
async fn jobs_that_drain_keep_no_other_out() {
    let registry = JobRegistry::in_memory(Limits { running: 2, ..Limits::default() });
    let (answers, others) = (draining(endless()), endless());
    for executor in [&answers, &answers, &others, &others] {
        registry.submit(&operation(), "local", executor).unwrap();
    }
    for executor in [&answers, &others] {
        let refused = registry.submit(&operation(), "local", executor);
        assert_eq!(refused, Err(SubmitError::TooManyRunning { limit: 2 }));
    }
}

#[tokio::test]
async fn old_ended_jobs_are_forgotten_and_running_ones_never() {
    let registry = JobRegistry::in_memory(Limits { keep_jobs: 3, ..Limits::default() });
    let running = registry.submit(&operation(), "local", &endless()).unwrap();
    let quick = scripted(|_| async { Ok(Outcome::said("done")) });
    let mut quick_ones = Vec::new();
    for _ in 0..10 {
        let id = registry.submit(&operation(), "local", &quick).unwrap();
        within("the end", registry.follow(&id, None).unwrap().collect::<Vec<_>>()).await;
        quick_ones.push(id);
    }
    let forgotten = async {
        while registry.list().len() > 4 {
            tokio::task::yield_now().await;
        }
    };
    within("three ended jobs and the running one", forgotten).await;
    let kept: Vec<_> = registry.list().into_iter().map(|job| job.job_id).collect();
    let expected: Vec<_> = quick_ones[7..].iter().rev().cloned().chain([running]).collect();
    assert_eq!(kept, expected);
    assert!(registry.follow(&quick_ones[0], None).is_err());
}

#[tokio::test]
async fn looks_push_nothing_out_are_kept_apart_and_listed_for_who_asks() {
    let limits = Limits { keep_jobs: 3, keep_looks: 4, ..Limits::default() };
    let registry = JobRegistry::in_memory(limits);
    let quick = scripted(|_| async { Ok(Outcome::said("done")) });
    let mut changes = Vec::new();
    for _ in 0..3 {
        let id = registry.submit(&operation(), "local", &quick).unwrap();
        ended(&registry, &id).await;
        changes.push(id);
    }
    let mut looks = Vec::new();
    for _ in 0..10 {
        let id = registry.submit(&operation(), "local", &looking(Arc::clone(&quick))).unwrap();
        assert_eq!(messages(&follow(&registry, &id, None).await), ["done", "[DONE]"]);
        looks.push(id);
    }
    let forgotten = async {
        while registry.list_with_looks().len() > 7 {
            tokio::task::yield_now().await;
        }
    };
    within("four looks and the three others", forgotten).await;
    let ids = |jobs: Vec<JobSummary>| -> Vec<_> { jobs.into_iter().map(|j| j.job_id).collect() };
    let others: Vec<_> = changes.iter().rev().cloned().collect();
    assert_eq!(ids(registry.list()), others);
    let all: Vec<_> = looks[6..].iter().rev().cloned().chain(others).collect();
    assert_eq!(ids(registry.list_with_looks()), all);
    let latest = registry.latest(3, true, |_| true);
    assert_eq!((ids(latest.jobs), latest.left_out), ([&all[..3], &all[4..]].concat(), 1));
    assert_eq!(registry.get(&looks[9]).unwrap().state, JobState::Succeeded);
    assert_eq!(messages(&follow(&registry, &looks[9], None).await), ["done", "[DONE]"]);
    assert!(registry.get(&looks[0]).is_none());
}

#[tokio::test]
async fn old_looks_are_forgotten_but_for_the_latest() {
    let limits = Limits { keep_looks_for: Duration::ZERO, ..Limits::default() };
    let registry = JobRegistry::in_memory(limits);
    let look = looking(scripted(|_| async { Ok(Outcome::said("done")) }));
    let change = registry.submit(&operation(), "local", &endless()).unwrap();
    let forgotten = async {
        let mut begun = 0;
        // One that ended in the same millisecond as the last is not older.
        while begun < 40 || registry.list_with_looks().len() > 20 {
            let id = registry.submit(&operation(), "local", &look).unwrap();
            ended(&registry, &id).await;
            begun += 1;
        }
    };
    within("all but the latest to be forgotten", forgotten).await;
    assert_eq!(registry.list()[0].job_id, change);
}

#[tokio::test]
async fn the_results_of_looks_take_no_memory_from_those_of_other_jobs() {
    let limits = Limits { bytes_of_ended_jobs: 5000, ..Limits::default() };
    let registry = JobRegistry::in_memory(limits);
    let talkative = scripted(|job| async move {
        for _ in 0..20 {
            job.say("x".repeat(100));
        }
        Ok(Outcome::said("done"))
    });
    let first = registry.submit(&operation(), "local", &talkative).unwrap();
    assert_eq!(follow(&registry, &first, None).await.len(), 22);
    let look = looking(talkative);
    for _ in 0..5 {
        let id = registry.submit(&operation(), "local", &look).unwrap();
        assert_eq!(follow(&registry, &id, None).await.len(), 22);
    }
    within("the end of all tasks", registry.shutdown(Duration::from_secs(5))).await;
    assert_eq!(follow(&registry, &first, None).await.len(), 22);
}

#[tokio::test]
async fn past_the_memory_of_ended_jobs_the_oldest_keeps_only_its_end() {
    let limits = Limits { bytes_of_ended_jobs: 5000, ..Limits::default() };
    let registry = JobRegistry::in_memory(limits);
    let talkative = scripted(|job| async move {
        for _ in 0..20 {
            job.say("x".repeat(100));
        }
        Ok(Outcome::said("done"))
    });
    let first = registry.submit(&operation(), "local", &talkative).unwrap();
    assert_eq!(follow(&registry, &first, None).await.len(), 22);
    let second = registry.submit(&operation(), "local", &talkative).unwrap();
    assert_eq!(follow(&registry, &second, None).await.len(), 22);
    let shrunk = async {
        while follow(&registry, &first, None).await.len() > 3 {
            tokio::task::yield_now().await;
        }
    };
    within("the first job's events to go", shrunk).await;
    assert_eq!(messages(&follow(&registry, &first, None).await), ["gap of 20", "done", "[DONE]"]);
    assert_eq!(follow(&registry, &second, None).await.len(), 22);
}

#[tokio::test]
async fn past_the_memory_of_ended_jobs_the_oldest_loses_a_large_result_and_the_last_one_never() {
    let limits = Limits { bytes_of_ended_jobs: 5000, ..Limits::default() };
    let registry = JobRegistry::in_memory(limits);
    let large = json!({"models": "m".repeat(100_000)});
    let finding = {
        let large = large.clone();
        scripted(move |_| {
            let found = Outcome::new("found", large.clone());
            async move { Ok(found) }
        })
    };
    let first = registry.submit(&operation(), "local", &finding).unwrap();
    ended(&registry, &first).await;
    let second = registry.submit(&operation(), "local", &finding).unwrap();
    ended(&registry, &second).await;
    let shrunk = async {
        while event(&follow(&registry, &first, None).await[0]).data.is_some() {
            tokio::task::yield_now().await;
        }
    };
    within("the first job's result to go", shrunk).await;
    let left = follow(&registry, &first, None).await;
    assert!(event(&left[0]).message.starts_with("found (its data is not kept"), "{left:?}");
    assert_eq!(event(&follow(&registry, &second, None).await[0]).data, Some(large));
}

#[tokio::test]
async fn a_shutdown_ends_every_job_as_interrupted_and_takes_no_more() {
    let registry = JobRegistry::in_memory(Limits::default());
    let deaf = scripted(|_| std::future::pending());
    let executors = [endless(), deaf, going_on(endless())];
    let jobs = executors.map(|e| registry.submit(&operation(), "local", &e).unwrap());
    let began = Instant::now();
    within("the shutdown", registry.shutdown(Duration::from_millis(50))).await;
    assert!(began.elapsed() < Duration::from_secs(5), "the grace was not kept");
    let hints = ["start the job again", "start the job again", "wait for it"];
    for (id, hint) in jobs.into_iter().zip(hints) {
        let seen = follow(&registry, &id, None).await;
        let error = event(&seen[seen.len() - 2]);
        assert_eq!(error.code.as_deref(), Some("interrupted"));
        assert_eq!(error.hint.as_deref(), Some(hint));
        assert_eq!(registry.get(&id).unwrap().state, JobState::Failed);
    }
    let refused = registry.submit(&operation(), "local", &endless());
    assert_eq!(refused, Err(SubmitError::ShuttingDown));
}

#[tokio::test]
async fn a_drain_waits_for_the_jobs_that_are_worth_it_and_ends_the_others() {
    let registry = JobRegistry::in_memory(Limits::default());
    let go_on = Arc::new(Notify::new());
    let answering = {
        let go_on = Arc::clone(&go_on);
        draining(scripted(move |job| {
            let go_on = Arc::clone(&go_on);
            async move {
                job.say("answering");
                go_on.notified().await;
                assert!(!job.cancelled().is_cancelled(), "it is not asked to end");
                Ok(Outcome::said("answered"))
            }
        }))
    };
    let answer = registry.submit(&operation(), "local", &answering).unwrap();
    let other = registry.submit(&operation(), "local", &endless()).unwrap();
    let meanwhile = async {
        assert_eq!(ended(&registry, &other).await.state, JobState::Failed);
        assert!(!registry.get(&answer).unwrap().state.is_final());
        let refused = registry.submit(&operation(), "local", &answering);
        assert_eq!(refused, Err(SubmitError::ShuttingDown));
        go_on.notify_one();
    };
    let drain = registry.drain(Duration::from_secs(60));
    within("the drain", async { tokio::join!(drain, meanwhile) }).await;
    assert_eq!(ended(&registry, &answer).await.state, JobState::Succeeded);
    within("the shutdown", registry.shutdown(Duration::from_secs(5))).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_over_ends_every_job_as_interrupted() {
    let registry = JobRegistry::in_memory(Limits::default());
    let answer = registry.submit(&operation(), "local", &draining(endless())).unwrap();
    let began = tokio::time::Instant::now();
    registry.drain(Duration::from_secs(7)).await;
    assert_eq!(began.elapsed().as_secs(), 7);
    assert!(!registry.get(&answer).unwrap().state.is_final());
    registry.shutdown(Duration::from_secs(5)).await;
    let seen = follow(&registry, &answer, None).await;
    assert_eq!(event(&seen[seen.len() - 2]).code.as_deref(), Some("interrupted"));
}

#[tokio::test]
async fn a_closed_registry_takes_no_job_and_ends_none() {
    let registry = JobRegistry::in_memory(Limits::default());
    let running = registry.submit(&operation(), "local", &endless()).unwrap();
    within("the work to begin", registry.follow(&running, None).unwrap().boxed().next()).await;
    registry.close();
    let refused = registry.submit(&operation(), "local", &endless());
    assert_eq!(refused, Err(SubmitError::ShuttingDown));
    assert_eq!(registry.get(&running).unwrap().state, JobState::Running);
    registry.cancel(&running).unwrap();
    assert_eq!(ended(&registry, &running).await.state, JobState::Cancelled);
}

#[tokio::test]
async fn what_is_done_in_time_counts_at_a_shutdown_but_not_after_a_cancellation() {
    let finishing = || {
        scripted(|job| async move {
            job.say("working");
            job.cancelled().cancelled().await;
            Ok(Outcome::said("done in time"))
        })
    };
    for (cancel, state) in [(true, JobState::Cancelled), (false, JobState::Succeeded)] {
        let registry = JobRegistry::in_memory(Limits::default());
        let id = registry.submit(&operation(), "local", &finishing()).unwrap();
        within("the work to begin", registry.follow(&id, None).unwrap().boxed().next()).await;
        if cancel {
            registry.cancel(&id).unwrap();
        } else {
            within("the shutdown", registry.shutdown(Duration::from_secs(5))).await;
        }
        assert_eq!(ended(&registry, &id).await.state, state);
    }
}

#[tokio::test]
async fn a_list_shows_who_asked_for_what_but_no_prompt() {
    let registry = JobRegistry::in_memory(Limits::default());
    let infer: Operation =
        serde_json::from_value(json!({"Infer": {"model": "m", "prompt": "my secret"}})).unwrap();
    let executor = scripted(|_| async { Err(JobError::new("x", "no such model")) });
    let id = registry.submit(&infer, "1a2b3c4d", &executor).unwrap();
    let job = ended(&registry, &id).await;
    assert_eq!((job.operation.as_str(), job.caller.as_str()), ("infer", "1a2b3c4d"));
    assert_eq!(job.error.as_deref(), Some("no such model"));
    assert!(job.ended_at.is_some());
    assert!(!serde_json::to_string(&registry.list()).unwrap().contains("secret"));
}
