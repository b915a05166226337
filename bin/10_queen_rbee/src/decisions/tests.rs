//! The log in memory, on disk, and on a disk that fails.

use tempfile::TempDir;

use super::*;
use crate::scheduler::{Estimate, Reason, Why};

const YEARS: jiff::SignedDuration = jiff::SignedDuration::from_hours(20 * 365 * 24);

#[tokio::test]
async fn what_was_decided_is_found_again_after_a_restart_with_its_reason() {
    let (_folder, file) = file();
    let log = Decisions::open(&file).unwrap();
    log.record(dispatch("r-1"));
    log.record(reject("r-1", "a"));
    log.record(reject("r-2", "b"));
    let before = find(&log, Some("r-1"), None).await;
    assert_eq!(kinds(&before), [Kind::Reject, Kind::Dispatch], "the latest first");
    log.close().await;
    let beside = std::fs::read_dir(file.parent().unwrap()).unwrap().count();
    assert_eq!(beside, 1, "nothing lies beside the file, also while somebody has the log");
    assert_eq!(ids(&find(&log, None, Some("b")).await), ["r-2"], "in memory");
    drop(log);

    let log = Decisions::open(&file).unwrap();
    log.record(reject("r-3", "a"));
    assert_eq!(kinds(&find(&log, Some("r-1"), None).await), [Kind::Reject, Kind::Dispatch]);
    let after = find(&log, None, Some("a")).await;
    assert_eq!(ids(&after), ["r-3", "r-1"]);
    let (was, is) = (json(&before[0]), json(&after[1]));
    assert_eq!(was, is, "on disk as in memory");
    assert_eq!((&is["why"], &is["reason"]), (&"it is full".into(), &"queue_full".into()));
    assert!(after[0].id > before[0].id, "numbers grow across restarts");
}

#[tokio::test]
async fn only_the_latest_ones_are_kept_in_memory_and_on_disk() {
    let (_folder, file) = file();
    let log = Decisions::open(&file).unwrap();
    for number in 0..=KEPT {
        log.record(dispatch(&format!("r-{number}")));
    }
    assert_eq!(log.since(0).len(), KEPT);
    assert_eq!(ids(&log.since(0))[0], "r-1", "the first one has left the memory");
    log.record(reject("r-last", "a"));
    let last = log.since(0).last().unwrap().id;
    assert_eq!((log.since(last - 2).len(), log.since(last).len()), (2, 0));
    log.close().await;
    drop(log);
    let log = Decisions::open(&file).unwrap();
    let all = Filter { request_id: None, model: None, limit: 2 * KEPT };
    let stored = log.find(all).await;
    assert_eq!(ids(&stored)[..1], ["r-last"]);
    assert!((20..KEPT / 2).contains(&stored.len()), "{} of a flood", stored.len());
    drop(log);

    let connection = rusqlite::Connection::open(&file).unwrap();
    let old = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10100)
        INSERT INTO decisions (id, at_ms, kind, reason, why)
        SELECT i, CASE WHEN i BETWEEN 5000 AND 5020 THEN 0 ELSE unixepoch() * 1000 END, 'reject', 'x', 'y' FROM n";
    connection.execute_batch(old).unwrap();
    let log = Decisions::open(&file).unwrap();
    let count = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM decisions WHERE at_ms = 0"), 0, "the old ones are gone");
    assert_eq!(count("SELECT count(*) FROM decisions WHERE kind = 'reject'"), 10_000);
    let flood =
        "WITH RECURSIVE n(i) AS (SELECT 20000 UNION ALL SELECT i + 1 FROM n WHERE i < 35000)
        INSERT INTO decisions (id, at_ms, kind, reason, why)
        SELECT i, unixepoch() * 1000, 'wait', 'x', 'y' FROM n";
    connection.execute_batch(flood).unwrap();
    drop(Store::open(&file, Timestamp::now()).unwrap());
    assert_eq!(count("SELECT count(*) FROM decisions"), 20_000, "neither drives the other out");
    drop(log);
    // As a clock does that is years ahead, and has stamped some.
    connection.execute_batch("UPDATE decisions SET at_ms = at_ms * 2 WHERE id > 34990").unwrap();
    drop(Store::open(&file, Timestamp::now() + YEARS).unwrap());
    assert_eq!(
        count("SELECT count(*) FROM decisions"),
        1_000,
        "the latest are there whatever it says"
    );
}

#[tokio::test]
async fn a_flood_of_refusals_hides_neither_what_was_started_nor_where_requests_went() {
    let (_folder, file) = file();
    let log = Decisions::open(&file).unwrap();
    let spawn = Decided::told(Kind::Spawn, "no_worker", "a worker is started");
    log.record(spawn.model(&"a".parse().unwrap()));
    log.record(dispatch("r-1"));
    for number in 0..3 * KEPT {
        log.record(reject(&format!("x-{number}"), "mistyped"));
    }
    log.record(dispatch("r-2"));
    let others = |found: &[Arc<Entry>]| {
        let kinds = found.iter().map(|entry| entry.decided.kind);
        kinds.filter(|kind| *kind != Kind::Reject).collect::<Vec<_>>()
    };
    let all = || Filter { request_id: None, model: None, limit: 10 * KEPT };
    let expected = [Kind::Dispatch, Kind::Dispatch, Kind::Spawn];
    assert_eq!(log.since(0).len(), KEPT + expected.len());
    assert_eq!(kinds(&find(&log, None, Some("a")).await), [Kind::Spawn], "in memory");
    let found = log.find(all()).await;
    assert!(found.is_sorted_by(|one, next| one.id > next.id), "each once, the latest first");
    assert_eq!(others(&found), expected);
    log.close().await;
    drop(log);
    let log = Decisions::open(&file).unwrap();
    let stored = log.find(all()).await;
    assert_eq!(others(&stored), expected, "on disk");
    assert!((20..KEPT / 2).contains(&(stored.len() - expected.len())), "{} of them", stored.len());
}

#[tokio::test]
async fn a_clock_that_jumps_by_years_costs_no_record_and_mixes_up_no_order() {
    let (_folder, file) = file();
    let log = Decisions::open(&file).unwrap();
    log.record(reject("r-1", "a"));
    log.close().await;
    drop(log);
    for jumped in [Timestamp::now() + YEARS, Timestamp::now() - YEARS] {
        drop(Store::open(&file, jumped).unwrap());
    }
    // As if it had been recorded while the clock was ahead.
    let connection = rusqlite::Connection::open(&file).unwrap();
    let ahead = "UPDATE decisions SET id = id * 2, at_ms = at_ms * 2";
    connection.execute_batch(ahead).unwrap();
    let log = Decisions::open(&file).unwrap();
    log.record(reject("r-2", "a"));
    assert_eq!(ids(&find(&log, None, Some("a")).await), ["r-2", "r-1"]);
}

#[tokio::test]
async fn a_disk_that_fails_costs_records_and_nothing_else() {
    let (_folder, file) = file();
    let log = Decisions::open(&file).unwrap();
    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("DROP TABLE decisions").unwrap();
    log.record(reject("r-1", "a"));
    log.close().await;
    assert_eq!(ids(&find(&log, Some("r-1"), None).await), ["r-1"], "it is in memory");
}

#[tokio::test]
async fn a_record_that_is_damaged_is_passed_over_and_hides_no_other() {
    let (_folder, file) = file();
    let log = Decisions::open(&file).unwrap();
    for id in ["r-1", "r-2", "r-3", "r-4", "r-5"] {
        log.record(reject(id, "a"));
    }
    log.close().await;
    drop(log);
    let damage = "UPDATE decisions SET why = x'ff' WHERE request_id = 'r-2';
        UPDATE decisions SET kind = CAST(x'ff' AS TEXT) WHERE request_id = 'r-3';
        UPDATE decisions SET at_ms = 'x' WHERE request_id = 'r-4'";
    rusqlite::Connection::open(&file).unwrap().execute_batch(damage).unwrap();
    let log = Decisions::open(&file).unwrap();
    assert_eq!(ids(&find(&log, None, Some("a")).await), ["r-5", "r-1"]);
}

#[tokio::test]
async fn what_there_was_no_room_for_is_recorded_when_there_is() {
    let (_folder, file) = file();
    let log = Decisions::open(&file).unwrap();
    assert_eq!(log.trouble(), None);
    // Another program has the file for itself, as long as it likes.
    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    log.record(reject("r-1", "a"));
    within("the trouble", async || log.trouble().is_some()).await;
    log.record(reject("r-2", "a"));
    other.execute_batch("COMMIT").unwrap();
    within("its end", async || {
        log.retry();
        log.trouble().is_none()
    })
    .await;
    log.close().await;
    drop((log, other));
    let log = Decisions::open(&file).unwrap();
    assert_eq!(ids(&find(&log, None, Some("a")).await), ["r-2", "r-1"]);
}

#[tokio::test]
async fn a_decision_that_can_never_be_written_costs_no_other() {
    let (_folder, file) = file();
    let log = Decisions::open(&file).unwrap();
    let other = rusqlite::Connection::open(&file).unwrap();
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON decisions WHEN NEW.request_id = 'r-2'
        BEGIN SELECT RAISE(ABORT, 'never'); END; BEGIN IMMEDIATE";
    other.execute_batch(refuse).unwrap();
    for id in ["r-1", "r-2", "r-3", "r-2"] {
        log.record(reject(id, "a"));
    }
    within("the trouble", async || log.trouble().is_some()).await;
    other.execute_batch("COMMIT").unwrap();
    within("its end", async || {
        log.retry();
        log.trouble().is_none()
    })
    .await;
    log.record(reject("r-2", "a"));
    log.close().await;
    assert_eq!(log.trouble(), None, "all others are kept");
    drop((log, other));
    let log = Decisions::open(&file).unwrap();
    assert_eq!(ids(&find(&log, None, Some("a")).await), ["r-3", "r-1"]);
}

#[test]
fn large_decisions_push_the_oldest_out() {
    let (_folder, file) = file();
    drop(Store::open(&file, Timestamp::now()).unwrap());
    let connection = rusqlite::Connection::open(&file).unwrap();
    let large = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 70)
        INSERT INTO decisions (id, at_ms, kind, reason, why)
        SELECT i, unixepoch() * 1000, 'reject', 'x', printf('%.*c', 1 << 20, 'y') FROM n";
    connection.execute_batch(large).unwrap();
    drop(Store::open(&file, Timestamp::now()).unwrap());
    let kept = "SELECT min(id), max(id) FROM decisions";
    let kept: (i64, i64) =
        connection.query_row(kept, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(kept, (7, 70), "64 MiB of them");
}

#[test]
fn a_file_of_a_later_rbee_and_one_that_is_none_are_refused() {
    let (_folder, file) = file();
    drop(Decisions::open(&file).unwrap());
    rusqlite::Connection::open(&file).unwrap().execute_batch("PRAGMA user_version = 9").unwrap();
    assert!(matches!(Decisions::open(&file), Err(StoreError::TooNew { found: 9, .. })));
    // The thread that wrote to the first one may not have let go of it.
    let text = file.with_extension("txt");
    std::fs::write(&text, "x".repeat(5000)).unwrap();
    assert!(matches!(Decisions::open(&text), Err(StoreError::Use { .. })));
    // As is one that has the version and other tables: what is in it is no reason not to begin anew.
    let other = file.with_extension("other");
    let tables = "CREATE TABLE others (x); PRAGMA user_version = 1";
    rusqlite::Connection::open(&other).unwrap().execute_batch(tables).unwrap();
    let Err(StoreError::Use { source, .. }) = Decisions::open(&other) else { panic!("it is none") };
    assert!(sqlite_file::is_of_content(&source), "{source}");
}

#[test]
fn every_kind_is_known_by_its_name() {
    for kind in Kind::ALL {
        assert_eq!(Kind::named(kind.as_str()), Some(kind));
    }
}

fn file() -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("decisions.db");
    (folder, file)
}

fn dispatch(id: &str) -> Decided {
    let worker: worker_contract::WorkerId = "w-1".parse().unwrap();
    let chosen =
        Estimate { worker: worker.clone(), expected_ms: 1, load: 0, slots: 1, held_bytes: 0 };
    let why = Why { reason: Reason::OnlyOne, chosen, next: None, candidates: 1 };
    let decided = Decided::new(Kind::Dispatch, Because::Why(why)).worker(&worker);
    decided.asked(&id.parse().unwrap(), "local")
}

fn reject(id: &str, model: &str) -> Decided {
    let decided = Decided::told(Kind::Reject, "queue_full", "it is full");
    decided.asked(&id.parse().unwrap(), "local").model(&model.parse().unwrap())
}

/// Waits until something is so.
async fn within(what: &str, is_so: impl AsyncFn() -> bool) {
    let waited = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), waited).await;
    assert!(waited.is_ok(), "{what} does not come");
}

async fn find(log: &Decisions, id: Option<&str>, model: Option<&str>) -> Vec<Arc<Entry>> {
    let request_id = id.map(|id| id.parse().unwrap());
    let model = model.map(|model| model.parse().unwrap());
    log.find(Filter { request_id, model, limit: 10 }).await
}

fn ids(found: &[Arc<Entry>]) -> Vec<&str> {
    found.iter().filter_map(|e| e.decided.request_id.as_ref()).map(RequestId::as_str).collect()
}

fn kinds(found: &[Arc<Entry>]) -> Vec<Kind> {
    found.iter().map(|entry| entry.decided.kind).collect()
}

fn json(entry: &Entry) -> serde_json::Value {
    serde_json::to_value(entry).unwrap()
}
