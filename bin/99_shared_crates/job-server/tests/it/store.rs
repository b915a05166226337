//! What survives a restart, and what never reaches the disk.

use std::path::Path;
use std::time::Duration;

use job_server::{JobError, JobRegistry, Limits, Outcome, Replayed, StoreError};
use rbee_operations::{JobState, Operation};
use serde_json::json;

use crate::support::{
    ended, endless, event, follow, looking, messages, operation, scripted, within,
};

#[tokio::test]
async fn an_ended_job_is_replayed_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("state.db");
    let registry = JobRegistry::open(Limits::default(), &db).unwrap();
    let executor = scripted(|job| async move {
        job.say("one");
        Ok(Outcome::new("two", json!({"n": 2})))
    });
    let id = registry.submit(&operation(), "1a2b3c4d", &executor).unwrap();
    let (job, seen) = (ended(&registry, &id).await, follow(&registry, &id, None).await);
    stop(registry).await;

    let registry = JobRegistry::open(Limits::default(), &db).unwrap();
    assert_eq!(registry.get(&id), Some(job));
    assert_eq!(follow(&registry, &id, None).await, seen);
    assert_eq!(follow(&registry, &id, Some(1)).await, seen[1..]);
}

#[tokio::test]
async fn a_job_that_a_crash_ended_is_failed_as_interrupted_for_every_reader() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("state.db");
    let crashed = JobRegistry::open(Limits::default(), &db).unwrap();
    let id = crashed.submit(&operation(), "local", &endless()).unwrap();
    within("the job's record", recorded(&db, 1)).await;

    // The first registry is still there, as after a crash: it has written no end.
    let registry = JobRegistry::open(Limits::default(), &db).unwrap();
    let job = registry.get(&id).unwrap();
    assert_eq!(job.state, JobState::Failed);
    // A reader that saw many events before the crash gets the end like one that saw none.
    for after in [None, Some(1), Some(1_000_000)] {
        let seen = follow(&registry, &id, after).await;
        let [.., error, Replayed::Done] = &seen[..] else { panic!("{seen:?}") };
        assert!(!seen.iter().any(|one| matches!(one, Replayed::Gap { .. })), "{seen:?}");
        assert_eq!(event(error).code.as_deref(), Some("interrupted"));
    }
    let again = JobRegistry::open(Limits::default(), &db).unwrap();
    assert_eq!(again.get(&id), Some(job));
}

#[tokio::test]
async fn a_job_that_a_crash_ended_still_tells_how_far_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("state.db");
    let crashed = JobRegistry::open(Limits::default(), &db).unwrap();
    let executor = scripted(|job| async move {
        job.say("10 of 50 MB");
        job.event("token", "ANSWERTEXT", json!({"text": "ANSWERTEXT"}));
        job.say("20 of 50 MB");
        job.cancelled().cancelled().await;
        Err(JobError::cancelled())
    });
    let id = crashed.submit(&operation(), "local", &executor).unwrap();
    let talkative = scripted(|job| async move {
        for n in 0..2000 {
            job.say(format!("{n} {}", "x".repeat(200)));
        }
        job.cancelled().cancelled().await;
        Err(JobError::cancelled())
    });
    let much = crashed.submit(&operation(), "local", &talkative).unwrap();
    let look = crashed.submit(&operation(), "ONLOOKER", &looking(endless())).unwrap();
    within("what both jobs told", async {
        let latest = || -> rusqlite::Result<i64> {
            let latest = "SELECT count(*) FROM job_events WHERE event_id = ?1";
            let on_disk = rusqlite::Connection::open(&db)?;
            let is_there = |id: i64| on_disk.query_row(latest, [id], |row| row.get::<_, i64>(0));
            Ok(is_there(3)? * is_there(2000)?)
        };
        while latest().unwrap_or(0) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;

    // The first registry is still there, as after a crash: it has written no end.
    let registry = JobRegistry::open(Limits::default(), &db).unwrap();
    let interrupted = "the daemon stopped while the job ran";
    let events = follow(&registry, &id, None).await;
    let [.., told, end, Replayed::Done] = &events[..] else { panic!("{events:?}") };
    let job = registry.get(&id).unwrap();
    assert_eq!(job.ended_at.as_ref(), Some(&event(told).at), "not when it was found out");
    assert_eq!(event(end).at, event(told).at);
    let seen = messages(&events);
    assert_eq!(seen, ["10 of 50 MB", "gap of 1", "20 of 50 MB", interrupted, "[DONE]"]);
    assert_eq!(messages(&follow(&registry, &id, Some(3)).await), [interrupted, "[DONE]"]);
    let seen = messages(&follow(&registry, &much, None).await);
    assert!(seen.len() > 10 && seen.len() < 300, "{} events", seen.len());
    assert!(seen[seen.len() - 3].starts_with("1999 "), "{seen:?}");
    assert_eq!(registry.get(&look), None);
    let bytes = all_bytes(folder.path());
    assert!(!bytes.windows(10).any(|w| w == b"ANSWERTEXT"), "an answer is on disk");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_a_reader_was_told_is_on_disk_already() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("state.db");
    let registry = JobRegistry::open(Limits::default(), &db).unwrap();
    let reader = rusqlite::Connection::open(&db).unwrap();
    let mut state = reader.prepare("SELECT state FROM jobs WHERE job_id = ?1").unwrap();
    let executor = scripted(|job| async move {
        job.say("working");
        tokio::task::yield_now().await;
        Ok(Outcome::said("done"))
    });
    for _ in 0..50 {
        let id = registry.submit(&operation(), "local", &executor).unwrap();
        assert_eq!(messages(&follow(&registry, &id, None).await), ["working", "done", "[DONE]"]);
        let on_disk: String = state.query_row([id.as_str()], |row| row.get(0)).unwrap();
        assert_eq!(on_disk, "succeeded");
    }
}

#[tokio::test]
async fn neither_prompt_nor_answer_is_ever_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("state.db");
    let registry = JobRegistry::open(Limits::default(), &db).unwrap();
    let infer: Operation = serde_json::from_value(json!({"Infer": {
        "model": "smollm2-135m", "prompt": "PROMPTTEXT", "system": "SYSTEMTEXT",
    }}))
    .unwrap();
    let executor = scripted(|job| async move {
        job.say("queued at w-1");
        for n in 0..500 {
            job.event("token", "ANSWERTEXT", json!({"text": "ANSWERTEXT", "tokens": [n]}));
        }
        Ok(Outcome::new("500 tokens", json!({"finish_reason": "stop"})))
    });
    let id = registry.submit(&infer, "local", &executor).unwrap();
    assert_eq!(follow(&registry, &id, None).await.len(), 503);
    // While the file is open, so that the write-ahead log is looked at too.
    let bytes = all_bytes(folder.path());
    let on_disk = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(on_disk("queued at w-1") && on_disk("500 tokens"), "nothing was stored at all");
    for private in ["PROMPTTEXT", "SYSTEMTEXT", "ANSWERTEXT"] {
        assert!(!on_disk(private), "{private} is on disk");
    }
    stop(registry).await;

    let registry = JobRegistry::open(Limits::default(), &db).unwrap();
    let seen = follow(&registry, &id, None).await;
    assert_eq!(messages(&seen), ["queued at w-1", "gap of 500", "500 tokens", "[DONE]"]);
}

#[tokio::test]
async fn an_error_that_may_quote_the_prompt_is_told_in_full_and_stored_in_its_other_form() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("state.db");
    let registry = JobRegistry::open(Limits::default(), &db).unwrap();
    let executor = scripted(|_job| async move {
        let error = JobError::new("refused", "cannot do PROMPTTEXT").hint("not PROMPTTEXT");
        Err(error.stored_as(JobError::new("refused", "HTTP 400")))
    });
    let id = registry.submit(&operation(), "local", &executor).unwrap();
    let told = follow(&registry, &id, None).await;
    assert_eq!(messages(&told), ["cannot do PROMPTTEXT", "[DONE]"]);
    assert_eq!(ended(&registry, &id).await.error.as_deref(), Some("cannot do PROMPTTEXT"));
    // While the file is open, so that the write-ahead log is looked at too.
    let bytes = all_bytes(folder.path());
    let on_disk = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(on_disk("HTTP 400") && !on_disk("PROMPTTEXT"));
    stop(registry).await;

    let registry = JobRegistry::open(Limits::default(), &db).unwrap();
    assert_eq!(messages(&follow(&registry, &id, None).await), ["HTTP 400", "[DONE]"]);
    assert_eq!(registry.get(&id).unwrap().error.as_deref(), Some("HTTP 400"));
}

#[tokio::test]
async fn a_look_is_never_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("state.db");
    let limits = Limits { keep_looks: 1, ..Limits::default() };
    let registry = JobRegistry::open(limits, &db).unwrap();
    let executor = scripted(|job| async move { Ok(Outcome::said(format!("by {}", job.caller()))) });
    let changed = registry.submit(&operation(), "CHANGER", &executor).unwrap();
    ended(&registry, &changed).await;
    let look = looking(executor);
    for _ in 0..3 {
        let id = registry.submit(&operation(), "ONLOOKER", &look).unwrap();
        assert_eq!(messages(&follow(&registry, &id, None).await), ["by ONLOOKER", "[DONE]"]);
    }
    // While the file is open, so that the write-ahead log is looked at too.
    let bytes = all_bytes(folder.path());
    let on_disk = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(on_disk("CHANGER") && !on_disk("ONLOOKER"));
    stop(registry).await;

    let registry = JobRegistry::open(limits, &db).unwrap();
    let kept: Vec<_> = registry.list_with_looks().into_iter().map(|job| job.job_id).collect();
    assert_eq!(kept, [changed]);
}

#[tokio::test]
async fn only_the_latest_jobs_and_a_bounded_tail_of_each_are_stored() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("state.db");
    let limits = Limits { keep_jobs: 3, ..Limits::default() };
    let registry = JobRegistry::open(limits, &db).unwrap();
    let executor = scripted(|job| async move {
        for n in 0..2000 {
            job.say(format!("{n} {}", "x".repeat(200)));
        }
        Ok(Outcome::said("done"))
    });
    let mut ids = Vec::new();
    for _ in 0..8 {
        let id = registry.submit(&operation(), "local", &executor).unwrap();
        ended(&registry, &id).await;
        ids.push(id);
    }
    // While the file is open: closing it merges the write-ahead log.
    assert!(all_bytes(folder.path()).len() < 2 << 20, "the files grow without bound");
    stop(registry).await;

    let registry = JobRegistry::open(limits, &db).unwrap();
    let kept: Vec<_> = registry.list().into_iter().map(|job| job.job_id).collect();
    assert_eq!(kept, [ids[7].clone(), ids[6].clone(), ids[5].clone()]);
    let seen = follow(&registry, &ids[7], None).await;
    assert!(matches!(seen[0], Replayed::Gap { .. }), "{:?}", seen[0]);
    assert!(seen.len() > 10 && seen.len() < 300, "{} events", seen.len());
    assert_eq!(messages(&seen[seen.len() - 2..]), ["done", "[DONE]"]);
}

#[tokio::test]
async fn a_job_of_megabytes_is_remembered_in_kilobytes() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("state.db");
    let registry = JobRegistry::open(Limits::default(), &db).unwrap();
    let path = "x".repeat(1 << 20);
    let import = json!({"ModelImport": {"hive_id": "nas", "path": path}});
    let import: Operation = serde_json::from_value(import).unwrap();
    let executor = scripted(|job| async move {
        job.say("m".repeat(1 << 20));
        Err(JobError::new("none", "n".repeat(1 << 20)).hint("h".repeat(1 << 20)))
    });
    for _ in 0..5 {
        let id = registry.submit(&import, "local", &executor).unwrap();
        let job = ended(&registry, &id).await;
        assert_eq!(job.detail["ModelImport"]["hive_id"], "nas");
        assert!(job.error.unwrap().ends_with("n…"));
    }
    let listed = registry.list();
    assert!(serde_json::to_vec(&listed).unwrap().len() < 100 << 10);
    // While the file is open: closing it merges the write-ahead log.
    assert!(all_bytes(folder.path()).len() < 1 << 20, "the files grow with the jobs");
    stop(registry).await;
    assert_eq!(JobRegistry::open(Limits::default(), &db).unwrap().list(), listed);
}

#[tokio::test]
async fn a_large_result_is_given_whole_to_who_follows_and_is_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("state.db");
    let registry = JobRegistry::open(Limits::default(), &db).unwrap();
    let large = json!({"models": "m".repeat(1 << 20)});
    let found = large.clone();
    let executor = scripted(move |job| {
        let found = found.clone();
        async move {
            job.say("looking");
            Ok(Outcome::new("found", found))
        }
    });
    let id = registry.submit(&operation(), "local", &executor).unwrap();
    let seen = follow(&registry, &id, None).await;
    assert_eq!(event(&seen[1]).data.as_ref(), Some(&large));
    stop(registry).await;
    assert!(all_bytes(folder.path()).len() < 200 << 10, "it is on disk");

    let registry = JobRegistry::open(Limits::default(), &db).unwrap();
    let left = follow(&registry, &id, None).await;
    assert_eq!(event(&left[0]).message, "looking");
    assert!(event(&left[1]).message.starts_with("found (its data is not kept"), "{left:?}");
    assert_eq!(event(&left[1]).data, None);
}

#[tokio::test]
async fn jobs_that_a_clock_ahead_has_stamped_push_no_later_one_out() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("state.db");
    let limits = Limits { keep_jobs: 3, ..Limits::default() };
    let registry = JobRegistry::open(limits, &db).unwrap();
    let executor = scripted(|_| async { Ok(Outcome::said("done")) });
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = registry.submit(&operation(), "local", &executor).unwrap();
        ended(&registry, &id).await;
        ids.push(id);
    }
    stop(registry).await;
    let ahead = "UPDATE jobs SET ended_at = '2099-01-01T00:00:00.000Z'";
    rusqlite::Connection::open(&db).unwrap().execute_batch(ahead).unwrap();
    for latest in 1..=3 {
        let registry = JobRegistry::open(limits, &db).unwrap();
        let kept: Vec<_> = registry.list().into_iter().map(|job| job.job_id).collect();
        let expected: Vec<_> = ids.iter().rev().take(3).cloned().collect();
        assert_eq!(kept, expected, "after {latest} starts");
        let id = registry.submit(&operation(), "local", &executor).unwrap();
        ended(&registry, &id).await;
        ids.push(id);
        stop(registry).await;
    }
}

#[tokio::test]
async fn a_job_that_was_just_interrupted_is_kept_though_many_began_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("state.db");
    let limits = Limits { keep_jobs: 3, ..Limits::default() };
    let crashed = JobRegistry::open(limits, &db).unwrap();
    let long = crashed.submit(&operation(), "local", &endless()).unwrap();
    let executor = scripted(|_| async { Ok(Outcome::said("done")) });
    for _ in 0..4 {
        let id = crashed.submit(&operation(), "local", &executor).unwrap();
        ended(&crashed, &id).await;
    }
    let registry = JobRegistry::open(limits, &db).unwrap();
    assert_eq!(registry.list().len(), 3);
    assert_eq!(registry.get(&long).unwrap().state, JobState::Failed);
}

#[tokio::test]
async fn records_in_which_a_bit_has_flipped_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("state.db");
    let registry = JobRegistry::open(Limits::default(), &db).unwrap();
    let executor = scripted(|job| async move {
        job.say(format!("said by {}", job.caller()));
        Ok(Outcome::said("done"))
    });
    let callers = ["damaged", "whole"];
    let ids = callers.map(|caller| registry.submit(&operation(), caller, &executor).unwrap());
    for id in &ids {
        ended(&registry, id).await;
    }
    stop(registry).await;
    let mut bytes = std::fs::read(&db).unwrap();
    let is_place = |at: &usize| bytes[*at..].starts_with(b"damaged");
    // In the record of the job, and in that of what it said.
    let places: Vec<_> = (0..bytes.len()).filter(is_place).collect();
    assert!(places.len() >= 2, "{places:?}");
    for at in places {
        bytes[at] ^= 0x80;
    }
    std::fs::write(&db, bytes).unwrap();

    let registry = JobRegistry::open(Limits::default(), &db).unwrap();
    let kept: Vec<_> = registry.list().into_iter().map(|job| job.job_id).collect();
    assert_eq!(kept, ids[1..]);
    let seen = follow(&registry, &ids[1], None).await;
    assert_eq!(messages(&seen), ["said by whole", "done", "[DONE]"]);
}

#[tokio::test]
async fn nothing_lies_beside_the_file_of_a_registry_that_was_shut_down() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("state.db");
    let registry = JobRegistry::open(Limits::default(), &db).unwrap();
    let executor = scripted(|_| async { Ok(Outcome::said("done")) });
    let id = registry.submit(&operation(), "local", &executor).unwrap();
    ended(&registry, &id).await;
    assert!(folder.path().join("state.db-wal").exists(), "it was open");
    let held = registry.clone();
    stop(registry).await;
    let files = std::fs::read_dir(folder.path()).unwrap();
    let names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names, ["state.db"]);
    assert_eq!(held.list().len(), 1, "what is in memory is still shown");
}

#[tokio::test]
async fn jobs_are_forgotten_after_a_month_but_for_the_latest_hundred() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("state.db");
    let limits = Limits { keep_jobs: 1000, ..Limits::default() };
    let registry = JobRegistry::open(limits, &db).unwrap();
    let executor = scripted(|_| async { Ok(Outcome::said("done")) });
    for _ in 0..103 {
        let id = registry.submit(&operation(), "local", &executor).unwrap();
        ended(&registry, &id).await;
    }
    within("the records", registry.shutdown(Duration::from_secs(5))).await;
    drop(registry);
    let age = |days: u32| {
        let connection = rusqlite::Connection::open(&db).unwrap();
        let age = format!(
            "UPDATE jobs SET ended_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-{days} days')"
        );
        connection.execute_batch(&age).unwrap();
    };
    age(29);
    let registry = JobRegistry::open(limits, &db).unwrap();
    assert_eq!(registry.list().len(), 103);
    drop(registry);
    age(31);
    let registry = JobRegistry::open(limits, &db).unwrap();
    assert_eq!(registry.list().len(), 100);
    let id = registry.submit(&operation(), "local", &executor).unwrap();
    ended(&registry, &id).await;
    within("the oldest to be forgotten", async {
        while registry.list().len() > 100 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(registry.list()[0].job_id, id);
}

#[tokio::test]
async fn many_jobs_at_once_are_all_recorded_with_their_ends() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("state.db");
    let registry = JobRegistry::open(Limits::default(), &db).unwrap();
    let executor = scripted(|job| async move {
        job.say("working");
        tokio::task::yield_now().await;
        Ok(Outcome::said("done"))
    });
    let ids: Vec<_> =
        (0..200).map(|_| registry.submit(&operation(), "local", &executor).unwrap()).collect();
    for id in &ids {
        assert_eq!(ended(&registry, id).await.state, JobState::Succeeded);
    }
    stop(registry).await;
    let registry = JobRegistry::open(Limits::default(), &db).unwrap();
    assert_eq!(registry.list().len(), 200);
    assert!(registry.list().iter().all(|job| job.state == JobState::Succeeded));
}

#[test]
fn a_file_that_is_no_job_store_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("state.db");
    std::fs::write(&db, "this is a diary, not a database, and it is long enough to be read as one")
        .unwrap();
    let error = JobRegistry::open(Limits::default(), &db).unwrap_err();
    assert!(matches!(error, StoreError::Use { .. }), "{error:?}");
    assert!(error.to_string().contains("state.db"), "{error}");
    assert!(std::fs::read_to_string(&db).unwrap().starts_with("this is a diary"));

    let missing = JobRegistry::open(Limits::default(), &folder.path().join("no/such/folder.db"));
    assert!(matches!(missing.unwrap_err(), StoreError::Open { .. }));
}

#[test]
fn a_file_of_a_later_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("state.db");
    rusqlite::Connection::open(&db).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    let error = JobRegistry::open(Limits::default(), &db).unwrap_err();
    assert!(matches!(error, StoreError::TooNew { found: 99, known: 1, .. }), "{error:?}");
    let told = error.to_string();
    let mended = told.split('`').nth(1).unwrap();
    assert!(mended.starts_with("sqlite3 ") && mended.contains("state.db"), "{told}");
    // What is said there can be done there.
    let sql = mended.split('\'').nth(1).unwrap();
    rusqlite::Connection::open(&db).unwrap().execute_batch(sql).unwrap();
    let error = JobRegistry::open(Limits::default(), &db).unwrap_err();
    assert!(!matches!(error, StoreError::TooNew { .. }), "it has no tables: {error:?}");
}

#[cfg(unix)]
#[test]
fn only_the_owner_can_read_the_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("state.db");
    let _registry = JobRegistry::open(Limits::default(), &db).unwrap();
    assert_eq!(std::fs::metadata(&db).unwrap().permissions().mode() & 0o777, 0o600);
}

async fn stop(registry: JobRegistry) {
    within("the shutdown", registry.shutdown(Duration::from_secs(5))).await;
}

/// Waits until that many jobs are on disk.
async fn recorded(db: &Path, jobs: i64) {
    let count = || -> rusqlite::Result<i64> {
        rusqlite::Connection::open(db)?.query_row("SELECT count(*) FROM jobs", [], |r| r.get(0))
    };
    while count().unwrap_or(0) < jobs {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn all_bytes(folder: &Path) -> Vec<u8> {
    let files = std::fs::read_dir(folder).unwrap();
    files.flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
}
