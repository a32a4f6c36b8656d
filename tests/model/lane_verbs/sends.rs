//! What is sent, by whom, and on which lane.

use super::*;

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
fn nobody_writes_while_another_does() {
    let (mut lanes, leader, _seat) = reading(1000);
    let (key, at, bytes, _sender) = enter_to_send(&mut lanes, &REQUEST);
    let (_, _queued) = queue(&mut lanes, &REQUEST);
    read(&mut lanes, at, leader);
    let entry = lanes.sent(key, at, bytes, &written(REQUEST.len()));
    assert!(matches!(entry, Entry::Send { .. }), "{entry:?}");
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
