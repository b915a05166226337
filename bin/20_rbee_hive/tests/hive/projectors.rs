//! What models see images with, from a server that speaks Hugging Face's API.

use std::fs;

use rbee_operations::{
    FileOffer, ModelFetch, ModelProjectorSet, ModelUpdate, Operation, ProjectorChoice,
    ProjectorOffer,
};
use test_cluster::{ModelHub, sha256_hex};
use worker_contract::{HiveAlias, ModelEntry, Sha256Digest};

use crate::hub::{
    MIB, body, body_of, download, download_with, has_sent, projector, projector_of, start,
};
use crate::support::{Home, TestHive, alias, import, model_target, result};

#[tokio::test]
async fn the_projector_beside_a_model_comes_with_it_and_is_pinned_and_removed_with_it() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("m.gguf", body(MIB));
    hub.put("mmproj-m-F32.gguf", projector(1));
    hub.put("mmproj-m-F16.gguf", projector(2));
    let hive = start(&home, &hub).await;
    let (outcome, events) = hive.told(download("hf:me/m", None)).await;
    let model: ModelEntry = serde_json::from_value(outcome.unwrap().data).unwrap();
    let seen = model.projector.clone().expect("it sees");
    assert_eq!(seen.source, "hf:me/m:mmproj-m-F16.gguf");
    assert_eq!(seen.sha256.as_hex(), hub.sha256("mmproj-m-F16.gguf").unwrap());
    assert!(events.iter().any(|event| event.message.contains("--no-mmproj")), "{events:?}");
    assert_eq!(hive.hive.models(), std::slice::from_ref(&model));
    assert_eq!(home.leftovers(), [""; 0]);

    let sent = hub.sent();
    let again = hive.run(download("hf:me/m", None)).await.unwrap();
    assert!(again.message.contains("already"), "{}", again.message);
    assert_eq!(hub.sent(), sent, "nothing is fetched twice");

    let file = home.models().join(format!("{}.mmproj.gguf", model.sha256));
    fs::write(&file, "other").unwrap();
    let verified = hive.run(Operation::ModelVerify(model_target("m"))).await.unwrap();
    assert_eq!(verified.data["matches"], false);
    assert_eq!(verified.data["projector"]["pinned"], seen.sha256.as_hex());
    let error = hive.spawn("m").await.unwrap_err();
    assert_eq!(error.code, "model_changed");
    assert!(error.message.contains("projector") && error.message.contains(seen.sha256.as_hex()));
    hive.run(download("hf:me/m", None)).await.unwrap();
    assert_eq!(fs::read(&file).unwrap(), projector(2), "what was pinned is put back");
    hive.spawn("m").await.unwrap();
    hive.hive.shutdown().await;

    let hive = start(&home, &hub).await;
    assert_eq!(hive.hive.models(), [model]);
    hive.run(Operation::ModelDelete(model_target("m"))).await.unwrap();
    assert_eq!(
        fs::read_dir(home.models())
            .unwrap()
            .filter(|f| f.as_ref().is_ok_and(|f| f.path().is_file()))
            .count(),
        0
    );
}

#[tokio::test]
async fn a_projector_is_left_named_or_demanded_as_its_user_wishes() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("m.gguf", body(MIB));
    let hive = start(&home, &hub).await;
    let best = || ProjectorChoice::Best;
    let error = hive.run(download_with("hf:me/m", None, best())).await.unwrap_err();
    assert_eq!(error.code, "projector_not_found", "{error}");
    hub.put("mmproj-a-F16.gguf", projector(1));
    hub.put("mmproj-b-F16.gguf", projector(2));
    hub.put("mmproj-no-F16.gguf", body(MIB));
    let error = hive.run(download_with("hf:me/m", None, best())).await.unwrap_err();
    assert_eq!(error.code, "projector_ambiguous", "{error}");
    let named = |name: &str| format!("hf:me/m:{name}").parse::<ProjectorChoice>().unwrap();
    let error =
        hive.run(download_with("hf:me/m", None, named("mmproj-no-F16.gguf"))).await.unwrap_err();
    assert_eq!(error.code, "invalid_projector", "{error}");
    assert!(hive.hive.models().is_empty(), "no model is added that cannot see as was wished");

    // Which of several, nobody knows.
    let (outcome, events) = hive.told(download("hf:me/m", None)).await;
    let blind: ModelEntry = serde_json::from_value(outcome.unwrap().data).unwrap();
    assert_eq!(blind.projector, None);
    assert!(events.iter().any(|event| event.message.contains("several projectors")), "{events:?}");

    let sees = hive.run(download_with("hf:me/m", None, named("mmproj-b-F16.gguf"))).await.unwrap();
    assert!(sees.message.contains("sees images"), "{}", sees.message);
    let sees: ModelEntry = result(sees);
    let digest = sees.projector.unwrap().sha256;
    assert_eq!(digest.as_hex(), hub.sha256("mmproj-b-F16.gguf").unwrap());
    let error =
        hive.run(download_with("hf:me/m", None, named("mmproj-a-F16.gguf"))).await.unwrap_err();
    assert_eq!(error.code, "projector_taken", "{error}");
    assert!(error.message.contains(digest.as_hex()), "{error}");
    let kept: ModelEntry =
        result(hive.run(download_with("hf:me/m", None, ProjectorChoice::Without)).await.unwrap());
    assert_eq!(kept.projector.map(|projector| projector.sha256), Some(digest));
}

#[tokio::test]
async fn two_models_that_are_fetched_at_once_share_their_projector() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("m-Q4_0.gguf", body(2 * MIB));
    hub.put("m-Q8_0.gguf", body(4 * MIB));
    hub.put("mmproj-m-F16.gguf", projector(1));
    hub.faults().slow = Some(256 << 10);
    let hive = start(&home, &hub).await;
    let (small, large) = tokio::join!(
        hive.run(download("hf:me/m:Q4_0", Some("small"))),
        hive.run(download("hf:me/m:Q8_0", Some("large"))),
    );
    for outcome in [small, large] {
        let model: ModelEntry = result(outcome.unwrap());
        let seen = model.projector.expect("it sees").sha256;
        assert_eq!(seen.as_hex(), hub.sha256("mmproj-m-F16.gguf").unwrap());
        let file = home.models().join(format!("{}.mmproj.gguf", model.sha256));
        assert_eq!(fs::read(file).unwrap(), projector(1));
    }
    assert_eq!(hub.sent(), (6 << 20) + projector(1).len() as u64, "each byte came once");
    assert_eq!(home.leftovers(), [""; 0]);

    hub.put("m-F16.gguf", body(MIB));
    let later = hive.run(download("hf:me/m:F16", None)).await.unwrap();
    assert!(result::<ModelEntry>(later).projector.is_some());
    assert_eq!(hub.sent(), (7 << 20) + projector(1).len() as u64, "what is there serves");
}

#[tokio::test]
async fn what_a_running_download_needs_later_is_no_garbage() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("m.gguf", body(8 * MIB));
    hub.put("mmproj-m-F16.gguf", projector(1));
    hub.faults().slow = Some(64 << 10);
    let hive = start(&home, &hub).await;
    let cleans = async {
        has_sent(&hub, MIB).await;
        assert_eq!(hive.garbage(false).await, [""; 0]);
        assert_eq!(hive.garbage(true).await, [""; 0]);
        hub.faults().slow = None;
    };
    let (outcome, ()) = tokio::join!(hive.download("hf:me/m"), cleans);
    assert!(outcome.unwrap().projector.is_some());
}

#[tokio::test]
async fn what_a_running_update_needs_later_is_no_garbage() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("m.gguf", body(MIB));
    hub.put("mmproj.gguf", projector(1));
    let hive = start(&home, &hub).await;
    hive.download("hf:me/m").await.unwrap();
    let (next, sight) = (body(2 * MIB), [projector(2), vec![7; 8 * MIB]].concat());
    let (next_digest, sight_digest) = (sha256_hex(&next), sha256_hex(&sight));
    hub.put("m.gguf", next);
    hub.put("mmproj.gguf", sight);
    hub.faults().slow = Some(64 << 10);
    let cleans = async {
        // The model is whole by then.
        has_sent(&hub, 5 * MIB).await;
        assert_eq!(hive.garbage(true).await, [""; 0]);
        hub.faults().slow = None;
    };
    let updating = hive.run(update(Some(&next_digest), Some(&sight_digest)));
    let (updated, ()) = tokio::join!(updating, cleans);
    assert_eq!(updated.unwrap().data["updated"], true);
    assert_eq!(hive.pinned(), (next_digest, Some(sight_digest)));
}

#[tokio::test]
async fn a_model_that_is_copied_from_another_hive_brings_its_projector() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("m.gguf", body(MIB));
    hub.put("mmproj.gguf", projector(1));
    let hive = start(&home, &hub).await;
    let offer = |name: &str, size_bytes| FileOffer {
        url: hub.url(name),
        ticket: None,
        sha256: hub.sha256(name).unwrap().parse().unwrap(),
        size_bytes,
    };
    let fetch = ModelFetch {
        hive_id: HiveAlias::localhost(),
        from: "gpu-1".parse().unwrap(),
        model: alias("m"),
        source: "hf:me/m".into(),
        files: vec![offer("m.gguf", MIB as u64)],
        projector: Some(ProjectorOffer {
            source: "hf:me/m:mmproj.gguf".into(),
            file: offer("mmproj.gguf", projector(1).len() as u64),
        }),
    };
    let model: ModelEntry = result(hive.run(Operation::ModelFetch(fetch)).await.unwrap());
    let seen = model.projector.expect("it sees over here, too");
    assert_eq!(seen.sha256.as_hex(), hub.sha256("mmproj.gguf").unwrap());
    assert_eq!(seen.source, "hf:me/m:mmproj.gguf");
    let file = hive.hive.model_file(&seen.sha256).expect("and gives it on");
    assert_eq!(fs::read(file).unwrap(), projector(1));
}

#[tokio::test]
async fn a_projector_of_another_width_is_left_where_it_lies_and_refused_where_it_was_demanded() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("m-small.gguf", body_of(64, MIB));
    hub.put("m-large.gguf", body_of(128, 2 * MIB));
    hub.put("mmproj-m-F16.gguf", projector_of(128, 1));
    let hive = start(&home, &hub).await;
    let demanded = download_with("hf:me/m:m-small.gguf", None, ProjectorChoice::Best);
    let error = hive.run(demanded).await.unwrap_err();
    assert_eq!(error.code, "projector_does_not_fit", "{error}");
    assert!(error.message.contains("128") && error.message.contains("64"), "{error}");
    assert!(hive.hive.models().is_empty(), "no model is added that cannot see as was wished");

    let (outcome, events) = hive.told(download("hf:me/m:m-small.gguf", None)).await;
    let small: ModelEntry = serde_json::from_value(outcome.unwrap().data).unwrap();
    assert_eq!(small.projector, None);
    assert!(events.iter().any(|event| event.message.contains("another model")), "{events:?}");
    let large = hive.download("hf:me/m:m-large.gguf").await.unwrap();
    assert!(large.projector.is_some());
    assert_eq!(home.leftovers(), [""; 0]);
}

#[tokio::test]
async fn of_a_flat_folder_only_those_see_that_the_projector_fits() {
    let home = Home::new();
    let hive = home.start_with(home.double("ready")).await.unwrap();
    let folder = home.path().join("folder");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("m-small.gguf"), body_of(64, 1000)).unwrap();
    fs::write(folder.join("m-large.gguf"), body_of(128, 2000)).unwrap();
    fs::write(folder.join("mmproj-m.gguf"), projector_of(128, 1)).unwrap();
    hive.run(import(&folder, None)).await.unwrap();
    let sees: Vec<_> = hive.hive.models().into_iter().map(|m| (m.alias, m.projector)).collect();
    let [(large, Some(_)), (small, None)] = sees.as_slice() else { panic!("{sees:?}") };
    assert_eq!((large.as_str(), small.as_str()), ("m-large", "m-small"));
}

#[tokio::test]
async fn what_does_not_say_of_which_of_several_models_it_is_is_taken_on_demand_only() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("m.gguf", body(MIB));
    hub.put("n.gguf", body(2 * MIB));
    hub.put("mmproj-F16.gguf", projector(1));
    let hive = start(&home, &hub).await;
    let (outcome, events) = hive.told(download("hf:me/m:m.gguf", None)).await;
    let model: ModelEntry = serde_json::from_value(outcome.unwrap().data).unwrap();
    assert_eq!(model.projector, None);
    let command = "--mmproj hf:me/m:mmproj-F16.gguf";
    assert!(events.iter().any(|event| event.message.contains(command)), "{events:?}");
    let demanded = download_with("hf:me/m:m.gguf", None, ProjectorChoice::Best);
    let model: ModelEntry = result(hive.run(demanded).await.unwrap());
    assert!(model.projector.is_some());

    let folder = home.path().join("folder");
    fs::create_dir(&folder).unwrap();
    for (name, size) in [("x.gguf", 1000), ("y.gguf", 2000)] {
        fs::write(folder.join(name), body(size)).unwrap();
    }
    fs::write(folder.join("mmproj-y.gguf"), projector(1)).unwrap();
    hive.run(import(&folder, None)).await.unwrap();
    let sees = |name: &str| {
        let models = hive.hive.models();
        models.into_iter().any(|model| model.alias == alias(name) && model.projector.is_some())
    };
    assert!(sees("y") && !sees("x"));
}

#[tokio::test]
async fn a_projector_is_replaced_and_taken_away_under_all_names_unless_a_worker_sees_with_it() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("m.gguf", body_of(64, MIB));
    hub.put("mmproj-m-F16.gguf", projector_of(64, 1));
    hub.put("mmproj-m-F32.gguf", projector_of(64, 2));
    hub.put("mmproj-other.gguf", projector_of(32, 3));
    let hive = start(&home, &hub).await;
    let usual = "hf:me/m:mmproj-m-F16.gguf".parse().unwrap();
    hive.run(download_with("hf:me/m", None, usual)).await.unwrap();
    hive.run(download_with("hf:me/m", Some("again"), ProjectorChoice::Without)).await.unwrap();
    let seen = |name: &str| {
        let models = hive.hive.models();
        let model = models.into_iter().find(|model| model.alias.as_str() == name).unwrap();
        model.projector.map(|projector| projector.source)
    };
    let set = |projector: &str| {
        Operation::ModelProjectorSet(ModelProjectorSet {
            hive_id: HiveAlias::localhost(),
            model: alias("m"),
            projector: projector.parse().unwrap(),
        })
    };
    let error = hive.run(set("hf:me/m:mmproj-other.gguf")).await.unwrap_err();
    assert_eq!(error.code, "projector_does_not_fit", "{error}");
    let worker = hive.spawn("again").await.unwrap();
    for projector in ["hf:me/m:mmproj-m-F32.gguf", "none"] {
        let error = hive.run(set(projector)).await.unwrap_err();
        assert_eq!(error.code, "model_in_use", "{projector}: {error}");
    }
    hive.delete(&worker.worker_id).await.unwrap();

    hive.run(set("hf:me/m:mmproj-m-F32.gguf")).await.unwrap();
    for name in ["m", "again"] {
        assert_eq!(seen(name).as_deref(), Some("hf:me/m:mmproj-m-F32.gguf"));
    }
    let verified = hive.run(Operation::ModelVerify(model_target("again"))).await.unwrap();
    assert_eq!(verified.data["matches"], true);
    hive.run(set("none")).await.unwrap();
    assert_eq!((seen("m"), seen("again")), (None, None));
    assert_eq!(home.projectors(), [""; 0]);
    hive.spawn("m").await.unwrap();
    hive.hive.shutdown().await;
    let hive = start(&home, &hub).await;
    assert!(hive.hive.models().iter().all(|model| model.projector.is_none()));
}

#[tokio::test]
async fn an_update_takes_another_projector_only_if_that_was_agreed_to_as_well() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("m.gguf", body(MIB));
    hub.put("mmproj.gguf", projector(1));
    let hive = start(&home, &hub).await;
    let first = hive.download("hf:me/m").await.unwrap();
    let (next, sight) = (body(2 * MIB), projector(2));
    let (next_digest, sight_digest) = (sha256_hex(&next), sha256_hex(&sight));
    hub.put("m.gguf", next);
    hub.put("mmproj.gguf", sight);
    let found = hive.run(update(None, None)).await.unwrap();
    assert_eq!(found.data["projector"]["offered"], *sight_digest);
    let sent = hub.sent();
    for agreed in [None, Some(&*"0".repeat(64))] {
        let error = hive.run(update(Some(&next_digest), agreed)).await.unwrap_err();
        assert_eq!(error.code, "projector_not_accepted", "{error}");
        let hint = error.hint.unwrap();
        let command =
            format!("model update m --accept {next_digest} --accept-projector {sight_digest}");
        assert!(hint.contains(&command), "{hint}");
    }
    assert_eq!(hub.sent(), sent, "nothing is fetched for nothing");
    assert_eq!(hive.hive.models(), [first]);
    let done = hive.run(update(Some(&next_digest), Some(&sight_digest))).await.unwrap();
    assert_eq!(done.data["updated"], true);
    assert_eq!(hive.pinned(), (next_digest, Some(sight_digest)));
    assert_eq!(home.projectors().len(), 1);
    assert_eq!(home.leftovers(), [""; 0]);
}

#[tokio::test]
async fn an_update_tells_of_another_projector_also_where_the_model_is_the_same() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("m.gguf", body(MIB));
    hub.put("mmproj.gguf", projector(1));
    let hive = start(&home, &hub).await;
    let before = hive.download("hf:me/m").await.unwrap();
    hub.put("mmproj.gguf", projector(2));
    let sight = sha256_hex(&projector(2));
    for accept in [None, Some(before.sha256.as_hex())] {
        let found = hive.run(update(accept, None)).await.unwrap();
        for words in [&*sight, "rbee-keeper model mmproj m hf:me/m:mmproj.gguf"] {
            assert!(found.message.contains(words), "{words} is not in {}", found.message);
        }
        assert_eq!(found.data["changed"], false);
        assert_eq!(found.data["projector"]["offered"], *sight);
    }
    assert_eq!(hive.hive.models(), [before]);
}

#[tokio::test]
async fn an_update_whose_projector_nobody_agreed_to_is_refused_before_the_model_is_fetched() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("m.gguf", body(MIB));
    hub.put("mmproj.gguf", projector(1));
    let hive = start(&home, &hub).await;
    hive.download("hf:me/m").await.unwrap();
    let (next, sight) = (body(2 * MIB), projector(2));
    let (next_digest, sight_digest) = (sha256_hex(&next), sha256_hex(&sight));
    hub.put("m.gguf", next);
    hub.put("mmproj.gguf", sight);
    // Its server tells no digests, so that the projector has to be fetched to know its own.
    hub.faults().nameless = true;
    let before = hub.sent();
    let error = hive.run(update(Some(&next_digest), None)).await.unwrap_err();
    assert_eq!(error.code, "projector_not_accepted", "{error}");
    assert!(error.hint.unwrap().contains(&sight_digest));
    assert!(hub.sent() - before < MIB as u64, "{} bytes were sent", hub.sent() - before);
    hive.run(update(Some(&next_digest), Some(&sight_digest))).await.unwrap();
    assert_eq!(hive.pinned(), (next_digest, Some(sight_digest)));
}

#[tokio::test]
async fn an_update_keeps_a_projector_of_a_file_and_one_that_its_source_has_no_longer() {
    for of_a_file in [true, false] {
        let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
        hub.put("m.gguf", body(MIB));
        let eyes = home.path().join("eyes.gguf");
        fs::write(&eyes, projector(1)).unwrap();
        hub.put("mmproj-a.gguf", projector(1));
        let source =
            if of_a_file { format!("file:{}", eyes.display()) } else { "hf:me/m".to_owned() };
        let hive = start(&home, &hub).await;
        let choice = source.parse().unwrap();
        hive.run(download_with("hf:me/m:m.gguf", None, choice)).await.unwrap();
        let (before, sees) = hive.pinned();
        let next = body(2 * MIB);
        hub.put("m.gguf", next.clone());
        hub.remove("mmproj-a.gguf");
        fs::remove_file(&eyes).unwrap();
        hive.run(update(Some(&sha256_hex(&next)), None)).await.unwrap();
        assert_eq!(hive.pinned(), (sha256_hex(&next), sees.clone()), "{source}");
        let verified = hive.run(Operation::ModelVerify(model_target("m"))).await.unwrap();
        assert_eq!(verified.data["matches"], true);
        assert_eq!(home.projectors().len(), 1, "that of {before} is gone");

        // One that is lost cannot be kept.
        fs::remove_file(home.models().join(&home.projectors()[0])).unwrap();
        let later = body(3 * MIB);
        hub.put("m.gguf", later.clone());
        let error = hive.run(update(Some(&sha256_hex(&later)), None)).await.unwrap_err();
        assert_eq!(error.code, "projector_would_be_lost", "{error}");
        assert!(error.hint.unwrap().contains("model mmproj m"));
        assert_eq!(hive.pinned(), (sha256_hex(&next), sees));
    }
}

#[tokio::test]
async fn a_projector_that_was_renamed_where_it_came_from_is_found_again() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("m.gguf", body(MIB));
    hub.put("mmproj-a.gguf", projector(1));
    let hive = start(&home, &hub).await;
    hive.download("hf:me/m").await.unwrap();
    let next = body(2 * MIB);
    hub.put("m.gguf", next.clone());
    hub.remove("mmproj-a.gguf");
    hub.put("mmproj-b.gguf", projector(2));
    let sight = sha256_hex(&projector(2));
    hive.run(update(Some(&sha256_hex(&next)), Some(&sight))).await.unwrap();
    assert_eq!(hive.pinned(), (sha256_hex(&next), Some(sight)));
    let source = hive.hive.models()[0].projector.clone().unwrap().source;
    assert_eq!(source, "hf:me/m:mmproj-b.gguf");
}

#[tokio::test]
async fn a_projector_that_is_lost_is_told_and_comes_back_with_the_same_download() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("m.gguf", body(MIB));
    hub.put("mmproj.gguf", projector(1));
    let hive = start(&home, &hub).await;
    hive.download("hf:me/m").await.unwrap();
    let lose = || fs::remove_file(home.models().join(&home.projectors()[0])).unwrap();
    lose();
    let error = hive.run(Operation::ModelVerify(model_target("m"))).await.unwrap_err();
    assert_eq!(error.code, "model_file_gone");
    assert!(error.message.contains("projector"), "{error}");
    hive.download("hf:me/m").await.unwrap();
    hive.run(Operation::ModelVerify(model_target("m"))).await.unwrap();

    // Another one is not put in its place.
    lose();
    hub.put("mmproj.gguf", projector(2));
    let error = hive.download("hf:me/m").await.unwrap_err();
    assert_eq!(error.code, "model_file_gone");
    assert!(error.hint.unwrap().contains("model mmproj m"));
    let set = ModelProjectorSet {
        hive_id: HiveAlias::localhost(),
        model: alias("m"),
        projector: ProjectorChoice::Best,
    };
    hive.run(Operation::ModelProjectorSet(set)).await.unwrap();
    assert_eq!(hive.pinned().1, Some(sha256_hex(&projector(2))));
    hive.run(Operation::ModelVerify(model_target("m"))).await.unwrap();
}

#[tokio::test]
async fn a_projector_is_known_by_its_folder() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    for (folder, what) in [("a", 1), ("b", 2)] {
        hub.put(&format!("{folder}/{folder}.gguf"), body(usize::from(what) * MIB));
        hub.put(&format!("{folder}/mmproj-F16.gguf"), projector(what));
    }
    let hive = start(&home, &hub).await;
    let model = hive.download("hf:me/m:b/b.gguf").await.unwrap();
    let seen = model.projector.unwrap();
    assert_eq!(seen.source, "hf:me/m:b/mmproj-F16.gguf");
    assert_eq!(seen.sha256.as_hex(), sha256_hex(&projector(2)));
    let named = "hf:me/m:mmproj-F16.gguf".parse().unwrap();
    let error = hive.run(download_with("hf:me/m:a.gguf", None, named)).await.unwrap_err();
    assert_eq!(error.code, "projector_ambiguous", "{error}");
    let same = Operation::ModelUpdate(ModelUpdate {
        hive_id: HiveAlias::localhost(),
        model: alias("b"),
        accept: None,
        accept_projector: None,
    });
    let found = hive.run(same).await.unwrap();
    assert_eq!(found.data["projector"]["offered"], found.data["projector"]["pinned"]);
}

fn update(accept: Option<&str>, accept_projector: Option<&str>) -> Operation {
    let digest = |text: &str| text.parse::<Sha256Digest>().unwrap();
    Operation::ModelUpdate(ModelUpdate {
        hive_id: HiveAlias::localhost(),
        model: alias("m"),
        accept: accept.map(digest),
        accept_projector: accept_projector.map(digest),
    })
}

impl TestHive {
    /// The digests of the only model and of its projector.
    fn pinned(&self) -> (String, Option<String>) {
        let models = self.hive.models();
        let [model] = models.as_slice() else { panic!("{models:?}") };
        let sees = model.projector.as_ref().map(|projector| projector.sha256.to_string());
        (model.sha256.to_string(), sees)
    }
}

impl Home {
    /// The files of projectors.
    fn projectors(&self) -> Vec<String> {
        let files = fs::read_dir(self.models()).unwrap().flatten();
        let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.ends_with(".mmproj.gguf")).collect()
    }
}
