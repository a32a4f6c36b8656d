//! Ways out of a pool whose connects are stuck, and waiters that an error must not send away.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use jackpot::{Backoff, Close, Connection, Error, Event, Eviction, Pool};

use crate::line::Line;
use crate::support::{
    Background, Peer, SOON, Server, assert_sums, background, eventually, shutdown_wakes,
};

#[test]
fn stuck_connects_of_a_replaced_factory_do_not_keep_others_from_connecting() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let gate = line.held();
    let pool = line.builder(10).max_connecting(4).build().unwrap();
    for _ in 0..4 {
        let error = pool.pull_timeout(Duration::from_millis(1)).unwrap_err();
        assert!(error.is_timeout(), "{error}");
    }
    let callers: Vec<_> = (0..4).map(|_| pulling(&pool)).collect();
    eventually("four connects hang", || gate.waiting() == 4);
    pool.set_factory(Line::to(peer.address()).factory());
    let leases: Vec<Connection> = callers.into_iter().map(|c| c.join().unwrap()).collect();
    let more = pool.allocate().unwrap();
    let stats = pool.stats();
    assert_eq!((stats.leased, stats.connecting), (5, 4));
    assert!(!pool.drain(Duration::ZERO), "leases and connects are out");

    gate.open();
    eventually("what came late was closed", || {
        pool.stats().evicted(Eviction::Freed) == 4
    });
    drop((leases, more));
    assert!(pool.drain(SOON));
    let stats = pool.stats();
    assert_eq!((stats.idle, stats.connects), (5, 9));
    assert_sums(&stats);
}

fn pulling<C: Send + 'static>(pool: &Pool<C>) -> Background<Result<Connection<C>, Error>> {
    let pool = pool.clone();
    background(move || pool.pull())
}

/// A pool whose handshake reads a byte.
fn greeted(address: SocketAddr, limit: usize) -> Pool {
    Pool::builder(move || TcpStream::connect(address))
        .handshake(|mut stream| stream.read_exact(&mut [0]).map(|()| stream))
        .limit(limit)
        .reap_interval(None)
        .build()
        .unwrap()
}

/// A pool at whose limit handshakes hang.
fn stuck(peer: &Peer, limit: usize) -> (Pool, Vec<TcpStream>) {
    let pool = greeted(peer.address(), limit);
    for _ in 0..limit {
        pulling(&pool);
    }
    let far = (0..limit).map(|_| peer.accept()).collect();
    eventually("all hang", || pool.stats().connecting == limit);
    (pool, far)
}

fn greeter() -> Server {
    Server::serving(|mut socket| {
        let _ = socket.write_all(b"!");
        let _ = socket.read(&mut [0]);
    })
}

#[test]
fn a_hard_close_cuts_handshakes_that_hang_at_the_limit() {
    if !shutdown_wakes() {
        return;
    }
    let (peer, server) = (Peer::new(), greeter());
    let (pool, mut far) = stuck(&peer, 3);
    let address = server.address();
    pool.set_factory(move || TcpStream::connect(address));
    assert_eq!(pool.stats().connecting, 3, "their places are theirs");
    let freed = pool.free_with(0, Close::Hard);
    assert_eq!((freed.kept, freed.closed, freed.doomed), (0, 0, 0));
    for far in &mut far {
        far.set_read_timeout(Some(SOON)).unwrap();
        assert_eq!(far.read(&mut [0]).unwrap(), 0, "it was cut");
    }
    // Those who waited at first and have gone home.
    eventually("everybody was served", || {
        let stats = pool.stats();
        stats.allocations >= 3 && stats.connecting == 0
    });
    assert!(pool.pull_timeout(SOON).is_ok());
    assert_eq!(pool.stats().connect_failures, 3);
}

#[test]
fn a_hard_close_cuts_connects_through_the_factory_in_use_too_and_opens_no_breaker() {
    let peer = Peer::new();
    let (pool, far) = stuck(&peer, 1);
    pool.free_with(0, Close::Hard);
    let mut next = peer.accept();
    next.write_all(b"!").unwrap();
    eventually("its waiter was served by another", || {
        pool.stats().allocations == 1
    });
    drop(far);
    assert!(pool.pull_timeout(SOON).is_ok());
}

#[test]
fn a_hard_close_that_is_to_keep_some_leaves_their_connects_alone() {
    let peer = Peer::new();
    let (pool, mut far) = stuck(&peer, 2);
    pool.free_with(2, Close::Hard);
    assert_eq!(pool.stats().connecting, 2);
    for far in &mut far {
        far.write_all(b"!").unwrap();
    }
    eventually("both were served", || pool.stats().allocations == 2);
    assert_eq!(pool.stats().connect_failures, 0);
}

#[test]
fn a_hard_end_cuts_handshakes_that_hang_and_drain_sees_them() {
    let peer = Peer::new();
    let (pool, _far) = stuck(&peer, 2);
    pool.end();
    assert!(!pool.drain(Duration::from_millis(20)), "two are under way");
    pool.end_with(Close::Hard);
    assert!(pool.drain(SOON));
    assert_eq!(pool.stats().connecting, 0);
}

/// The first connect succeeds; what the others meet no waiting cures.
fn refused_for_good(peer: &Peer) -> Pool {
    let (address, calls) = (peer.address(), AtomicUsize::new(0));
    Pool::builder(move || match calls.fetch_add(1, SeqCst) {
        0 => TcpStream::connect(address),
        _ => Err(ErrorKind::InvalidInput.into()),
    })
    .limit(2)
    .reap_interval(None)
    .backoff(
        Backoff::new()
            .retries(5)
            .min(Duration::from_secs(60))
            .max(Duration::from_secs(60)),
    )
    .build()
    .unwrap()
}

#[test]
fn no_error_ends_the_wait_of_a_caller_that_a_lease_can_still_serve() {
    let peer = Peer::new();
    let pool = refused_for_good(&peer);
    let lease = pool.allocate().unwrap();
    // Which of the two is first in line is open, so each gives its lease back by itself.
    let pull_and_drop = || {
        let pool = pool.clone();
        background(move || pool.pull().map(drop))
    };
    let waiters = [pull_and_drop(), pull_and_drop()];
    eventually("they know of the error", || {
        pool.stats().connect_failures > 0 && pool.stats().waiting == 2
    });
    assert!(pool.allocate().unwrap_err().is_connect());
    drop(lease);
    for waiter in waiters {
        waiter.join().unwrap();
    }
}

#[test]
fn an_error_for_good_ends_all_waits_once_no_lease_can_serve_them() {
    let peer = Peer::new();
    let pool = refused_for_good(&peer);
    let lease = pool.allocate().unwrap();
    let waiters = [pulling(&pool), pulling(&pool)];
    eventually("they wait for the lease", || {
        pool.stats().connect_failures > 0 && pool.stats().waiting == 2
    });
    Connection::discard(lease);
    for waiter in waiters {
        let error = waiter.join().unwrap_err();
        assert_eq!(error.io_error().unwrap().kind(), ErrorKind::InvalidInput);
    }
}

/// What the pool's functions captured; its destructor panics.
struct Trap(Arc<AtomicUsize>);

impl Drop for Trap {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
        panic!("blown");
    }
}

#[test]
fn what_functions_captured_panics_in_its_destructor_and_not_in_the_last_lease() {
    let peer = Peer::new();
    let blown = Arc::<AtomicUsize>::default();
    let trap = || Trap(Arc::clone(&blown));
    let traps = [trap(), trap(), trap(), trap(), trap()];
    let [factory, handshake, ping, recycle, listener] = traps;
    let address = peer.address();
    let pool = Pool::builder(move || {
        let _ = &factory;
        TcpStream::connect(address)
    })
    .handshake(move |stream| {
        let _ = &handshake;
        Ok::<_, Error>(stream)
    })
    .ping(Duration::from_secs(60), move |_| {
        let _ = &ping;
        Ok::<_, Error>(())
    })
    .recycle(move |_| {
        let _ = &recycle;
        Ok::<_, Error>(())
    })
    .on_event(move |_: &Event| {
        let _ = &listener;
    })
    .reap_interval(None)
    .build()
    .unwrap();
    let lease = pool.pull().unwrap();
    drop(pool);
    drop(lease); // the last handle on all of it
    eventually("all were dropped", || blown.load(SeqCst) == 5);
}
