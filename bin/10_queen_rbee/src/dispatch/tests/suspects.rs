//! Requests that may be what ends workers, on a simulated clock.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_suspect_begins_where_all_others_have_got_something_and_nobody_comes_before_it_is_tried()
{
    let stage = Stage::reporting();
    let running = stage.dispatcher.place(wanted(None)).await.unwrap();
    let begun = clock::now();
    let (order, works) = (std::sync::Mutex::new(Vec::new()), async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        stage.dispatcher.registry().worker_works(&running, clock::now());
    });
    let comes = async |name: &'static str, wanted: Wanted| {
        let place = stage.dispatcher.place(wanted).await.unwrap();
        order.lock().unwrap().push((name, (clock::now() - begun).as_secs()));
        stage.dispatcher.registry().worker_works(&place, clock::now());
        tokio::time::sleep(Duration::from_secs(2)).await;
    };
    let most = || Wanted { fell_alone: true, ..suspect() };
    tokio::join!(
        comes("first", suspect()),
        comes("second", suspect()),
        comes("other", wanted(None)),
        comes("most suspicious", most()),
        works
    );
    // The first one has two seconds of the only other place.
    let expected = [("most suspicious", 2), ("first", 4), ("second", 6), ("other", 8)];
    assert_eq!(*order.lock().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn where_no_worker_is_fit_for_a_suspect_it_goes_as_any_other_after_a_while() {
    // After five seconds, or a quarter of what is left of its time.
    for (left, expected) in [(60, 5), (8, 2)] {
        let stage = Stage::reporting();
        let _running = stage.dispatcher.place(wanted(None)).await.unwrap();
        let begun = clock::now();
        let place = async |wanted| {
            let place = stage.dispatcher.place(wanted).await.unwrap();
            let (now, registry) = (clock::now(), stage.dispatcher.registry());
            let failed = Failed { request: 1, is_connection: false };
            let was_alone = registry.worker_failed(&place, failed, now).was_alone;
            drop(place);
            ((clock::now() - begun).as_secs(), was_alone)
        };
        let hasty = Wanted { deadline: begun + Duration::from_secs(left), ..suspect() };
        let (suspect, other) = tokio::join!(place(hasty), place(wanted(None)));
        assert_eq!(suspect, (expected, false));
        assert_eq!(other.0, expected, "it was held for so long");
    }
}

#[tokio::test(start_paused = true)]
async fn a_trial_ends_at_its_time_though_nobody_looks_meanwhile() {
    let stage = Stage::new();
    stage.beat("w-1", 'a');
    let alone = stage.dispatcher.place(suspect()).await.unwrap();
    let begun = clock::now();
    let works = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        stage.dispatcher.registry().worker_works(&alone, clock::now());
    };
    let (other, ()) = tokio::join!(stage.dispatcher.place(wanted(None)), works);
    let took = (clock::now() - begun).as_secs_f64();
    assert!(other.is_ok() && (took - 1.5).abs() < 0.05, "{took}");
}

#[tokio::test(start_paused = true)]
async fn suspects_have_half_of_the_workers_and_the_others_serve_everybody() {
    let stage = Stage::reporting();
    stage.beat("w-2", 'a');
    let place = async |wanted| stage.dispatcher.place(wanted).await;
    let first = place(suspect()).await.unwrap();
    let patience = Duration::from_secs(2);
    let (second, other) = tokio::join!(timeout(patience, place(suspect())), place(wanted(None)));
    assert!(second.is_err(), "it waits for the turn after the first one, beside an idle worker");
    assert_ne!(other.unwrap().worker_id, first.worker_id);
}

#[tokio::test(start_paused = true)]
async fn a_batch_suspect_holds_no_worker_beside_interactive_requests() {
    let stage = Stage::reporting();
    let place = async |wanted| stage.dispatcher.place(wanted).await;
    let running = place(wanted(None)).await.unwrap();
    let begun = clock::now();
    let batch = Wanted { priority: Priority::Batch, ..suspect() };
    let patience = Duration::from_secs(2);
    let (waits, other) = tokio::join!(timeout(patience, place(batch)), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        place(wanted(None)).await.map(|place| (place, clock::now() - begun))
    });
    assert!(waits.is_err(), "somebody is at the beginning");
    let (_, took) = other.unwrap();
    assert!(took < Duration::from_millis(600), "{took:?}");
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn suspects_begin_at_a_server_beside_each_other_since_nothing_is_to_be_found_out_there() {
    let stage = Stage::new();
    stage.dispatcher.registry().server_probed(&server("nas", "served"), clock::now());
    let served = || Wanted { model: "served".parse().unwrap(), ..suspect() };
    let patience = Duration::from_millis(100);
    let mut places = Vec::new();
    for _ in 0..3 {
        places.push(timeout(patience, stage.dispatcher.place(served())).await.unwrap().unwrap());
    }
    assert!(places.iter().all(|place| place.worker_id.as_str() == "nas-served"));
}

#[tokio::test(start_paused = true)]
async fn while_one_worker_is_held_the_others_serve_everybody() {
    let stage = Stage::reporting();
    stage.beat("w-2", 'a');
    let place = async |wanted| stage.dispatcher.place(wanted).await;
    let running = [place(wanted(None)).await.unwrap(), place(wanted(None)).await.unwrap()];
    assert_ne!(running[0].worker_id, running[1].worker_id);
    let patience = Duration::from_secs(2);
    let (waits, other) = tokio::join!(timeout(patience, place(suspect())), place(wanted(None)));
    assert!(waits.is_err(), "all there are at the beginning");
    let other = other.unwrap();
    assert!(timeout(patience, place(wanted(None))).await.is_ok(), "nobody waits any more");
    drop((other, running));
}

/// A request over which a worker ended.
fn suspect() -> Wanted {
    let failed = vec![FailedBy { worker: "gone".parse().unwrap(), process: 0 }];
    Wanted { alone: true, had_a_place: true, failed, ..wanted(None) }
}
