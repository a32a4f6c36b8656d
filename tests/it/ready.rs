//! `wait_ready` and `outage`.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use jackpot::{Error, Pool};

use crate::line::Line;
use crate::support::{Peer, SOON, Server, eventually, on_thread, refused};

#[test]
fn a_pool_is_ready_once_so_many_connections_are_open() {
    let peer = Peer::new();
    let pool = peer.pool(10);
    pool.wait_ready(0, Duration::ZERO).unwrap();
    assert_eq!(pool.stats().connects, 0);
    pool.wait_ready(6, SOON).unwrap();
    assert_eq!(pool.stats().open, 6);
    // Leased ones are open too.
    let leases: Vec<_> = (0..6).map(|_| pool.pull().unwrap()).collect();
    pool.wait_ready(7, SOON).unwrap();
    assert_eq!((pool.stats().open, pool.stats().connects), (7, 7));
    drop(leases);
}

#[test]
fn a_pool_that_was_ready_once_need_not_stay_so() {
    let peer = Peer::new();
    let pool = peer.pool(10);
    pool.wait_ready(3, SOON).unwrap();
    assert_eq!(pool.free(0).closed, 3);
    assert!(pool.connections().is_empty());
}

#[test]
fn no_more_connects_are_under_way_than_allowed() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let gate = line.held();
    let pool = Pool::builder(line.factory())
        .limit(6)
        .max_connecting(2)
        .min_idle(3)
        .build()
        .unwrap();
    let waits = on_thread(&pool, |pool| pool.wait_ready(6, SOON));
    eventually("connects are under way", || line.inside() == 2);
    gate.open();
    waits.join().unwrap();
    assert_eq!((line.most(), pool.stats().open), (2, 6));
}

#[test]
fn a_count_above_the_limit_is_never_reached() {
    let pool = Peer::new().pool(3);
    let error = pool.wait_ready(4, SOON).unwrap_err();
    assert!(matches!(error, Error::InvalidConfig(_)));
    let text = "wait_ready must not wait for more than the limit, but 4 is above 3";
    assert_eq!(error.to_string(), text);
    // Nor is one that was below it.
    let line = Line::to(refused());
    let pool = Pool::builder(line.factory()).limit(3).build().unwrap();
    let waits = on_thread(&pool, |pool| pool.wait_ready(3, SOON * 6));
    eventually("a connect has failed", || pool.outage().is_some());
    pool.set_limit(2);
    assert!(matches!(waits.join(), Err(Error::InvalidConfig(_))));
}

#[test]
fn a_server_that_comes_back_makes_the_pool_ready() {
    let mut server = Server::echo();
    server.die(false);
    let line = Line::to(server.address());
    let pool = Pool::builder(line.factory())
        .limit(8)
        .reap_interval(None)
        .build()
        .unwrap();
    let begun = Instant::now();
    let waits = on_thread(&pool, |pool| pool.wait_ready(5, SOON));
    eventually("two connects have failed", || {
        pool.outage().is_some_and(|outage| outage.failures >= 2)
    });
    let outage = pool.outage().unwrap();
    assert!(outage.since >= begun && outage.error.is_connect());
    let kind = outage.error.io_error().unwrap().kind();
    assert_eq!(kind, io::ErrorKind::ConnectionRefused);
    let (starts, took) = (line.calls(), begun.elapsed());
    // As many as may be under way, then one at a time.
    let most = 4 + took.as_millis() / 100;
    assert!(starts as u128 <= most, "{starts} connects in {took:?}");
    server.come_back();
    waits.join().unwrap();
    assert!(pool.stats().open >= 5);
    assert!(pool.outage().is_none());
}

#[test]
fn the_cause_is_in_the_error_of_a_pool_that_is_not_ready_in_time() {
    let gone = refused();
    let pool = Pool::new(8, move || TcpStream::connect(gone)).unwrap();
    let timeout = SOON / 10; // a connect fails before, on a busy machine too
    let begun = Instant::now();
    let error = pool.wait_ready(3, timeout).unwrap_err();
    assert!(begun.elapsed() >= timeout && begun.elapsed() < SOON);
    assert!(error.is_timeout() && error.is_connect());
    let kind = error.io_error().unwrap().kind();
    assert_eq!(kind, io::ErrorKind::ConnectionRefused);
    assert_eq!(pool.stats().timeouts, 0, "it is no caller's");
}

#[test]
fn a_slow_server_is_no_cause() {
    let line = Line::to(Peer::new().address());
    let gate = line.held();
    let pool = Pool::builder(line.factory()).build().unwrap();
    let error = pool.wait_ready(1, Duration::from_millis(20)).unwrap_err();
    assert!(
        matches!(error, Error::TimedOut { last: None, .. }),
        "{error}"
    );
    gate.open();
}

#[test]
fn what_no_waiting_cures_is_told_at_once() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let pool = Pool::new(8, move || {
        counter.fetch_add(1, SeqCst);
        Err(io::ErrorKind::InvalidInput.into())
    });
    let error = pool.unwrap().wait_ready(1, SOON * 6).unwrap_err();
    assert!(matches!(error, Error::Connect(_)), "{error}");
    assert_eq!(calls.load(SeqCst), 1);
}

#[test]
fn the_end_ends_the_wait() {
    let line = Line::to(Peer::new().address());
    let gate = line.held();
    let pool = Pool::builder(line.factory()).build().unwrap();
    let waits = on_thread(&pool, |pool| pool.wait_ready(3, SOON * 6));
    eventually("a connect is under way", || line.inside() > 0);
    pool.end();
    assert!(waits.join().unwrap_err().is_ended());
    assert!(pool.wait_ready(1, SOON).unwrap_err().is_ended());
    gate.open();
}

#[test]
fn dead_connections_do_not_make_a_pool_ready() {
    let peer = Peer::new();
    let pool = peer.pool(4);
    pool.wait_ready(2, SOON).unwrap();
    drop([peer.accept(), peer.accept()]);
    eventually("both are seen dead", || {
        pool.wait_ready(2, SOON).unwrap();
        pool.stats().connects == 4
    });
    assert_eq!(pool.stats().open, 2);
}

#[test]
fn another_factory_ends_an_outage() {
    let gone = refused();
    let peer = Peer::new();
    let address = peer.address();
    let pool = Pool::new(2, move || TcpStream::connect(gone)).unwrap();
    assert!(pool.allocate().is_err());
    assert_eq!(pool.outage().unwrap().failures, 1);
    pool.set_factory(move || TcpStream::connect(address));
    assert!(pool.outage().is_none());
    pool.wait_ready(2, SOON).unwrap();
}
