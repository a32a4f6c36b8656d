//! Destructors of what the user gave us: they may panic, and they may call back into the pool.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::thread;

use jackpot::{Factory, Pool};

use crate::support::{Gate, Peer, background, eventually, on_thread};

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
    let caller = on_thread(&pool, |pool| pool.allocate().map(drop));
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
    let caller = on_thread(&pool, |pool| pool.allocate().map(drop));
    let error = caller.join().unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    let source = StdError::source(&error).unwrap().to_string();
    assert!(source.contains("broken in use"), "{source}");
    // On a slow machine the pool has begun to try again by itself.
    eventually("the slot is vacant", || pool.stats().connecting == 0);
}

/// An error whose destructor asks the pool, as one that owns a session may.
#[derive(Debug)]
struct Asking(Arc<Asked>);

#[derive(Debug, Default)]
struct Asked {
    pool: OnceLock<Pool>,
    count: AtomicUsize,
}

impl fmt::Display for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("asking")
    }
}

impl StdError for Asking {}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(pool) = self.0.pool.get() {
            let _ = pool.stats();
            self.0.count.fetch_add(1, SeqCst);
        }
    }
}

#[test]
fn a_connect_error_is_dropped_outside_the_lock() {
    let asked: Arc<Asked> = Arc::default();
    let failing = {
        let asked = Arc::clone(&asked);
        move || Err(io::Error::other(Asking(Arc::clone(&asked))))
    };
    let pool = Pool::new(1, failing).unwrap();
    asked.pool.set(pool.clone()).unwrap();
    let caller = on_thread(&pool, |pool| pool.allocate().map(drop));
    assert!(caller.join().unwrap_err().is_connect());
    let peer = Peer::new();
    let address = peer.address();
    let change = background(move || {
        pool.set_factory(move || TcpStream::connect(address));
        pool.end();
    });
    change.join();
    eventually("the error is dropped", || asked.count.load(SeqCst) == 1);
}
