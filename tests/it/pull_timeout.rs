//! `pull_timeout`: a hard bound, whatever hangs.

use std::io;
use std::time::{Duration, Instant};

use jackpot::{Connection, Error, Event, Pool, Stream};

use crate::line::{Line, in_time};
use crate::support::{Gate, Peer, background, eventually, in_one_of_a_few_tries};

const MOMENT: Duration = Duration::from_millis(30);

/// Not a limit that matters: what a call may take on a machine that is busy with other things.
const SLACK: Duration = Duration::from_secs(3);

#[test]
fn pull_timeout_returns_in_time_although_the_factory_is_stuck() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let gate = line.held();
    let pool = line.pool(2);
    expect_a_hard_bound(&pool);
    assert_eq!(gate.waiting(), 1);
    gate.open();
}

#[test]
fn pull_timeout_returns_in_time_although_the_handshake_is_stuck() {
    let peer = Peer::new();
    let gate = Gate::default();
    let way = gate.clone();
    let pool: Pool = Line::to(peer.address())
        .builder(2)
        .handshake(move |stream| {
            way.pass();
            Ok::<Stream, io::Error>(stream)
        })
        .build()
        .unwrap();
    expect_a_hard_bound(&pool);
    gate.open();
}

#[test]
fn pull_timeout_returns_in_time_although_a_return_is_stuck_in_recycle() {
    let peer = Peer::new();
    let gate = Gate::default();
    let way = gate.clone();
    let pool = Line::to(peer.address())
        .builder(1)
        .recycle(move |_| {
            way.pass();
            Ok::<(), io::Error>(())
        })
        .build()
        .unwrap();
    let lease = pool.allocate().unwrap();
    let returner = background(move || drop(lease));
    eventually("it is being recycled", || gate.waiting() == 1);
    expect_a_hard_bound(&pool);
    gate.open();
    returner.join();
}

#[test]
fn pull_timeout_returns_in_time_although_a_ping_is_stuck() {
    let peer = Peer::new();
    let gate = Gate::default();
    let way = gate.clone();
    let pool = Line::to(peer.address())
        .builder(1)
        .ping(Duration::from_millis(1), move |_| {
            way.pass();
            Ok::<(), io::Error>(())
        })
        .build()
        .unwrap();
    drop(pool.allocate().unwrap());
    eventually("it is being pinged", || {
        pool.reap();
        gate.waiting() == 1
    });
    expect_a_hard_bound(&pool);
    gate.open();
}

#[test]
fn pull_timeout_returns_in_time_although_an_event_function_is_stuck() {
    let peer = Peer::new();
    let gate = Gate::default();
    let way = gate.clone();
    let pool = Line::to(peer.address())
        .builder(2)
        .on_event(move |event| {
            if matches!(event, Event::Connected { .. }) {
                way.pass();
            }
        })
        .build()
        .unwrap();
    expect_a_hard_bound(&pool);
    gate.open();
}

/// Calls again and again; each call ends in time.
#[track_caller]
fn expect_a_hard_bound(pool: &Pool) {
    for _ in 0..3 {
        let started = Instant::now();
        let error = in_time(pool, |pool| pool.pull_timeout(MOMENT)).unwrap_err();
        let took = started.elapsed();
        assert!(took >= MOMENT && took < MOMENT + SLACK, "{took:?}");
        let Error::TimedOut { elapsed, stats, .. } = error else {
            panic!("{error}");
        };
        assert!(elapsed >= MOMENT && elapsed <= took);
        assert_eq!((stats.limit, stats.idle), (pool.limit(), 0));
    }
}

#[test]
fn pull_timeout_of_zero_takes_what_is_idle_and_starts_no_connect() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = line.pool(3);
    let error = pool.pull_timeout(Duration::ZERO).unwrap_err();
    assert!(error.is_timeout() && !error.is_full() && !error.is_connect());
    assert_eq!((pool.stats().connecting, line.calls()), (0, 0));
    let leases = [pool.allocate().unwrap(), pool.allocate().unwrap()];
    let ids = leases.each_ref().map(Connection::id);
    drop(leases);
    let lease = pool.pull_timeout(Duration::ZERO).unwrap();
    assert_eq!(Connection::id(&lease), ids[1]);
    let _other = pool.pull_timeout(Duration::ZERO).unwrap();
    assert!(pool.pull_timeout(Duration::ZERO).unwrap_err().is_timeout());
    assert_eq!(line.calls(), 2);
}

#[test]
fn pull_timeout_of_zero_passes_over_the_dead() {
    // It probes for a millisecond at most.
    in_one_of_a_few_tries("it finds the one that lives", || {
        let peer = Peer::new();
        let line = Line::to(peer.address());
        let pool = line.pool(2);
        let leases = [pool.allocate().unwrap(), pool.allocate().unwrap()];
        let ids = leases.each_ref().map(Connection::id);
        let _first = peer.accept();
        drop(peer.accept());
        eventually("the end has arrived", || {
            matches!(leases[1].tcp().peek(&mut [0]), Ok(0))
        });
        drop(leases);
        let lease = pool.pull_timeout(Duration::ZERO);
        assert_eq!(line.calls(), 2);
        lease.is_ok_and(|lease| Connection::id(&lease) == ids[0])
    });
}
