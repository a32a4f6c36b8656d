//! Lanes that break.

use super::*;

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
