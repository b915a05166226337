//! Files that somebody else changes, replaces, links or touches.

use std::fs::File;

use super::*;

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
