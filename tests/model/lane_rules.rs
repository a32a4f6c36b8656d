//! Rules of a pipeline's lanes, one by one.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::flow::FAR;
use super::{Entry, GaveUp, Lanes, Look, Rules, Whose};

#[derive(Clone, Debug)]
struct Seat(Rc<()>);

impl super::Seat for Seat {
    fn new() -> Self {
        Self(Rc::default())
    }

    fn is_free(&self) -> bool {
        Rc::strong_count(&self.0) == 1
    }
}

#[derive(Debug, Default)]
struct Pen(Vec<u8>);

impl super::Pen for Pen {
    fn ink(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

type Machine = Lanes<Seat, (), Pen>;

const REQUEST: [u8; 4] = *b"ask\n";

/// One lane, whose leader has sent its call.
fn asked(request: &[u8], max_in_flight: usize, max_bytes: usize) -> (Machine, usize, Seat) {
    let rules = Rules {
        lanes: 1,
        max_in_flight,
        max_bytes,
    };
    let mut lanes = Machine::new(rules, Instant::now());
    let (leader, seat, entry) = lanes.enter(request, None, false);
    assert!(matches!(entry, Entry::Lead(_)));
    lanes.started(0, Some(Pen::default()));
    let mut out = Vec::new();
    let look = lanes.look(0, (leader, request), false, &mut out);
    assert!(matches!(look, Look::Write) && out == request);
    lanes.wrote(0, out.len(), 1, false);
    (lanes, leader, seat)
}

/// One lane, whose leader has waited for its reply for a second.
fn reading() -> (Machine, Instant) {
    let (mut lanes, leader, _) = asked(&REQUEST, 100, 1000);
    let look = lanes.look(0, (leader, &REQUEST), false, &mut Vec::new());
    assert!(matches!(look, Look::Read));
    let now = lanes.now + Duration::from_secs(1);
    lanes.advance(now);
    (lanes, now)
}

/// Its own reply may have come long ago.
#[test]
fn a_caller_does_not_write_for_others_without_end() {
    let (mut lanes, _) = reading();
    let (_, _, entry) = lanes.enter(&REQUEST, None, false);
    let Entry::Send { lane, mut pen } = entry else {
        panic!("{entry:?}");
    };
    for round in 1.. {
        assert!(round < 10, "it writes on and on");
        let (other, _, entry) = lanes.enter(&REQUEST, None, false);
        assert!(matches!(entry, Entry::Wait(Some(_))), "two write");
        let Some((_, next)) = lanes.sent(lane, pen, (REQUEST.len(), 1), false) else {
            // And whoever is left writes for itself.
            let entry = lanes.again(other);
            assert!(matches!(entry, Entry::Send { .. }), "{entry:?}");
            return;
        };
        pen = next;
    }
}

/// Nothing else would tell it that a connection has come back.
#[test]
fn a_queued_call_looks_as_often_after_an_hour_as_at_first() {
    let (mut lanes, now) = reading();
    let (_, _, entry) = lanes.enter(&[0; 990], None, false);
    assert!(matches!(entry, Entry::Send { .. }));
    let (key, _, entry) = lanes.enter(&[0; 990], None, false); // beyond the bounds
    assert!(matches!(entry, Entry::Wait(Some(_))));
    for second in 0..3600 {
        lanes.advance(now + Duration::from_secs(second));
        match lanes.again(key) {
            Entry::Wait(Some(again)) => assert!(again < Duration::from_secs(1)),
            other => panic!("{other:?}"),
        }
    }
}

/// A lane is kept free for it only for as long as it waits.
#[test]
fn a_large_call_that_gave_up_holds_up_no_small_one() {
    let (mut lanes, now) = reading();
    let deadline = now + Duration::from_millis(50);
    let (large, _, _) = lanes.enter(&[0; 2000], Some(deadline), false);
    assert!(matches!(lanes.again(large), Entry::Wait(_)));
    let (small, _, entry) = lanes.enter(&REQUEST, None, false);
    assert!(matches!(entry, Entry::Wait(Some(_))), "{entry:?}");
    lanes.advance(deadline);
    lanes.give_up(large);
    let entry = lanes.again(small);
    assert!(matches!(entry, Entry::Send { .. }), "{entry:?}");
}

/// With one lane that is always busy with small calls.
#[test]
fn a_large_call_is_not_overtaken_for_ever() {
    let (mut lanes, leader, _seat) = asked(&[0; 8], 8, 16);
    let mut out = Vec::new();
    let own: (usize, &[u8]) = (leader, &[0; 8]);
    let (large, seat, _) = lanes.enter(&[0; 17], None, false);
    let (small, _small, _) = lanes.enter(&[0; 8], None, false);
    let look = lanes.look(0, own, false, &mut out);
    assert!(matches!(look, Look::Read) && out.is_empty(), "overtaken");
    assert!(matches!(lanes.answered(0), Whose::Caller(key, _) if key == leader));
    match lanes.look(0, own, false, &mut out) {
        Look::HandOver(to, _) => assert!(Rc::ptr_eq(&to.0, &seat.0)),
        other => panic!("{other:?}"),
    }
    let own: (usize, &[u8]) = (large, &[0; 17]);
    let look = lanes.look(0, own, false, &mut out);
    assert!(matches!(look, Look::WriteOwn));
    lanes.wrote(0, 17, 1, false);
    // And then the others: the small one leads next, and sends itself.
    assert!(matches!(lanes.answered(0), Whose::Caller(key, _) if key == large));
    assert!(lanes.is_queued(small));
    let look = lanes.look(0, own, false, &mut out);
    assert!(matches!(look, Look::HandOver(..)));
    assert_eq!(out.len(), 8);
}

#[test]
fn a_reply_is_due_about_when_the_shortest_round_trip_is_over() {
    let (mut lanes, _, _seat) = asked(&REQUEST, 8, 16);
    let sent = lanes.now;
    let shortest = FAR * 10;
    lanes.shortest = Some(shortest);
    let (early, late) = (FAR * 19 / 2, FAR * 21 / 2);
    let moment = Duration::from_nanos(1);
    for (after, is_due) in [
        (Duration::ZERO, false),
        (early, false),
        (early + moment, true),
        (shortest, true),
        (late.saturating_sub(moment), true),
        (late, false),
    ] {
        lanes.advance(sent + after);
        assert_eq!(lanes.is_due(&lanes.lanes[0]), is_due, "after {after:?}");
    }
}

/// It cannot just leave: nobody else would lead that lane. So it leads, and leaves it.
#[test]
fn a_call_whose_time_is_up_on_its_way_to_a_vacant_lane_is_not_sent() {
    let (mut lanes, leader, _) = asked(&REQUEST, 8, 100);
    let deadline = lanes.now + Duration::from_millis(50);
    let (next, seat, entry) = lanes.enter(&REQUEST, Some(deadline), false);
    assert!(matches!(entry, Entry::Wait(Some(_))));
    assert!(matches!(lanes.answered(0), Whose::Caller(key, _) if key == leader));
    let look = lanes.look(0, (leader, &REQUEST), true, &mut Vec::new());
    assert!(matches!(look, Look::Release));
    drop(lanes.pen(0));
    lanes.vacate(0, Some(()));
    let (told, _) = lanes.take_effects().unwrap().lead.unwrap();
    assert!(Rc::ptr_eq(&told.0, &seat.0) && !lanes.is_queued(next));
    lanes.advance(deadline);
    assert_eq!(lanes.give_up(next), GaveUp::Settled, "the lead is lost");
    // It has been told.
    assert_eq!(lanes.abandon(next), GaveUp::Unsent);
    lanes.vacate(0, Some(()));
    let stats = lanes.stats();
    assert_eq!((stats.calls, stats.timeouts, stats.abandoned), (1, 1, 0));
    assert_eq!((stats.queued, stats.in_flight, stats.lanes), (0, 0, 0));
}

/// The same, on a lane that has a connection.
#[test]
fn a_call_whose_time_is_up_on_its_way_to_a_lane_in_use_is_not_sent() {
    let (mut lanes, leader, _) = asked(&REQUEST, 8, 16);
    let deadline = lanes.now + Duration::from_millis(50);
    let large = [0; 17]; // only its own caller sends it
    let (next, seat, _) = lanes.enter(&large, Some(deadline), false);
    assert!(matches!(lanes.answered(0), Whose::Caller(key, _) if key == leader));
    let mut out = Vec::new();
    let look = lanes.look(0, (leader, &REQUEST), false, &mut out);
    assert!(matches!(look, Look::HandOver(to, _) if Rc::ptr_eq(&to.0, &seat.0)));
    lanes.advance(deadline);
    assert_eq!(lanes.give_up(next), GaveUp::Settled, "the lead is lost");
    let look = lanes.look(0, (next, &large), false, &mut out);
    assert!(matches!(look, Look::Read) && out.is_empty(), "it is sent");
    assert_eq!(lanes.abandon(next), GaveUp::Unsent);
    let look = lanes.look(0, (next, &large), false, &mut out);
    assert!(matches!(look, Look::Release) && out.is_empty());
    assert_eq!(lanes.stats().calls, 1);
}

/// With the oldest there would be a hand-over for each reply.
#[test]
fn the_newest_in_flight_leads_next() {
    let (mut lanes, _) = reading();
    let mut seats = Vec::new();
    for _ in 0..3 {
        let (_, seat, entry) = lanes.enter(&REQUEST, None, false);
        let Entry::Send { lane, pen } = entry else {
            panic!("{entry:?}");
        };
        assert!(lanes.sent(lane, pen, (REQUEST.len(), 1), false).is_none());
        seats.push(seat);
    }
    let Whose::Caller(leader, _) = lanes.answered(0) else {
        panic!("nobody's reply");
    };
    match lanes.look(0, (leader, &REQUEST), false, &mut Vec::new()) {
        Look::HandOver(to, _) => assert!(Rc::ptr_eq(&to.0, &seats[2].0), "not the newest"),
        other => panic!("{other:?}"),
    }
}
