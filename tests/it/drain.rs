//! `drain`: what it waits for.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use jackpot::{Close, Connection, Pool};

use crate::support::operator::gated;
use crate::support::{Gate, NEVER, Peer, background, eventually, lease, on_thread, refused};

#[test]
fn drain_is_true_at_once_when_nothing_is_outstanding() {
    let peer = Peer::new();
    let pool = peer.pool(2);
    assert!(pool.drain(Duration::ZERO));
    drop(lease(&pool, 2));
    assert!(pool.drain(NEVER));
    assert_eq!(pool.stats().idle, 2, "idle ones are not outstanding");
}

#[test]
fn drain_is_false_when_its_time_is_over() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    let held = pool.pull().unwrap();
    let started = Instant::now();
    assert!(!pool.drain(Duration::from_millis(20)));
    assert!(started.elapsed() >= Duration::from_millis(20));
    drop(held);
    assert!(pool.drain(Duration::ZERO));
}

#[test]
fn drain_waits_for_the_last_lease_and_wakes_every_drainer() {
    let peer = Peer::new();
    let pool = peer.pool(3);
    for _ in 0..10 {
        let mut leases = lease(&pool, 3);
        let begun = Arc::new(AtomicUsize::new(0));
        let drainers: Vec<_> = [NEVER, Duration::MAX]
            .map(|timeout| {
                let (pool, begun) = (pool.clone(), Arc::clone(&begun));
                background(move || {
                    begun.fetch_add(1, SeqCst);
                    pool.drain(timeout)
                })
            })
            .into();
        eventually("they drain", || begun.load(SeqCst) == 2);
        drop(leases.pop());
        Connection::discard(leases.pop().unwrap());
        assert!(!pool.drain(Duration::from_millis(2)));
        assert!(
            drainers
                .iter()
                .all(|drainer| drainer.is_done_with().is_none())
        );
        drop(Connection::detach(leases.pop().unwrap()));
        for drainer in drainers {
            assert!(drainer.join());
        }
    }
}

#[test]
fn drain_waits_for_a_connect() {
    let peer = Peer::new();
    let (pool, gate, _) = gated(&peer, 1);
    let error = pool.pull_timeout(Duration::from_millis(10)).unwrap_err();
    assert!(error.is_timeout());
    eventually("the connect is under way", || gate.waiting() == 1);
    let drainer = on_thread(&pool, |pool| pool.drain(NEVER));
    assert!(!pool.drain(Duration::from_millis(10)));
    gate.open();
    assert!(drainer.join());
    assert_eq!(pool.stats().idle, 1);
}

#[test]
fn drain_waits_for_a_failing_connect() {
    let (gate, gone) = (Gate::default(), refused());
    let pool = Pool::builder({
        let gate = gate.clone();
        move || {
            gate.pass();
            TcpStream::connect(gone)
        }
    })
    .build()
    .unwrap();
    assert!(pool.pull_timeout(Duration::from_millis(10)).is_err());
    eventually("the connect is under way", || gate.waiting() == 1);
    let drainer = on_thread(&pool, |pool| pool.drain(NEVER));
    gate.open();
    assert!(drainer.join());
    assert_eq!(pool.stats().connect_failures, 1);
}

#[test]
fn drain_waits_for_the_guard_of_a_cut_lease() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    let held = pool.pull().unwrap();
    pool.end_with(Close::Hard);
    assert_eq!(pool.stats().leased, 0);
    assert!(!pool.drain(Duration::from_millis(10)));
    let drainer = on_thread(&pool, |pool| pool.drain(NEVER));
    drop(held);
    assert!(drainer.join());
}
