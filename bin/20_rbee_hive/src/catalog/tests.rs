//! The catalog on a real folder and a real SQLite file; the bytes of the models do not matter here.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use test_cluster::SmallDisk;
use tokio_util::sync::CancellationToken;
use worker_contract::GgufSummary;

use super::check::Verified;
use super::*;

#[test]
fn an_imported_model_is_there_after_a_restart_with_its_own_copy() {
    let home = Home::new();
    let catalog = home.open();
    let file = home.file("a.gguf", b"model a");
    let Imported::Added(entry) = import(&catalog, &file, "a").unwrap() else {
        panic!("it is the first");
    };
    fs::remove_file(&file).unwrap();
    drop(catalog);

    let catalog = home.open();
    assert_eq!(catalog.list(), [entry]);
    let copy = checked_file(&catalog, "a").unwrap();
    assert_eq!(fs::read(copy).unwrap(), b"model a");
}

#[test]
fn the_same_file_under_the_same_name_is_already_there() {
    let home = Home::new();
    let catalog = home.open();
    let file = home.file("a.gguf", b"model a");
    import(&catalog, &file, "a").unwrap();
    let again = import(&catalog, &file, "a").unwrap();
    assert!(matches!(again, Imported::AlreadyThere(_)), "{again:?}");
    assert_eq!(home.model_files(), 1);
}

#[test]
fn another_file_under_a_used_name_is_refused_with_both_digests() {
    let home = Home::new();
    let catalog = home.open();
    import(&catalog, &home.file("a.gguf", b"model a"), "a").unwrap();
    let error = import(&catalog, &home.file("b.gguf", b"model b"), "a").unwrap_err();
    let CatalogError::AliasTaken { pinned, given, .. } = &error else {
        panic!("{error}");
    };
    assert_ne!(pinned, given);
    let text = error.to_string();
    assert!(text.contains(pinned.as_hex()) && text.contains(given.as_hex()), "{text}");
    assert_eq!(home.model_files(), 1);
}

#[test]
fn a_file_with_two_names_is_kept_until_both_are_removed() {
    let home = Home::new();
    let catalog = home.open();
    let file = home.file("a.gguf", b"model a");
    import(&catalog, &file, "a").unwrap();
    import(&catalog, &file, "b").unwrap();
    assert_eq!(home.model_files(), 1);
    catalog.remove(&alias("a")).unwrap();
    assert_eq!(home.model_files(), 1);
    assert!(checked_file(&catalog, "b").is_ok());
    catalog.remove(&alias("b")).unwrap();
    assert_eq!(home.model_files(), 0);
    assert!(catalog.list().is_empty());
}

#[test]
fn a_file_that_changed_on_disk_is_refused_with_both_digests() {
    let home = Home::new();
    let catalog = home.open();
    import(&catalog, &home.file("a.gguf", b"model a"), "a").unwrap();
    let copy = checked_file(&catalog, "a").unwrap();
    fs::write(&copy, b"model X").unwrap();
    let error = checked_file(&catalog, "a").unwrap_err();
    assert!(matches!(error, CatalogError::Changed { .. }), "{error}");
    let verified = verify(&catalog, "a").unwrap();
    assert_ne!(verified.model.pinned, verified.model.actual);
}

#[test]
fn a_file_that_was_only_touched_is_hashed_once_and_accepted() {
    let home = Home::new();
    let catalog = home.open();
    import(&catalog, &home.file("a.gguf", b"model a"), "a").unwrap();
    let copy = checked_file(&catalog, "a").unwrap();
    File::options().write(true).open(&copy).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(passes_of_checked_file(&catalog, "a"), 1);
    assert_eq!(passes_of_checked_file(&catalog, "a"), 0);
    drop(catalog);
    assert_eq!(passes_of_checked_file(&home.open(), "a"), 0);
}

#[test]
fn a_file_that_was_replaced_by_one_of_the_same_size_and_time_is_refused() {
    let replace: [fn(&Path); 2] = [
        |file| fs::write(file, b"model X").unwrap(),
        |file| {
            let beside = file.with_extension("beside");
            fs::write(&beside, b"model X").unwrap();
            fs::rename(beside, file).unwrap();
        },
    ];
    for replace in replace {
        let home = Home::new();
        let catalog = home.open();
        import(&catalog, &home.file("a.gguf", b"model a"), "a").unwrap();
        let file = checked_file(&catalog, "a").unwrap();
        let time = fs::metadata(&file).unwrap().modified().unwrap();
        replace(&file);
        File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
        assert_eq!(checked_file(&catalog, "a").unwrap_err().code(), "model_changed");
    }
}

#[test]
fn a_model_whose_file_is_gone_says_so() {
    let home = Home::new();
    let catalog = home.open();
    import(&catalog, &home.file("a.gguf", b"model a"), "a").unwrap();
    fs::remove_file(checked_file(&catalog, "a").unwrap()).unwrap();
    let error = checked_file(&catalog, "a").unwrap_err();
    assert_eq!(error.code(), "model_file_gone");
    catalog.remove(&alias("a")).unwrap();
}

#[test]
fn importing_a_damaged_model_again_repairs_it() {
    let home = Home::new();
    let catalog = home.open();
    let file = home.file("a.gguf", b"model a");
    import(&catalog, &file, "a").unwrap();
    fs::write(checked_file(&catalog, "a").unwrap(), b"model X").unwrap();
    import(&catalog, &file, "a").unwrap();
    assert_eq!(fs::read(checked_file(&catalog, "a").unwrap()).unwrap(), b"model a");
    assert_eq!(home.model_files(), 1);
}

#[test]
fn a_cancelled_import_leaves_nothing() {
    let home = Home::new();
    let catalog = home.open();
    let file = home.file("a.gguf", &vec![7; 3 << 20]);
    let cancel = CancellationToken::new();
    let mut progress = |_| cancel.cancel();
    let mut watcher = Watcher { cancel: &cancel, progress: &mut progress };
    let candidate = Candidate::open(file.to_str().unwrap()).unwrap();
    let error =
        catalog.import(candidate, alias("a"), summary(), Sharing::Own, &mut watcher).unwrap_err();
    assert_eq!(error.code(), "cancelled");
    assert!(catalog.list().is_empty());
    assert_eq!(fs::read_dir(home.models()).unwrap().count(), 0);
}

#[test]
fn a_file_that_grows_while_it_is_copied_is_refused() {
    let home = Home::new();
    let catalog = home.open();
    let file = home.file("a.gguf", b"model a");
    let candidate = Candidate::open(file.to_str().unwrap()).unwrap();
    fs::write(&file, b"model a and more").unwrap();
    let result = with_watcher(|watcher| {
        catalog.import(candidate, alias("a"), summary(), Sharing::Own, watcher)
    });
    assert_eq!(result.unwrap_err().code(), "file_changed");
    assert_eq!(fs::read_dir(home.models()).unwrap().count(), 0);
}

#[test]
fn a_disk_that_fills_up_during_the_copy_is_told_and_left_as_it_was() {
    if let Some(reason) = SmallDisk::unavailable() {
        test_cluster::skip_test(&reason);
        return;
    }
    let home = Home::new();
    let _disk = SmallDisk::mount(&home.models(), 8).unwrap();
    let catalog = home.open();
    let file = home.file("a.gguf", &vec![7; 6 << 20]);
    let filler = home.models().join("filler");
    let mut progress = |_| fs::write(&filler, vec![0; 4 << 20]).unwrap_or_default();
    let cancel = CancellationToken::new();
    let mut watcher = Watcher { cancel: &cancel, progress: &mut progress };
    let candidate = Candidate::open(file.to_str().unwrap()).unwrap();
    let error =
        catalog.import(candidate, alias("a"), summary(), Sharing::Own, &mut watcher).unwrap_err();
    assert_eq!(error.code(), "disk_full");
    assert!(error.to_string().contains("became full"), "{error}");
    assert!(catalog.list().is_empty());
    assert_eq!(home.model_files(), 1, "only the filler");
}

#[test]
fn unfinished_copies_of_a_killed_hive_are_cleaned_away() {
    let home = Home::new();
    fs::write(home.models().join(".import-x.part"), "half").unwrap();
    fs::write(home.models().join("other"), "kept").unwrap();
    let _catalog = home.open();
    assert!(!home.models().join(".import-x.part").exists());
    assert!(home.models().join("other").exists());
}

#[test]
fn an_unknown_model_names_the_nearest() {
    let home = Home::new();
    let catalog = home.open();
    import(&catalog, &home.file("a.gguf", b"1"), "smollm2-135m").unwrap();
    import(&catalog, &home.file("b.gguf", b"2"), "qwen3-0.6b").unwrap();
    let error = catalog.get(&alias("smolm2-135m")).unwrap_err();
    assert_eq!(error.hint().unwrap(), "there is smollm2-135m, qwen3-0.6b");
}

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
fn a_pin_to_the_bytes_of_another_model_leaves_that_its_projector() {
    for (a_sees, b_sees) in [(true, true), (true, false), (false, true)] {
        let home = Home::new();
        let catalog = home.open();
        let sees = |name: &str| {
            let eyes = home.file(&format!("mmproj-{name}.gguf"), format!("eyes {name}").as_bytes());
            let eyes = Candidate::open(eyes.to_str().unwrap()).unwrap();
            let over = Over::TheSame;
            with_watcher(|w| catalog.import_projector(&alias(name), eyes, Sharing::Own, over, w))
                .unwrap();
        };
        for name in ["a", "b"] {
            import(&catalog, &home.file("m.gguf", name.as_bytes()), name).unwrap();
        }
        for (name, _) in [("a", a_sees), ("b", b_sees)].iter().filter(|(_, sees)| *sees) {
            sees(name);
        }
        fs::write(catalog.first_file(&catalog.get(&alias("a")).unwrap()), "b").unwrap();
        let accepted = catalog.get(&alias("b")).unwrap().sha256;
        with_watcher(|w| catalog.pin(&alias("a"), &accepted, &summary(), w)).unwrap();
        let expected = if b_sees { "eyes b" } else { "eyes a" };
        for name in ["a", "b"] {
            let files = with_watcher(|w| catalog.checked_files(&alias(name), w)).unwrap();
            assert_eq!(fs::read_to_string(files.projector.unwrap()).unwrap(), expected);
        }
        assert_eq!(home.model_files(), 2);
    }
}

#[test]
fn what_a_model_sees_with_belongs_to_its_bytes_and_is_checked_like_them() {
    let home = Home::new();
    let catalog = home.open();
    import(&catalog, &home.file("a.gguf", b"model a"), "a").unwrap();
    catalog.name(&alias("a"), alias("b")).unwrap();
    let eyes = home.file("mmproj.gguf", b"eyes");
    let import_eyes = |catalog: &Catalog, file: &Path| {
        let candidate = Candidate::open(file.to_str().unwrap())?;
        with_watcher(|w| {
            catalog.import_projector(&alias("a"), candidate, Sharing::Own, Over::TheSame, w)
        })
    };
    let seen = import_eyes(&catalog, &eyes).unwrap().projector.unwrap();
    assert_eq!((seen.size_bytes, &*seen.source), (4, eyes.to_str().unwrap()));
    // Also for a name that comes later, by whichever way.
    import(&catalog, &home.file("a2.gguf", b"model a"), "c").unwrap();
    for name in ["a", "b", "c"] {
        assert_eq!(catalog.get(&alias(name)).unwrap().projector.as_ref(), Some(&seen), "{name}");
    }
    let other = home.file("other.gguf", b"other eyes");
    let error = import_eyes(&catalog, &other).unwrap_err();
    assert_eq!(error.code(), "projector_taken");
    assert_eq!(home.model_files(), 2);
    drop(catalog);

    let _ = fs::remove_file(home.0.path().join("hive.db-wal"));
    fs::remove_file(home.database()).unwrap();
    let catalog = home.open();
    assert_eq!(catalog.get(&alias("b")).unwrap().projector.as_ref(), Some(&seen), "made again");
    let files = |catalog: &Catalog| with_watcher(|w| catalog.checked_files(&alias("b"), w));
    let kept = files(&catalog).unwrap().projector.unwrap();
    assert_eq!(fs::read(&kept).unwrap(), b"eyes");
    assert_eq!(catalog.file_with(&seen.sha256).as_ref(), Some(&kept));
    fs::write(&kept, b"eyez").unwrap();
    assert_eq!(files(&catalog).unwrap_err().code(), "model_changed");
    assert!(!verify(&catalog, "a").unwrap().matches());
    fs::remove_file(&kept).unwrap();
    assert_eq!(files(&catalog).unwrap_err().code(), "model_file_gone");
    import_eyes(&catalog, &eyes).unwrap();
    assert!(files(&catalog).is_ok(), "put back");
    fs::write(&kept, b"eyez").unwrap();
    let taken = StagedFile {
        sha256: seen.sha256.clone(),
        bytes: 4,
        place: Place::Downloaded(catalog.partial().join("taken.part"), None),
        is_copy: false,
    };
    let error = catalog.attach(&alias("a"), taken, "hf:o/r".into(), Over::TheSame).unwrap_err();
    assert_eq!(error.code(), "download_gone", "what lies there is not taken for it");
    assert_eq!(files(&catalog).unwrap_err().code(), "model_changed");
    import_eyes(&catalog, &eyes).unwrap();

    let orphan = format!("{}.mmproj.gguf", "0".repeat(64));
    fs::write(home.models().join(&orphan), "12345").unwrap();
    let garbage = catalog.garbage(|_| false);
    let names: Vec<&str> = garbage.iter().map(|garbage| garbage.name.as_str()).collect();
    assert_eq!(names, [&orphan], "and not that of a model");
    catalog.remove_garbage(|_, remove| remove());
    for name in ["a", "b", "c"] {
        assert_eq!(home.model_files(), 2);
        catalog.remove(&alias(name)).unwrap();
    }
    assert_eq!(home.model_files(), 0);
}

#[test]
fn the_parts_of_a_split_model_are_one_model() {
    let home = Home::new();
    let catalog = home.open();
    let (one, two) = ("m-Q4_0-00001-of-00002.gguf", "m-Q4_0-00002-of-00002.gguf");
    home.file(one, b"first");
    assert_eq!(
        import(&catalog, &home.0.path().join(one), "m").unwrap_err().code(),
        "file_not_found"
    );
    home.file(two, b"second");
    // Whichever part is named.
    import(&catalog, &home.0.path().join(two), "m").unwrap();
    let entry = catalog.get(&alias("m")).unwrap();
    assert_eq!((entry.shards.len(), entry.gguf.size_bytes), (2, 11));
    let first = checked_file(&catalog, "m").unwrap();
    assert_eq!(first.file_name().unwrap(), "model-00001-of-00002.gguf");
    let second = first.with_file_name("model-00002-of-00002.gguf");
    assert_eq!(fs::read(&second).unwrap(), b"second");
    drop(catalog);

    let catalog = home.open();
    assert_eq!(catalog.get(&alias("m")).unwrap(), entry);
    assert!(verify(&catalog, "m").is_ok_and(|found| found.matches()));
    fs::write(&second, b"secone").unwrap();
    assert_eq!(checked_file(&catalog, "m").unwrap_err().code(), "model_changed");
    fs::remove_file(&second).unwrap();
    assert_eq!(checked_file(&catalog, "m").unwrap_err().code(), "model_file_gone");
    catalog.remove(&alias("m")).unwrap();
    assert_eq!(home.model_files(), 0);
}

#[test]
fn a_linked_file_takes_no_disk_and_is_refused_once_its_owner_changed_it() {
    use std::os::unix::fs::MetadataExt as _;

    let home = Home::new();
    let catalog = home.open();
    let file = home.file("a.gguf", b"model a");
    let candidate = Candidate::open(file.to_str().unwrap()).unwrap();
    let (_, is_copy) = with_watcher(|watcher| {
        catalog.import(candidate, alias("a"), summary(), Sharing::Linked, watcher)
    })
    .unwrap();
    assert!(!is_copy);
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    assert_eq!(inode(&checked_file(&catalog, "a").unwrap()), inode(&file));
    fs::write(&file, b"model X").unwrap();
    assert_eq!(checked_file(&catalog, "a").unwrap_err().code(), "model_changed");
    catalog.remove(&alias("a")).unwrap();
    assert!(file.exists(), "its owner keeps it");
}

#[test]
fn a_model_with_a_file_of_its_own_does_not_come_to_share_one_that_others_can_change() {
    let home = Home::new();
    let catalog = home.open();
    import(&catalog, &home.file("a.gguf", b"model a"), "own").unwrap();
    let other = home.file("other.gguf", b"model a");
    let link = |name: &str| {
        let candidate = Candidate::open(other.to_str().unwrap()).unwrap();
        with_watcher(|watcher| {
            catalog.import(candidate, alias(name), summary(), Sharing::Linked, watcher)
        })
        .unwrap();
    };
    link("linked");
    fs::write(&other, b"model X").unwrap();
    for name in ["own", "linked"] {
        assert_eq!(fs::read(checked_file(&catalog, name).unwrap()).unwrap(), b"model a", "{name}");
    }
    // One that was tampered with is no reason to refuse a good one.
    fs::write(&other, b"model a").unwrap();
    fs::write(checked_file(&catalog, "own").unwrap(), b"model Y").unwrap();
    link("again");
    assert_eq!(fs::read(checked_file(&catalog, "own").unwrap()).unwrap(), b"model a");
}

#[test]
fn a_file_that_gets_or_loses_a_name_is_not_hashed_again_unless_it_was_changed_as_well() {
    let home = Home::new();
    let catalog = home.open();
    import(&catalog, &home.file("a.gguf", b"model a"), "a").unwrap();
    let file = checked_file(&catalog, "a").unwrap();
    let other = home.0.path().join("other");
    fs::hard_link(&file, &other).unwrap();
    assert_eq!(passes_of_checked_file(&catalog, "a"), 0);
    fs::remove_file(&other).unwrap();
    assert_eq!(passes_of_checked_file(&catalog, "a"), 0);
    drop(catalog);
    let catalog = home.open();
    assert_eq!(passes_of_checked_file(&catalog, "a"), 0);

    let time = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, b"model X").unwrap();
    File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    assert_eq!(checked_file(&catalog, "a").unwrap_err().code(), "model_changed");
}

#[test]
fn a_projector_that_takes_its_own_place_leaves_no_second_name_of_it() {
    let home = Home::new();
    let catalog = home.open();
    import(&catalog, &home.file("a.gguf", b"model a"), "a").unwrap();
    let eyes = home.file("mmproj.gguf", b"eyes");
    let eyes = Candidate::open(eyes.to_str().unwrap()).unwrap();
    let a = alias("a");
    let seen = with_watcher(|w| catalog.import_projector(&a, eyes, Sharing::Own, Over::TheSame, w));
    let seen = seen.unwrap().projector.unwrap();
    let known = with_watcher(|w| catalog.stage_known(&seen.sha256, w)).unwrap().unwrap();
    catalog.attach(&a, known, "hf:o/r".into(), Over::Any).unwrap();
    assert_eq!(home.model_files(), 2);
    let files = with_watcher(|w| catalog.checked_files(&a, w)).unwrap();
    assert_eq!(fs::read(files.projector.unwrap()).unwrap(), b"eyes");
}

#[test]
fn a_hive_that_is_killed_right_after_a_model_got_other_files_has_not_lost_their_projector() {
    let home = Home::new();
    let catalog = home.open();
    import(&catalog, &home.file("a.gguf", b"model a"), "a").unwrap();
    let stage = |name: &str, bytes: &[u8]| {
        let file = home.file(name, bytes);
        let mut candidate = Candidate::open(file.to_str().unwrap()).unwrap();
        with_watcher(|w| candidate.stage_only(&home.models(), Sharing::Own, w)).unwrap()
    };
    let (file, eyes) = (stage("b.gguf", b"model b"), stage("mmproj.gguf", b"eyes"));
    // Nothing that follows upon the new row is written.
    let database = rusqlite::Connection::open(home.database()).unwrap();
    let stop =
        "CREATE TRIGGER stop BEFORE UPDATE ON models BEGIN SELECT RAISE(ABORT, 'killed'); END";
    database.execute_batch(stop).unwrap();
    let replaced = catalog.replace(
        Staged::new(vec![file]),
        &alias("a"),
        "hf:o/r".into(),
        summary(),
        Some((eyes, "hf:o/r:mmproj.gguf".into())),
    );
    assert!(replaced.is_err(), "{replaced:?}");
    drop(catalog);
    database.execute_batch("DROP TRIGGER stop").unwrap();

    let catalog = home.open();
    let files = with_watcher(|w| catalog.checked_files(&alias("a"), w)).unwrap();
    assert_eq!(fs::read(files.model).unwrap(), b"model b");
    assert_eq!(fs::read(files.projector.unwrap()).unwrap(), b"eyes");
}

#[test]
fn a_changed_file_is_pinned_only_with_the_digest_that_was_agreed_to() {
    let home = Home::new();
    let catalog = home.open();
    import(&catalog, &home.file("a.gguf", b"model a"), "a").unwrap();
    catalog.name(&alias("a"), alias("b")).unwrap();
    fs::write(checked_file(&catalog, "a").unwrap(), b"model X").unwrap();
    let found = verify(&catalog, "a").unwrap().model;
    let pin = |digest: &Sha256Digest| {
        with_watcher(|watcher| catalog.pin(&alias("a"), digest, &summary(), watcher))
    };
    assert_eq!(pin(&found.pinned).unwrap_err().code(), "model_changed");
    assert_eq!(pin(&found.actual).unwrap().sha256, found.actual);
    for name in ["a", "b"] {
        assert_eq!(fs::read(checked_file(&catalog, name).unwrap()).unwrap(), b"model X");
    }
    assert_eq!(home.model_files(), 1);
}

#[test]
fn what_belongs_to_no_model_is_listed_and_removed_unless_it_is_being_downloaded() {
    let home = Home::new();
    let catalog = home.open();
    import(&catalog, &home.file("a.gguf", b"model a"), "a").unwrap();
    let nameless = format!("{}.gguf", "0".repeat(64));
    fs::write(home.models().join(&nameless), "12345").unwrap();
    fs::create_dir(catalog.partial()).unwrap();
    for key in ["busy", "idle"] {
        fs::write(catalog.partial().join(format!("{key}.part")), "123").unwrap();
    }
    fs::write(home.models().join("readme.txt"), "not ours").unwrap();
    let names = |found: &[super::garbage::Garbage]| -> Vec<String> {
        found.iter().map(|garbage| garbage.name.clone()).collect()
    };
    let is_busy = |key: &str| key == "busy";
    let expected = [nameless, "partial/idle.part".to_owned()];
    assert_eq!(names(&catalog.garbage(is_busy)), expected);
    let if_idle = |key: &str, remove: &mut dyn FnMut()| {
        if !is_busy(key) {
            remove();
        }
    };
    assert_eq!(names(&catalog.remove_garbage(if_idle)), expected);
    assert!(catalog.garbage(is_busy).is_empty());
    assert!(catalog.partial().join("busy.part").exists());
    assert!(checked_file(&catalog, "a").is_ok());
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

#[test]
fn of_many_imports_at_once_under_one_name_one_wins() {
    let home = Home::new();
    let catalog = home.open();
    let files: Vec<PathBuf> =
        (0..8).map(|n| home.file(&format!("{n}.gguf"), &vec![n; 100_000])).collect();
    let added = std::thread::scope(|scope| {
        let threads: Vec<_> =
            files.iter().map(|file| scope.spawn(|| import(&catalog, file, "a"))).collect();
        let results = threads.into_iter().map(|thread| thread.join().unwrap());
        results.filter(|result| matches!(result, Ok(Imported::Added(_)))).count()
    });
    assert_eq!(added, 1);
    assert_eq!(home.model_files(), 1);
    assert!(checked_file(&catalog, "a").is_ok());
}

struct Home(TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        fs::create_dir(home.models()).unwrap();
        home
    }

    fn open(&self) -> Catalog {
        Catalog::open(&self.database(), &self.models()).unwrap()
    }

    fn database(&self) -> PathBuf {
        self.0.path().join("hive.db")
    }

    fn models(&self) -> PathBuf {
        self.0.path().join("models")
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// What takes disk: not the names beside the files.
    fn model_files(&self) -> usize {
        let files = fs::read_dir(self.models()).unwrap().flatten();
        files.filter(|file| !file.file_name().to_string_lossy().ends_with(".json")).count()
    }
}

fn import(catalog: &Catalog, file: &Path, name: &str) -> Result<Imported, CatalogError> {
    let candidate = Candidate::open(file.to_str().unwrap())?;
    with_watcher(|watcher| catalog.import(candidate, alias(name), summary(), Sharing::Own, watcher))
        .map(|(imported, _)| imported)
}

fn checked_file(catalog: &Catalog, name: &str) -> Result<PathBuf, CatalogError> {
    with_watcher(|watcher| catalog.checked_file(&alias(name), watcher))
}

fn verify(catalog: &Catalog, name: &str) -> Result<Verified, CatalogError> {
    with_watcher(|watcher| catalog.verify(&alias(name), watcher))
}

/// How many chunks a check had to read.
fn passes_of_checked_file(catalog: &Catalog, name: &str) -> u32 {
    let (cancel, mut chunks) = (CancellationToken::new(), 0);
    let mut watcher = Watcher { cancel: &cancel, progress: &mut |_| chunks += 1 };
    catalog.checked_file(&alias(name), &mut watcher).unwrap();
    chunks
}

fn with_watcher<T>(run: impl FnOnce(&mut Watcher<'_>) -> T) -> T {
    let cancel = CancellationToken::new();
    run(&mut Watcher { cancel: &cancel, progress: &mut |_| {} })
}

fn alias(name: &str) -> ModelAlias {
    name.parse().unwrap()
}

fn summary() -> GgufSummary {
    GgufSummary {
        architecture: "llama".into(),
        name: None,
        license: None,
        quantization: "Q4_1".into(),
        parameters: 1,
        context_length: 8,
        embedding_length: None,
        kind: None,
        has_chat_template: false,
        size_bytes: 7,
    }
}
