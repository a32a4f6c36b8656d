//! What `allocate` gives and refuses, and the limit.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use jackpot::{Builder, Connection, Error, Event, Eviction, Pool, Stream};

use crate::line::{Line, fast_retries, in_time, slow_retries};
use crate::support::{
    Gate, Peer, Server, ask, assert_sums, background, eventually, on_thread, on_threads,
    waiting_thread,
};

#[test]
fn the_newest_idle_connection_is_reused_first() {
    let peer = Peer::new();
    let pool = peer.pool(5);
    let (a, b) = (pool.allocate().unwrap(), pool.allocate().unwrap());
    let (first, second) = (Connection::id(&a), Connection::id(&b));
    drop(b);
    drop(a);
    let again = pool.allocate().unwrap();
    assert_eq!(Connection::id(&again), first);
    assert_eq!(Connection::id(&pool.allocate().unwrap()), second);
}

#[test]
fn surplus_connections_go_unused_and_age_out() {
    let peer = Peer::new();
    let idle = Duration::from_millis(300);
    let pool = peer.builder(5).idle_timeout(Some(idle)).build().unwrap();
    let burst: Vec<_> = (0..5).map(|_| pool.allocate().unwrap()).collect();
    drop(burst);
    eventually("one caller at a time keeps one connection", || {
        drop(pool.allocate().unwrap());
        pool.reap();
        pool.stats().open == 1
    });
    assert_eq!(pool.stats().evicted(Eviction::IdleTimeout), 4);
    assert_eq!(pool.stats().connects, 5);
}

#[test]
fn the_reaper_does_not_go_below_min_idle_to_reconnect_over_and_over() {
    let peer = Peer::new();
    let pool = peer
        .builder(5)
        .min_idle(3)
        .idle_timeout(Some(Duration::from_millis(1)))
        .build()
        .unwrap();
    eventually("it is filled", || pool.stats().idle == 3);
    eventually("all are idle too long", || {
        let ages = pool.connections();
        ages.iter().all(|c| c.in_state > Duration::from_millis(2))
    });
    for _ in 0..20 {
        pool.reap();
    }
    let stats = pool.stats();
    assert_eq!((stats.idle, stats.connects), (3, 3));
}

#[test]
fn connections_of_one_age_do_not_expire_at_one_instant() {
    const COUNT: usize = 30;
    let peer = Peer::new();
    // A machine that stalls through the spread of the first lifetime gets longer ones.
    let spread = [1, 2, 4].into_iter().any(|seconds| {
        let lifetime = Duration::from_secs(seconds);
        let ages = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&ages);
        let pool = peer
            .builder(COUNT)
            .max_lifetime(Some(lifetime))
            .on_event(move |event| {
                if let Event::Evicted { age, .. } = event {
                    told.lock().unwrap().push(*age);
                }
            })
            .build()
            .unwrap();
        let leases: Vec<_> = (0..COUNT).map(|_| pool.allocate().unwrap()).collect();
        drop(leases);
        eventually("all have expired", || {
            pool.reap();
            pool.stats().open == 0
        });
        let ages = ages.lock().unwrap();
        let (least, most) = (ages.iter().min().unwrap(), ages.iter().max().unwrap());
        most.saturating_sub(*least) > lifetime / 30
    });
    assert!(spread, "all of them went at once, three times");
}

#[test]
fn a_conversation_that_is_over_goes_back() {
    let server = Server::echo();
    let address = server.address();
    let pool = Pool::new(1, move || std::net::TcpStream::connect(address)).unwrap();
    for n in 0..10 {
        let mut connection = pool.pull().unwrap();
        let line = format!("request {n}");
        assert_eq!(ask(&mut *connection, &line).unwrap(), line);
    }
    let stats = pool.stats();
    assert_eq!((stats.connects, stats.allocations), (1, 10));
}

#[test]
fn allocate_is_full_at_once_when_all_are_leased() {
    let peer = Peer::new();
    let pool = peer.pool(2);
    let _leases = [pool.allocate().unwrap(), pool.allocate().unwrap()];
    let error = pool.allocate().unwrap_err();
    let Error::Full { stats } = error else {
        panic!("{error}");
    };
    assert_eq!((stats.limit, stats.leased, stats.idle), (2, 2, 0));
}

#[test]
fn allocate_is_full_at_once_when_the_rest_of_the_limit_is_connecting() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let gate = line.held();
    let pool = line.pool(2);
    let callers = [0, 1].map(|_| {
        let pool = pool.clone();
        background(move || pool.pull().map(Connection::detach))
    });
    eventually("both connect", || gate.waiting() == 2);
    let Error::Full { stats } = in_time(&pool, Pool::allocate).unwrap_err() else {
        panic!("not full");
    };
    assert_eq!((stats.open, stats.connecting), (0, 2));
    gate.open();
    for caller in callers {
        caller.join().unwrap();
    }
}

#[test]
fn allocate_is_full_at_once_when_queued_connects_have_the_rest_of_the_limit() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let gate = line.held();
    let pool = line.builder(3).max_connecting(1).build().unwrap();
    let callers = [1, 2, 3].map(|count| {
        let caller = on_thread(&pool, |pool| pool.allocate().map(Connection::detach));
        eventually("it has room to wait", || pool.stats().waiting == count);
        caller
    });
    let Error::Full { stats } = in_time(&pool, Pool::allocate).unwrap_err() else {
        panic!("not full");
    };
    assert_eq!((stats.open, stats.connecting, stats.waiting), (0, 1, 3));
    gate.open();
    for caller in callers {
        caller.join().unwrap();
    }
}

#[test]
fn allocate_takes_a_connection_that_comes_back_before_its_own_connect_is_through() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = line.pool(2);
    let first = pool.allocate().unwrap();
    let id = Connection::id(&first);
    let gate = line.held();
    let caller = on_thread(&pool, |pool| {
        pool.allocate().map(|lease| Connection::id(&lease))
    });
    eventually("it connects", || gate.waiting() == 1);
    drop(first);
    assert_eq!(caller.join().unwrap(), id);
    gate.open();
}

#[test]
fn allocate_fails_with_the_error_of_its_own_connect() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    line.meets(|call| Err(io::Error::other(format!("call {call}"))));
    let pool = line.pool(5);
    let error = pool.allocate().unwrap_err();
    assert!(matches!(error, Error::Connect(_)), "{error:?}");
    assert_eq!(error.io_error().unwrap().to_string(), "call 0");
    let stats = pool.stats();
    assert_eq!((stats.connect_failures, stats.connecting), (1, 0));
}

/// All of the limit can be leased, and no more.
#[track_caller]
fn expect_room_for(pool: &Pool, limit: usize) {
    pool.set_backoff(fast_retries()).unwrap();
    let leases: Vec<_> = (0..limit)
        .map(|_| in_time(pool, Pool::pull).unwrap())
        .collect();
    pool.set_backoff(slow_retries()).unwrap();
    assert!(pool.allocate().unwrap_err().is_full());
    drop(leases);
    let stats = pool.stats();
    assert_eq!((stats.leased, stats.waiting), (0, 0));
    assert_sums(&stats);
}

#[test]
fn a_factory_that_fails_and_panics_does_not_shrink_the_pool() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    line.meets(|call| match call {
        0 => panic!("no dial tone"),
        1 => Err(io::ErrorKind::ConnectionReset.into()),
        2 => panic!("no dial tone either"),
        _ => Ok(()),
    });
    let pool = line.pool(2);
    let error = in_time(&pool, Pool::allocate).unwrap_err();
    assert!(error.is_connect());
    let text = error.io_error().unwrap().to_string();
    assert_eq!(text, "the factory panicked: no dial tone");
    expect_room_for(&pool, 2);
    assert_eq!(pool.stats().connect_failures, 3);
}

#[test]
fn a_handshake_that_fails_and_panics_does_not_shrink_the_pool() {
    let peer = Peer::new();
    let calls = AtomicUsize::new(0);
    let shake = move |stream: Stream| match calls.fetch_add(1, SeqCst) {
        0 => panic!("bad manners"),
        1 => Err(io::Error::other("no common language")),
        _ => Ok(stream),
    };
    let builder: Builder = peer.builder(2).handshake(shake);
    let pool = builder.build().unwrap();
    let Error::Handshake(cause) = in_time(&pool, Pool::allocate).unwrap_err() else {
        panic!("not a handshake error");
    };
    assert_eq!(cause.to_string(), "the handshake panicked: bad manners");
    expect_room_for(&pool, 2);
    assert_eq!(pool.stats().connect_failures, 2);
}

#[test]
fn a_recycle_that_fails_and_panics_does_not_shrink_the_pool() {
    let peer = Peer::new();
    let calls = AtomicUsize::new(0);
    let recycle = move |_: &mut Stream| match calls.fetch_add(1, SeqCst) {
        0 => panic!("spilt"),
        1 => Err(io::Error::other("stained")),
        _ => Ok(()),
    };
    let pool = peer.builder(2).recycle(recycle).build().unwrap();
    for _ in 0..2 {
        drop(pool.allocate().unwrap());
    }
    assert_eq!(pool.stats().evicted(Eviction::RecycleFailed), 2);
    expect_room_for(&pool, 2);
}

#[test]
fn an_event_function_that_panics_does_not_shrink_the_pool() {
    let peer = Peer::new();
    let panic = |event: &Event| panic!("cannot bear to hear of {event:?}");
    let pool = peer.builder(2).on_event(panic).build().unwrap();
    Connection::discard(in_time(&pool, Pool::allocate).unwrap());
    pool.free(0);
    expect_room_for(&pool, 2);
}

#[test]
fn the_limit_holds_when_the_factory_answers_late() {
    const LIMIT: usize = 3;
    let server = Server::echo();
    let line = Line::to(server.address());
    let gate = line.held();
    let pool = line.builder(LIMIT).max_connecting(50).build().unwrap();
    let callers = on_threads(&pool, 20, |pool, n| {
        ask(&mut *pool.pull().unwrap(), &n.to_string()).unwrap()
    });
    eventually("all of them wait", || pool.stats().waiting == 20);
    eventually("some of them connect", || gate.waiting() == LIMIT);
    assert_eq!(pool.stats().connecting, LIMIT);
    gate.open();
    for (n, caller) in callers.into_iter().enumerate() {
        assert_eq!(caller.join(), n.to_string());
    }
    assert_eq!(line.calls(), LIMIT);
    eventually("all are accepted", || server.accepted() == LIMIT);
}

#[test]
fn the_limit_holds_at_every_instant_whatever_the_callers_do() {
    const LIMIT: usize = 3;
    let peer = Server::echo();
    let line = Line::to(peer.address());
    line.meets(|call| {
        thread::sleep(Duration::from_micros(call as u64 % 7 * 200));
        if call % 11 == 10 {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(())
    });
    let pool = line.builder(LIMIT).max_connecting(50).build().unwrap();
    let held = Arc::new(AtomicUsize::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (pool, over) = (pool.clone(), Arc::clone(&over));
        background(move || {
            while !over.load(SeqCst) {
                let stats = pool.stats();
                assert!(stats.open + stats.connecting <= LIMIT, "{stats}");
                assert_sums(&stats);
            }
        })
    };
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let (pool, held) = (pool.clone(), Arc::clone(&held));
            background(move || {
                for turn in 0..100 {
                    let timeout = Duration::from_micros((caller * 37 + turn * 101) % 3000);
                    let Ok(lease) = pool.pull_timeout(timeout) else {
                        continue;
                    };
                    assert!(held.fetch_add(1, SeqCst) < LIMIT, "too many leases");
                    held.fetch_sub(1, SeqCst);
                    match turn % 5 {
                        0 => Connection::discard(lease),
                        1 => lease.shutdown(std::net::Shutdown::Both).unwrap(),
                        2 => drop(Connection::detach(lease)),
                        _ => drop(lease),
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join();
    }
    over.store(true, SeqCst);
    watcher.join();
    assert!(line.most() <= LIMIT);
    eventually("what was under way is through", || {
        pool.stats().connecting == 0
    });
    expect_room_for(&pool, LIMIT);
}

#[test]
fn lowering_the_limit_closes_idle_connections_least_recently_used_first() {
    let peer = Peer::new();
    let pool = peer.pool(4);
    let leases: Vec<_> = (0..4).map(|_| pool.allocate().unwrap()).collect();
    let ids: Vec<u64> = leases.iter().map(Connection::id).collect();
    drop(leases); // the last one is the most recently used
    pool.set_limit(1);
    let left: Vec<u64> = pool.connections().iter().map(|c| c.id).collect();
    assert_eq!(left, ids[3..]);
    assert_eq!(pool.stats().evicted(Eviction::OverLimit), 3);
    let _lease = pool.allocate().unwrap();
    assert!(pool.allocate().unwrap_err().is_full());
}

#[test]
fn lowering_the_limit_closes_surplus_leases_when_they_come_back() {
    let peer = Peer::new();
    let pool = peer.pool(4);
    let leases: Vec<_> = (0..4).map(|_| pool.allocate().unwrap()).collect();
    pool.set_limit(2);
    assert!(pool.allocate().unwrap_err().is_full());
    let mut open = Vec::new();
    for lease in leases {
        drop(lease);
        open.push(pool.stats().open);
    }
    assert_eq!(open, [3, 2, 2, 2]);
    let _leases = [pool.allocate().unwrap(), pool.allocate().unwrap()];
    assert!(pool.allocate().unwrap_err().is_full());
}

#[test]
fn a_connect_that_arrives_above_a_lowered_limit_is_closed() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let gate = line.held();
    let pool = line.pool(3);
    let callers = [0, 1, 2].map(|_| {
        let pool = pool.clone();
        background(move || pool.pull().map(Connection::detach))
    });
    eventually("all connect", || gate.waiting() == 3);
    pool.set_limit(1);
    gate.open();
    eventually("all are through", || pool.stats().connecting == 0);
    assert_eq!(pool.stats().evicted(Eviction::OverLimit), 2);
    for caller in callers {
        caller.join().unwrap(); // each is detached, which leaves room for the next
    }
    assert_eq!(pool.stats().evicted(Eviction::Detached), 3);
}

#[test]
fn a_new_connection_that_died_is_not_given_to_another_than_it_was_made_for() {
    let peer = Peer::new();
    let gate = Gate::default();
    let handshake = {
        let gate = gate.clone();
        move |stream| {
            gate.pass();
            Ok::<_, io::Error>(stream)
        }
    };
    let pool = peer.builder(1).handshake(handshake).build().unwrap();
    // It is made for a caller that does not wait for it.
    pool.pull_timeout(Duration::from_millis(1)).unwrap_err();
    eventually("the handshake is under way", || gate.waiting() == 1);
    let taker = waiting_thread(&pool, |pool| Connection::id(&pool.pull().unwrap()));
    drop(peer.accept());
    gate.open();
    taker.join();
    let stats = pool.stats();
    assert_eq!(
        (stats.connects, stats.evicted(Eviction::PeerClosed)),
        (2, 1)
    );
}
