//! A lease in a thread-local, whose destructor runs when the thread's panic is over.

use std::cell::RefCell;
use std::io::Write;
use std::thread;

use jackpot::{Connection, Eviction, Pool};

use crate::support::{Peer, assert_back, assert_left, panic_quietly};

thread_local! {
    static LEASE: RefCell<Option<Connection>> = const { RefCell::new(None) };
}

/// Pulls a lease into a thread-local of a thread that panics.
fn panic_with(pool: &Pool, using: fn(&mut Connection)) {
    let pool = pool.clone();
    let panicked = thread::spawn(move || {
        let mut lease = pool.pull().unwrap();
        using(&mut lease);
        LEASE.set(Some(lease));
        panic_quietly()
    });
    assert!(panicked.join().is_err());
}

#[test]
fn a_lease_in_a_thread_local_is_judged_by_what_was_done_to_it() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    panic_with(&pool, |lease| lease.write_all(b"half a requ").unwrap());
    assert_left(&pool, Eviction::Unanswered);
}

/// The panic itself cannot be seen any more: `only_finished` is for this.
#[test]
fn with_only_finished_a_lease_in_a_thread_local_is_closed() {
    let peer = Peer::new();
    let pool = peer.builder(1).only_finished(true).build().unwrap();
    panic_with(&pool, |_| {});
    assert_left(&pool, Eviction::Unfinished);

    let pool = peer.pool(1);
    panic_with(&pool, |_| {});
    assert_back(&pool);
}
