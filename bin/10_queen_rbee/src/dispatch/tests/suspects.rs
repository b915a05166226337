//! Requests that may be what ends workers, on a simulated clock.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_suspect_begins_where_all_others_have_got_something_and_nobody_comes_before_it_is_tried()
{
    let stage = Stage::reporting();
    let running = stage.dispatcher.place(wanted(None)).await.unwrap();
    let begun = clock::now();
    let (order, works) = (std::sync::Mutex::new(Vec::new()), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
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
    let expected = [("most suspicious", 5), ("first", 7), ("second", 9), ("other", 11)];
    assert_eq!(*order.lock().unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn where_no_worker_is_fit_for_a_suspect_it_goes_as_any_other_after_half_a_minute() {
    let stage = Stage::reporting();
    let _running = stage.dispatcher.place(wanted(None)).await.unwrap();
    let begun = clock::now();
    let place = async |wanted| {
        let place = stage.dispatcher.place(wanted).await.unwrap();
        let (now, registry) = (clock::now(), stage.dispatcher.registry());
        let failed = Failed { request: 1, is_connection: false };
        ((clock::now() - begun).as_secs(), registry.worker_failed(&place, failed, now).was_alone)
    };
    let (suspect, other) = tokio::join!(place(suspect()), place(wanted(None)));
    assert_eq!(suspect, (30, false));
    assert_eq!(other.0, 30, "it was held for so long");
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
