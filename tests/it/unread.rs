//! Bytes in the socket that nobody asked for.

use std::io::{Read, Write};
use std::time::Duration;

use jackpot::{Connection, Eviction};

use crate::support::leases::{one_lease, one_lease_with};
use crate::support::{Peer, assert_back, assert_closed, assert_left, eventually, waiting_thread};

#[test]
fn unread_bytes_close_at_the_next_probe() {
    let (pool, mut lease, mut far) = one_lease();
    lease.write_all(b"?").unwrap();
    far.write_all(b"!!").unwrap();
    lease.read_exact(&mut [0; 1]).unwrap();
    drop(lease);
    assert_back(&pool); // nobody has probed it yet
    let error = pool.pull_timeout(Duration::ZERO).unwrap_err();
    assert!(error.is_timeout());
    assert_left(&pool, Eviction::Unread);
    assert_closed(&mut far);
}

#[test]
fn unread_bytes_close_at_the_next_sweep() {
    let (pool, mut lease, mut far) = one_lease();
    far.write_all(b"!!").unwrap();
    lease.read_exact(&mut [0; 1]).unwrap();
    Connection::finish(lease);
    assert_back(&pool);
    assert_eq!(pool.reap(), 1);
    assert_left(&pool, Eviction::Unread);
}

#[test]
fn unread_bytes_are_not_handed_to_a_caller_who_waits() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    let mut first = pool.allocate().unwrap();
    let dirty = Connection::id(&first);
    let mut far = peer.accept();
    let second = waiting_thread(&pool, |pool| Connection::id(&pool.pull().unwrap()));
    far.write_all(b"!!").unwrap();
    first.read_exact(&mut [0; 1]).unwrap();
    drop(first);
    assert_ne!(second.join(), dirty);
    assert_eq!(pool.stats().evicted(Eviction::Unread), 1);
}

#[test]
fn with_allow_unread_a_server_may_speak_first() {
    let (pool, lease, mut far) = one_lease_with(|b| b.allow_unread(true));
    let id = Connection::id(&lease);
    drop(lease);
    far.write_all(b"news").unwrap();
    eventually("the news are there", || {
        let lease = pool.allocate().unwrap();
        lease.set_nonblocking(true).unwrap();
        lease.peek(&mut [0; 4]).is_ok()
    });
    assert_eq!(pool.reap(), 0);
    let mut lease = pool.allocate().unwrap();
    assert_eq!(Connection::id(&lease), id);
    let mut news = [0; 4];
    lease.read_exact(&mut news).unwrap();
    assert_eq!(&news, b"news");
    drop(lease);
    assert_back(&pool);
}

#[test]
fn with_allow_unread_a_request_without_an_answer_is_closed_all_the_same() {
    let (pool, mut lease, _far) = one_lease_with(|b| b.allow_unread(true));
    lease.write_all(b"?").unwrap();
    drop(lease);
    assert_left(&pool, Eviction::Unanswered);
}
