//! Pings: when, one at a time, and what their end does.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Close, Connection, Eviction, Pool};

use crate::support::{
    Background, Gate, NEVER, Peer, assert_sums, eventually, idle, lease, on_threads,
    shutdown_wakes, waiting_thread,
};

const MILLISECOND: Duration = Duration::from_millis(1);

/// Where a probe switches the blocking mode (`--cfg jackpot_switching`, Windows), it must not meet
/// a ping that does.
#[test]
fn sweeps_beside_pings_that_change_the_blocking_mode_never_block() {
    let peer = Peer::new();
    let pool = peer
        .builder(8)
        .min_idle(8)
        .ping(MILLISECOND / 1000, |stream| stream.set_nonblocking(true))
        .build()
        .unwrap();
    let _far: Vec<TcpStream> = (0..8).map(|_| peer.accept()).collect();
    let begun = Instant::now();
    let sweepers = on_threads(&pool, 3, move |pool, _| {
        while begun.elapsed() < Duration::from_secs(1) {
            assert_eq!(pool.reap(), 0);
        }
    });
    sweepers.into_iter().for_each(Background::join);
}

#[test]
fn pings_run_one_at_a_time_on_a_thread_of_their_own() {
    let peer = Peer::new();
    let gate = Gate::default();
    let names = Arc::new(Mutex::new(Vec::new()));
    let pool = peer
        .builder(3)
        .ping(MILLISECOND, {
            let (gate, names) = (gate.clone(), Arc::clone(&names));
            move |_| {
                let name = thread::current().name().map(str::to_owned);
                names.lock().unwrap().push(name);
                gate.pass();
                Ok::<_, io::Error>(())
            }
        })
        .build()
        .unwrap();
    drop(lease(&pool, 3));
    eventually("they are due", || {
        pool.reap();
        gate.waiting() > 0
    });
    for _ in 0..20 {
        pool.reap();
    }
    assert_eq!(gate.waiting(), 1);
    assert_eq!((pool.stats().leased, pool.stats().idle), (1, 2));
    gate.open();
    eventually("each was pinged", || {
        pool.connections().iter().all(|c| c.leases == 2) && pool.stats().idle == 3
    });
    assert!(
        names
            .lock()
            .unwrap()
            .iter()
            .all(|name| name.as_deref() == Some("jackpot-ping"))
    );
    assert_eq!(pool.stats().allocations, 3);
}

#[test]
fn what_was_used_a_moment_ago_is_not_pinged() {
    let peer = Peer::new();
    let pool = peer
        .builder(2)
        .ping(NEVER, |_| Err::<(), _>("nobody asked"))
        .build()
        .unwrap();
    drop(lease(&pool, 2));
    for _ in 0..20 {
        pool.reap();
    }
    assert_eq!(idle(&pool), [1, 2]);
    assert!(pool.connections().iter().all(|c| c.leases == 1));
}

#[test]
fn a_ping_that_ends_serves_the_oldest_waiter_and_no_other_ping() {
    let peer = Peer::new();
    let gate = Gate::default();
    let pings = Arc::new(AtomicUsize::new(0));
    let pool = peer
        .builder(1)
        .ping(MILLISECOND, {
            let (gate, pings) = (gate.clone(), Arc::clone(&pings));
            move |_| {
                pings.fetch_add(1, SeqCst);
                gate.pass();
                Ok::<_, io::Error>(())
            }
        })
        .build()
        .unwrap();
    drop(pool.pull().unwrap());
    eventually("a ping is under way", || {
        pool.reap();
        gate.waiting() == 1
    });
    let puller = waiting_thread(&pool, |pool| pool.pull());
    pool.reap();
    gate.open();
    let connection = puller.join().unwrap();
    assert_eq!((Connection::id(&connection), pings.load(SeqCst)), (1, 1));
    assert_eq!((pool.stats().connects, pool.stats().leased), (1, 1));
}

#[test]
fn a_ping_that_fails_or_leaves_its_question_open_closes_the_connection() {
    let peer = Peer::new();
    let pool = peer
        .builder(3)
        .ping(MILLISECOND, |stream| {
            let port = stream.peer_addr()?.port();
            match stream.ttl()? {
                10 => Err(io::Error::other(format!("port {port} is out of tune"))),
                20 => stream.write_all(b"are you there?"),
                _ => Ok(()),
            }
        })
        .build()
        .unwrap();
    let leases = lease(&pool, 3);
    for (lease, ttl) in leases.iter().zip([10, 20, 30]) {
        lease.tcp().set_ttl(ttl).unwrap();
    }
    drop(leases);
    eventually("two are evicted", || {
        let two_left = pool.stats().releases == 2;
        if !two_left {
            pool.reap();
        }
        two_left && pool.stats().idle == 1
    });
    let stats = pool.stats();
    assert_eq!(stats.evicted(Eviction::PingFailed), 1);
    assert_eq!(stats.evicted(Eviction::Unanswered), 1);
    assert_eq!(idle(&pool), [3]);
    assert_sums(&stats);
}

/// A pool in which a ping of connection 1 waits at the gate, and the others are idle.
fn with_a_hanging_ping(peer: &Peer, connections: usize) -> (Pool, Gate) {
    let gate = Gate::default();
    let pool = peer
        .builder(connections)
        .max_connecting(1)
        .ping(MILLISECOND, {
            let gate = gate.clone();
            move |_| {
                gate.pass();
                Ok::<_, io::Error>(())
            }
        })
        .build()
        .unwrap();
    drop(lease(&pool, connections));
    eventually("a ping is under way", || {
        pool.reap();
        gate.waiting() == 1
    });
    (pool, gate)
}

#[test]
fn a_hanging_ping_holds_up_neither_sweeps_nor_callers() {
    let peer = Peer::new();
    let (pool, gate) = with_a_hanging_ping(&peer, 3);
    let _pinged = peer.accept();
    let _healthy = peer.accept();
    drop(peer.accept());
    eventually("a sweep evicts the dead one", || pool.reap() == 1);
    let connection = pool.pull().unwrap();
    assert_eq!(Connection::id(&connection), 2);
    let fresh = pool.pull().unwrap();
    let error = pool.pull_timeout(Duration::from_millis(20)).unwrap_err();
    assert!(error.is_timeout() && error.is_full(), "{error}");
    drop((connection, fresh));
    gate.open();
    eventually("the ping ends", || pool.stats().idle == 3);
}

#[test]
fn a_ping_is_no_use_of_the_connection() {
    let peer = Peer::new();
    let pool = peer
        .builder(3)
        .ping(MILLISECOND, |_| {
            thread::sleep(Duration::from_millis(5)); // the time that an answer takes
            Ok::<_, io::Error>(())
        })
        .build()
        .unwrap();
    let mut leases = lease(&pool, 3);
    while let Some(last) = leases.pop() {
        drop(last); // so that number 1 is the most recently used
    }
    let given_back = Instant::now();
    eventually("all were pinged", || {
        let pinged = pool.connections().iter().all(|c| c.leases >= 2);
        if !pinged {
            pool.reap();
        }
        pinged && pool.stats().idle == 3
    });
    let unused = given_back.elapsed();
    for connection in pool.connections() {
        assert!(connection.in_state >= unused, "the idle time-out goes on");
    }
    assert_eq!(Connection::id(&pool.pull().unwrap()), 1);
}

#[test]
fn a_connection_in_a_ping_is_doomed_by_free() {
    let peer = Peer::new();
    let (pool, gate) = with_a_hanging_ping(&peer, 2);
    let freed = pool.free(0);
    assert_eq!((freed.kept, freed.closed, freed.doomed), (0, 1, 1));
    gate.open();
    eventually("it closes after the ping", || pool.stats().open == 0);
    assert_eq!(pool.stats().evicted(Eviction::Freed), 2);
}

#[test]
fn a_hard_close_cuts_a_hanging_ping() {
    if !shutdown_wakes() {
        return;
    }
    let peer = Peer::new();
    let pinging = Arc::new(AtomicBool::new(false));
    let pool = peer
        .builder(1)
        .ping(MILLISECOND, {
            let pinging = Arc::clone(&pinging);
            move |stream| {
                pinging.store(true, SeqCst);
                stream.read_exact(&mut [0]) // for ever: the peer says nothing
            }
        })
        .build()
        .unwrap();
    drop(pool.pull().unwrap());
    let _silent = peer.accept();
    eventually("a ping is under way", || {
        pool.reap();
        pinging.load(SeqCst)
    });
    let freed = pool.free_with(0, Close::Hard);
    assert_eq!((freed.kept, freed.closed, freed.doomed), (0, 1, 0));
    assert!(pool.drain(crate::support::SOON), "the ping returns");
    let stats = pool.stats();
    assert_eq!((stats.evicted(Eviction::Freed), stats.releases), (1, 1));
}

#[test]
fn the_end_does_not_wait_for_a_ping_and_closes_what_it_used() {
    let peer = Peer::new();
    let (pool, gate) = with_a_hanging_ping(&peer, 1);
    let mut pinged = peer.accept();
    pool.end();
    assert!(!pool.drain(Duration::ZERO), "the ping is outstanding");
    gate.open();
    assert!(pool.drain(crate::support::SOON));
    assert_eq!(pinged.read(&mut [0]).unwrap(), 0);
    assert_eq!(pool.stats().evicted(Eviction::Ended), 1);
}
