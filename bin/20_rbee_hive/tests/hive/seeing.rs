//! Models that see images, with the real worker.

use rbee_operations::{ModelImport, Operation};
use serde_json::{Value, json};
use test_cluster::demo_model;
use worker_contract::{HiveAlias, ModelEntry, SupervisedWorker};

use crate::support::{Home, result};
use crate::tiny_vision::{Sight, write_pair};

/// A red point.
const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";

#[tokio::test]
async fn a_worker_of_a_model_that_was_added_with_its_projector_sees_and_another_does_not() {
    let home = Home::new();
    let (model, projector) = write_pair(home.path(), Sight::Row);
    let hive = home.start().await.unwrap();
    let import = |alias: &str, projector: Option<&std::path::Path>| {
        Operation::ModelImport(ModelImport {
            hive_id: HiveAlias::localhost(),
            path: model.display().to_string(),
            alias: Some(alias.parse().unwrap()),
            link: false,
            projector: projector.map(|file| file.display().to_string()),
        })
    };
    // What is no projector is refused before the model is added.
    let error = hive.run(import("tiny", Some(&model))).await.unwrap_err();
    assert_eq!(error.code, "invalid_projector", "{error}");
    let error = hive.import(&projector, "eyes").await.unwrap_err();
    assert_eq!(error.code, "invalid_model");
    assert!(error.hint.unwrap().contains("--mmproj"));
    assert!(hive.hive.models().is_empty());

    let entry: ModelEntry = result(hive.run(import("tiny", None)).await.unwrap());
    assert_eq!(entry.projector, None);
    let blind = hive.spawn("tiny").await.unwrap();
    let (status, said) = show(&home, &blind).await;
    assert_eq!(status, 400, "{said}");
    assert!(said.to_string().contains("unsupported_image"), "{said}");
    hive.delete(&blind.worker_id).await.unwrap();

    let entry: ModelEntry = result(hive.run(import("tiny", Some(&projector))).await.unwrap());
    let size = std::fs::metadata(&projector).unwrap().len();
    assert_eq!(entry.projector.map(|projector| projector.size_bytes), Some(size));
    // One of another width is refused, by what the two files say.
    let import = Operation::ModelImport(ModelImport {
        hive_id: HiveAlias::localhost(),
        path: demo_model().unwrap().display().to_string(),
        alias: Some("demo".parse().unwrap()),
        link: true,
        projector: Some(projector.display().to_string()),
    });
    let error = hive.run(import).await.unwrap_err();
    assert_eq!(error.code, "projector_does_not_fit", "{error}");
    assert!(error.message.contains("gives 64") && error.message.contains("takes 576"), "{error}");
    assert_eq!(hive.hive.models().len(), 1);

    let seeing = hive.spawn("tiny").await.unwrap();
    let (status, said) = show(&home, &seeing).await;
    assert_eq!(status, 200, "{said}");
    assert!(said.as_str().unwrap().contains("done"), "{said}");
    hive.hive.shutdown().await;
}

/// Asks the worker about an image.
async fn show(home: &Home, worker: &SupervisedWorker) -> (u16, Value) {
    let secret = std::fs::read_to_string(home.path().join("data/secrets/local.token")).unwrap();
    let body = json!({
        "request_id": "r-1",
        "task": {"type": "chat", "messages": [
            {"role": "user", "content": "What is this?", "images": [{"at": 0, "data": PNG}]},
        ]},
        "sampling": {"temperature": 0, "max_tokens": 4, "ignore_eos": true},
    });
    let url = format!("{}/v1/inference", worker.address);
    let request = reqwest::Client::new().post(url).bearer_auth(secret.trim()).json(&body);
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, Value::String(answer.text().await.unwrap()))
}
