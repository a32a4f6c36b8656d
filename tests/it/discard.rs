//! `discard` and `detach`: leases that never come back.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;

use jackpot::{Close, Connection, Eviction};

use crate::support::leases::{DOOMS, one_lease};
use crate::support::{Peer, assert_closed, assert_left};

#[test]
fn what_is_discarded_is_closed_and_its_slot_is_free() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    Connection::discard(pool.allocate().unwrap());
    assert_left(&pool, Eviction::Discarded);
    assert_closed(&mut peer.accept());
    assert!(pool.allocate().is_ok());
}

#[test]
fn what_is_detached_lives_on_outside_the_pool() {
    let peer = Peer::new();
    let pool = peer
        .builder(1)
        .handshake(|stream| Ok::<_, io::Error>(BufReader::new(stream)))
        .build()
        .unwrap();
    let mut lines = Connection::detach(pool.allocate().unwrap());
    let mut far = peer.accept();
    assert_left(&pool, Eviction::Detached);
    let next = pool.allocate().unwrap();
    pool.free_with(0, Close::Hard);
    pool.end_with(Close::Hard);
    drop(next);
    drop(pool);
    lines.get_mut().write_all(b"?").unwrap();
    far.read_exact(&mut [0; 1]).unwrap();
    far.write_all(b"still here\n").unwrap();
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "still here\n");
    drop(lines);
    assert_closed(&mut far);
}

#[test]
fn a_broken_or_doomed_lease_can_still_be_discarded_or_detached() {
    for (_, doom) in DOOMS {
        let (pool, lease, _far) = one_lease();
        doom(&pool);
        Connection::discard(lease);
        assert_left(&pool, Eviction::Discarded);

        let (pool, lease, mut far) = one_lease();
        doom(&pool);
        lease.shutdown(Shutdown::Read).unwrap();
        let mut stream = Connection::detach(lease);
        assert_left(&pool, Eviction::Detached);
        stream.write_all(b"?").unwrap();
        far.read_exact(&mut [0; 1]).unwrap();
    }
}
