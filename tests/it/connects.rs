//! The connects that are made for waiters: how many, for whom, and when not.

use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Connection, Pool};

use crate::line::{Line, Queue};
use crate::support::{Peer, Server, background, eventually, on_threads};

const MOMENT: Duration = Duration::from_millis(30);

#[test]
fn a_connect_outlives_the_caller_it_was_for_and_becomes_idle() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let gate = line.held();
    let pool = line.pool(5);
    assert!(pool.pull_timeout(MOMENT).unwrap_err().is_timeout());
    eventually("its connect goes on", || gate.waiting() == 1);
    assert_eq!(pool.stats().waiting, 0);
    gate.open();
    eventually("it is idle", || pool.stats().idle == 1);
    drop(pool.pull_timeout(Duration::ZERO).unwrap());
    let stats = pool.stats();
    assert_eq!((stats.connects, stats.releases, line.calls()), (1, 0, 1));
}

#[test]
fn callers_that_give_up_all_the_time_cause_no_storm_of_connects() {
    const LIMIT: usize = 4;
    let server = Server::echo();
    let line = Line::to(server.address());
    line.meets(|_| {
        thread::sleep(Duration::from_millis(20));
        Ok(())
    });
    let pool = line.pool(LIMIT);
    let until = Instant::now() + Duration::from_millis(200);
    let callers = on_threads(&pool, 10, move |pool, _| {
        while Instant::now() < until {
            drop(pool.pull_timeout(Duration::from_millis(1)));
        }
    });
    for caller in callers {
        caller.join();
    }
    eventually("what was under way is through", || {
        pool.stats().connecting == 0
    });
    let stats = pool.stats();
    assert!(stats.allocations > 0 && stats.releases == 0, "{stats}");
    eventually("the server has seen them", || {
        server.accepted() == stats.open
    });
    assert!(line.calls() <= LIMIT);
}

#[test]
fn a_waiter_takes_a_connection_that_comes_back_before_its_connect_is_through() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = line.pool(2);
    let first = pool.allocate().unwrap();
    let id = Connection::id(&first);
    let gate = line.held();
    let queue = Queue::of(&pool, 1);
    eventually("it connects", || gate.waiting() == 1);
    drop(first);
    let (_, lease) = queue.next();
    assert_eq!(Connection::id(&lease), id);
    gate.open();
    eventually("the surplus one is idle", || pool.stats().idle == 1);
}

#[test]
fn a_waiter_takes_its_new_connection_before_any_comes_back() {
    let peer = Peer::new();
    let pool = Line::to(peer.address()).pool(2);
    let first = pool.allocate().unwrap();
    let second = pool.pull().unwrap();
    assert_ne!(Connection::id(&first), Connection::id(&second));
}

#[test]
fn a_connect_whose_waiter_was_served_goes_to_the_next_one() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = line.builder(3).max_connecting(1).build().unwrap();
    let first = pool.allocate().unwrap();
    let id = Connection::id(&first);
    let gate = line.held();
    let queue = Queue::of(&pool, 2);
    eventually("the first waiter's connect is on its way", || {
        gate.waiting() == 1
    });
    drop(first);
    let (place, lease) = queue.next();
    assert_eq!((place, Connection::id(&lease)), (0, id));
    gate.open();
    let (place, lease) = queue.next();
    assert_eq!(place, 1);
    assert_ne!(Connection::id(&lease), id);
    assert_eq!(line.calls(), 2);
}

#[test]
fn no_more_than_max_connecting_connects_are_under_way() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let gate = line.held();
    let pool = line.builder(20).max_connecting(3).build().unwrap();
    let queue = Queue::of(&pool, 10);
    eventually("as many as may connect", || gate.waiting() == 3);
    let stats = pool.stats();
    assert_eq!((stats.connecting, stats.waiting), (3, 10));
    gate.open();
    let leases: Vec<_> = (0..10).map(|_| queue.next()).collect();
    assert_eq!((line.calls(), line.most()), (10, 3));
    drop(leases);
}

#[test]
fn a_queued_connect_is_dropped_when_its_waiter_has_been_served() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = line.builder(10).max_connecting(1).build().unwrap();
    let leases: Vec<_> = (0..3).map(|_| pool.allocate().unwrap()).collect();
    let gate = line.held();
    let queue = Queue::of(&pool, 4);
    eventually("one of four connects", || gate.waiting() == 1);
    drop(leases);
    let served: Vec<_> = (0..3).map(|_| queue.next()).collect();
    gate.open();
    let last = queue.next();
    assert_eq!((last.0, pool.stats().connecting), (3, 0));
    assert_eq!(line.calls(), 3 + 1);
    drop((served, last));
}

#[test]
fn a_queued_connect_is_dropped_when_its_waiter_has_given_up() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let gate = line.held();
    let pool = line.builder(10).max_connecting(1).build().unwrap();
    let callers = [0, 1, 2, 3].map(|_| {
        let pool = pool.clone();
        background(move || pool.pull_timeout(MOMENT).map(Connection::detach))
    });
    for caller in callers {
        assert!(caller.join().unwrap_err().is_timeout());
    }
    gate.open();
    eventually("what was made by the connect under way is idle", || {
        pool.stats().idle == 1
    });
    assert_eq!((line.calls(), pool.stats().connecting), (1, 0));
}

/// Fifty callers at once, each of whom uses its connection for a while; which ones they got.
fn burst(pool: &Pool) -> Vec<u64> {
    let callers = on_threads(pool, 50, |pool, _| {
        let lease = pool.pull().unwrap();
        thread::sleep(Duration::from_millis(2));
        Connection::id(&lease)
    });
    callers.into_iter().map(|caller| caller.join()).collect()
}

#[test]
fn a_burst_on_a_few_idle_connections_opens_few_more() {
    let server = Server::echo();
    let line = Line::to(server.address());
    let pool = line.pool(100);
    let idle: Vec<_> = (0..5).map(|_| pool.allocate().unwrap()).collect();
    drop(idle);
    // Connects take longer than the burst.
    let gate = line.held();
    burst(&pool);
    gate.open();
    eventually("what was under way is through", || {
        pool.stats().connecting == 0
    });
    assert!(line.calls() <= 15, "{} connects", line.calls());
}

#[test]
fn a_burst_is_served_by_the_idle_connections_while_the_connects_are_stuck() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = line.pool(100);
    let idle: Vec<_> = (0..5).map(|_| pool.allocate().unwrap()).collect();
    drop(idle);
    let gate = line.held();
    for id in burst(&pool) {
        assert!(id <= 5, "not one of the idle ones");
    }
    gate.open();
}
