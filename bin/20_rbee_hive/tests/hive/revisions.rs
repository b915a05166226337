//! Revisions of a repository: whoever names one gets its files, today and after the next commit.

use rbee_operations::{ModelDownload, Operation, ProjectorChoice};
use test_cluster::{ModelHub, sha256_hex};
use worker_contract::{HiveAlias, ModelEntry};

use crate::support::{Home, TestHive, alias, result};

#[tokio::test]
async fn the_revision_that_is_named_is_the_one_that_is_fetched() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("m-Q4_0.gguf", "GGUF of main");
    hub.put_at("v1.0", "m-Q4_0.gguf", "GGUF of the first version");
    let mut settings = home.settings(home.double("serves")).unwrap();
    settings.hive.hf_endpoint = Some(hub.address.clone());
    let hive = TestHive { hive: rbee_hive::Hive::start(settings).await.unwrap() };

    let old = download(&hive, "hf:me/m:Q4_0@v1.0", "old").await.unwrap();
    assert_eq!(old.sha256.as_hex(), sha256_hex(b"GGUF of the first version"));
    assert_eq!(old.source, "hf:me/m:Q4_0@v1.0");
    let main = download(&hive, "hf:me/m:Q4_0", "main").await.unwrap();
    assert_eq!(main.sha256.as_hex(), sha256_hex(b"GGUF of main"));
    let code = download(&hive, "hf:me/m:Q4_0@v2.0", "new").await.unwrap_err();
    assert_eq!(code, "download_not_found");

    // The main revision goes on; the one that was named stays what it is.
    hub.put("m-Q4_0.gguf", "GGUF of later");
    let update = |model: &str| {
        let (hive_id, model) = (HiveAlias::localhost(), alias(model));
        let update = serde_json::json!({"ModelUpdate": {"hive_id": hive_id, "model": model}});
        serde_json::from_value::<Operation>(update).unwrap()
    };
    let found = hive.run(update("main")).await.unwrap().data;
    assert_eq!(found["offered"], sha256_hex(b"GGUF of later"), "{found}");
    let found = hive.run(update("old")).await.unwrap().data;
    assert_eq!(found["offered"], old.sha256.as_hex(), "{found}");
    hive.hive.shutdown().await;
}

async fn download(hive: &TestHive, reference: &str, name: &str) -> Result<ModelEntry, String> {
    let download = Operation::ModelDownload(ModelDownload {
        hive_id: HiveAlias::localhost(),
        reference: reference.parse().expect("a legal reference"),
        alias: Some(alias(name)),
        projector: ProjectorChoice::default(),
    });
    hive.run(download).await.map(result).map_err(|error| error.code)
}
