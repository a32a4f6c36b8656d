//! Edges on which no other room stands; a mutant lived on each of them once.

use std::net::TcpStream;
use std::time::Duration;

use jackpot::{Eviction, Pool};

use crate::support::faults::{Fault, Range};
use crate::support::{NEVER, Peer, assert_left, eventually, shows_resets};

const SHORT: Duration = Duration::from_millis(20);

/// Without reading the clock, as `probe_after` has it, and with a reaper that comes too late.
#[test]
fn one_short_time_among_long_ones_is_kept_between_two_sweeps() {
    let peer = Peer::new();
    let address = peer.address();
    let pool = Pool::builder(move || TcpStream::connect(address))
        .probe_after(NEVER)
        .reap_interval(Some(NEVER))
        .idle_timeout(None)
        .max_lifetime(Some(SHORT))
        .build()
        .unwrap();
    let lease = pool.pull().unwrap();
    eventually("it is too old", || pool.connections()[0].age > SHORT);
    drop(lease);
    assert_left(&pool, Eviction::MaxLifetime);
}

/// More than are evicted under one hold of the lock.
#[test]
fn one_sweep_evicts_all_that_were_idle_too_long_however_many() {
    const MANY: usize = 200;
    let peer = Peer::new();
    let pool = peer
        .builder(MANY)
        .idle_timeout(Some(SHORT))
        .build()
        .unwrap();
    let mut far = Vec::new();
    let mut leases = Vec::new();
    for _ in 0..MANY {
        leases.push(pool.allocate().unwrap());
        far.push(peer.accept());
    }
    drop(leases);
    eventually("all have been idle too long", || {
        pool.connections().iter().all(|c| c.in_state > SHORT)
    });
    assert_eq!(pool.reap(), MANY);
    assert_eq!(pool.stats().evicted(Eviction::IdleTimeout), MANY as u64);
}

/// The bare socket was in the caller's hands, so the pool asks whether it can still send.
#[test]
fn a_reset_of_a_lease_that_was_used_bare_is_no_half_close() {
    if !shows_resets() {
        return;
    }
    let range = Range::new(1, |builder| builder);
    let (lease, mut ends) = range.lease();
    let _ = lease.tcp();
    ends.strike(Fault::Rst);
    drop(lease);
    assert_left(&range.pool, Eviction::SocketError);
}
