//! Functions of the user's that fail or panic while somebody waits or the pool ends.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::time::Duration;

use jackpot::{Connection, Event, Eviction, Pool, Stream};

use crate::support::{
    Gate, Opened, Peer, SOON, assert_left, background, eventually, on_thread, panic_quietly,
    waiting_thread,
};

/// A function of the user's that fails.
#[derive(Debug)]
struct No;

impl fmt::Display for No {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no")
    }
}

impl std::error::Error for No {}

fn fail_or_panic(panics: bool) -> Result<(), No> {
    if panics {
        panic_quietly();
    }
    Err(No)
}

#[test]
fn a_factory_or_handshake_that_fails_during_the_end_holds_nothing_up() {
    for (in_handshake, panics) in [(false, false), (false, true), (true, false), (true, true)] {
        let (peer, gate) = (Peer::new(), Gate::default());
        let (address, opened) = (peer.address(), Opened::default());
        let way = gate.clone();
        let turn = move |here: bool| {
            if here {
                way.pass();
                return fail_or_panic(panics);
            }
            Ok(())
        };
        let again = turn.clone();
        let pool = Pool::builder(opened.by(move || {
            again(!in_handshake).map_err(io::Error::other)?;
            TcpStream::connect(address)
        }))
        .handshake(move |stream| turn(in_handshake).map(|()| stream))
        .reap_interval(None)
        .build()
        .unwrap();
        let caller = on_thread(&pool, |pool| pool.pull().map(drop).unwrap_err());
        eventually("it is under way", || gate.waiting() == 1);
        pool.end();
        assert!(caller.join().is_ended());
        gate.open();
        assert!(pool.drain(SOON));
        assert_eq!(pool.stats().connecting, 0);
        // `drain` waits until it is shut down, and the thread that did so closes it.
        eventually("its socket is closed", || opened.left() == 0);
    }
}

/// A pool whose only connection is being pinged, and the gate at which the ping waits to fail.
fn pinging(panics: bool) -> (Peer, Gate, Pool) {
    let (peer, gate) = (Peer::new(), Gate::default());
    let way = gate.clone();
    let ping = move |_: &mut Stream| {
        way.pass();
        fail_or_panic(panics)
    };
    let builder = peer.builder(1).ping(Duration::from_nanos(1), ping);
    let pool = builder.build().unwrap();
    drop(pool.pull().unwrap());
    eventually("it pings", || {
        pool.reap();
        gate.waiting() == 1
    });
    (peer, gate, pool)
}

#[test]
fn a_ping_that_fails_during_the_end_holds_nothing_up() {
    for panics in [false, true] {
        let (_peer, gate, pool) = pinging(panics);
        pool.end();
        gate.open();
        assert!(pool.drain(SOON));
        assert_left(&pool, Eviction::Ended);
    }
}

#[test]
fn a_recycle_that_fails_during_the_end_holds_nothing_up() {
    for panics in [false, true] {
        let (peer, gate) = (Peer::new(), Gate::default());
        let way = gate.clone();
        let pool = peer
            .builder(1)
            .recycle(move |_: &mut Stream| {
                way.pass();
                fail_or_panic(panics)
            })
            .build()
            .unwrap();
        let lease = pool.pull().unwrap();
        let returned = background(move || drop(lease));
        eventually("it is being recycled", || gate.waiting() == 1);
        pool.end();
        gate.open();
        returned.join();
        assert!(pool.drain(SOON));
        assert_left(&pool, Eviction::Ended);
    }
}

#[test]
fn an_event_function_that_panics_during_the_end_holds_nothing_up() {
    let peer = Peer::new();
    let builder = peer.builder(2).on_event(|event| {
        if matches!(event, Event::Evicted { .. } | Event::Ended) {
            panic_quietly();
        }
    });
    let pool = builder.build().unwrap();
    let (idle, leased) = (pool.pull().unwrap(), pool.pull().unwrap());
    drop(idle);
    pool.end();
    drop(leased);
    assert!(pool.drain(SOON));
    assert_eq!(pool.stats().evicted(Eviction::Ended), 2);
}

#[test]
fn a_waiter_is_served_although_event_functions_panic() {
    let peer = Peer::new();
    let builder = peer.builder(1).on_event(|_| panic_quietly());
    let pool = builder.build().unwrap();
    let lease = pool.pull().unwrap();
    let waiter = waiting_thread(&pool, |pool| pool.pull().map(drop));
    Connection::discard(lease);
    waiter.join().unwrap();
}

#[test]
fn a_ping_that_fails_lets_a_waiter_connect() {
    for panics in [false, true] {
        let (_peer, gate, pool) = pinging(panics);
        let waiter = waiting_thread(&pool, |pool| Connection::id(&pool.pull().unwrap()));
        gate.open();
        assert_eq!(waiter.join(), 2);
        assert_eq!(pool.stats().evicted(Eviction::PingFailed), 1);
    }
}
