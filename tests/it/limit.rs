//! `set_limit`: lowered, raised, zero.

use std::time::Duration;

use jackpot::{Connection, Eviction};

use crate::support::operator::{gated, hour_long};
use crate::support::{
    Background, NEVER, Peer, assert_sums, eventually, idle, lease, on_threads, waiting_thread,
};

#[test]
fn a_lowered_limit_closes_idle_ones_least_recently_used_first_then_leases_as_they_return() {
    let peer = Peer::new();
    let pool = peer.pool(5);
    let mut leases = lease(&pool, 5);
    drop(leases.remove(1)); // number 2
    drop(leases.remove(0)); // number 1
    pool.set_limit(4);
    assert_eq!(pool.limit(), 4);
    assert_eq!(idle(&pool), [1], "number 2 was the least recently used");
    pool.set_limit(2);
    assert_eq!((pool.stats().idle, pool.stats().leased), (0, 3));
    assert!(pool.allocate().unwrap_err().is_full());
    drop(leases.remove(0));
    assert_eq!((pool.stats().idle, pool.stats().leased), (0, 2), "surplus");
    drop(leases);
    assert_eq!(idle(&pool), [4, 5]);
    assert_eq!(pool.stats().evicted(Eviction::OverLimit), 3);
    assert_sums(&pool.stats());
}

#[test]
fn a_lowered_limit_holds_for_connects_under_way() {
    let peer = Peer::new();
    let (pool, gate, _) = gated(&peer, 2);
    let pullers = on_threads(&pool, 2, |pool, _| Connection::id(&pool.pull().unwrap()));
    eventually("two are under way", || gate.waiting() == 2);
    pool.set_limit(1);
    gate.open();
    eventually("one is surplus", || {
        pool.stats().evicted(Eviction::OverLimit) == 1
    });
    assert!(pool.stats().open <= 1);
    let ids: Vec<u64> = pullers.into_iter().map(Background::join).collect();
    assert_eq!(ids[0], ids[1], "they take turns");
}

#[test]
fn a_raised_limit_serves_those_who_wait() {
    let peer = Peer::new();
    let pool = peer.builder(1).backoff(hour_long()).build().unwrap();
    let held = pool.pull().unwrap();
    let waiters = on_threads(&pool, 3, |pool, _| pool.pull());
    eventually("they wait", || pool.stats().waiting == 3);
    pool.set_limit(4);
    let leases: Vec<_> = waiters.into_iter().map(|w| w.join().unwrap()).collect();
    assert_eq!((pool.stats().leased, pool.stats().connects), (4, 4));
    drop((held, leases));
}

#[test]
fn a_limit_of_zero_suspends_the_pool_until_it_is_raised() {
    let peer = Peer::new();
    let pool = peer.builder(2).backoff(hour_long()).build().unwrap();
    let mut leases = lease(&pool, 2);
    drop(leases.pop());
    pool.set_limit(0);
    assert_eq!((pool.stats().idle, pool.stats().leased), (0, 1));
    assert!(pool.allocate().unwrap_err().is_full());
    assert!(pool.pull_timeout(Duration::ZERO).unwrap_err().is_full());
    let waiter = waiting_thread(&pool, |pool| pool.pull_timeout(NEVER));
    drop(leases);
    assert_eq!((pool.stats().open, pool.stats().waiting), (0, 1));
    assert_eq!(pool.stats().evicted(Eviction::OverLimit), 2);
    pool.set_limit(1);
    assert_eq!(Connection::id(&waiter.join().unwrap()), 3);
    assert!(!pool.is_ended());
}
