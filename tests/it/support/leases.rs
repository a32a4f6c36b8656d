//! A pool with one lease out, and what can befall that.

use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;

use jackpot::{Builder, Connection, Eviction, Pool, Stream};

use super::Peer;

/// The one lease of a pool with these settings, and the other end of its socket.
pub(crate) fn one_lease_with<C: Send + 'static>(
    settings: impl FnOnce(Builder) -> Builder<C>,
) -> (Pool<C>, Connection<C>, TcpStream) {
    let peer = Peer::new();
    let pool = settings(peer.builder(1)).build().unwrap();
    let lease = pool.allocate().unwrap();
    (pool, lease, peer.accept())
}

pub(crate) fn one_lease() -> (Pool, Connection, TcpStream) {
    one_lease_with(|builder| builder)
}

/// Writes until no more fits.
pub(crate) fn stall(mut stream: &Stream) -> ErrorKind {
    let much = vec![b'.'; 65536];
    loop {
        if let Err(error) = stream.write(&much) {
            return error.kind();
        }
    }
}

/// Whether a read failed because nothing came.
pub(crate) fn came_to_nothing(result: &io::Result<usize>) -> bool {
    result
        .as_ref()
        .is_err_and(|e| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

/// What dooms a lease that is out, whatever its caller does.
pub(crate) type Doom = fn(&Pool);

pub(crate) const DOOMS: [(Eviction, Doom); 3] = [
    (Eviction::Ended, |pool| pool.end()),
    (Eviction::Freed, |pool| {
        pool.free(0);
    }),
    (Eviction::OverLimit, |pool| pool.set_limit(0)),
];
