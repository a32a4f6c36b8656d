//! What `allocate` gives and refuses.

use jackpot::Connection;

use crate::support::{Peer, Server, ask};

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
