//! `max_waiting`: a line that ends.

use std::net::TcpStream;
use std::time::Duration;

use jackpot::{Connection, Error, Eviction, Pool};

use crate::line::Line;
use crate::support::{Peer, SOON, eventually, on_thread, on_threads, refused, waiting_thread};

fn assert_refused(pool: &Pool) {
    let error = pool.pull().unwrap_err();
    let Error::QueueFull { stats } = &error else {
        panic!("{error}");
    };
    assert_eq!(stats.waiting, pool.stats().waiting);
    assert!(error.is_full() && !error.is_timeout());
    assert!(
        error
            .to_string()
            .starts_with("too many callers wait already (limit ")
    );
}

#[test]
fn who_would_make_the_line_longer_than_it_may_be_is_refused_at_once() {
    let peer = Peer::new();
    let pool = peer.builder(1).max_waiting(Some(2)).build().unwrap();
    let held = pool.pull().unwrap();
    let waiters: Vec<_> = (1..=2)
        .map(|n| {
            let waiter = on_thread(&pool, |pool| pool.pull().map(drop));
            eventually("it waits", || pool.stats().waiting == n);
            waiter
        })
        .collect();
    assert_refused(&pool);
    assert!(matches!(
        pool.pull_timeout(SOON),
        Err(Error::QueueFull { .. })
    ));
    // These never join the line, and fail in their own way.
    assert!(matches!(pool.allocate(), Err(Error::Full { .. })));
    assert!(pool.pull_timeout(Duration::ZERO).unwrap_err().is_timeout());
    let stats = pool.stats();
    assert_eq!((stats.refusals, stats.timeouts), (2, 1));
    drop(held);
    for waiter in waiters {
        waiter.join().unwrap();
    }
    assert_eq!(pool.stats().connects, 1);
}

#[test]
fn a_line_of_nobody_lets_everybody_in_for_whom_there_is_a_place() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let gate = line.held();
    let pool = Pool::builder(line.factory())
        .limit(4)
        .max_connecting(1)
        .max_waiting(Some(0))
        .build()
        .unwrap();
    // One connects, three wait for their turn to connect, and none for a place to fall free.
    let callers = on_threads(&pool, 4, |pool, _| pool.pull());
    eventually("four wait for connects", || pool.stats().waiting == 4);
    assert_refused(&pool);
    gate.open();
    let leases: Vec<_> = callers.into_iter().map(|c| c.join().unwrap()).collect();
    assert_refused(&pool);
    drop(leases);
    assert!(pool.pull().is_ok());
}

#[test]
fn a_caller_whose_connection_was_dead_keeps_its_place_in_a_full_line() {
    let peer = Peer::new();
    let pool = peer.builder(1).max_waiting(Some(1)).build().unwrap();
    let held = pool.pull().unwrap();
    let far = peer.accept();
    let waiter = waiting_thread(&pool, |pool| pool.pull());
    drop(far); // so what it is handed is dead
    drop(held);
    let lease = waiter.join().unwrap();
    assert_eq!(pool.stats().evicted(Eviction::PeerClosed), 1);
    assert_eq!((Connection::id(&lease), pool.stats().refusals), (2, 0));
}

#[test]
fn a_caller_that_tries_again_keeps_its_place_in_a_full_line() {
    let peer = Peer::new();
    let backoff = jackpot::Backoff::new()
        .retries(3)
        .min(Duration::from_millis(5))
        .max(Duration::from_millis(5));
    let builder = peer.builder(1).max_waiting(Some(1)).backoff(backoff);
    let pool = builder.build().unwrap();
    let held = pool.pull().unwrap();
    let error = pool.pull().unwrap_err();
    assert!(
        matches!(error, Error::Exhausted { attempts: 4, .. }),
        "{error}"
    );
    assert_eq!(pool.stats().refusals, 0);
    drop(held);
}

#[test]
fn during_an_outage_the_line_ends_too() {
    let gone = refused();
    let pool = Pool::builder(move || TcpStream::connect(gone))
        .limit(20)
        .max_waiting(Some(1))
        .build()
        .unwrap();
    assert!(pool.allocate().is_err());
    let waiters = on_threads(&pool, 8, |pool, _| pool.pull());
    // One in line, and for a moment one whose connect is under way.
    eventually("the others are refused", || pool.stats().refusals >= 6);
    assert!((1..=2).contains(&pool.stats().waiting), "{}", pool.stats());
    pool.end();
    for waiter in waiters {
        assert!(waiter.join().is_err());
    }
}
