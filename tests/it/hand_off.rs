//! Whatever frees a connection or a slot serves the oldest waiter.

use std::io;
use std::net::Shutdown;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use jackpot::{Close, Connection, Eviction, Pool, Stream};

use crate::line::{Line, Queue};
use crate::support::{Gate, Peer, eventually, on_thread};

/// Three wait at the limit of one; `give_up` frees the slot, and the oldest waiter connects.
#[track_caller]
fn expect_the_oldest_is_served(pool: &Pool, free_slot: impl FnOnce(Connection)) {
    let lease = pool.allocate().unwrap();
    let id = Connection::id(&lease);
    let queue = Queue::of(pool, 3);
    free_slot(lease);
    let (place, lease) = queue.next();
    assert_eq!(place, 0);
    assert_ne!(Connection::id(&lease), id);
    assert_eq!(pool.stats().waiting, 2);
    drop(lease);
    queue.expect_order(1..3);
}

#[test]
fn a_broken_return_at_the_limit_serves_the_oldest_waiter() {
    let peer = Peer::new();
    let pool = Line::to(peer.address()).pool(1);
    expect_the_oldest_is_served(&pool, |lease| lease.shutdown(Shutdown::Both).unwrap());
    assert_eq!(pool.stats().evicted(Eviction::Broken), 1);
}

#[test]
fn an_unanswered_return_serves_the_oldest_waiter() {
    let peer = Peer::new();
    let pool = Line::to(peer.address()).pool(1);
    expect_the_oldest_is_served(&pool, |mut lease| {
        io::Write::write_all(&mut lease, b"a question").unwrap();
    });
    assert_eq!(pool.stats().evicted(Eviction::Unanswered), 1);
}

#[test]
fn a_discarded_connection_serves_the_oldest_waiter() {
    let peer = Peer::new();
    let pool = Line::to(peer.address()).pool(1);
    expect_the_oldest_is_served(&pool, Connection::discard);
}

#[test]
fn a_detached_connection_serves_the_oldest_waiter() {
    let peer = Peer::new();
    let pool = Line::to(peer.address()).pool(1);
    expect_the_oldest_is_served(&pool, |lease| drop(Connection::detach(lease)));
}

#[test]
fn a_panic_with_a_lease_serves_the_oldest_waiter() {
    let peer = Peer::new();
    let pool = Line::to(peer.address()).pool(1);
    expect_the_oldest_is_served(&pool, |lease| {
        let thread = thread::spawn(move || {
            let _lease = lease;
            panic!("in the middle of a conversation");
        });
        thread.join().unwrap_err();
    });
    assert_eq!(pool.stats().evicted(Eviction::Panicked), 1);
}

#[test]
fn a_failed_recycle_serves_the_oldest_waiter() {
    let peer = Peer::new();
    let first = Mutex::new(true);
    let recycle = move |_: &mut Stream| {
        if std::mem::take(&mut *first.lock().unwrap()) {
            return Err(io::Error::other("spilt"));
        }
        Ok(())
    };
    let line = Line::to(peer.address());
    let pool = line.builder(1).recycle(recycle).build().unwrap();
    expect_the_oldest_is_served(&pool, drop);
    assert_eq!(pool.stats().evicted(Eviction::RecycleFailed), 1);
}

#[test]
fn an_expired_connection_serves_the_oldest_waiter() {
    let peer = Peer::new();
    let pool = Line::to(peer.address())
        .builder(1)
        .max_lifetime(Some(Duration::from_millis(1)))
        .build()
        .unwrap();
    expect_the_oldest_is_served(&pool, |lease| {
        eventually("it is old", || {
            pool.connections()[0].age > Duration::from_millis(1)
        });
        drop(lease);
    });
    assert!(pool.stats().evicted(Eviction::MaxLifetime) >= 1);
}

#[test]
fn a_freed_connection_serves_the_oldest_waiter_when_it_comes_back() {
    let peer = Peer::new();
    let pool = Line::to(peer.address()).pool(1);
    expect_the_oldest_is_served(&pool, |lease| {
        assert_eq!(pool.free(0).doomed, 1);
        assert_eq!(pool.stats().connecting, 0);
        drop(lease);
    });
    assert_eq!(pool.stats().evicted(Eviction::Freed), 1);
}

#[test]
fn a_connection_freed_the_hard_way_serves_the_oldest_waiter_at_once() {
    let peer = Peer::new();
    let pool = Line::to(peer.address()).pool(1);
    let mut cut = None;
    expect_the_oldest_is_served(&pool, |lease| {
        assert_eq!(pool.free_with(0, Close::Hard).closed, 1);
        cut = Some(lease);
    });
    assert_eq!(pool.stats().evicted(Eviction::Freed), 1);
}

#[test]
fn a_connection_that_died_in_the_hand_off_serves_the_oldest_waiter() {
    let peer = Peer::new();
    let pool = Line::to(peer.address()).pool(1);
    expect_the_oldest_is_served(&pool, |lease| {
        drop(peer.accept());
        eventually("the end has arrived", || {
            matches!(lease.tcp().peek(&mut [0]), Ok(0))
        });
        drop(lease);
    });
    assert_eq!(pool.stats().evicted(Eviction::PeerClosed), 1);
}

#[test]
fn a_raised_limit_serves_the_oldest_waiters() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = line.pool(1);
    let first = pool.allocate().unwrap();
    let queue = Queue::of(&pool, 4);
    pool.set_limit(2);
    let (place, second) = queue.next();
    assert_eq!((place, pool.stats().waiting), (0, 3));
    pool.set_limit(3);
    let (place, third) = queue.next();
    assert_eq!((place, pool.stats().waiting), (1, 2));
    drop(first);
    queue.expect_order(2..4);
    drop((second, third));
    assert_eq!(line.calls(), 3);
}

#[test]
fn a_failed_connect_serves_the_oldest_waiter() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let gate = Gate::default();
    let way = gate.clone();
    line.meets(move |call| {
        if call == 0 {
            way.pass();
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(())
    });
    let pool = line.pool(1);
    let caller = on_thread(&pool, |pool| pool.allocate().map(Connection::detach));
    eventually("it connects", || gate.waiting() == 1);
    let queue = Queue::of(&pool, 3);
    gate.open();
    assert!(caller.join().unwrap_err().is_connect());
    queue.expect_order(0..3);
    assert_eq!(line.calls(), 2);
}
