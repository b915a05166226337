//! The database: what is in it outlives a restart, and can be made again.

use super::*;

#[test]
fn a_catalog_that_is_lost_or_damaged_is_made_again_from_the_folder() {
    for damage in [None, Some(vec![b'x'; 8192])] {
        let home = Home::new();
        let catalog = home.open();
        import(&catalog, &home.file("a.gguf", b"model a"), "a").unwrap();
        import(&catalog, &home.file("b.gguf", b"model b"), "b").unwrap();
        catalog.name(&alias("a"), alias("c")).unwrap();
        catalog.remove(&alias("b")).unwrap();
        let before = catalog.list();
        drop(catalog);
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(home.0.path().join(format!("hive.db{suffix}")));
        }
        match &damage {
            None => fs::remove_file(home.database()).unwrap(),
            Some(bytes) => fs::write(home.database(), bytes).unwrap(),
        }
        let catalog = home.open();
        assert_eq!(catalog.list(), before, "names, sources and pins are those that were");
        let kept = fs::read_dir(home.0.path()).unwrap().flatten();
        let kept = kept.filter(|f| f.file_name().to_string_lossy().contains(".damaged-")).count();
        assert_eq!(kept, usize::from(damage.is_some()), "what was damaged is kept aside");
        assert_eq!(passes_of_checked_file(&catalog, "a"), 1, "no file is believed unseen");
        fs::write(checked_file(&catalog, "c").unwrap(), b"model X").unwrap();
        assert_eq!(checked_file(&catalog, "a").unwrap_err().code(), "model_changed");
    }
}

#[test]
fn a_catalog_that_is_empty_or_was_left_halfway_is_made_again_from_the_folder() {
    let empty =
        "DROP TABLE models; DROP TABLE downloads; DROP TABLE notes; PRAGMA user_version = 0;";
    let halfway = "DELETE FROM models WHERE alias = 'b'; PRAGMA user_version = 0;";
    for sql in [None, Some(empty), Some(halfway)] {
        let home = Home::new();
        let catalog = home.open();
        import(&catalog, &home.file("a.gguf", b"model a"), "a").unwrap();
        import(&catalog, &home.file("b.gguf", b"model b"), "b").unwrap();
        let before = catalog.list();
        drop(catalog);
        match sql {
            Some(sql) => {
                rusqlite::Connection::open(home.database()).unwrap().execute_batch(sql).unwrap();
            }
            None => fs::write(home.database(), b"").unwrap(),
        }
        assert_eq!(home.open().list(), before, "after {sql:?}");
        assert_eq!(home.open().list(), before, "and it stays");
    }
}

#[test]
fn a_catalog_of_the_layout_before_is_read() {
    let home = Home::new();
    let catalog = home.open();
    import(&catalog, &home.file("a.gguf", b"model a"), "a").unwrap();
    let before = catalog.list();
    drop(catalog);
    let database = rusqlite::Connection::open(home.database()).unwrap();
    let back = "ALTER TABLE models ADD COLUMN file_bytes INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE models ADD COLUMN file_mtime INTEGER NOT NULL DEFAULT 0;
        UPDATE models SET file_bytes = json_extract(files, '$[0].bytes'),
                          file_mtime = json_extract(files, '$[0].mtime');
        ALTER TABLE models DROP COLUMN files;
        ALTER TABLE models DROP COLUMN projector;
        PRAGMA user_version = 1;";
    database.execute_batch(back).unwrap();
    drop(database);
    let catalog = home.open();
    assert_eq!(catalog.list(), before);
    assert_eq!(passes_of_checked_file(&catalog, "a"), 1, "the layout knows too little of it");
    assert_eq!(passes_of_checked_file(&catalog, "a"), 0);
    drop(catalog);
    let database = rusqlite::Connection::open(home.database()).unwrap();
    let back = "ALTER TABLE models DROP COLUMN projector; PRAGMA user_version = 2;";
    database.execute_batch(back).unwrap();
    drop(database);
    assert_eq!(home.open().list(), before);
}

#[test]
fn a_download_is_noted_until_the_last_who_wants_it_has_ended_and_notes_are_bounded() {
    let home = Home::new();
    let catalog = home.open();
    let wants = |n: usize| rbee_operations::ModelDownload {
        hive_id: worker_contract::HiveAlias::localhost(),
        reference: format!("hf:o/r{n}").parse().unwrap(),
        alias: None,
        projector: rbee_operations::ProjectorChoice::Usual,
    };
    let (first, second) = (catalog.begin_download(&wants(0)), catalog.begin_download(&wants(0)));
    catalog.end_download(&first.unwrap().unwrap()).unwrap();
    assert_eq!(catalog.unfinished_downloads().len(), 1, "somebody still wants it");
    catalog.end_download(&second.unwrap().unwrap()).unwrap();
    assert_eq!(catalog.unfinished_downloads(), []);
    let noted = (0..300).filter(|n| catalog.begin_download(&wants(*n)).unwrap().is_some());
    assert_eq!(noted.count(), 64);
    assert_eq!(catalog.unfinished_downloads().len(), 64);
    assert!(catalog.begin_download(&wants(7)).unwrap().is_some(), "that is noted already");
}

#[test]
fn a_database_of_a_later_version_is_refused() {
    let home = Home::new();
    drop(home.open());
    let connection = rusqlite::Connection::open(home.database()).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = Catalog::open(&home.database(), &home.models()).unwrap_err();
    assert!(error.to_string().contains("version 99"), "{error}");
}
