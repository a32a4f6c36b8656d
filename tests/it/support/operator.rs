//! What tests of an operator's verbs share.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use jackpot::{Backoff, Freed, Pool};

use super::{Gate, NEVER, Peer, SOON};

/// Sleeps between two tries so long that nobody can owe a connection to the next one.
pub(crate) fn hour_long() -> Backoff {
    Backoff::new().min(NEVER).max(NEVER)
}

pub(crate) fn counts(freed: Freed) -> (usize, usize, usize) {
    (freed.kept, freed.closed, freed.doomed)
}

/// Whether the other side has closed: end of file, at the latest in good time.
pub(crate) fn is_closed(end: &mut TcpStream) -> bool {
    end.set_read_timeout(Some(SOON)).unwrap();
    match end.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// A pool whose connects wait at the gate, and how many were begun.
pub(crate) fn gated(peer: &Peer, limit: usize) -> (Pool, Gate, Arc<AtomicUsize>) {
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
