//! What a handshake leaves on the socket is what each lease starts with.

use std::io;
use std::time::{Duration, Instant};

use jackpot::{Builder, Connection, Stream};

use crate::support::{Peer, SOON, assert_back};

const SECOND: Duration = Duration::from_secs(1);

/// What a lease sees: both time-outs, no-delay and TTL.
type Seen = (Option<Duration>, Option<Duration>, bool, u32);

fn seen(stream: &Stream) -> Seen {
    let read = stream.read_timeout().unwrap();
    let write = stream.write_timeout().unwrap();
    let nodelay = stream.nodelay().unwrap();
    (read, write, nodelay, stream.ttl().unwrap())
}

/// A handshake that sets options in either way.
fn shake_hands(stream: Stream) -> io::Result<Stream> {
    stream.set_read_timeout(Some(3 * SECOND))?;
    stream.tcp().set_write_timeout(Some(4 * SECOND))?;
    stream.set_nodelay(true)?;
    stream.set_ttl(21)?;
    Ok(stream)
}

/// What the first lease and the one after a caller's own changes see.
fn check(settings: impl FnOnce(Builder) -> Builder, expected: Seen) {
    let peer = Peer::new();
    let builder = settings(peer.builder(1)).handshake(shake_hands);
    let pool = builder.build().unwrap();
    for _ in 0..2 {
        let lease = pool.pull().unwrap();
        assert_eq!(seen(&lease), expected);
        lease.set_read_timeout(Some(SECOND)).unwrap();
        lease.set_write_timeout(None).unwrap();
        lease.set_nodelay(false).unwrap();
        lease.set_ttl(9).unwrap();
    }
    assert_eq!(seen(&pool.pull().unwrap()), expected);
    assert_back(&pool);
}

#[test]
fn a_read_timeout_set_in_the_handshake_is_not_undone() {
    check(|b| b, (Some(3 * SECOND), Some(4 * SECOND), true, 21));
}

#[test]
fn the_builders_timeouts_come_after_the_handshake() {
    let both = |b: Builder| b.read_timeout(Some(5 * SECOND)).write_timeout(None);
    check(both, (Some(5 * SECOND), None, true, 21));
    let one = |b: Builder| b.read_timeout(None);
    check(one, (None, Some(4 * SECOND), true, 21));
}

#[test]
#[cfg(all(unix, not(jackpot_switching)))]
fn a_mode_set_in_the_handshake_is_not_undone() {
    let peer = Peer::new();
    let pool = peer
        .builder(1)
        .handshake(|stream| stream.set_nonblocking(true).map(|()| stream))
        .build()
        .unwrap();
    let is_nonblocking = |stream: &Stream| socket2::SockRef::from(stream).nonblocking().unwrap();
    let lease = pool.pull().unwrap();
    assert!(is_nonblocking(&lease));
    lease.set_nonblocking(false).unwrap();
    drop(lease);
    assert!(is_nonblocking(&pool.pull().unwrap()));
    assert_back(&pool);
}

/// A deadline is for one conversation, and so is what it made of the time-outs.
#[test]
fn a_deadline_set_in_the_handshake_ends_with_it() {
    let peer = Peer::new();
    let pool = peer
        .builder(1)
        .handshake(|stream| {
            stream.set_read_timeout(Some(30 * SECOND))?;
            stream.set_deadline(Some(Instant::now() + SOON))?;
            io::Write::write_all(&mut &stream, b"hello")?;
            stream.set_nonblocking(true)?; // so that the read need not wait
            let _ = io::Read::read(&mut &stream, &mut [0; 1]);
            stream.set_nonblocking(false)?;
            let _ = stream.set_read_timeout(Some(29 * SECOND));
            Ok::<_, io::Error>(stream)
        })
        .build()
        .unwrap();
    let lease = pool.pull().unwrap();
    assert_eq!(lease.deadline(), None);
    assert_eq!(lease.tcp().read_timeout().unwrap(), Some(29 * SECOND));
    assert_eq!(lease.tcp().write_timeout().unwrap(), None);
    Connection::discard(lease);
}
