//! `free` and the hard close: what leaves, what stays, and who is woken.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use jackpot::{Close, Connection, Eviction, Pool};

use crate::support::operator::{counts, is_closed};
use crate::support::{
    Peer, Server, ask, assert_sums, background, eventually, idle, lease, shutdown_wakes,
    waiting_thread,
};

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
    let waiter = waiting_thread(&pool, |pool| pool.pull());
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
