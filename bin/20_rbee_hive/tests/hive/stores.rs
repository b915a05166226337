//! Models that lie elsewhere on this machine: in the stores of other programs, and on other disks.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rbee_operations::{JobEvent, ModelImport, ModelImportStore, ModelStore, Operation};
use test_cluster::{Api, JobRun, Signal, SmallDisk, send_signal, skip_test, wait_until};
use tokio::process::{Child, Command};
use worker_contract::{HiveAlias, ModelEntry};

use crate::support::{Home, SOON};

#[tokio::test]
async fn the_models_of_other_programs_are_found_where_these_keep_them() {
    let blob = format!(".ollama/models/blobs/sha256-{}", "a".repeat(64));
    for (store, file, name) in [
        (ModelStore::LmStudio, ".lmstudio/models/me/small-GGUF/small-Q4_0.gguf", "small"),
        (ModelStore::LmStudio, ".cache/lm-studio/models/me/old-GGUF/old-Q8_0.gguf", "old"),
        (ModelStore::Ollama, blob.as_str(), "qwen2.5:7b"),
    ] {
        let home = Home::new();
        let user = home.path().join("user");
        let file = user.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, format!("GGUF of {name}")).unwrap();
        let manifest = user.join(".ollama/models/manifests/registry.ollama.ai/library/qwen2.5/7b");
        fs::create_dir_all(manifest.parent().unwrap()).unwrap();
        let layer = "application/vnd.ollama.image.model";
        let digest = "a".repeat(64);
        let text =
            format!(r#"{{"layers":[{{"mediaType":"{layer}","digest":"sha256:{digest}"}}]}}"#);
        fs::write(&manifest, text).unwrap();

        let (mut hive, api) = daemon(&home, &user).await;
        let run = api.run_job(&import_store(store)).await.unwrap();
        let added: serde_json::Value = run.result().unwrap();
        assert_eq!(added["models"][0]["alias"], name);
        let sha256 = added["models"][0]["sha256"].as_str().unwrap();
        let own = home.models().join(format!("{sha256}.gguf"));
        assert_eq!(fs::metadata(own).unwrap().ino(), fs::metadata(&file).unwrap().ino(), "{name}");
        assert_eq!(warnings(&run), [""; 0]);
        end(&mut hive).await;
    }
}

#[tokio::test]
async fn a_program_that_is_not_here_has_no_models() {
    let home = Home::new();
    let (mut hive, api) = daemon(&home, &home.path().join("user")).await;
    let run = api.run_job(&import_store(ModelStore::LmStudio)).await.unwrap();
    let failure = run.failure().expect("there is no such store");
    assert_eq!(failure.code.as_deref(), Some("store_not_found"));
    assert!(failure.hint.as_ref().unwrap().contains("--from lmstudio"), "{failure:?}");
    end(&mut hive).await;
}

#[tokio::test]
async fn a_file_of_another_disk_is_copied_and_that_is_told() {
    let home = Home::new();
    let other = home.path().join("other-disk");
    let Ok(_disk) = SmallDisk::mount(&other, 4) else {
        return skip_test(&SmallDisk::unavailable().unwrap_or_default());
    };
    let (mut hive, api) = daemon(&home, home.path()).await;
    let (here, there) = (home.path().join("here.gguf"), other.join("there.gguf"));
    for (file, is_copy) in [(&here, false), (&there, true)] {
        fs::write(file, format!("GGUF of {}", file.display())).unwrap();
        let run = api.run_job(&import_link(file)).await.unwrap();
        let model: ModelEntry = run.result().unwrap();
        let own = fs::metadata(home.models().join(format!("{}.gguf", model.sha256))).unwrap();
        let of_user = fs::metadata(file).unwrap();
        assert_eq!((own.dev(), own.ino()) != (of_user.dev(), of_user.ino()), is_copy);
        assert_eq!(own.len(), of_user.len());
        let told = warnings(&run);
        assert_eq!(told.iter().any(|said| said.contains("it was copied")), is_copy, "{told:?}");
    }
    end(&mut hive).await;
}

#[tokio::test]
async fn a_file_of_a_disk_that_can_share_blocks_takes_them_once() {
    if let Some(reason) = SmallDisk::sharing_unavailable() {
        return skip_test(&reason);
    }
    let home = Home::new();
    let disk_folder = home.path().join("disk");
    let _disk = SmallDisk::mount_sharing(&disk_folder, 256).unwrap();
    // The folder of the models is on that disk, which has no room for a second copy.
    fs::create_dir(disk_folder.join("models")).unwrap();
    std::os::unix::fs::symlink(disk_folder.join("models"), home.models()).unwrap();
    let file = disk_folder.join("large.gguf");
    fs::write(&file, vec![7; 150 << 20]).unwrap();
    let hive = home.start_with(home.double("serves")).await.unwrap();
    let model = hive.import(&file, "large").await.expect("there is room for it");
    let own = home.models().join(format!("{}.gguf", model.sha256));
    assert_eq!(fs::metadata(&own).unwrap().len(), 150 << 20);
    assert_ne!(fs::metadata(&own).unwrap().ino(), fs::metadata(&file).unwrap().ino());

    // What becomes of the one is nothing to the other.
    fs::File::options().write(true).open(&file).unwrap().set_len(1).unwrap();
    hive.spawn("large").await.unwrap();
    hive.hive.shutdown().await;
}

fn import_store(store: ModelStore) -> Operation {
    let hive_id = HiveAlias::localhost();
    Operation::ModelImportStore(ModelImportStore { hive_id, store, path: None })
}

fn import_link(file: &Path) -> Operation {
    Operation::ModelImport(ModelImport {
        hive_id: HiveAlias::localhost(),
        path: file.to_str().unwrap().into(),
        alias: None,
        link: true,
        projector: None,
    })
}

fn warnings(run: &JobRun) -> Vec<&str> {
    let is_warning = |event: &&JobEvent| event.level == rbee_operations::EventLevel::Warn;
    run.events.iter().map(|(_, event)| event).filter(is_warning).map(|e| &*e.message).collect()
}

/// A hive of its own, with a double for a worker and the home of a user.
async fn daemon(home: &Home, user: &Path) -> (Child, Api) {
    fs::write(home.path().join("config.toml"), "[hive]\nbind = \"127.0.0.1:0\"\n").unwrap();
    let bin = home.path().join("bin");
    fs::create_dir(&bin).unwrap();
    fs::rename(home.double("serves"), bin.join("llm-worker-rbee")).unwrap();
    let hive = Command::new(env!("CARGO_BIN_EXE_rbee-hive"))
        .env("RBEE_HOME", home.path())
        .env("RBEE_BIN_DIR", bin)
        .env("HOME", user)
        .env_remove("OLLAMA_MODELS")
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let file = home.path().join("run/rbee-hive.addr");
    let api = wait_until("a healthy hive", SOON, async || {
        let address = format!("http://{}", fs::read_to_string(&file).ok()?.trim());
        let api = Api::new(&address, None).ok()?;
        let is_healthy = api.get("/health").await.is_ok_and(|answer| answer.status == 200);
        is_healthy.then_some(api)
    });
    (hive, api.await.unwrap())
}

async fn end(hive: &mut Child) {
    send_signal(hive.id().unwrap(), Signal::TERM);
    assert!(hive.wait().await.unwrap().success());
}
