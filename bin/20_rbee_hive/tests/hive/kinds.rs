//! What models can do, as hives tell it.

use rbee_hive::Hive;
use test_cluster::wait_until;
use worker_contract::ModelKind;

use crate::support::{Home, SOON, TestHive};

#[tokio::test]
async fn what_a_model_can_do_is_found_out_where_an_earlier_rbee_did_not_ask() {
    let home = Home::new();
    let hive = home.start_with(home.double("tells-no-kind")).await.unwrap();
    let file = home.path().join("m.gguf");
    std::fs::write(&file, b"GGUF kind=embedding").unwrap();
    let entry = hive.import(&file, "m").await.unwrap();
    hive.import(&file, "n").await.unwrap();
    assert_eq!(entry.gguf.kind, None);
    hive.hive.shutdown().await;

    let hive = home.start_with(home.double("ready")).await.unwrap();
    wait_until("both names of the model to have a kind", SOON, async || {
        let models = hive.hive.models();
        models.iter().all(|model| model.gguf.kind == Some(ModelKind::Embedding)).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(hive.hive.snapshot().catalog, hive.hive.models());
    hive.hive.shutdown().await;

    // It is kept.
    let hive = home.start_with(home.double("tells-no-kind")).await.unwrap();
    assert_eq!(hive.hive.models()[0].gguf.kind, Some(ModelKind::Embedding));
    hive.hive.shutdown().await;
}

#[tokio::test]
async fn what_a_model_can_do_is_asked_again_once_the_worker_is_another_one() {
    let home = Home::new();
    let file = home.path().join("m.gguf");
    std::fs::write(&file, b"GGUF kind=embedding").unwrap();
    let hive = home.start_with(home.double("ready")).await.unwrap();
    let entry = hive.import(&file, "m").await.unwrap();
    assert_eq!(entry.gguf.kind, Some(ModelKind::Embedding));
    hive.hive.shutdown().await;

    let hive = home.start_with(home.double("knows-better")).await.unwrap();
    wait_until("its kind to be another one", SOON, async || {
        (hive.hive.models()[0].gguf.kind == Some(ModelKind::Generative)).then_some(())
    })
    .await
    .unwrap();
    hive.hive.shutdown().await;
}

#[tokio::test]
async fn whose_workers_are_told_what_their_models_are_for_does_not_know_it_of_a_file() {
    for (arguments, kind) in [
        (&["--pooling", "mean"][..], None),
        (&["--pooling=mean"][..], None),
        (&["--pool"][..], Some(ModelKind::Embedding)),
    ] {
        let home = Home::new();
        let mut settings = home.settings(home.double("ready")).unwrap();
        settings.worker.arguments = arguments.iter().map(|&word| word.to_owned()).collect();
        let hive = TestHive { hive: Hive::start(settings).await.unwrap() };
        let file = home.path().join("m.gguf");
        std::fs::write(&file, b"GGUF kind=embedding").unwrap();
        hive.import(&file, "m").await.unwrap();
        assert_eq!(hive.hive.snapshot().catalog[0].gguf.kind, kind, "{arguments:?}");
        hive.hive.shutdown().await;
    }
}
