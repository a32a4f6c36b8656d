//! What each transition of a pipeline's lanes does, up to its bounds.

#[path = "lane_verbs/breaks.rs"]
mod breaks;
#[path = "lane_verbs/leads.rs"]
mod leads;
#[path = "lane_verbs/sends.rs"]
mod sends;
#[path = "lane_verbs/waits.rs"]
mod waits;

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
