//! What each transition of a pipeline's lanes does, up to its bounds.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::flow::FAR;
use super::rules::{Machine, REQUEST, SHARED, Seat, written};
use super::{Condition, Entry, Failure, Lane, Lead, News, Phase, Report, Rules, Step, Whose};
use crate::report::error::Error;

const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_nanos(1);
/// What a socket's buffers hold, and what is kept of the buffer of a place.
const SIXTEEN_KB: usize = 16 * 1024;

const FAILED: Report = Report {
    bytes: 0,
    writes: 1,
    failed: true,
    heard: false,
};

const HEARD: Report = Report {
    bytes: 0,
    writes: 0,
    failed: false,
    heard: true,
};

fn machine(lanes: usize, max_in_flight: usize, max_bytes: usize) -> Machine {
    let rules = Rules {
        lanes,
        max_in_flight,
        max_bytes,
    };
    Machine::new(rules, Instant::now())
}

fn pass(lanes: &mut Machine, time: Duration) {
    lanes.advance(lanes.now + time);
}

/// A call that is to lead a lane.
fn enter_to_lead(lanes: &mut Machine, request: &[u8]) -> (Lead, usize, Seat) {
    let (key, seat, entry) = lanes.enter(request, None, false);
    let Entry::Lead(lead) = entry else {
        panic!("{entry:?}");
    };
    (lead, key, seat)
}

/// A call that leads a lane, and has been sent on it.
fn lead(lanes: &mut Machine, request: &[u8]) -> (usize, usize, Seat) {
    let (lead, key, seat) = enter_to_lead(lanes, request);
    assert_eq!(write(lanes, lead.lane, key, request), request);
    (lead.lane, key, seat)
}

/// A call that waits in the queue.
fn queue(lanes: &mut Machine, request: &[u8]) -> (usize, Seat) {
    let (key, seat, entry) = lanes.enter(request, None, false);
    assert!(matches!(entry, Entry::Wait(_)), "{entry:?}");
    (key, seat)
}

/// What the leader of a lane is to do, and what it is to write.
fn step(lanes: &mut Machine, at: usize, own: (usize, &[u8])) -> (Step<Seat>, Vec<u8>) {
    let mut out = Vec::new();
    (lanes.next_step(at, Some(own), SHARED, &mut out), out)
}

/// The leader of a lane writes; what it wrote.
#[track_caller]
fn write(lanes: &mut Machine, at: usize, key: usize, request: &[u8]) -> Vec<u8> {
    let (step, out) = step(lanes, at, (key, request));
    assert!(matches!(step, Step::Write | Step::WriteAndRead), "{step:?}");
    lanes.report(at, &written(out.len()));
    out
}

/// The leader of a lane has nothing to write, and waits in a read.
#[track_caller]
fn read(lanes: &mut Machine, at: usize, key: usize) {
    let (step, out) = step(lanes, at, (key, &REQUEST));
    assert!(matches!(step, Step::Read) && out.is_empty(), "{step:?}");
}

#[track_caller]
fn answer(lanes: &mut Machine, at: usize, seat: &Seat) {
    match lanes.answered(at) {
        Whose::Caller(to) => assert!(Rc::ptr_eq(&to.0, &seat.0), "of another call"),
        other => panic!("{other:?}"),
    }
}

/// What the only caller with news hears.
#[track_caller]
fn news(lanes: &mut Machine, seat: &Seat) -> News {
    let mut all = lanes.take_news();
    let (to, news) = all.pop().expect("no news");
    assert!(all.is_empty() && Rc::ptr_eq(&to.0, &seat.0), "{all:?}");
    news
}

fn gauges(lanes: &Machine) -> (usize, usize, usize) {
    let stats = lanes.stats();
    (stats.queued, stats.in_flight, stats.lanes)
}

#[test]
fn the_numbers_are_those_of_the_calls_and_the_lanes() {
    let mut lanes = machine(3, 100, 1000);
    let (at, leader, first) = lead(&mut lanes, &REQUEST);
    let starting: Vec<_> = (0..2)
        .map(|_| enter_to_lead(&mut lanes, &REQUEST))
        .collect();
    assert_eq!(gauges(&lanes), (2, 1, 1));
    let (_, queued) = queue(&mut lanes, &REQUEST);
    assert_eq!(gauges(&lanes), (3, 1, 1));
    assert_eq!(write(&mut lanes, at, leader, &REQUEST), REQUEST);
    assert_eq!(gauges(&lanes), (2, 2, 1));
    for seat in [first, queued] {
        answer(&mut lanes, at, &seat);
    }
    let stats = lanes.stats();
    assert_eq!((stats.calls, stats.writes, stats.replies), (2, 2, 2));
    assert!(matches!(lanes.answered(at), Whose::Unasked));
    assert!(matches!(
        step(&mut lanes, at, (leader, &REQUEST)).0,
        Step::Release
    ));
    lanes.vacate(at);
    assert_eq!(gauges(&lanes), (2, 0, 0));
    for _ in &starting {
        lanes.repeats();
        lanes.refused();
    }
    let stats = lanes.stats();
    assert_eq!((stats.repeated, stats.timeouts, stats.replies), (2, 2, 2));
}

#[test]
fn the_clock_goes_on_and_never_back() {
    let mut lanes = machine(1, 100, 1000);
    let now = lanes.now;
    lanes.advance(now + SECOND);
    lanes.advance(now);
    assert_eq!(lanes.now, now + SECOND);
}

#[test]
fn a_place_keeps_sixteen_kilobytes_for_its_next_request() {
    for len in [SIXTEEN_KB, 4 * SIXTEEN_KB] {
        let mut lanes = machine(1, 100, 10 * SIXTEEN_KB);
        let (at, leader, _seat) = lead(&mut lanes, &REQUEST);
        let (key, _queued) = queue(&mut lanes, &vec![0; len]);
        assert_eq!(write(&mut lanes, at, leader, &REQUEST).len(), len);
        let kept = lanes.calls[key].request.capacity();
        assert!((SIXTEEN_KB..2 * SIXTEEN_KB).contains(&kept), "{kept}");
    }
}

#[test]
fn a_lane_keeps_its_buffers_for_its_next_connection() {
    let mut lanes = machine(1, 100, 1000);
    let (at, leader, first) = lead(&mut lanes, &REQUEST);
    read(&mut lanes, at, leader);
    pass(&mut lanes, SECOND);
    let (key, second, entry) = lanes.enter(&REQUEST, None, false);
    let Entry::Send { bytes, .. } = entry else {
        panic!("{entry:?}");
    };
    let entry = lanes.sent(key, at, bytes, &written(REQUEST.len()));
    assert!(matches!(entry, Entry::Wait(None)), "{entry:?}");
    for seat in [first, second] {
        answer(&mut lanes, at, &seat);
    }
    lanes.vacate(at);
    let lane = &lanes.lanes[at];
    assert_eq!(
        (lane.phase, lane.booked, lane.written),
        (Phase::Vacant, 0, 0)
    );
    assert!(lane.flights.is_empty() && lane.flights.capacity() > 0);
    assert!(lane.buffer.capacity() > 0);
}

/// A lane whose leader reads, and a call whose lane found no connection, queued until this moment.
fn stood_back(deadline: Option<Duration>) -> (Machine, usize, (usize, Seat)) {
    let mut lanes = machine(2, 100, 1000);
    let (at, leader, _) = lead(&mut lanes, &REQUEST);
    let alone = Condition {
        shared: false,
        ..SHARED
    };
    let step = lanes.next_step(at, Some((leader, &REQUEST)), alone, &mut Vec::new());
    assert!(matches!(step, Step::Read));
    let deadline = deadline.map(|time| lanes.now + time);
    let (key, seat, entry) = lanes.enter(&REQUEST, deadline, false);
    assert!(matches!(
        entry,
        Entry::Lead(Lead {
            lane: 1,
            others: true,
            ..
        })
    ));
    assert!(lanes.stand_back(1, key, &REQUEST));
    assert!(matches!(news(&mut lanes, &seat), News::Watch));
    (lanes, leader, (key, seat))
}

#[test]
fn a_lane_that_found_no_connection_is_tried_again_after_a_tenth_of_a_second() {
    let tenth = Duration::from_millis(100);
    for (deadline, leads) in [
        (None, true),
        (Some(tenth + MOMENT), true),
        (Some(tenth), false),
    ] {
        let (mut lanes, _, (key, seat)) = stood_back(deadline);
        pass(&mut lanes, tenth.saturating_sub(MOMENT));
        assert!(matches!(lanes.again(key), Entry::Wait(Some(_))));
        pass(&mut lanes, MOMENT);
        let entry = lanes.again(key);
        if leads {
            assert!(matches!(entry, Entry::Wait(None)), "{entry:?}");
            let news = news(&mut lanes, &seat);
            assert!(matches!(news, News::Lead(lead) if lead.lane == 1));
        } else {
            assert!(matches!(entry, Entry::Wait(Some(_))), "{entry:?}");
        }
    }
}

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

#[test]
fn a_lane_starts_again_at_once_if_no_other_one_is_used() {
    let (mut lanes, leader, (_, seat)) = stood_back(None);
    let error = Arc::new(io::Error::other("broken"));
    assert!(lanes.broke(0, Some(leader), &error));
    lanes.take_news();
    lanes.vacate(0);
    let News::Lead(lead) = news(&mut lanes, &seat) else {
        panic!("no lead");
    };
    assert!(lead.lane == 0 && !lead.others && !lead.stale);
    assert_eq!(lanes.lanes[0].phase, Phase::Starting);
}

#[test]
fn who_is_first_leads_a_lane_that_broke_beside_others() {
    let mut lanes = machine(2, 100, 1000);
    let (_, _, _first) = lead(&mut lanes, &REQUEST);
    let (at, leader, _second) = lead(&mut lanes, &REQUEST);
    let (_, seat) = queue(&mut lanes, &REQUEST);
    let error = Arc::new(io::Error::other("broken"));
    assert!(lanes.broke(at, Some(leader), &error));
    lanes.take_news();
    lanes.vacate(at);
    assert!(matches!(
        news(&mut lanes, &seat),
        News::Lead(Lead {
            lane: 1,
            others: true,
            stale: false,
            ..
        })
    ));
}

#[test]
fn a_leader_without_a_connection_stands_back_only_where_another_lane_can_carry_its_call() {
    let mut lanes = machine(1, 100, 1000);
    let (lead, key, seat) = enter_to_lead(&mut lanes, &REQUEST);
    assert!(!lead.others && !lanes.stand_back(lead.lane, key, &REQUEST));
    let error = Arc::new(Error::Ended);
    lanes.no_connection(lead.lane, key, &error);
    assert!(matches!(
        news(&mut lanes, &seat),
        News::Failed(Failure::NoConnection(_))
    ));
    assert_eq!(lanes.lanes[0].phase, Phase::Vacant);
    let mut lanes = machine(2, 100, 1000);
    let _first = enter_to_lead(&mut lanes, &REQUEST);
    let (lead, key, _second) = enter_to_lead(&mut lanes, &REQUEST);
    lanes.end(error);
    assert!(lead.others && !lanes.stand_back(lead.lane, key, &REQUEST));
}

#[test]
fn whoever_is_queued_hears_that_there_is_no_connection() {
    let mut lanes = machine(1, 100, 1000);
    let (starting, key, _leader) = enter_to_lead(&mut lanes, &REQUEST);
    let (_small, _large) = (queue(&mut lanes, &REQUEST), queue(&mut lanes, &[0; 1001]));
    let error = Arc::new(Error::Ended);
    lanes.no_connection(starting.lane, key, &error);
    let failed = |lanes: &mut Machine| {
        let all = lanes.take_news();
        let no_connection = |news: &News| matches!(news, News::Failed(Failure::NoConnection(_)));
        assert!(all.iter().all(|(_, news)| no_connection(news)), "{all:?}");
        all.len()
    };
    assert_eq!(failed(&mut lanes), 3);
    assert_eq!(gauges(&lanes), (0, 0, 0));
    let (_, _, _leader) = lead(&mut lanes, &REQUEST);
    let (_small, _large) = (queue(&mut lanes, &REQUEST), queue(&mut lanes, &[0; 1001]));
    lanes.end(error);
    assert_eq!(failed(&mut lanes), 2);
    let (_, _seat, entry) = lanes.enter(&REQUEST, None, false);
    assert!(matches!(entry, Entry::Wait(None)), "{entry:?}");
    assert_eq!(failed(&mut lanes), 1);
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
        lanes.lanes[at].reading = None; // its leader is about to look
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

#[test]
fn a_request_as_large_as_the_bound_is_not_too_large() {
    for (len, is_large) in [(9, false), (10, false), (11, true)] {
        let request = vec![0; len];
        let mut lanes = machine(1, 100, 10);
        let (at, leader, first) = lead(&mut lanes, &REQUEST);
        let (key, second) = queue(&mut lanes, &request);
        answer(&mut lanes, at, &first);
        let (next, out) = step(&mut lanes, at, (leader, &REQUEST));
        let Step::HandOver(to, lead) = next else {
            panic!("{next:?}");
        };
        assert!(Rc::ptr_eq(&to.0, &second.0) && !lead.stale);
        assert_eq!(out.len(), if is_large { 0 } else { len });
        let (next, _) = step(&mut lanes, at, (key, &request));
        assert_eq!(matches!(next, Step::WriteOwn), is_large, "{next:?}");
    }
}

#[test]
fn as_many_are_in_flight_as_the_bounds_allow() {
    for (max_in_flight, max_bytes, taken) in [(2, 100, 1), (100, 12, 2), (100, 15, 2), (3, 16, 2)] {
        let mut lanes = machine(1, max_in_flight, max_bytes);
        let (at, leader, first) = lead(&mut lanes, &REQUEST);
        let queued: Vec<_> = (0..4).map(|_| queue(&mut lanes, &REQUEST)).collect();
        let out = write(&mut lanes, at, leader, &REQUEST);
        assert_eq!(out.len(), taken * REQUEST.len());
        read(&mut lanes, at, leader);
        answer(&mut lanes, at, &first);
        let (_, out) = step(&mut lanes, at, (leader, &REQUEST));
        assert_eq!(out.len(), REQUEST.len());
        assert_eq!(gauges(&lanes), (queued.len() - taken - 1, taken + 1, 1));
    }
}

#[test]
fn buffers_that_are_not_small_hold_sixteen_kilobytes() {
    for (len, is_held) in [(SIXTEEN_KB, true), (SIXTEEN_KB + 1, false)] {
        let mut lanes = machine(1, 100, 10 * SIXTEEN_KB);
        let (at, _, _seat) = lead(&mut lanes, &vec![0; len]);
        assert_eq!(lanes.is_held(at), is_held);
    }
}

/// One lane, whose leader has waited in a read for a second.
fn reading(max_bytes: usize) -> (Machine, usize, Seat) {
    let mut lanes = machine(1, 100, max_bytes);
    let (at, leader, seat) = lead(&mut lanes, &REQUEST);
    read(&mut lanes, at, leader);
    pass(&mut lanes, SECOND);
    (lanes, leader, seat)
}

/// A call that is to write on the lane that another one leads, with what it is to write.
#[track_caller]
fn enter_to_send(lanes: &mut Machine, request: &[u8]) -> (usize, usize, Vec<u8>, Seat) {
    let (key, seat, entry) = lanes.enter(request, None, false);
    let Entry::Send { lane, bytes } = entry else {
        panic!("{entry:?}");
    };
    (key, lane, bytes, seat)
}

#[test]
fn a_caller_that_does_not_lead_writes_no_more_bytes_than_buffers_hold() {
    let (mut lanes, leader, _seat) = reading(10 * SIXTEEN_KB);
    let fits = vec![0; SIXTEEN_KB - REQUEST.len()];
    let (key, at, bytes, _sender) = enter_to_send(&mut lanes, &fits);
    assert_eq!(bytes, fits);
    let (other, _other) = queue(&mut lanes, b"!");
    let entry = lanes.sent(key, at, bytes, &written(fits.len()));
    assert!(matches!(entry, Entry::Wait(None)), "{entry:?}");
    assert!(matches!(lanes.again(other), Entry::Wait(Some(_))));
    assert_eq!(write(&mut lanes, at, leader, &REQUEST), b"!");
}

#[test]
fn a_caller_that_does_not_lead_writes_four_times() {
    let (mut lanes, _, _seat) = reading(1000);
    let (key, at, mut bytes, _sender) = enter_to_send(&mut lanes, &REQUEST);
    let mut waiting = Vec::new();
    for round in 1..10 {
        waiting.push(queue(&mut lanes, &REQUEST));
        match lanes.sent(key, at, bytes, &written(REQUEST.len())) {
            Entry::Send { lane, bytes: more } => {
                assert_eq!(lane, at);
                bytes = more;
            }
            Entry::Wait(None) => return assert_eq!(round, 4),
            other => panic!("{other:?}"),
        }
    }
    panic!("it writes on and on");
}

#[test]
fn a_leader_adds_nothing_to_what_it_has_not_written() {
    let mut lanes = machine(1, 100, 1000);
    let (at, leader, _seat) = lead(&mut lanes, &REQUEST);
    let (_, _queued) = queue(&mut lanes, &REQUEST);
    let mut rest = vec![b'!'];
    let next = lanes.next_step(at, Some((leader, &REQUEST)), SHARED, &mut rest);
    assert!(matches!(next, Step::WriteAndRead) && rest == b"!");
    assert_eq!(write(&mut lanes, at, leader, &REQUEST), REQUEST);
}

#[test]
fn a_caller_writes_once_if_the_leader_is_about_to_send() {
    let (mut lanes, leader, first) = reading(1000);
    let (key, at, bytes, sender) = enter_to_send(&mut lanes, &REQUEST);
    let (_, _queued) = queue(&mut lanes, &REQUEST);
    answer(&mut lanes, at, &first);
    let (next, out) = step(&mut lanes, at, (leader, &REQUEST));
    assert!(matches!(next, Step::HandOver(to, _) if Rc::ptr_eq(&to.0, &sender.0)));
    assert!(out.is_empty(), "two write");
    let entry = lanes.sent(key, at, bytes, &written(REQUEST.len()));
    assert!(matches!(entry, Entry::Wait(None)), "{entry:?}");
    assert_eq!(gauges(&lanes), (1, 1, 1));
}

#[test]
fn a_leader_whose_call_is_over_leaves_its_lane_to_who_writes() {
    let (mut lanes, leader, first) = reading(1000);
    let (key, at, bytes, sender) = enter_to_send(&mut lanes, &REQUEST);
    answer(&mut lanes, at, &first);
    lanes.time_is_up(key, false);
    assert!(matches!(
        news(&mut lanes, &sender),
        News::Failed(Failure::TimedOut { sent: true })
    ));
    let (next, _) = step(&mut lanes, at, (leader, &REQUEST));
    assert!(matches!(next, Step::Pass), "{next:?}");
    let entry = lanes.sent(key, at, bytes, &written(REQUEST.len()));
    assert!(matches!(
        entry,
        Entry::Lead(Lead {
            lane: 0,
            stale: false,
            ..
        })
    ));
    assert_eq!(lanes.lanes[at].phase, Phase::Led);
}

#[test]
fn nobody_writes_while_another_does() {
    let (mut lanes, leader, _seat) = reading(1000);
    let (key, at, bytes, _sender) = enter_to_send(&mut lanes, &REQUEST);
    let (_, _queued) = queue(&mut lanes, &REQUEST);
    read(&mut lanes, at, leader);
    let entry = lanes.sent(key, at, bytes, &written(REQUEST.len()));
    assert!(matches!(entry, Entry::Send { .. }), "{entry:?}");
}

/// A lane whose leader is about to send a call that is large.
fn about_to_send_large() -> (Machine, usize, Seat) {
    let mut lanes = machine(1, 100, 16);
    let (at, leader, first) = lead(&mut lanes, &REQUEST);
    let deadline = lanes.now + SECOND;
    let (key, seat, entry) = lanes.enter(&[0; 17], Some(deadline), false);
    assert!(matches!(entry, Entry::Wait(Some(_))));
    answer(&mut lanes, at, &first);
    let (next, _) = step(&mut lanes, at, (leader, &REQUEST));
    assert!(matches!(next, Step::HandOver(..)), "{next:?}");
    (lanes, key, seat)
}

#[test]
fn a_leader_sends_nothing_on_a_lane_that_fails_or_when_its_time_is_up() {
    let (mut lanes, key, _seat) = about_to_send_large();
    lanes.report(0, &written(0));
    assert!(matches!(
        step(&mut lanes, 0, (key, &[0; 17])).0,
        Step::WriteOwn
    ));
    let (mut lanes, key, _seat) = about_to_send_large();
    lanes.report(0, &FAILED);
    assert!(matches!(step(&mut lanes, 0, (key, &[0; 17])).0, Step::Read));
    let (mut lanes, key, _seat) = about_to_send_large();
    pass(&mut lanes, SECOND);
    assert!(matches!(step(&mut lanes, 0, (key, &[0; 17])).0, Step::Read));
}

#[test]
fn a_lane_that_broke_tells_each_call_whether_a_byte_of_it_was_sent() {
    let mut lanes = machine(1, 100, 1000);
    let (at, leader, first) = lead(&mut lanes, &REQUEST);
    let (_, second) = queue(&mut lanes, &REQUEST);
    let (next, _) = step(&mut lanes, at, (leader, &REQUEST));
    assert!(matches!(next, Step::WriteAndRead));
    lanes.report(at, &FAILED);
    let error = Arc::new(io::Error::other("broken"));
    assert!(lanes.broke(at, Some(leader), &error));
    let told: Vec<_> = lanes.take_news();
    let is_told = |n: usize, seat: &Seat| Rc::ptr_eq(&told[n].0.0, &seat.0);
    assert!(is_told(0, &first) && is_told(1, &second));
    assert!(matches!(told[0].1, News::Failed(Failure::Lost(_))));
    assert!(matches!(told[1].1, News::Failed(Failure::Unsent(_))));
    let stats = lanes.stats();
    assert_eq!((stats.lost, stats.calls, stats.writes), (1, 1, 2));
}

#[test]
fn a_leader_whose_call_is_not_sent_hears_so_when_its_lane_breaks() {
    let (mut lanes, key, seat) = about_to_send_large();
    let error = Arc::new(io::Error::other("broken"));
    assert!(lanes.broke(0, Some(key), &error));
    assert!(matches!(
        news(&mut lanes, &seat),
        News::Failed(Failure::Unsent(_))
    ));
}

#[test]
fn a_lane_that_broke_is_left_to_who_writes_on_it() {
    let (mut lanes, leader, _first) = reading(1000);
    let (key, at, bytes, _sender) = enter_to_send(&mut lanes, &REQUEST);
    let error = Arc::new(io::Error::other("broken"));
    assert!(!lanes.broke(at, Some(leader), &error));
    assert!(lanes.take_news().is_empty());
    let entry = lanes.sent(key, at, bytes, &FAILED);
    assert!(matches!(entry, Entry::Lead(_)), "{entry:?}");
    assert!(lanes.broke(at, Some(key), &error));
    assert_eq!(lanes.take_news().len(), 2);
}

#[test]
fn the_first_lane_that_is_led_is_kept_free_for_a_large_call() {
    let mut lanes = machine(2, 100, 16);
    let (starting, key, _first) = enter_to_lead(&mut lanes, &REQUEST);
    let (at, leader, _second) = lead(&mut lanes, &REQUEST);
    assert_eq!((starting.lane, at), (0, 1));
    let (_large, _small) = (queue(&mut lanes, &[0; 17]), queue(&mut lanes, b"!"));
    read(&mut lanes, at, leader);
    assert_eq!(write(&mut lanes, starting.lane, key, &REQUEST), REQUEST);
    assert_eq!(write(&mut lanes, at, leader, &REQUEST), b"!");
}

/// Two lanes with so many more calls in flight, whose leaders have waited for a second.
fn two_reading(more: [usize; 2]) -> (Machine, Vec<Seat>) {
    let mut lanes = machine(2, 100, 1000);
    let leaders = [(); 2].map(|()| lead(&mut lanes, &REQUEST));
    let mut seats = Vec::new();
    for (&(at, leader, _), more) in leaders.iter().zip(more) {
        seats.extend((0..more).map(|_| queue(&mut lanes, &REQUEST).1));
        if more > 0 {
            write(&mut lanes, at, leader, &REQUEST);
        }
    }
    for &(at, leader, _) in &leaders {
        read(&mut lanes, at, leader);
    }
    seats.extend(leaders.map(|(_, _, seat)| seat));
    pass(&mut lanes, SECOND);
    (lanes, seats)
}

#[test]
fn a_caller_writes_on_the_least_busy_lane() {
    for (more, least) in [
        ([0, 0], 0),
        ([1, 0], 1),
        ([0, 1], 0),
        ([1, 1], 0),
        ([3, 1], 1),
    ] {
        let (mut lanes, _seats) = two_reading(more);
        let (_, lane, _, _sender) = enter_to_send(&mut lanes, &REQUEST);
        assert_eq!(lane, least, "{more:?}");
    }
}

#[test]
fn a_caller_writes_on_no_lane_that_is_kept_free_for_a_large_call() {
    let (mut lanes, _seats) = two_reading([0, 1]);
    let (_, _large, _) = lanes.enter(&[0; 1001], None, false);
    let (_, lane, _, _sender) = enter_to_send(&mut lanes, &REQUEST);
    assert_eq!(lane, 1);
}

#[test]
fn a_caller_waits_while_any_leader_is_about_to_send() {
    let (mut lanes, _seats) = two_reading([0, 0]);
    lanes.lanes[1].reading = None;
    let (key, _queued) = queue(&mut lanes, &REQUEST);
    // But not for long: that one may write to a server that does not read.
    let entry = lanes.again(key);
    assert!(matches!(entry, Entry::Send { lane: 0, .. }), "{entry:?}");
    // One that is getting its connection will not send soon.
    let mut lanes = machine(2, 100, 1000);
    let _starting = enter_to_lead(&mut lanes, &REQUEST);
    let (at, leader, _seat) = lead(&mut lanes, &REQUEST);
    read(&mut lanes, at, leader);
    pass(&mut lanes, SECOND);
    let (_, lane, _, _sender) = enter_to_send(&mut lanes, &REQUEST);
    assert_eq!(lane, at);
}

#[test]
fn a_caller_writes_if_the_leader_waits_for_long_or_the_server_is_far() {
    let long = Duration::from_micros(500);
    for (shortest, waits, writes) in [
        (FAR.saturating_sub(MOMENT), Duration::ZERO, false),
        (
            FAR.saturating_sub(MOMENT),
            long.saturating_sub(MOMENT),
            false,
        ),
        (FAR.saturating_sub(MOMENT), long, true),
        (FAR, Duration::ZERO, true),
    ] {
        let mut lanes = machine(1, 100, 1000);
        let (at, leader, _seat) = lead(&mut lanes, &REQUEST);
        read(&mut lanes, at, leader);
        lanes.shortest = Some(shortest);
        pass(&mut lanes, waits);
        let (key, _other, entry) = lanes.enter(&REQUEST, None, false);
        let sends = matches!(entry, Entry::Send { .. });
        assert_eq!(sends, writes, "{shortest:?}, after {waits:?}");
        // One that has waited for long does in any case.
        assert!(writes || matches!(lanes.again(key), Entry::Send { .. }));
    }
}

type Bar = fn(&mut Lane);

#[test]
fn a_caller_writes_on_no_lane_where_something_bars_it() {
    let bars: [(&str, Bar); 6] = [
        ("others cannot write", |lane| lane.shared = false),
        ("somebody writes", |lane| lane.writing = true),
        ("its leader's call goes first", |lane| lane.own_first = true),
        ("a reply is overdue", |lane| lane.overdue = true),
        ("the pool wants it back", |lane| lane.wanted = true),
        ("it fails", |lane| lane.failing = true),
    ];
    for (why, bar) in bars {
        let (mut lanes, _leader, _seat) = reading(1000);
        bar(&mut lanes.lanes[0]);
        let (_, _queued, entry) = lanes.enter(&REQUEST, None, false);
        assert!(matches!(entry, Entry::Wait(Some(_))), "{why}");
        for at in [0, 1] {
            let (mut lanes, _seats) = two_reading([0, 0]);
            bar(&mut lanes.lanes[at]);
            let (_, lane, _, _sender) = enter_to_send(&mut lanes, &REQUEST);
            assert_eq!(lane, 1 - at, "{why}");
        }
    }
}

#[test]
fn a_leader_whose_call_is_over_hands_its_lane_over_or_leaves_it() {
    let (wanted, failing, unwritten) = (1, 2, 4);
    for (is_empty, waits, why, expected) in [
        (true, true, 0, "hand over"),
        (true, true, wanted, "release"),
        (true, true, failing, "release"),
        (true, false, 0, "release"),
        (false, true, 0, "hand over, stale"),
        (false, true, wanted, "discard"),
        (false, true, failing, "discard"),
        (false, true, unwritten, "discard"),
        (false, false, 0, "drift"),
        (false, false, wanted, "discard"),
        (false, false, failing, "discard"),
        (false, false, unwritten, "discard"),
    ] {
        let mut lanes = machine(1, 100, 16);
        let (at, leader, first) = lead(&mut lanes, &REQUEST);
        if is_empty {
            answer(&mut lanes, at, &first);
        } else {
            lanes.time_is_up(leader, true);
            // A part of the reply has come; its end may never come.
            lanes.report(at, &HEARD);
        }
        let waiting = waits.then(|| queue(&mut lanes, &[0; 17]));
        if why == failing {
            lanes.report(at, &FAILED);
        }
        let condition = Condition {
            wanted: why == wanted,
            ..SHARED
        };
        let mut out = if why == unwritten {
            vec![0]
        } else {
            Vec::new()
        };
        let step = match lanes.next_step(at, Some((leader, &REQUEST)), condition, &mut out) {
            Step::HandOver(to, lead) => {
                let (key, seat) = waiting.unwrap();
                assert!(Rc::ptr_eq(&to.0, &seat.0));
                assert!(!lanes.is_queued(key));
                assert_eq!(lanes.lanes[at].overdue, lead.stale);
                if lead.stale {
                    "hand over, stale"
                } else {
                    "hand over"
                }
            }
            Step::Release => "release",
            Step::Discard => "discard",
            Step::Drift => "drift",
            other => panic!("{other:?}"),
        };
        assert_eq!(step, expected, "empty: {is_empty}, waits: {waits}, {why}");
    }
}

#[test]
fn a_lane_passes_to_the_newest_call_on_it() {
    let mut lanes = machine(1, 100, 1000);
    let (at, leader, first) = lead(&mut lanes, &REQUEST);
    let queued = [(); 3].map(|()| queue(&mut lanes, &REQUEST));
    write(&mut lanes, at, leader, &REQUEST);
    lanes.time_is_up(queued[2].0, false);
    answer(&mut lanes, at, &first);
    let (next, _) = step(&mut lanes, at, (leader, &REQUEST));
    assert!(matches!(next, Step::HandOver(to, lead)
        if Rc::ptr_eq(&to.0, &queued[1].1.0) && !lead.stale && !lead.others));
}

/// One of two lanes drifts, with a reply outstanding.
fn drifting(at: usize) -> Machine {
    let mut lanes = machine(2, 100, 1000);
    let leaders = [(); 2].map(|()| lead(&mut lanes, &REQUEST));
    for (lane, leader, seat) in leaders {
        if lane == at {
            lanes.time_is_up(leader, true);
            lanes.take_news();
            let (next, _) = step(&mut lanes, lane, (leader, &REQUEST));
            assert!(matches!(next, Step::Drift), "{next:?}");
            lanes.drift(lane);
        } else {
            answer(&mut lanes, lane, &seat);
            lanes.vacate(lane);
        }
    }
    assert!(lanes.take_news().is_empty());
    assert_eq!(gauges(&lanes), (0, 1, 1));
    lanes
}

#[test]
fn a_lane_that_drifts_passes_to_who_comes() {
    for at in [0, 1] {
        let mut lanes = drifting(at);
        assert_eq!(lanes.drifting().collect::<Vec<_>>(), [at]);
        let (lead, _, _seat) = enter_to_lead(&mut lanes, &REQUEST);
        assert_eq!((lead.lane, lead.stale, lead.others), (at, true, false));
        assert_eq!(lanes.lanes[at].phase, Phase::Led);
        assert_eq!(lanes.drifting().count(), 0);
        lanes.closed(at);
        assert_eq!(gauges(&lanes), (1, 1, 1), "it is led");
        lanes.restart(at);
        assert_eq!(lanes.lanes[at].phase, Phase::Starting);
        assert_eq!(gauges(&lanes), (1, 0, 0));
        let mut lanes = drifting(at);
        lanes.closed(1 - at);
        assert_eq!(lanes.drifting().count(), 1);
        lanes.closed(at);
        assert_eq!(lanes.drifting().count(), 0);
        assert_eq!(gauges(&lanes), (0, 0, 0));
    }
}

#[test]
fn who_comes_while_a_leader_leaves_leads_the_lane_that_drifts() {
    let mut lanes = machine(1, 100, 1000);
    let (at, leader, _first) = lead(&mut lanes, &REQUEST);
    lanes.time_is_up(leader, true);
    lanes.take_news();
    let (next, _) = step(&mut lanes, at, (leader, &REQUEST));
    assert!(matches!(next, Step::Drift), "{next:?}");
    let (_, seat) = queue(&mut lanes, &REQUEST);
    lanes.drift(at);
    assert!(matches!(
        news(&mut lanes, &seat),
        News::Lead(Lead { stale: true, .. })
    ));
}

/// Others may book requests while its leader writes, if that cannot block and they can write.
#[test]
fn a_lane_is_open_to_others_while_its_leader_writes_what_buffers_hold() {
    for (len, shared, opens) in [
        (SIXTEEN_KB - 1, true, true),
        (SIXTEEN_KB, true, true),
        (SIXTEEN_KB + 1, true, false),
        (SIXTEEN_KB - 1, false, false),
    ] {
        let mut lanes = machine(1, 100, 10 * SIXTEEN_KB);
        let request = vec![0; len];
        let (lead, key, _seat) = enter_to_lead(&mut lanes, &request);
        let condition = Condition { shared, ..SHARED };
        let own: Option<(usize, &[u8])> = Some((key, &request));
        let next = lanes.next_step(lead.lane, own, condition, &mut Vec::new());
        assert_eq!(matches!(next, Step::WriteAndRead), opens, "{next:?}");
        assert_eq!(matches!(next, Step::Write), !opens, "{next:?}");
        pass(&mut lanes, SECOND);
        let (_, _other, entry) = lanes.enter(b"!", None, false);
        let sends = matches!(entry, Entry::Send { .. });
        assert_eq!(sends, opens && len < SIXTEEN_KB, "{entry:?}");
    }
}
