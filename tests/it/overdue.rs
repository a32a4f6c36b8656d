//! Leases that are out for longer than `leak_after`.

use std::thread;
use std::time::Duration;

use jackpot::{Connection, Pool};

use crate::support::{Events, NEVER, Peer, waiting_thread};

/// A pool of one connection, and its events.
fn watched(leak_after: Duration) -> (Peer, Events, Pool) {
    let (peer, events) = (Peer::new(), Events::default());
    let builder = peer.builder(1).leak_after(Some(leak_after));
    let pool = builder.on_event(events.listener()).build().unwrap();
    (peer, events, pool)
}

/// Takes a lease on a thread with this name.
fn lease_on(name: &str, pool: &Pool) -> Connection {
    let pool = pool.clone();
    let thread = thread::Builder::new().name(name.to_owned());
    let puller = thread.spawn(move || pool.pull().unwrap()).unwrap();
    puller.join().unwrap()
}

#[test]
fn a_lease_that_is_out_too_long_is_reported_once_with_its_thread() {
    let (_peer, events, pool) = watched(Duration::ZERO);
    for (holder, reports) in [("clerk-1", 1), ("clerk-2", 1), ("clerk-1", 2)] {
        let held = lease_on(holder, &pool);
        for _ in 0..3 {
            assert_eq!(pool.reap(), 0, "nothing is taken away");
        }
        assert_eq!(events.count(&format!("1 overdue by {holder}")), reports);
        drop(held);
    }
    pool.reap();
    assert_eq!(events.all().len(), 4, "one connect and three reports");
}

#[test]
fn a_lease_that_was_waited_for_is_reported_with_the_thread_that_waited() {
    let (_peer, events, pool) = watched(Duration::ZERO);
    let first = pool.pull().unwrap();
    let waiter = waiting_thread(&pool, |pool| lease_on("waiter", pool));
    drop(first);
    let held = waiter.join();
    pool.reap();
    assert_eq!(events.count("1 overdue by waiter"), 1);
    drop(held);
}

#[test]
fn a_lease_that_is_not_out_for_long_is_not_reported() {
    let (_peer, events, pool) = watched(NEVER);
    let held = pool.pull().unwrap();
    pool.reap();
    drop(held);
    pool.reap();
    assert_eq!(events.all(), ["1 connected"]);
}
