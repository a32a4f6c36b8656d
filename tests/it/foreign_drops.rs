//! Destructors of what the user gave us may panic.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

use jackpot::{Factory, Pool};

use crate::support::{Gate, Peer, background, eventually};

/// A factory that waits at a gate, and whose destructor panics.
struct Fragile {
    address: SocketAddr,
    gate: Gate,
}

impl Factory for Fragile {
    fn connect(&self) -> io::Result<TcpStream> {
        self.gate.pass();
        TcpStream::connect(self.address)
    }
}

impl Drop for Fragile {
    fn drop(&mut self) {
        panic!("the factory's destructor");
    }
}

#[test]
fn a_factory_whose_destructor_panics_takes_no_slot_with_it() {
    let peer = Peer::new();
    let (address, gate) = (peer.address(), Gate::default());
    let fragile = Fragile {
        address,
        gate: gate.clone(),
    };
    let pool = Pool::new(1, fragile).unwrap();
    let caller = background({
        let pool = pool.clone();
        move || pool.allocate().map(drop)
    });
    eventually("the factory is at work", || gate.waiting() == 1);
    pool.set_factory(move || TcpStream::connect(address)); // the thread has the last handle now
    gate.open();
    caller.join().unwrap();
    assert_eq!(pool.stats().idle, 1);
}

/// A client whose destructor panics.
struct FragileClient;

impl Drop for FragileClient {
    fn drop(&mut self) {
        assert!(thread::panicking(), "the client's destructor");
    }
}

#[test]
fn a_client_whose_destructor_panics_after_its_handshake_takes_no_slot_with_it() {
    let peer = Peer::new();
    let address = peer.address();
    let pool = Pool::builder(move || TcpStream::connect(address))
        .limit(1)
        .handshake(|stream| stream.shutdown(Shutdown::Both).map(|()| FragileClient))
        .build()
        .unwrap();
    let caller = background({
        let pool = pool.clone();
        move || pool.allocate().map(drop)
    });
    let error = caller.join().unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("broken in use"), "{source}");
    // On a slow machine the pool has begun to try again by itself.
    eventually("the slot is vacant", || pool.stats().connecting == 0);
}
