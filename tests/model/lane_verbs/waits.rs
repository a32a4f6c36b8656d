//! How long a call waits, and what happens when its time is up.

use super::*;

#[test]
fn who_watches_over_the_queue_and_is_to_lead_leaves_that_to_another() {
    let (mut lanes, _, (key, seat)) = stood_back(None);
    let (_, other) = queue(&mut lanes, &REQUEST);
    pass(&mut lanes, Duration::from_millis(100));
    let entry = lanes.again(key);
    assert!(matches!(entry, Entry::Wait(None)), "{entry:?}");
    let [(to, News::Lead(_)), (next, News::Watch)] = &lanes.take_news()[..] else {
        panic!("nobody leads, or nobody watches");
    };
    assert!(Rc::ptr_eq(&to.0, &seat.0) && Rc::ptr_eq(&next.0, &other.0));
}

/// Its own call may have waited for long, and be in flight by now; but it sleeps for those who come.
#[test]
fn who_watches_over_the_queue_asks_again_after_five_milliseconds() {
    let mut lanes = machine(1, 100, 1000);
    let (at, leader, _seat) = lead(&mut lanes, &REQUEST);
    lanes.lanes[at].reading = None; // its leader is about to look
    let (key, _watcher, mut entry) = lanes.enter(&REQUEST, None, false);
    for waited in [5, 100, 1000] {
        let is_soon = matches!(entry, Entry::Wait(Some(time)) if time.as_millis() == 5);
        assert!(is_soon, "{entry:?}");
        pass(&mut lanes, Duration::from_millis(waited));
        lanes.lanes[at].reading = None;
        entry = lanes.again(key);
    }
    write(&mut lanes, at, leader, &REQUEST);
    let (_, _late, entry) = lanes.enter(&REQUEST, None, false);
    assert!(matches!(entry, Entry::Wait(None)), "{entry:?}");
    pass(&mut lanes, Duration::from_millis(5));
    assert!(matches!(lanes.again(key), Entry::Send { .. }));
}

/// A timer for each would cost more than anything else in a call.
#[test]
fn one_of_those_who_sleep_watches_over_the_queue() {
    type Ends = fn(&mut Machine, usize, [&Seat; 2]);
    let ends: [(&str, Ends); 4] = [
        ("answered", |lanes, _, seats| {
            for seat in seats {
                answer(lanes, 0, seat);
            }
        }),
        ("timed out", |lanes, key, _| lanes.time_is_up(key, false)),
        ("leads", |lanes, key, _| _ = lanes.lead(key, 0, false)),
        ("told", |lanes, key, _| {
            let error = io::Error::other("broken");
            lanes.tell(key, Failure::Lost(Arc::new(error)));
        }),
    ];
    for (why, ends) in ends {
        let mut lanes = machine(1, 2, 1000);
        let (at, leader, first) = lead(&mut lanes, &REQUEST);
        lanes.lanes[at].reading = None; // its leader is about to send
        let (watcher, seat, entry) = lanes.enter(&REQUEST, None, false);
        assert!(matches!(entry, Entry::Wait(Some(_))), "{why}: {entry:?}");
        let mut others = Vec::new();
        for _ in 0..2 {
            let (key, seat, entry) = lanes.enter(&REQUEST, None, false);
            assert!(matches!(entry, Entry::Wait(None)), "{why}: {entry:?}");
            others.push((key, seat));
        }
        // While its call is in flight, too.
        write(&mut lanes, at, leader, &REQUEST);
        assert!(lanes.take_news().is_empty(), "{why}");
        ends(&mut lanes, watcher, [&first, &seat]);
        let news = lanes.take_news();
        let watch = |(seat, news): &(Seat, News)| {
            Rc::ptr_eq(&seat.0, &others[0].1.0) && matches!(news, News::Watch)
        };
        assert_eq!(news.iter().filter(|news| watch(news)).count(), 1, "{why}");
        let entry = lanes.wait(others[0].0);
        assert!(matches!(entry, Entry::Wait(Some(_))), "{why}: {entry:?}");
        assert!(lanes.take_news().is_empty(), "{why}");
    }
}

/// Its sleep ended when its reply was on the way: it does something for others, and is gone.
#[test]
fn a_call_that_is_over_does_not_watch_over_the_queue() {
    let (mut lanes, leader, (watcher, seat)) = stood_back(None);
    write(&mut lanes, 0, leader, &REQUEST);
    lanes.lanes[0].reading = None; // its leader is about to look
    let (_, _first) = queue(&mut lanes, &REQUEST);
    let (_, second) = queue(&mut lanes, &REQUEST);
    lanes.answered(0);
    answer(&mut lanes, 0, &seat);
    assert!(matches!(lanes.take_news()[..], [(_, News::Watch)]));
    pass(&mut lanes, Duration::from_millis(100));
    let entry = lanes.again(watcher);
    assert!(matches!(entry, Entry::Wait(None)), "{entry:?}");
    let [(_, News::Lead(_)), (next, News::Watch)] = &lanes.take_news()[..] else {
        panic!("nobody leads, or nobody watches");
    };
    assert!(Rc::ptr_eq(&next.0, &second.0));
}

#[test]
fn the_shortest_round_trip_grows_by_what_a_request_alone_took() {
    for (alone, before, took, after) in [
        (true, None, 70, 70),
        (true, Some(101), 101, 101),
        (true, Some(101), 100, 100),
        (false, Some(101), 100, 100),
        (true, Some(64_000), 128_000, 65_000),
        (false, Some(64_000), 128_000, 64_000),
    ] {
        let mut lanes = machine(1, 100, 1000);
        let (at, leader, first) = lead(&mut lanes, &REQUEST);
        let (_, second) = queue(&mut lanes, &REQUEST);
        if !alone {
            write(&mut lanes, at, leader, &REQUEST);
            answer(&mut lanes, at, &first);
        }
        lanes.shortest = before.map(Duration::from_nanos);
        pass(&mut lanes, Duration::from_nanos(took));
        answer(&mut lanes, at, if alone { &first } else { &second });
        assert_eq!(lanes.shortest, Some(Duration::from_nanos(after)));
    }
}

#[test]
fn a_call_whose_time_is_up_leaves_its_place_to_no_other() {
    let mut lanes = machine(1, 100, 1000);
    let (at, leader, first) = lead(&mut lanes, &REQUEST);
    let (late, second) = queue(&mut lanes, &REQUEST);
    let (_, third) = queue(&mut lanes, &REQUEST);
    write(&mut lanes, at, leader, &REQUEST);
    answer(&mut lanes, at, &first);
    for _ in 0..2 {
        lanes.time_is_up(late, false);
    }
    assert!(matches!(
        news(&mut lanes, &second),
        News::Failed(Failure::TimedOut { sent: true })
    ));
    assert!(matches!(lanes.answered(at), Whose::Nobody));
    answer(&mut lanes, at, &third);
    let stats = lanes.stats();
    assert_eq!((stats.timeouts, stats.abandoned), (1, 1));
}

#[test]
fn a_queued_call_whose_time_is_up_leaves_the_queue_and_the_others_their_order() {
    let mut lanes = machine(1, 100, 1000);
    let (at, leader, _first) = lead(&mut lanes, &REQUEST);
    let queued = [b"1", b"2", b"3"].map(|request| queue(&mut lanes, request));
    let (key, seat) = &queued[1];
    lanes.time_is_up(*key, true);
    assert!(lanes.take_news().is_empty(), "it does not lead");
    lanes.time_is_up(*key, false);
    assert!(matches!(
        news(&mut lanes, seat),
        News::Failed(Failure::TimedOut { sent: false })
    ));
    assert_eq!(write(&mut lanes, at, leader, &REQUEST), b"13");
    let stats = lanes.stats();
    assert_eq!((stats.timeouts, stats.abandoned), (1, 0));
}

#[test]
fn only_a_leader_itself_says_that_its_time_is_up() {
    let mut lanes = machine(1, 100, 1000);
    let (_, leader, seat) = lead(&mut lanes, &REQUEST);
    lanes.time_is_up(leader, false);
    assert!(lanes.take_news().is_empty());
    lanes.time_is_up(leader, true);
    assert!(matches!(
        news(&mut lanes, &seat),
        News::Failed(Failure::TimedOut { sent: true })
    ));
}

#[test]
fn a_queued_call_is_sent_until_its_time_is_up() {
    let time = Duration::from_millis(1);
    for (after, sent) in [
        (time.saturating_sub(MOMENT), true),
        (time, false),
        (time + MOMENT, false),
    ] {
        let mut lanes = machine(1, 100, 1000);
        let (at, leader, _first) = lead(&mut lanes, &REQUEST);
        let deadline = lanes.now + time;
        let (_, _seat, _) = lanes.enter(&REQUEST, Some(deadline), false);
        pass(&mut lanes, after);
        let (_, out) = step(&mut lanes, at, (leader, &REQUEST));
        assert_eq!(!out.is_empty(), sent, "{after:?}");
    }
}
