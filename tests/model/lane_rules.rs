//! Rules of a pipeline's lanes, one by one.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Condition, Entry, Failure, Lanes, Lead, News, Report, Rules, Step, Whose};

#[derive(Clone, Debug)]
pub(super) struct Seat(pub(super) Rc<()>);

impl super::Seat for Seat {
    fn new() -> Self {
        Self(Rc::default())
    }

    fn is_free(&self) -> bool {
        Rc::strong_count(&self.0) == 1
    }
}

pub(super) type Machine = Lanes<Seat>;

pub(super) const SHARED: Condition = Condition {
    wanted: false,
    shared: true,
};

pub(super) fn written(bytes: usize) -> Report {
    Report {
        bytes,
        writes: 1,
        ..Report::default()
    }
}

pub(super) const REQUEST: [u8; 4] = *b"ask\n";

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
    let mut out = Vec::new();
    let step = lanes.next_step(0, Some((leader, request)), SHARED, &mut out);
    assert!(matches!(step, Step::WriteAndRead) && out == request);
    lanes.report(0, &written(out.len()));
    (lanes, leader, seat)
}

/// One lane, whose leader has waited for its reply for a second.
fn reading() -> (Machine, Instant) {
    let (mut lanes, leader, _) = asked(&REQUEST, 100, 1000);
    let step = lanes.next_step(0, Some((leader, &REQUEST)), SHARED, &mut Vec::new());
    assert!(matches!(step, Step::Read));
    let now = lanes.now + Duration::from_secs(1);
    lanes.advance(now);
    (lanes, now)
}

/// Its own reply may have come long ago.
#[test]
fn a_caller_does_not_write_for_others_without_end() {
    let (mut lanes, _) = reading();
    let (writer, _seat, mut entry) = lanes.enter(&REQUEST, None, false);
    for round in 1.. {
        assert!(round < 10, "it writes on and on");
        let Entry::Send { lane, bytes } = entry else {
            panic!("{entry:?}");
        };
        let (other, _, waits) = lanes.enter(&REQUEST, None, false);
        assert!(matches!(waits, Entry::Wait(_)), "two write");
        entry = lanes.sent(writer, lane, bytes, &written(REQUEST.len()));
        if matches!(entry, Entry::Wait(None)) {
            // And whoever is left writes for itself.
            let entry = lanes.again(other);
            assert!(matches!(entry, Entry::Send { .. }), "{entry:?}");
            return;
        }
    }
}

/// Beyond that the socket's buffers may be full, and its write has no deadline.
#[test]
fn a_caller_that_does_not_lead_writes_no_more_requests_than_buffers_hold() {
    let (mut lanes, leader, _seat) = asked(&REQUEST, 1000, 100_000);
    let own: Option<(usize, &[u8])> = Some((leader, &REQUEST));
    let mut out = Vec::new();
    let callers: Vec<_> = (0..29)
        .map(|_| lanes.enter(&REQUEST, None, false))
        .collect();
    assert!(matches!(
        lanes.next_step(0, own, SHARED, &mut out),
        Step::WriteAndRead
    ));
    lanes.report(0, &written(out.len()));
    out.clear();
    assert!(matches!(
        lanes.next_step(0, own, SHARED, &mut out),
        Step::Read
    ));
    assert!(lanes.is_held(0) && callers.len() + 1 == lanes.lanes[0].flights.len());
    lanes.advance(lanes.now + Duration::from_secs(1));
    for _ in 0..2 {
        let (key, _, entry) = lanes.enter(&REQUEST, None, false);
        let Entry::Send { lane, bytes } = entry else {
            panic!("{entry:?}");
        };
        lanes.sent(key, lane, bytes, &written(REQUEST.len()));
    }
    let (key, _, entry) = lanes.enter(&REQUEST, None, false);
    assert!(matches!(entry, Entry::Wait(_)), "{entry:?}");
    assert!(matches!(lanes.again(key), Entry::Wait(_)));
    // The leader does, with a deadline.
    assert!(matches!(
        lanes.next_step(0, own, SHARED, &mut out),
        Step::Write
    ));
    assert!(!lanes.is_held(0));
}

/// Nothing else would tell it that a connection has come back.
#[test]
fn a_queued_call_asks_again_as_often_after_an_hour_as_at_first() {
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
    assert!(matches!(entry, Entry::Wait(_)), "{entry:?}");
    lanes.advance(deadline);
    lanes.time_is_up(large, false);
    let entry = lanes.again(small);
    assert!(matches!(entry, Entry::Send { .. }), "{entry:?}");
}

/// Its leader would wait in a read, with nothing in flight once the replies to others are there.
#[test]
fn nothing_is_sent_before_the_call_of_a_leader_that_waits_for_room() {
    let (mut lanes, first, _seat) = asked(&[0; 8], 8, 16);
    let mut out = Vec::new();
    let (second, _second, _) = lanes.enter(&[0; 16], None, false);
    lanes.time_is_up(first, true);
    let step = lanes.next_step(0, Some((first, &[0; 8])), SHARED, &mut out);
    assert!(matches!(step, Step::HandOver(_, Lead { stale: true, .. })));
    let heard = Report {
        heard: true,
        ..Report::default()
    };
    lanes.report(0, &heard);
    let own: Option<(usize, &[u8])> = Some((second, &[0; 16]));
    let step = lanes.next_step(0, own, SHARED, &mut out);
    assert!(matches!(step, Step::Read) && out.is_empty());
    lanes.advance(lanes.now + Duration::from_secs(1));
    let (third, _third, entry) = lanes.enter(&[0; 8], None, false);
    assert!(matches!(entry, Entry::Wait(Some(_))), "{entry:?}");
    assert!(matches!(lanes.again(third), Entry::Wait(Some(_))));
    assert!(matches!(lanes.answered(0), Whose::Nobody));
    let step = lanes.next_step(0, own, SHARED, &mut out);
    assert!(matches!(step, Step::WriteAndRead) && out.len() == 16);
}

/// With one lane that is always busy with small calls.
#[test]
fn a_large_call_is_not_overtaken_for_ever() {
    let (mut lanes, leader, _seat) = asked(&[0; 8], 8, 16);
    let mut out = Vec::new();
    let own: Option<(usize, &[u8])> = Some((leader, &[0; 8]));
    let (large, seat, _) = lanes.enter(&[0; 17], None, false);
    let (small, _small, _) = lanes.enter(&[0; 8], None, false);
    let step = lanes.next_step(0, own, SHARED, &mut out);
    assert!(matches!(step, Step::Read) && out.is_empty(), "overtaken");
    assert!(matches!(lanes.answered(0), Whose::Caller(_)));
    match lanes.next_step(0, own, SHARED, &mut out) {
        Step::HandOver(to, _) => assert!(Rc::ptr_eq(&to.0, &seat.0)),
        other => panic!("{other:?}"),
    }
    let own: Option<(usize, &[u8])> = Some((large, &[0; 17]));
    let step = lanes.next_step(0, own, SHARED, &mut out);
    assert!(matches!(step, Step::WriteOwn));
    lanes.report(0, &written(17));
    // And then the others: the small one leads next, and sends itself.
    assert!(matches!(lanes.answered(0), Whose::Caller(_)));
    assert!(lanes.is_queued(small));
    let step = lanes.next_step(0, own, SHARED, &mut out);
    assert!(matches!(step, Step::HandOver(..)));
    assert_eq!(out.len(), 8);
}

/// What the only caller that is told something hears.
fn told(lanes: &mut Machine, seat: &Seat) -> News {
    let (to, news) = lanes.take_news().pop().expect("nobody is told anything");
    assert!(Rc::ptr_eq(&to.0, &seat.0), "another caller is told");
    news
}

fn is_unsent(news: &News) -> bool {
    matches!(news, News::Failed(Failure::TimedOut { sent: false }))
}

/// It cannot just leave: nobody else would lead that lane. So it leads, and leaves it.
#[test]
fn a_call_whose_time_is_up_on_its_way_to_a_vacant_lane_is_not_sent() {
    let (mut lanes, leader, _seat) = asked(&REQUEST, 8, 100);
    let deadline = lanes.now + Duration::from_millis(50);
    let (next, seat, entry) = lanes.enter(&REQUEST, Some(deadline), false);
    assert!(matches!(entry, Entry::Wait(Some(_))));
    assert!(matches!(lanes.answered(0), Whose::Caller(_)));
    let wanted = Condition {
        wanted: true,
        ..SHARED
    };
    let step = lanes.next_step(0, Some((leader, &REQUEST)), wanted, &mut Vec::new());
    assert!(matches!(step, Step::Release));
    lanes.vacate(0);
    assert!(matches!(told(&mut lanes, &seat), News::Lead(_)) && !lanes.is_queued(next));
    lanes.advance(deadline);
    lanes.time_is_up(next, false);
    assert!(lanes.take_news().is_empty(), "the lead is lost");
    // It has been told to lead, and has no time to connect.
    lanes.time_is_up(next, true);
    assert!(is_unsent(&told(&mut lanes, &seat)));
    lanes.vacate(0);
    let stats = lanes.stats();
    assert_eq!((stats.calls, stats.timeouts, stats.abandoned), (1, 1, 0));
    assert_eq!((stats.queued, stats.in_flight, stats.lanes), (0, 0, 0));
}

/// The same, on a lane that has a connection.
#[test]
fn a_call_whose_time_is_up_on_its_way_to_a_lane_in_use_is_not_sent() {
    let (mut lanes, leader, _seat) = asked(&REQUEST, 8, 16);
    let deadline = lanes.now + Duration::from_millis(50);
    let large = [0; 17]; // only its own caller sends it
    let (next, seat, _) = lanes.enter(&large, Some(deadline), false);
    assert!(matches!(lanes.answered(0), Whose::Caller(_)));
    let mut out = Vec::new();
    let step = lanes.next_step(0, Some((leader, &REQUEST)), SHARED, &mut out);
    assert!(matches!(step, Step::HandOver(to, _) if Rc::ptr_eq(&to.0, &seat.0)));
    lanes.advance(deadline);
    lanes.time_is_up(next, false);
    assert!(lanes.take_news().is_empty(), "the lead is lost");
    let step = lanes.next_step(0, Some((next, &large)), SHARED, &mut out);
    assert!(matches!(step, Step::Read) && out.is_empty(), "it is sent");
    lanes.time_is_up(next, true);
    assert!(is_unsent(&told(&mut lanes, &seat)));
    let step = lanes.next_step(0, Some((next, &large)), SHARED, &mut out);
    assert!(matches!(step, Step::Release) && out.is_empty());
    assert_eq!(lanes.stats().calls, 1);
}
