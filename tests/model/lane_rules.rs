//! Rules of a pipeline's lanes, one by one.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Entry, Lanes, Look, Rules};

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

/// One lane, whose leader has sent its call and has waited for its reply for a second.
fn reading() -> (Machine, Instant, usize) {
    let now = Instant::now();
    let rules = Rules {
        lanes: 1,
        max_in_flight: 100,
        max_bytes: 1000,
    };
    let mut lanes = Machine::new(rules, now);
    let (leader, _, entry) = lanes.enter(&REQUEST, None, false);
    assert!(matches!(entry, Entry::Lead(_)));
    lanes.started(0, Some(Pen::default()));
    let own: (usize, &[u8]) = (leader, &REQUEST);
    let mut out = Vec::new();
    assert!(matches!(lanes.look(0, own, false, &mut out), Look::Write));
    lanes.wrote(0, out.len(), 1, false);
    out.clear();
    assert!(matches!(lanes.look(0, own, false, &mut out), Look::Read));
    let now = now + Duration::from_secs(1);
    lanes.advance(now);
    (lanes, now, leader)
}

/// Its own reply may have come long ago.
#[test]
fn a_caller_does_not_write_for_others_without_end() {
    let (mut lanes, _, _) = reading();
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
    let (mut lanes, now, _) = reading();
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
    let (mut lanes, now, _) = reading();
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
