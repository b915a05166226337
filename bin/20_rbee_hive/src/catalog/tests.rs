//! The catalog on a real folder and a real SQLite file; the bytes of the models do not matter here.

mod checks;
mod database;
mod projectors;

use std::fs;
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
    let hint = error.hint().unwrap();
    assert!(hint.contains("imported or downloaded: --alias NAME"), "{hint}");
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
    assert_eq!(
        error.hint().unwrap(),
        "nearest: smollm2-135m, qwen3-0.6b; all: rbee-keeper model list"
    );
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
