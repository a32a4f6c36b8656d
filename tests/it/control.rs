//! What an operator does to a pool: look at it, free, resize, redirect, drain and end it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use jackpot::{Backoff, Close, Connection, Error, Eviction, Freed, Pool, State};

use crate::support::{
    Background, Events, Gate, Peer, SOON, Server, ask, assert_sums, background, eventually, idle,
    lease, refused, shutdown_wakes,
};

const NEVER: Duration = Duration::from_secs(3600);

/// Sleeps between two tries so long that nobody can owe a connection to the next one.
fn hour_long() -> Backoff {
    Backoff::new().min(NEVER).max(NEVER)
}

fn counts(freed: Freed) -> (usize, usize, usize) {
    (freed.kept, freed.closed, freed.doomed)
}

/// Whether the other side has closed: end of file, at the latest in good time.
fn is_closed(end: &mut TcpStream) -> bool {
    end.set_read_timeout(Some(SOON)).unwrap();
    match end.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// A pool whose connects wait at the gate, and how many were begun.
fn gated(peer: &Peer, limit: usize) -> (Pool, Gate, Arc<AtomicUsize>) {
    let (address, gate) = (peer.address(), Gate::default());
    let begun = Arc::new(AtomicUsize::new(0));
    let pool = Pool::builder({
        let (gate, begun) = (gate.clone(), Arc::clone(&begun));
        move || {
            begun.fetch_add(1, SeqCst);
            gate.pass();
            TcpStream::connect(address)
        }
    })
    .limit(limit)
    .reap_interval(None)
    .build()
    .unwrap();
    (pool, gate, begun)
}

#[test]
fn free_evicts_the_dead_before_it_counts() {
    let peer = Peer::new();
    let pool = peer.builder(3).max_connecting(1).build().unwrap();
    let leases = lease(&pool, 3);
    let _alive = (peer.accept(), peer.accept());
    drop(peer.accept());
    drop(leases); // the dead one is the most recently used
    eventually("its death is known", || {
        pool.free(3);
        pool.stats().evicted(Eviction::PeerClosed) == 1
    });
    assert_eq!(counts(pool.free(2)), (2, 0, 0));
    assert_eq!(idle(&pool), [1, 2]);
}

#[test]
fn free_keeps_leased_ones_then_the_most_recently_used() {
    let peer = Peer::new();
    let pool = peer.pool(6);
    let mut leases = lease(&pool, 5);
    for index in [3, 1, 0] {
        drop(leases.remove(index)); // numbers 4, 2, 1
    }
    assert_eq!(counts(pool.free(9)), (5, 0, 0));
    assert_eq!(counts(pool.free(3)), (3, 2, 0));
    assert_eq!(idle(&pool), [1]);
    assert_eq!(counts(pool.free(1)), (1, 1, 1));
    assert_eq!(counts(pool.free(1)), (1, 0, 1), "doomed again");
    assert_eq!(counts(pool.free(0)), (0, 0, 2));
    let fresh = lease(&pool, 4);
    assert_eq!(counts(pool.free(4)), (4, 0, 2), "the doomed are not kept");
    assert_sums(&pool.stats());

    drop((leases, fresh));
    assert_eq!(idle(&pool), [6, 7, 8, 9]);
    assert_eq!(pool.stats().evicted(Eviction::Freed), 5);
    assert_sums(&pool.stats());
}

#[test]
fn a_doomed_lease_works_on_and_its_place_falls_free_when_it_returns() {
    let server = Server::echo();
    let address = server.address();
    let pool = Pool::new(1, move || TcpStream::connect(address)).unwrap();
    let mut connection = pool.pull().unwrap();
    assert_eq!(counts(pool.free(0)), (0, 0, 1));
    assert_eq!(ask(&mut *connection, "still there").unwrap(), "still there");
    let waiter = background({
        let pool = pool.clone();
        move || pool.pull()
    });
    eventually("somebody waits", || pool.stats().waiting == 1);
    drop(connection);
    assert_eq!(Connection::id(&waiter.join().unwrap()), 2);
    assert_eq!(pool.stats().evicted(Eviction::Freed), 1);
}

#[test]
fn finish_does_not_save_a_doomed_lease() {
    let peer = Peer::new();
    let pool = peer.pool(2);
    let connection = pool.pull().unwrap();
    pool.free(0);
    Connection::finish(connection);
    assert_eq!(pool.stats().evicted(Eviction::Freed), 1);
    assert_eq!(pool.stats().open, 0);
}

#[test]
fn a_hard_close_wakes_a_thread_blocked_in_read() {
    if !shutdown_wakes() {
        return;
    }
    let peer = Peer::new();
    let pool = peer.pool(1);
    let mut connection = pool.pull().unwrap();
    let _silent = peer.accept();
    let reading = Arc::new(AtomicBool::new(false));
    let reader = background({
        let reading = Arc::clone(&reading);
        move || {
            reading.store(true, SeqCst);
            let read = connection.read(&mut [0; 8]);
            (read, Connection::id(&connection))
        }
    });
    eventually("it reads", || reading.load(SeqCst));
    assert_eq!(counts(pool.free_with(0, Close::Hard)), (0, 1, 0));
    let (read, id) = reader.join();
    assert_eq!((read.unwrap(), id), (0, 1));
    assert_eq!(pool.stats().evicted(Eviction::Freed), 1);
}

#[test]
fn a_hard_close_wakes_a_thread_blocked_in_write() {
    if !shutdown_wakes() {
        return;
    }
    let peer = Peer::new();
    let pool = peer.pool(1);
    let mut connection = pool.pull().unwrap();
    let _deaf = peer.accept();
    connection.set_nonblocking(true).unwrap();
    while connection.write(&[0; 4096]).is_ok() {}
    connection.set_nonblocking(false).unwrap();
    let writing = Arc::new(AtomicBool::new(false));
    let writer = background({
        let writing = Arc::clone(&writing);
        move || {
            writing.store(true, SeqCst);
            connection.write_all(&vec![0; 1 << 24])
        }
    });
    eventually("it writes", || writing.load(SeqCst));
    pool.end_with(Close::Hard);
    assert_eq!(writer.join().unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert_eq!(pool.stats().evicted(Eviction::Ended), 1);
}

#[test]
fn the_place_of_a_cut_lease_is_free_before_its_guard_returns() {
    let peer = Peer::new();
    let pool = peer.pool(2);
    let mut leases = lease(&pool, 2);
    let freed = pool.free_with(1, Close::Hard);
    assert_eq!(counts(freed), (1, 1, 0));
    assert_eq!((pool.stats().leased, pool.stats().open), (1, 1));
    let fresh = pool.allocate().unwrap();
    assert_eq!(Connection::id(&fresh), 3);
    assert!(pool.allocate().unwrap_err().is_full());

    drop(leases.remove(1)); // cut: it comes home to nothing
    assert_eq!((pool.stats().leased, pool.stats().open), (2, 2));
    drop((leases, fresh));
    assert_eq!(idle(&pool), [1, 3]);
    assert_sums(&pool.stats());
}

#[test]
fn a_cut_lease_may_be_discarded_finished_or_detached() {
    let peer = Peer::new();
    let pool = peer.pool(3);
    let mut leases = lease(&pool, 3);
    pool.free_with(0, Close::Hard);
    Connection::discard(leases.pop().unwrap());
    Connection::finish(leases.pop().unwrap());
    let mut stream = Connection::detach(leases.pop().unwrap());
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    let stats = pool.stats();
    assert_eq!((stats.open, stats.releases), (0, 3));
    assert_eq!(stats.evicted(Eviction::Freed), 3);
    assert!(pool.drain(Duration::ZERO));
}

#[test]
fn a_hard_close_gets_the_place_of_a_leaked_guard_back() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    std::mem::forget(pool.pull().unwrap());
    let mut end = peer.accept();
    assert!(pool.allocate().unwrap_err().is_full());
    assert_eq!(counts(pool.free_with(0, Close::Hard)), (0, 1, 0));
    assert!(is_closed(&mut end));
    drop(pool.allocate().unwrap());
    assert_sums(&pool.stats());
}

#[test]
fn a_hard_close_dooms_no_lease_that_it_keeps() {
    let server = Server::echo();
    let address = server.address();
    let pool = Pool::new(2, move || TcpStream::connect(address)).unwrap();
    let mut connection = pool.pull().unwrap();
    assert_eq!(counts(pool.free_with(1, Close::Hard)), (1, 0, 0));
    assert_eq!(ask(&mut *connection, "kept").unwrap(), "kept");
    drop(connection);
    assert_eq!(pool.stats().idle, 1);
}

#[test]
fn the_end_wakes_everybody_who_waits_or_sleeps() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    let held = pool.pull().unwrap();
    let mut waiters: Vec<_> = (0..3)
        .map(|_| {
            let pool = pool.clone();
            background(move || pool.pull())
        })
        .collect();
    let pool_of_a_dead_server = {
        let gone = refused();
        Pool::builder(move || TcpStream::connect(gone))
            .backoff(hour_long())
            .build()
            .unwrap()
    };
    let sleepers: Vec<_> = (0..3)
        .map(|_| {
            let pool = pool_of_a_dead_server.clone();
            background(move || pool.pull_timeout(NEVER))
        })
        .collect();
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
    let waiter = background({
        let pool = pool.clone();
        move || pool.allocate()
    });
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
    let calls = background({
        let pool = pool.clone();
        move || {
            [
                pool.allocate(),
                pool.pull(),
                pool.pull_timeout(NEVER),
                pool.pull_timeout(Duration::ZERO),
            ]
        }
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
    let drainer = background({
        let pool = pool.clone();
        move || pool.drain(NEVER)
    });
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
    let drainer = background({
        let pool = pool.clone();
        move || pool.drain(NEVER)
    });
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
    let drainer = background({
        let pool = pool.clone();
        move || pool.drain(NEVER)
    });
    drop(held);
    assert!(drainer.join());
}

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
    let pullers: Vec<_> = (0..2)
        .map(|_| {
            let pool = pool.clone();
            background(move || Connection::id(&pool.pull().unwrap()))
        })
        .collect();
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
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let pool = pool.clone();
            background(move || pool.pull())
        })
        .collect();
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
    let waiter = background({
        let pool = pool.clone();
        move || pool.pull_timeout(NEVER)
    });
    eventually("somebody waits", || pool.stats().waiting == 1);
    drop(leases);
    assert_eq!((pool.stats().open, pool.stats().waiting), (0, 1));
    assert_eq!(pool.stats().evicted(Eviction::OverLimit), 2);
    pool.set_limit(1);
    assert_eq!(Connection::id(&waiter.join().unwrap()), 3);
    assert!(!pool.is_ended());
}

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
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let pool = pool.clone();
            background(move || pool.pull())
        })
        .collect();
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
    let puller = background({
        let pool = pool.clone();
        move || pool.pull()
    });
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
    assert!(info.in_state <= given_back.elapsed(), "idle anew");
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
