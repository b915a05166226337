//! What models see with.

use super::*;

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
