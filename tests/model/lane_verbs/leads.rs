//! Who leads a lane, and what becomes of one that nobody leads.

use super::*;

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
