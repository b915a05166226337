use super::*;

const LAYOUT: Layout = Layout { version: 2, tables: "CREATE TABLE t (x INTEGER);" };

#[test]
fn a_file_is_made_once_kept_and_its_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.db");
    open(&file, LAYOUT).unwrap().execute_batch("INSERT INTO t VALUES (7)").unwrap();
    let connection = open(&file, LAYOUT).unwrap();
    let kept: i64 = connection.query_row("SELECT x FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, 7);
    connect(&file).unwrap().execute_batch("INSERT INTO t VALUES (8)").unwrap();
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(&file).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn a_damaged_file_is_told_from_one_that_is_in_use_and_can_be_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.db");
    std::fs::write(&file, [7; 8192]).unwrap();
    std::fs::write(folder.path().join("x.db-wal"), "more").unwrap();
    let Err(OpenError::Use(error)) = open(&file, LAYOUT) else { panic!("it is none") };
    assert!(is_damage(&error), "{error}");
    let kept = set_aside(&file).unwrap();
    assert_eq!(std::fs::read(&kept).unwrap(), [7; 8192]);
    drop(open(&file, LAYOUT).unwrap());
    std::fs::write(&file, [8; 8192]).unwrap();
    assert_ne!(set_aside(&file).unwrap(), kept, "the first is not lost by the second");
    let first = open(&file, LAYOUT).unwrap();
    first.busy_timeout(Duration::ZERO).unwrap();
    let other = connect(&file).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE; INSERT INTO t VALUES (7)").unwrap();
    assert!(!is_damage(&first.execute_batch("INSERT INTO t VALUES (8)").unwrap_err()));
}

#[test]
fn what_is_in_a_file_is_told_from_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.db");
    let connection = open(&file, LAYOUT).unwrap();
    let text = |connection: &Connection| -> rusqlite::Result<String> {
        connection.query_row("SELECT x FROM t", [], |row| row.get(0))
    };
    connection.execute_batch("INSERT INTO t VALUES (CAST(x'ff' AS TEXT))").unwrap();
    let foreign = text(&connection).unwrap_err();
    assert!(is_foreign_value(&foreign) && is_of_content(&foreign), "{foreign}");
    connection.execute_batch("UPDATE t SET x = 7").unwrap();
    assert!(is_foreign_value(&text(&connection).unwrap_err()), "a number is no text");
    connection.execute_batch("ALTER TABLE t RENAME COLUMN x TO y").unwrap();
    let renamed = text(&connection).unwrap_err();
    assert!(is_of_content(&renamed) && !is_foreign_value(&renamed), "{renamed}");
    connection.execute_batch("PRAGMA query_only = ON").unwrap();
    let refused = connection.execute_batch("DELETE FROM t").unwrap_err();
    assert!(!is_of_content(&refused), "{refused}");
    let Err(OpenError::Open(folder)) = open(folder.path(), LAYOUT) else { panic!("a folder") };
    assert!(!is_of_content(&folder), "{folder}");
}

#[test]
fn only_who_has_a_damaged_file_is_told_to_move_it_away() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.db");
    let connection = open(&file, LAYOUT).unwrap();
    // As on a disk that has no page left.
    connection.execute_batch("PRAGMA max_page_count = 2").unwrap();
    let rows = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999) SELECT i FROM n";
    let full = connection.execute_batch(rows).unwrap_err();
    assert_eq!(advice(&full, "none"), "; free some space on its disk", "{full}");
    drop(connection);
    std::fs::write(&file, [7; 8192]).unwrap();
    let Err(OpenError::Use(damaged)) = open(&file, LAYOUT) else { panic!("it is none") };
    assert_eq!(advice(&damaged, "none"), "; move it away to begin with none");
    let Err(OpenError::Open(folder)) = open(folder.path(), LAYOUT) else { panic!("a folder") };
    assert!(advice(&folder, "none").contains("can be written to"), "{folder}");
    let other = rusqlite::Error::QueryReturnedNoRows;
    assert_eq!(advice(&other, "none"), "");
}

#[test]
fn what_a_later_rbee_wrote_what_is_none_and_what_cannot_be_opened_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let later = folder.path().join("later.db");
    open(&later, Layout { version: 3, ..LAYOUT }).unwrap();
    assert!(matches!(open(&later, LAYOUT), Err(OpenError::TooNew { found: 3 })));
    let none = folder.path().join("none.db");
    std::fs::write(&none, "no database at all, but a text that is long enough").unwrap();
    assert!(matches!(open(&none, LAYOUT), Err(OpenError::Use(_))));
    assert!(matches!(open(folder.path(), LAYOUT), Err(OpenError::Open(_))));
}

#[test]
fn a_file_can_be_looked_at_and_nothing_is_made_by_that() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.db");
    assert!(look(&file, LAYOUT).unwrap().is_none(), "there is none");
    assert!(!file.exists());
    std::fs::write(&file, "").unwrap();
    assert!(look(&file, LAYOUT).unwrap().is_none(), "there is nothing in it");
    open(&file, LAYOUT).unwrap().execute_batch("INSERT INTO t VALUES (7)").unwrap();
    let mut looked = look(&file, LAYOUT).unwrap().unwrap();
    let change = looked.transaction().unwrap();
    change.execute_batch("UPDATE t SET x = 8").unwrap();
    let seen: i64 = change.query_row("SELECT x FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(seen, 8);
    assert!(!folder.path().join("x.db-shm").exists());
    drop(change);
    drop(looked);
    let connection = open(&file, LAYOUT).unwrap();
    let kept: i64 = connection.query_row("SELECT x FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, 7, "what was changed is rolled back");
    drop(connection);
    let earlier = Layout { version: 1, ..LAYOUT };
    assert!(matches!(look(&file, earlier), Err(OpenError::TooNew { found: 2 })));
}

#[test]
fn want_of_room_is_told_from_damage_and_passes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.db");
    let connection = open(&file, LAYOUT).unwrap();
    connection.execute_batch("PRAGMA max_page_count = 2").unwrap();
    let full = connection.execute_batch(MANY).unwrap_err();
    assert!(is_want_of_room(&full) && is_passing(&full) && !is_of_content(&full), "{full}");
    let other = connect(&file).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();
    let in_use = connection.execute_batch("DELETE FROM t").unwrap_err();
    assert!(!is_want_of_room(&in_use) && is_passing(&in_use), "{in_use}");
    drop((connection, other));
    std::fs::write(&file, [7; 8192]).unwrap();
    let Err(OpenError::Use(damaged)) = open(&file, LAYOUT) else { panic!("it is none") };
    assert!(!is_passing(&damaged), "{damaged}");
}

#[test]
fn room_is_given_back_and_the_log_stays_bounded_though_somebody_reads_for_long() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.db");
    let size = |name: &str| std::fs::metadata(folder.path().join(name)).map_or(0, |at| at.len());
    let connection = open(&file, LAYOUT).unwrap();
    let reader = connect(&file).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
    let mut rounds = 0;
    while tidy(&connection, &file).unwrap() {
        connection.execute_batch(&format!("{MANY}; DELETE FROM t")).unwrap();
        rounds += 1;
        assert!(rounds < 10_000, "the log has {} bytes", size("x.db-wal"));
    }
    assert!(size("x.db-wal") < LOG_MOST + (8 << 20), "{}", size("x.db-wal"));
    reader.execute_batch("COMMIT").unwrap();
    assert!(tidy(&connection, &file).unwrap(), "nobody reads any more");
    assert!(size("x.db-wal") <= LOG_KEPT, "{}", size("x.db-wal"));
    connection.execute_batch(&format!("{MANY}; {MANY}; {MANY}; {MANY}; {MANY}; {MANY}")).unwrap();
    connection.execute_batch("DELETE FROM t; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let before = size("x.db");
    assert!(tidy(&connection, &file).unwrap());
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    assert!(size("x.db") < before, "{before} bytes stay");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_hides_nothing_that_is_in_a_file() {
    const CHILD: &str = "RBEE_TEST_FILE_ON_A_FULL_DISK";
    if let Some(file) = std::env::var_os(CHILD).map(PathBuf::from) {
        let missing = open(&file, LAYOUT).unwrap_err();
        assert!(missing.is_want_of_room(), "{missing:?}");
        let looked = look(&file, LAYOUT).unwrap().unwrap();
        let kept: i64 = looked.query_row("SELECT x FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(kept, 7);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.db");
    open(&file, LAYOUT).unwrap().execute_batch("INSERT INTO t VALUES (7)").unwrap();
    // A limit for files that this whole process would have does as a disk without room.
    let limited = "trap '' XFSZ; ulimit -f 16; exec \"$0\" --exact tests::a_full_disk_hides_nothing_that_is_in_a_file";
    let this = std::env::current_exe().unwrap();
    let mut child = std::process::Command::new("sh");
    let child = child.args(["-c", limited]).arg(this).env(CHILD, &file).output().unwrap();
    let told = String::from_utf8_lossy(&child.stdout);
    // Where there is no test of this name, nothing fails either.
    assert!(child.status.success() && told.contains("1 passed"), "{told}");
}

#[test]
fn a_file_beside_which_none_can_be_made_can_be_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("50% of #1?.db");
    open(&file, LAYOUT).unwrap().execute_batch("INSERT INTO t VALUES (7)").unwrap();
    // Where its write-ahead log would be: as on a disk that has no place for one more file.
    std::fs::create_dir(beside(&file, "-wal")).unwrap();
    let missing = open(&file, LAYOUT).unwrap_err();
    assert!(missing.is_want_of_room(), "{missing:?}");
    let mut looked = look(&file, LAYOUT).unwrap().unwrap();
    let change = looked.transaction().unwrap();
    change.execute_batch("UPDATE t SET x = x + 1").unwrap();
    let seen: i64 = change.query_row("SELECT x FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(seen, 8);
    drop(change);
    drop(looked);
    let earlier = Layout { version: 1, ..LAYOUT };
    assert!(matches!(look(&file, earlier), Err(OpenError::TooNew { found: 2 })));
    std::fs::remove_dir(beside(&file, "-wal")).unwrap();
    let kept: i64 =
        open(&file, LAYOUT).unwrap().query_row("SELECT x FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, 7, "what was changed is in the copy alone");
    let none = open(&folder.path().join("none").join("x.db"), LAYOUT).unwrap_err();
    assert!(!none.is_want_of_room(), "{none:?}");
}

#[test]
fn a_file_of_an_earlier_rbee_gives_its_room_back_and_some_pages_stay() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.db");
    let earlier = Connection::open(&file).unwrap();
    let made = format!("{} PRAGMA user_version = 2; {MANY}; {MANY}; DELETE FROM t", LAYOUT.tables);
    earlier.execute_batch(&made).unwrap();
    let free = |connection: &Connection| -> i64 {
        connection.query_row("PRAGMA freelist_count", [], |row| row.get(0)).unwrap()
    };
    assert!(free(&earlier) > SPARE_PAGES, "{}", free(&earlier));
    drop(earlier);
    let connection = open(&file, LAYOUT).unwrap();
    assert_eq!(free(&connection), 0);
    connection.execute_batch(&format!("{MANY}; {MANY}; DELETE FROM t")).unwrap();
    assert!(free(&connection) > SPARE_PAGES, "{}", free(&connection));
    // The first one may have been busy with the log.
    assert!(tidy(&connection, &file).unwrap() && tidy(&connection, &file).unwrap());
    assert!((SPARE_PAGES / 2..=SPARE_PAGES).contains(&free(&connection)), "{}", free(&connection));
}

#[test]
fn a_row_that_can_never_be_written_is_told_from_a_file_that_cannot() {
    let folder = tempfile::tempdir().unwrap();
    let connection = open(&folder.path().join("x.db"), LAYOUT).unwrap();
    connection.execute_batch("CREATE UNIQUE INDEX i ON t (x); INSERT INTO t VALUES (7)").unwrap();
    let refused = connection.execute_batch("INSERT INTO t VALUES (7)").unwrap_err();
    assert!(is_of_row(&refused), "{refused}");
    connection.execute_batch("DROP TABLE t").unwrap();
    let refused = connection.execute_batch("INSERT INTO t VALUES (7)").unwrap_err();
    assert!(!is_of_row(&refused) && !is_passing(&refused), "{refused}");
}

/// Rows of many pages.
const MANY: &str = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 99999) SELECT i FROM n";
