//! Downloads from a server that speaks Hugging Face's API, with all that can go wrong on the way.

use std::fs;

use rbee_operations::{JobEvent, ModelUpdate, Operation};
use test_cluster::{HubFaults, ModelHub, SmallDisk, demo_model, sha256_hex, wait_until};
use tokio_util::sync::CancellationToken;
use worker_contract::{HiveAlias, ModelEntry, Sha256Digest};

use crate::hub::{MIB, body, download, has_sent, start, start_at, start_real};
use crate::support::{Home, SOON, alias, hive_target, model_target, result};

#[tokio::test]
async fn a_model_of_the_hub_is_downloaded_pinned_and_read_by_the_real_worker() {
    let hub = ModelHub::start().await.unwrap();
    let bytes = fs::read(demo_model().unwrap()).unwrap();
    hub.put("SmolLM2-135M-Instruct.Q4_1.gguf", bytes);
    let home = Home::new();
    let hive = start_real(&home, &hub).await;
    let model = hive.download("hf:me/smol").await.unwrap();
    assert_eq!(model.alias.as_str(), "smollm2-135m-instruct");
    assert_eq!(model.source, "hf:me/smol:Q4_1");
    assert_eq!(model.gguf.architecture, "llama");
    assert_eq!(hive.hive.downloaded_bytes(), 98_362_432);
    let verified = hive.run(Operation::ModelVerify(model_target("smollm2-135m-instruct"))).await;
    assert_eq!(verified.unwrap().data["matches"], true);
    let ranges = hub.asked().iter().filter(|asked| asked.range.is_some()).count();
    assert!(ranges > 1, "in several ranges: {ranges}");
    assert_eq!(home.leftovers(), [""; 0]);

    let again = hive.run(download("hf:me/smol", None)).await.unwrap();
    assert!(again.message.contains("already"), "{}", again.message);
    let named = hive.run(download("hf:me/smol:Q4_1", Some("second"))).await.unwrap();
    assert!(named.message.contains("there already"), "{}", named.message);
    assert_eq!(hub.sent(), 98_362_432, "nothing is fetched twice");
    assert_eq!(hive.hive.models().len(), 2);
}

#[tokio::test]
async fn of_several_quantizations_the_one_that_fits_is_taken_and_told() {
    let hub = ModelHub::start().await.unwrap();
    let bytes = fs::read(demo_model().unwrap()).unwrap();
    hub.put("m-Q4_1.gguf", bytes.clone());
    hub.put("m-F16.gguf", bytes);
    let home = Home::new();
    let hive = start_real(&home, &hub).await;
    let (outcome, events) = hive.told(download("hf:me/smol", None)).await;
    let model: ModelEntry = serde_json::from_value(outcome.unwrap().data).unwrap();
    assert_eq!(model.source, "hf:me/smol:Q4_1");
    let taken = events.iter().find(|e| e.message.starts_with("Taking")).expect("it says which");
    assert!(taken.message.contains("the best of 2") && taken.message.contains("CPU-0"));
    let error = hive.download("hf:me/smol:Q8_0").await.unwrap_err();
    assert_eq!(error.code, "quantization_not_found");
    assert!(error.hint.unwrap().contains("F16, Q4_1"));
}

#[tokio::test]
async fn progress_tells_bytes_rate_and_time_left() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("m.gguf", body(8 * MIB));
    hub.faults().slow = Some(64 << 10);
    let hive = start(&home, &hub).await;
    let (outcome, events) = hive.told(download("hf:me/m", None)).await;
    outcome.unwrap();
    let told: Vec<_> = events.iter().filter(|event| event.progress().is_some()).collect();
    let with_pace =
        told.iter().filter(|e| e.pace().per_second > Some(0) && e.pace().eta_s.is_some());
    assert!(with_pace.count() > 0, "{told:?}");
    let last = told.last().and_then(|event| event.progress()).unwrap();
    assert_eq!((last.done, last.total), (8 << 20, Some(8 << 20)));
}

#[tokio::test]
async fn the_rate_of_a_download_that_goes_on_is_that_of_what_comes() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("m.gguf", body(64 * MIB));
    let hive = start(&home, &hub).await;
    hub.faults().slow = Some(128 << 10);
    hive.cancelled_after(&hub, 48 * MIB).await;
    // At most 0.1 MiB in ten milliseconds of each of four connections.
    hub.faults().slow = Some(100 << 10);
    let (outcome, events) = hive.told(download("hf:me/m", None)).await;
    outcome.unwrap();
    let found =
        events.iter().find_map(|event| Some(event.progress()?.done).filter(|done| *done > 0));
    assert!(found.unwrap() > 32 << 20, "it went on with what was there: {found:?}");
    let rates: Vec<u64> = events.iter().filter_map(|event| event.pace().per_second).collect();
    assert!(rates.iter().all(|rate| *rate <= 100 << 20), "{rates:?}");
    assert!(rates.iter().any(|rate| *rate > 0), "{rates:?}");
}

#[tokio::test]
async fn a_page_in_the_place_of_a_model_is_refused_by_its_address() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("page.gguf", b"<!DOCTYPE html><html><body>Sign in</body></html>".to_vec());
    let hive = start_real(&home, &hub).await;
    let url = format!("{}/me/m/resolve/main/page.gguf", hub.address);
    let refused = hive.run(download(&url, Some("m"))).await.unwrap_err();
    assert_eq!(refused.code, "invalid_model");
    assert!(refused.message.starts_with(&url), "{}", refused.message);
    assert!(!refused.message.contains("partial"), "{}", refused.message);
    assert!(refused.hint.unwrap().contains("not of a page about it"));
    assert_eq!(home.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_slow_server_is_asked_for_several_parts_at_once() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    let bytes = body(24 * MIB);
    hub.put("m.gguf", bytes.clone());
    hub.faults().slow = Some(64 << 10);
    let hive = start(&home, &hub).await;
    let model = hive.download("hf:me/m").await.unwrap();
    assert_eq!(model.sha256.as_hex(), sha256_hex(&bytes));
    assert_eq!(hub.most_at_once(), 4);
    assert_eq!(hub.sent(), 24 << 20, "each byte came once");
}

#[tokio::test]
async fn a_connection_that_is_cut_or_silent_is_gone_on_with_where_it_ended() {
    for (faults, name) in [(true, "cut"), (false, "stall")] {
        let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
        let bytes = body(12 * MIB);
        hub.put("m.gguf", bytes.clone());
        {
            let mut now = hub.faults();
            (now.cut_after, now.cuts) = (faults.then_some(MIB), 3);
            (now.stall_after, now.stalls) = ((!faults).then_some(MIB), 2);
        }
        let hive = start(&home, &hub).await;
        let (outcome, events) = hive.told(download("hf:me/m", None)).await;
        let model: ModelEntry = serde_json::from_value(outcome.unwrap().data).unwrap();
        assert_eq!(model.sha256.as_hex(), sha256_hex(&bytes));
        let came = hive.hive.downloaded_bytes();
        assert_eq!(came, bytes.len() as u64, "{name}: no byte came twice");
        assert!(events.iter().any(|event| event.message.contains("trying again")), "{name}");
    }
}

#[tokio::test]
async fn a_server_that_sends_whole_files_only_is_begun_anew_after_a_cut() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    let bytes = body(6 * MIB);
    hub.put("m.gguf", bytes.clone());
    {
        let mut now = hub.faults();
        (now.no_ranges, now.cut_after, now.cuts) = (true, Some(2 * MIB), 2);
    }
    let hive = start(&home, &hub).await;
    let model = hive.download("hf:me/m").await.unwrap();
    assert_eq!(model.sha256.as_hex(), sha256_hex(&bytes));
    assert_eq!(home.leftovers(), [""; 0]);
}

#[tokio::test]
async fn what_is_not_the_file_is_refused_with_a_reason_and_thrown_away() {
    for (name, fault, code) in [
        ("wrong bytes", fault(|f| f.wrong_bytes = true), "wrong_digest"),
        ("wrong length", fault(|f| f.wrong_length = Some(17)), "wrong_size"),
        ("too few bytes", fault(|f| f.too_few = 1000), "download_cut"),
        (
            "unauthorized",
            fault(|f| (f.status, f.statuses) = (Some(401), 99)),
            "download_unauthorized",
        ),
        ("forbidden", fault(|f| (f.status, f.statuses) = (Some(403), 99)), "download_unauthorized"),
        ("not found", fault(|f| (f.status, f.statuses) = (Some(404), 99)), "download_not_found"),
        ("broken", fault(|f| (f.status, f.statuses) = (Some(500), 99)), "server_failed"),
        (
            "busy",
            fault(|f| {
                (f.status, f.statuses, f.retry_after) = (Some(429), 99, Some(99_999));
            }),
            "download_rate_limited",
        ),
        ("around and around", fault(|f| f.redirect_loop = true), "bad_redirect"),
    ] {
        let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
        hub.put("m.gguf", body(MIB));
        fault(&mut hub.faults());
        let hive = start(&home, &hub).await;
        let error = hive.download("hf:me/m").await.unwrap_err();
        assert_eq!(error.code, code, "{name}: {error}");
        assert!(hive.hive.models().is_empty(), "{name}");
        assert!(error.message.len() > 10, "{name}: {error}");
        if code.starts_with("wrong") {
            assert_eq!(home.leftovers(), [""; 0], "{name}");
        }
    }
}

#[tokio::test]
async fn what_passes_by_itself_is_waited_for() {
    for (status, retry_after) in [(429, Some(1)), (500, None), (503, None)] {
        let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
        hub.put("m.gguf", body(MIB));
        {
            let mut now = hub.faults();
            (now.status, now.statuses, now.retry_after) = (Some(status), 2, retry_after);
        }
        let hive = start(&home, &hub).await;
        hive.download("hf:me/m").await.unwrap_or_else(|error| panic!("{status}: {error}"));
        assert_eq!(hub.faults().statuses, 0);
    }
}

#[tokio::test]
async fn a_repository_that_is_not_there_or_has_no_model_is_told() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("README.md", "hello");
    let hive = start(&home, &hub).await;
    for (reference, code) in [
        ("hf:me/gone", "download_not_found"),
        ("hf:me/m", "no_model"),
        ("http://127.0.0.1:9/m.gguf", "server_unreachable"),
    ] {
        let error = hive.download(reference).await.unwrap_err();
        assert_eq!(error.code, code, "{reference}: {error}");
        let hint = error.hint.unwrap_or_default();
        let is_about_url = hint.contains("check the URL") && !hint.contains("HF_ENDPOINT");
        assert_eq!(is_about_url, reference.starts_with("http"), "{reference}: {hint}");
    }
    hub.put("m.gguf", "this is no model");
    let home = Home::new();
    let hive = start_real(&home, &hub).await;
    let error = hive.download("hf:me/m").await.unwrap_err();
    assert_eq!(error.code, "invalid_model", "{error}");
    assert_eq!(home.leftovers(), [""; 0], "what is no model is not kept");
}

#[tokio::test]
async fn a_token_of_the_secrets_folder_opens_private_models_and_goes_to_no_other_host() {
    let (hub, cdn, home) =
        (ModelHub::start().await.unwrap(), ModelHub::start().await.unwrap(), Home::new());
    for server in [&hub, &cdn] {
        server.put("m.gguf", body(MIB));
    }
    {
        let mut now = hub.faults();
        (now.token, now.cdn) = (Some("hf_secret".into()), Some(cdn.address.clone()));
    }
    let hive = start(&home, &hub).await;
    let error = hive.download("hf:me/m").await.unwrap_err();
    assert_eq!(error.code, "download_unauthorized");
    assert!(error.hint.unwrap().contains("token huggingface"));

    let secrets = home.path().join("data/secrets");
    let token = access_tokens::Secret::from("hf_secret".to_owned());
    access_tokens::store_secret(&secrets, "huggingface.token", &token).unwrap();
    hive.download("hf:me/m").await.unwrap();
    assert!(hub.asked().iter().any(|asked| asked.token.as_deref() == Some("Bearer hf_secret")));
    assert!(!cdn.asked().is_empty() && cdn.asked().iter().all(|asked| asked.token.is_none()));
}

#[tokio::test]
async fn two_downloads_of_one_file_are_one() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("m.gguf", body(8 * MIB));
    hub.faults().slow = Some(128 << 10);
    let hive = start(&home, &hub).await;
    let (one, two, three) = tokio::join!(
        hive.run(download("hf:me/m", Some("one"))),
        hive.run(download("hf:me/m", Some("two"))),
        hive.run(download("hf:me/m", Some("one"))),
    );
    for outcome in [one, two, three] {
        outcome.unwrap();
    }
    assert_eq!(hub.sent(), 8 << 20, "each byte came once");
    assert_eq!(hive.hive.models().len(), 2);
    assert_eq!(home.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_download_that_waits_for_another_one_to_be_read_can_be_cancelled() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("a.gguf", body(MIB));
    hub.put("b.gguf", body(2 * MIB));
    let hive = start_at(&home, &hub.address, home.double("inspect-hangs")).await;
    let (first, second) = (CancellationToken::new(), CancellationToken::new());
    let cancels = async {
        let is_read = async || home.path().join("inspecting").exists().then_some(());
        wait_until("the look at the first model", SOON, is_read).await.unwrap();
        let waits = hive.run_until(download("hf:me/m:b.gguf", None), second.clone());
        let ends = async {
            has_sent(&hub, 3 * MIB).await;
            second.cancel();
        };
        let both = async { tokio::join!(waits, ends).0 };
        let ended = tokio::time::timeout(SOON, Box::pin(both)).await.expect("it does not wait");
        assert_eq!(ended.unwrap_err().code, "cancelled");
        first.cancel();
    };
    let reads = hive.run_until(download("hf:me/m:a.gguf", None), first.clone());
    let (ended, ()) = tokio::join!(reads, cancels);
    assert_eq!(ended.unwrap_err().code, "cancelled");
}

#[tokio::test]
async fn one_of_two_who_wait_can_go_and_the_other_still_gets_the_file() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("m.gguf", body(8 * MIB));
    hub.faults().slow = Some(128 << 10);
    let hive = start(&home, &hub).await;
    let cancel = CancellationToken::new();
    let first = hive.run_until(download("hf:me/m", Some("one")), cancel.clone());
    let goes = async {
        has_sent(&hub, MIB).await;
        cancel.cancel();
    };
    let (first, second, ()) = tokio::join!(first, hive.run(download("hf:me/m", Some("two"))), goes);
    assert_eq!(first.unwrap_err().code, "cancelled");
    second.unwrap();
    assert_eq!(hub.sent(), 8 << 20);
}

#[tokio::test]
async fn a_cancelled_download_is_listed_gone_on_with_or_removed() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    let bytes = body(16 * MIB);
    hub.put("m.gguf", bytes.clone());
    hub.faults().slow = Some(64 << 10);
    let hive = start(&home, &hub).await;
    hive.cancelled_after(&hub, 2 * MIB).await;
    let garbage = hive.garbage(false).await;
    let (kept, total) = (garbage[0]["bytes"].as_u64().unwrap(), &garbage[0]["total"]);
    assert!(kept > 0 && *total == 16 << 20 && garbage[0]["what"] == "m.gguf", "{garbage:?}");

    let before = hub.sent();
    hub.faults().slow = None;
    let model = hive.download("hf:me/m").await.unwrap();
    assert_eq!(model.sha256.as_hex(), sha256_hex(&bytes));
    assert_eq!(hub.sent() - before, (16 << 20) - kept, "only the rest came");
    assert!(hive.garbage(false).await.is_empty());

    hive.run(Operation::ModelDelete(model_target("m"))).await.unwrap();
    hub.faults().slow = Some(64 << 10);
    hive.cancelled_after(&hub, 2 * MIB).await;
    assert_eq!(hive.garbage(true).await.len(), 1);
    assert_eq!(home.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_file_that_changed_on_the_server_is_not_mixed_with_what_was_there() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("m.gguf", body(16 * MIB));
    hub.faults().slow = Some(64 << 10);
    let hive = start(&home, &hub).await;
    let url = hub.url("m.gguf");
    let cancel = CancellationToken::new();
    let ends = async {
        has_sent(&hub, 2 * MIB).await;
        cancel.cancel();
    };
    let (ended, ()) = tokio::join!(hive.run_until(download(&url, None), cancel.clone()), ends);
    assert_eq!(ended.unwrap_err().code, "cancelled");

    let other: Vec<u8> = body(16 * MIB).iter().map(|byte| byte ^ 0x55).collect();
    hub.put("m.gguf", other.clone());
    hub.faults().slow = None;
    let model: ModelEntry = result(hive.run(download(&url, None)).await.unwrap());
    assert_eq!(model.sha256.as_hex(), sha256_hex(&other));
}

#[tokio::test]
async fn a_file_of_unknown_size_without_digest_is_taken_as_it_comes() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    let bytes = body(3 * MIB);
    hub.put("m.gguf", bytes.clone());
    {
        let mut now = hub.faults();
        (now.no_ranges, now.nameless) = (true, true);
    }
    let hive = start(&home, &hub).await;
    let model: ModelEntry = result(hive.run(download(&hub.url("m.gguf"), None)).await.unwrap());
    assert_eq!(model.sha256.as_hex(), sha256_hex(&bytes));
    assert_eq!(model.source, hub.url("m.gguf"));
}

#[tokio::test]
async fn a_split_model_is_one_model_whose_parts_lie_together() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    for n in 1..=3_usize {
        hub.put(&format!("Q4/big-Q4_0-0000{n}-of-00003.gguf"), body(n * MIB));
    }
    let hive = start(&home, &hub).await;
    let (outcome, events) = hive.told(download("hf:me/big", None)).await;
    let model: ModelEntry = serde_json::from_value(outcome.unwrap().data).unwrap();
    assert_eq!((model.alias.as_str(), model.shards.len()), ("big", 3));
    assert_eq!(model.gguf.size_bytes, 6 << 20);
    let last = events.iter().filter_map(JobEvent::progress).next_back().unwrap();
    assert_eq!((last.done, last.total), (6 << 20, Some(6 << 20)), "all parts together");
    for n in 1..=3 {
        let part = format!("{}/model-0000{n}-of-00003.gguf", model.sha256);
        assert!(home.models().join(part).is_file());
    }
    hive.spawn("big").await.unwrap();
    hive.hive.shutdown().await;
}

#[tokio::test]
async fn a_disk_that_is_or_becomes_too_small_is_told_and_what_arrived_is_kept() {
    if let Some(reason) = SmallDisk::unavailable() {
        test_cluster::skip_test(&reason);
        return;
    }
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    let _disk = SmallDisk::mount(&home.models(), 12).unwrap();
    hub.put("large.gguf", body(16 * MIB));
    hub.put("m.gguf", body(8 * MIB));
    let hive = start(&home, &hub).await;
    let error = hive.download("hf:me/m:large.gguf").await.unwrap_err();
    assert_eq!(error.code, "disk_full");
    assert!(error.message.contains("16.8 MB"), "{error}");
    assert_eq!(hub.sent(), 0, "nothing was fetched");

    hub.faults().slow = Some(64 << 10);
    let filler = home.models().join("filler");
    let fills = async {
        has_sent(&hub, MIB).await;
        fs::write(&filler, vec![0; 7 * MIB]).unwrap();
    };
    let (ended, ()) = tokio::join!(hive.download("hf:me/m:m.gguf"), fills);
    let error = ended.unwrap_err();
    assert_eq!(error.code, "disk_full", "{error}");
    let before = hub.sent();
    fs::remove_file(filler).unwrap();
    hive.download("hf:me/m:m.gguf").await.unwrap();
    assert!(hub.sent() - before < 8 << 20, "it went on with what was there");
}

#[tokio::test]
async fn an_update_shows_both_digests_and_changes_nothing_unless_it_is_agreed_to() {
    let (hub, home) = (ModelHub::start().await.unwrap(), Home::new());
    hub.put("m.gguf", body(MIB));
    let hive = start(&home, &hub).await;
    let first = hive.download("hf:me/m").await.unwrap();
    let update = |accept: Option<&str>| {
        Operation::ModelUpdate(ModelUpdate {
            hive_id: HiveAlias::localhost(),
            model: alias("m"),
            accept: accept.map(|digest| digest.parse::<Sha256Digest>().unwrap()),
            accept_projector: None,
        })
    };
    let same = hive.run(update(None)).await.unwrap();
    assert_eq!(same.data["changed"], false);

    let other = body(2 * MIB);
    hub.put("m.gguf", other.clone());
    let found = hive.run(update(None)).await.unwrap();
    let offered = sha256_hex(&other);
    assert_eq!(found.data["pinned"], first.sha256.as_hex());
    assert_eq!(found.data["offered"], *offered);
    assert_eq!(hive.hive.models(), std::slice::from_ref(&first));
    let error = hive.download("hf:me/m").await.unwrap_err();
    assert_eq!(error.code, "alias_taken");
    assert!(error.message.contains(&offered) && error.message.contains(first.sha256.as_hex()));

    let not_agreed = hive.run(update(Some(&"0".repeat(64)))).await.unwrap();
    assert_eq!(not_agreed.data["updated"], false);
    assert_eq!(hive.hive.models(), [first]);
    let done = hive.run(update(Some(&offered))).await.unwrap();
    assert_eq!(done.data["updated"], true);
    let models = hive.hive.models();
    assert_eq!((models.len(), models[0].sha256.as_hex()), (1, offered.as_str()));
    assert_eq!(home.leftovers(), [""; 0]);
}

#[tokio::test]
async fn without_a_network_what_is_there_serves() {
    let home = Home::new();
    let hub = ModelHub::start().await.unwrap();
    hub.put("m.gguf", body(MIB));
    let hive = start(&home, &hub).await;
    let model = hive.download("hf:me/m").await.unwrap();
    hive.hive.shutdown().await;
    drop((hive, hub));
    let hive = start_at(&home, "http://127.0.0.1:9", home.double("ready")).await;
    let (outcome, events) = hive.told(download("hf:me/m", None)).await;
    let there: ModelEntry = serde_json::from_value(outcome.unwrap().data).unwrap();
    assert_eq!(there, model);
    assert!(events.iter().any(|event| event.message.contains("cannot be reached")));
    let listed = hive.run(Operation::ModelList(hive_target())).await.unwrap();
    assert_eq!(listed.data["models"][0]["alias"], "m");
}

/// A server's fault, as a function that makes it.
fn fault(make: fn(&mut HubFaults)) -> fn(&mut HubFaults) {
    make
}
