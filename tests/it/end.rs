//! The end of a pool, and what is out at that moment.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use jackpot::{Close, Error, Eviction, Pool};

use crate::support::operator::{counts, gated, hour_long, is_closed};
use crate::support::{
    Events, Gate, NEVER, Peer, SOON, Server, ask, assert_sums, background, eventually, lease,
    on_thread, on_threads, refused,
};

#[test]
fn the_end_wakes_everybody_who_waits_or_sleeps() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    let held = pool.pull().unwrap();
    let mut waiters: Vec<_> = on_threads(&pool, 3, |pool, _| pool.pull());
    let pool_of_a_dead_server = {
        let gone = refused();
        Pool::builder(move || TcpStream::connect(gone))
            .backoff(hour_long())
            .build()
            .unwrap()
    };
    let sleepers = on_threads(&pool_of_a_dead_server, 3, |pool, _| {
        pool.pull_timeout(NEVER)
    });
    eventually("they wait", || {
        pool.stats().waiting == 3 && pool_of_a_dead_server.stats().waiting == 3
    });
    pool.end();
    pool_of_a_dead_server.end();
    waiters.extend(sleepers);
    for waiter in waiters {
        let error = waiter.join().unwrap_err();
        assert!(matches!(error, Error::Ended), "{error}");
    }
    assert_eq!(pool.stats().waiting, 0);
    drop(held);
}

#[test]
fn a_connect_under_way_at_the_end_closes_what_it_opened() {
    let peer = Peer::new();
    let (pool, gate, begun) = gated(&peer, 3);
    let waiter = on_thread(&pool, |pool| pool.allocate());
    eventually("a connect is under way", || gate.waiting() == 1);
    pool.end();
    assert!(matches!(waiter.join().unwrap_err(), Error::Ended));
    assert_eq!(pool.stats().connecting, 1);
    assert!(!pool.drain(Duration::ZERO), "the connect is outstanding");
    gate.open();
    assert!(is_closed(&mut peer.accept()));
    assert!(pool.drain(SOON));
    let stats = pool.stats();
    assert_eq!((stats.open, stats.connecting), (0, 0));
    assert_eq!((stats.connects, stats.evicted(Eviction::Ended)), (1, 1));
    assert_eq!(begun.load(SeqCst), 1);
}

#[test]
fn nothing_connects_after_the_end_whatever_is_called() {
    let peer = Peer::new();
    let address = peer.address();
    let begun = Arc::new(AtomicUsize::new(0));
    let factory = {
        let begun = Arc::clone(&begun);
        move || {
            begun.fetch_add(1, SeqCst);
            TcpStream::connect(address)
        }
    };
    let pool = Pool::builder(factory.clone())
        .limit(2)
        .min_idle(1)
        .reap_interval(None)
        .build()
        .unwrap();
    eventually("min_idle is filled", || pool.stats().idle == 1);
    let doomed = lease(&pool, 2);
    pool.end();
    let begun_before = begun.load(SeqCst);
    pool.set_limit(10);
    pool.set_factory(factory);
    drop(doomed);
    assert_eq!(pool.reap(), 0);
    assert_eq!(counts(pool.free(5)), (0, 0, 0));
    let calls = on_thread(&pool, |pool| {
        [
            pool.allocate(),
            pool.pull(),
            pool.pull_timeout(NEVER),
            pool.pull_timeout(Duration::ZERO),
        ]
    });
    for call in calls.join() {
        assert!(matches!(call.unwrap_err(), Error::Ended));
    }
    let stats = pool.stats();
    assert_eq!((stats.open, stats.connecting, stats.waiting), (0, 0, 0));
    assert_eq!(begun.load(SeqCst), begun_before);
    assert!(pool.is_ended() && pool.clone().is_ended());
}

#[test]
fn the_end_stops_the_filling_of_min_idle() {
    let peer = Peer::new();
    let (address, gate) = (peer.address(), Gate::default());
    let events = Events::default();
    let pool = Pool::builder({
        let gate = gate.clone();
        move || {
            gate.pass();
            TcpStream::connect(address)
        }
    })
    .min_idle(3)
    .max_connecting(1)
    .on_event(events.listener())
    .build()
    .unwrap();
    eventually("the first is under way", || gate.waiting() == 1);
    pool.end();
    gate.open();
    assert!(pool.drain(SOON));
    assert_eq!(pool.stats().connects, 1);
    eventually("its eviction is told", || {
        events.all() == ["ended", "1 connected", "1 evicted: pool ended"]
    });
}

#[test]
fn ending_twice_is_harmless_and_a_hard_end_cuts_what_a_soft_one_left() {
    let peer = Peer::new();
    let events = Events::default();
    let pool = peer.builder(2).on_event(events.listener()).build().unwrap();
    let mut connection = pool.pull().unwrap();
    let _silent = peer.accept();
    assert!(!pool.is_ended());
    pool.end();
    pool.end();
    assert!(pool.is_ended());
    let reader = background(move || connection.read(&mut [0; 8]));
    pool.end_with(Close::Hard);
    assert_eq!(reader.join().unwrap(), 0);
    pool.end_with(Close::Hard);
    assert!(pool.drain(SOON));
    drop(pool);
    assert_eq!(
        events.all(),
        ["1 connected", "ended", "1 evicted: pool ended"]
    );
}

#[test]
fn a_lease_works_on_after_the_end_until_it_is_dropped() {
    let server = Server::echo();
    let address = server.address();
    let pool = Pool::new(2, move || TcpStream::connect(address)).unwrap();
    let mut leases = lease(&pool, 2);
    drop(leases.pop());
    pool.end();
    assert_eq!((pool.stats().idle, pool.stats().leased), (0, 1));
    assert_eq!(ask(&mut *leases[0], "one more").unwrap(), "one more");
    drop(leases);
    let stats = pool.stats();
    assert_eq!((stats.open, stats.evicted(Eviction::Ended)), (0, 2));
    assert_sums(&stats);
}

#[test]
fn dropping_the_last_handle_is_the_end() {
    let peer = Peer::new();
    let events = Events::default();
    let pool = peer
        .builder(2)
        .max_connecting(1)
        .on_event(events.listener())
        .build()
        .unwrap();
    let mut leases = lease(&pool, 2);
    let (mut first, mut second) = (peer.accept(), peer.accept());
    drop(leases.pop());
    let other = pool.clone();
    drop(pool);
    assert_eq!(other.stats().open, 2);
    drop(other);
    assert!(is_closed(&mut second), "the idle one closes");

    first.write_all(b"!").unwrap();
    leases[0].read_exact(&mut [0]).expect("the lease works on");
    drop(leases);
    assert!(is_closed(&mut first));
    let told = events.all();
    assert_eq!(told[..2], ["1 connected", "2 connected"]);
    assert_eq!(events.count("ended"), 1);
    assert_eq!(events.count("1 evicted: pool ended"), 1);
    assert_eq!(events.count("2 evicted: pool ended"), 1);
    assert_eq!(told.len(), 5);
}

#[test]
fn the_end_returns_while_leases_and_connects_are_out() {
    let peer = Peer::new();
    let (pool, gate, _) = gated(&peer, 2);
    gate.open();
    let held = pool.pull().unwrap();
    let (stuck, stuck_gate, _) = gated(&peer, 2);
    let puller = background({
        let stuck = stuck.clone();
        move || stuck.pull()
    });
    eventually("a connect is under way", || stuck_gate.waiting() == 1);
    background(move || {
        pool.end();
        stuck.end_with(Close::Hard);
        drop((pool, stuck));
    })
    .join();
    assert!(puller.join().unwrap_err().is_ended());
    drop(held);
    stuck_gate.open();
}
