//! What `allocate` gives and refuses.

use std::io;
use std::time::Duration;

use jackpot::{Connection, Eviction};

use crate::support::{Gate, Peer, Server, ask, background, eventually};

#[test]
fn the_newest_idle_connection_is_reused_first() {
    let peer = Peer::new();
    let pool = peer.pool(5);
    let (a, b) = (pool.allocate().unwrap(), pool.allocate().unwrap());
    let (first, second) = (Connection::id(&a), Connection::id(&b));
    drop(b);
    drop(a);
    let again = pool.allocate().unwrap();
    assert_eq!(Connection::id(&again), first);
    assert_eq!(Connection::id(&pool.allocate().unwrap()), second);
}

#[test]
fn a_conversation_that_is_over_goes_back() {
    let server = Server::echo();
    let address = server.address();
    let pool = jackpot::Pool::new(1, move || std::net::TcpStream::connect(address)).unwrap();
    for n in 0..10 {
        let mut connection = pool.pull().unwrap();
        let line = format!("request {n}");
        assert_eq!(ask(&mut *connection, &line).unwrap(), line);
    }
    let stats = pool.stats();
    assert_eq!((stats.connects, stats.allocations), (1, 10));
}

#[test]
fn a_new_connection_that_died_is_not_given_to_another_than_it_was_made_for() {
    let peer = Peer::new();
    let gate = Gate::default();
    let handshake = {
        let gate = gate.clone();
        move |stream| {
            gate.pass();
            Ok::<_, io::Error>(stream)
        }
    };
    let pool = peer.builder(1).handshake(handshake).build().unwrap();
    // It is made for a caller that does not wait for it.
    pool.pull_timeout(Duration::from_millis(1)).unwrap_err();
    eventually("the handshake is under way", || gate.waiting() == 1);
    let other = pool.clone();
    let taker = background(move || Connection::id(&other.pull().unwrap()));
    eventually("another caller waits", || pool.stats().waiting == 1);
    drop(peer.accept());
    gate.open();
    taker.join();
    let stats = pool.stats();
    assert_eq!(
        (stats.connects, stats.evicted(Eviction::PeerClosed)),
        (2, 1)
    );
}
