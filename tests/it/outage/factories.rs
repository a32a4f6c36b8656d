//! Another factory in the middle of an outage.

use super::*;
use crate::support::on_thread;

#[test]
fn another_factory_lifts_the_gate() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = shut(&line, 5);
    let queue = Queue::of(&pool, 2);
    pool.set_factory(Line::to(peer.address()).factory());
    let calls = line.calls();
    drop(pool.allocate().unwrap());
    drop([queue.next(), queue.next()]);
    assert!(line.calls() <= calls + 1, "only what was under way");
}

#[test]
fn callers_do_not_wait_for_a_stuck_connect_of_the_factory_before() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = shut(&line, 5);
    let gate = line.held();
    let queue = Queue::of(&pool, 2);
    eventually("the pool tries by itself", || gate.waiting() == 1);
    assert!(pool.allocate().unwrap_err().is_connect());
    pool.set_factory(Line::to(peer.address()).factory());
    let leases = [queue.next(), queue.next()];
    let caller = on_thread(&pool, |pool| pool.allocate().map(Connection::detach));
    caller.join().unwrap();
    assert_eq!((line.inside(), pool.stats().connecting), (1, 1));
    drop(leases);
    gate.open();
}

#[test]
fn a_late_failure_of_the_factory_before_does_not_shut_the_gate() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let gate = Gate::default();
    let way = gate.clone();
    line.meets(move |_| {
        way.pass();
        Err(ErrorKind::ConnectionRefused.into())
    });
    let pool = line.pool(5);
    let timeout = Duration::from_millis(1);
    assert!(pool.pull_timeout(timeout).unwrap_err().is_timeout());
    eventually("its connect goes on", || gate.waiting() == 1);
    pool.set_factory(Line::to(peer.address()).factory());
    gate.open();
    eventually("the old one has failed", || {
        pool.stats().connect_failures == 1
    });
    pool.allocate().map(Connection::detach).unwrap();
}

#[test]
fn a_connect_not_yet_started_uses_the_new_factory() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let gate = line.held();
    let pool = line.builder(5).max_connecting(1).build().unwrap();
    let queue = Queue::of(&pool, 3);
    eventually("one connects", || gate.waiting() == 1);
    let other = Line::to(peer.address());
    pool.set_factory(other.factory());
    gate.open();
    let leases: Vec<_> = (0..3).map(|_| queue.next()).collect();
    assert_eq!((line.calls(), other.calls()), (1, 3));
    drop(leases);
}
