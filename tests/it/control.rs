//! What an operator changes and looks at: backoff, factory, connections, numbers.

use std::io::{self};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use jackpot::{Backoff, Error, Pool, State};

use crate::support::operator::{gated, hour_long};
use crate::support::{NEVER, Peer, assert_sums, eventually, lease, on_thread, on_threads, refused};

#[test]
fn a_backoff_that_is_refused_leaves_the_old_one() {
    let peer = Peer::new();
    let old = Backoff::new().retries(2).factor(1.5);
    let pool = peer.builder(1).backoff(old.clone()).build().unwrap();
    for (wrong, told) in [
        (Backoff::new().factor(0.5), "0.5"),
        (Backoff::new().factor(f64::NAN), "NaN"),
        (Backoff::new().factor(f64::INFINITY), "inf"),
        (Backoff::new().min(NEVER), "3600s"),
    ] {
        let error = pool.set_backoff(wrong).unwrap_err();
        assert!(matches!(error, Error::InvalidConfig(_)));
        let text = error.to_string();
        assert!(text.contains("backoff") && text.contains(told), "{text}");
        assert_eq!(pool.backoff(), old);
    }
    let new = Backoff::new().retries(0);
    pool.set_backoff(new.clone()).unwrap();
    assert_eq!(pool.backoff(), new);
    let held = pool.pull().unwrap();
    let error = pool.pull().unwrap_err();
    assert!(
        matches!(error, Error::Exhausted { attempts: 1, .. }),
        "{error}"
    );
    drop(held);
}

#[test]
fn a_new_factory_makes_the_next_connection_and_leaves_the_open_ones() {
    let (old, new) = (Peer::new(), Peer::new());
    let pool = old.pool(2);
    let leases = lease(&pool, 1);
    let address = new.address();
    pool.set_factory(move || TcpStream::connect(address));
    let fresh = pool.pull().unwrap();
    assert_eq!(fresh.peer_addr().unwrap(), address);
    assert_eq!(leases[0].peer_addr().unwrap(), old.address());
    drop(leases);
    assert_eq!(pool.stats().idle, 1);
}

#[test]
fn a_new_factory_ends_an_outage_at_once() {
    let (gone, peer) = (refused(), Peer::new());
    let address = peer.address();
    let pool = Pool::new(1, move || TcpStream::connect(gone)).unwrap();
    assert!(pool.allocate().unwrap_err().is_connect());
    pool.set_factory(move || TcpStream::connect(address));
    drop(pool.allocate().expect("the old failure is forgotten"));

    let pool = Pool::builder(move || TcpStream::connect(gone))
        .backoff(hour_long())
        .build()
        .unwrap();
    let waiters = on_threads(&pool, 3, |pool, _| pool.pull());
    eventually("they sleep", || {
        pool.stats().waiting == 3 && pool.stats().connect_failures > 0
    });
    pool.set_factory(move || TcpStream::connect(address));
    for waiter in waiters {
        assert_eq!(waiter.join().unwrap().peer_addr().unwrap(), address);
    }
}

#[test]
fn connections_show_every_state() {
    let peer = Peer::new();
    let (pool, gate, _) = gated(&peer, 2);
    assert!(pool.connections().is_empty());
    let puller = on_thread(&pool, |pool| pool.pull());
    eventually("a connect is under way", || gate.waiting() == 1);
    let all = pool.connections();
    let info = &all[0];
    assert_eq!((all.len(), info.id, info.state), (1, 1, State::Connecting));
    assert_eq!((info.local, info.peer, info.leases), (None, None, 0));
    assert!(info.age >= info.in_state);
    let stats = pool.stats();
    assert_eq!((stats.connecting, stats.waiting, stats.open), (1, 1, 0));

    gate.open();
    let connection = puller.join().unwrap();
    let info = &pool.connections()[0];
    assert_eq!((info.state, info.leases), (State::Leased, 1));
    assert_eq!(info.local, connection.local_addr().ok());
    assert_eq!(info.peer, Some(peer.address()));
    let stats = pool.stats();
    assert_eq!((stats.leased, stats.waiting, stats.waits), (1, 0, 1));
    assert!(stats.wait_total > Duration::ZERO && stats.wait_max == stats.wait_total);

    drop(connection);
    let given_back = Instant::now();
    let info = &pool.connections()[0];
    assert_eq!((info.id, info.state, info.leases), (1, State::Idle, 1));
    assert!(info.age >= info.in_state);
    drop(pool.pull().unwrap());
    let info = &pool.connections()[0];
    assert_eq!((info.id, info.leases), (1, 2));
    assert!(
        info.in_state <= given_back.elapsed(),
        "idle since it was given back"
    );
    let stats = pool.stats();
    assert_eq!((stats.idle, stats.allocations, stats.connects), (1, 2, 1));

    pool.free(0);
    assert!(pool.connections().is_empty());
    let fresh = pool.pull().unwrap();
    assert_eq!(pool.connections()[0].id, 2, "numbers are not used again");
    drop(fresh);
    assert_sums(&pool.stats());
}

#[test]
fn the_time_in_a_lease_is_exact_without_a_reaper() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    drop(pool.pull().unwrap());
    let before = Instant::now();
    let held = pool.pull().unwrap();
    let taken = Instant::now();
    let asked = taken.elapsed();
    let info = &pool.connections()[0];
    assert!(info.in_state >= asked && info.in_state <= before.elapsed());
    drop(held);
}

#[test]
fn stats_count_every_failure_and_every_wait() {
    let fails = Arc::new(AtomicBool::new(true));
    let peer = Peer::new();
    let address = peer.address();
    let pool = Pool::builder({
        let fails = Arc::clone(&fails);
        move || {
            if fails.load(SeqCst) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            TcpStream::connect(address)
        }
    })
    .limit(1)
    .reap_interval(None)
    .build()
    .unwrap();
    assert!(pool.allocate().unwrap_err().is_connect());
    let stats = pool.stats();
    assert_eq!((stats.connect_failures, stats.connects), (1, 0));
    assert_eq!((stats.allocations, stats.waits), (0, 1));
    fails.store(false, SeqCst);
    eventually("the gate lets one through", || pool.allocate().is_ok());
    let held = pool.pull().unwrap();
    let before = pool.stats();
    let started = Instant::now();
    let timeout = Duration::from_millis(20);
    assert!(pool.pull_timeout(timeout).unwrap_err().is_full());
    let stats = pool.stats();
    assert_eq!((stats.waits, stats.waiting), (before.waits + 1, 0));
    let waited = stats.wait_total.checked_sub(before.wait_total).unwrap();
    assert!(waited >= timeout && waited <= started.elapsed());
    assert!(stats.wait_max >= waited);
    assert_eq!((stats.connects, stats.leased), (1, 1));
    drop(held);
    assert_sums(&pool.stats());
}
