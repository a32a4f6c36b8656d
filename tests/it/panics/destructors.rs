//! Destructors that panic: of clients, factories and errors.

use super::*;
use crate::support::{on_thread, waiting_thread};

/// A client whose destructor panics, each time that one is dropped.
struct Grenade {
    stream: Stream,
    thrown: Arc<AtomicUsize>,
}

impl Drop for Grenade {
    fn drop(&mut self) {
        self.thrown.fetch_add(1, SeqCst);
        panic!("boom");
    }
}

impl Deref for Grenade {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.stream
    }
}

impl DerefMut for Grenade {
    fn deref_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }
}

/// A pool of clients that panic when they are dropped, and how many were.
fn armed(peer: &Peer, limit: usize) -> (Pool<Grenade>, Arc<AtomicUsize>) {
    armed_with(peer.builder(limit).max_connecting(1), |_| Ok(()))
}

/// The same with these settings, and with what each handshake does to its socket at last.
fn armed_with(
    builder: Builder,
    spoil: impl Fn(&Stream) -> io::Result<()> + Send + Sync + 'static,
) -> (Pool<Grenade>, Arc<AtomicUsize>) {
    let thrown = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&thrown);
    let shake_hands = move |stream: Stream| {
        spoil(&stream)?;
        let thrown = Arc::clone(&counter);
        Ok::<_, io::Error>(Grenade { stream, thrown })
    };
    let pool = builder.handshake(shake_hands).build().unwrap();
    (pool, thrown)
}

#[test]
fn a_clients_destructor_that_panics_is_survived_wherever_it_runs() {
    let peer = Peer::new();
    let (pool, thrown) = armed(&peer, 5);
    let mut leases = lease(&pool, 5);
    Connection::discard(leases.pop().unwrap());
    leases.pop().unwrap().shutdown(Shutdown::Both).unwrap();
    let all_thrown = |count| eventually("it is dropped", || thrown.load(SeqCst) == count);
    all_thrown(2);
    pool.free_with(2, Close::Hard);
    drop(leases.pop());
    all_thrown(3); // an aborted one
    drop(leases);
    drop(peer.accept());
    eventually("a sweep", || pool.reap() == 1);
    all_thrown(4);
    pool.free(0);
    all_thrown(5);
    assert_whole(&pool);
    pool.end();
    let stats = pool.stats();
    assert_eq!(stats.open, 0);
    all_thrown(usize::try_from(stats.releases).unwrap());
}

#[test]
fn a_panicking_lease_with_a_panicking_client_and_listener_frees_its_place() {
    let peer = Peer::new();
    let builder = peer.builder(1).on_event(|_| panic!("bad news"));
    let (pool, thrown) = armed_with(builder, |_| Ok(()));
    let held = pool.pull().unwrap();
    let waiter = waiting_thread(&pool, |pool| {
        pool.pull().map(|connection| Connection::id(&connection))
    });
    let caught = catch_unwind(AssertUnwindSafe(move || {
        let _held = held;
        panic!("in the middle of a request");
    }));
    let message = *caught.unwrap_err().downcast::<&str>().unwrap();
    assert_eq!(message, "in the middle of a request");
    assert_eq!(waiter.join().unwrap(), 2);
    assert_eq!(pool.stats().evicted(Eviction::Panicked), 1);
    eventually("the destructor has panicked", || thrown.load(SeqCst) == 1);
    assert_whole(&pool);
}

#[test]
fn a_destructor_that_panics_while_a_connect_fails_loses_no_place() {
    let peer = Peer::new();
    let broken = AtomicUsize::new(0);
    let (pool, thrown) = armed_with(peer.builder(1), move |stream| {
        match broken.fetch_add(1, SeqCst) {
            0 => stream.shutdown(Shutdown::Both),
            _ => Ok(()),
        }
    });
    let failing = on_thread(&pool, |pool| pool.allocate().map(drop));
    let error = failing.join().unwrap_err();
    assert!(matches!(error, Error::Handshake(_)), "{error}");
    // The caller gets its answer first; the thread that connected closes behind it.
    eventually("the destructor has panicked", || thrown.load(SeqCst) == 1);
    assert_whole(&pool);
}

#[test]
fn a_factory_whose_destructor_panics_loses_no_place() {
    struct Fuse(Arc<AtomicUsize>);

    impl Drop for Fuse {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
            panic!("blown");
        }
    }

    let peer = Peer::new();
    let address = peer.address();
    let (gate, blown) = (Gate::default(), Arc::new(AtomicUsize::new(0)));
    let pool = Pool::builder({
        let (gate, fuse) = (gate.clone(), Fuse(Arc::clone(&blown)));
        move || {
            let _fuse = &fuse;
            gate.pass();
            TcpStream::connect(address)
        }
    })
    .limit(1)
    .reap_interval(None)
    .build()
    .unwrap();
    let puller = on_thread(&pool, |pool| pool.pull().map(drop));
    eventually("the factory is in use", || gate.waiting() == 1);
    pool.set_factory(move || TcpStream::connect(address));
    assert_eq!(blown.load(SeqCst), 0);
    gate.open();
    puller.join().unwrap();
    assert_eq!(blown.load(SeqCst), 1);
    assert_eq!(pool.stats().connect_failures, 0);
    assert_whole(&pool);
}

#[test]
fn an_idle_factory_whose_destructor_panics_can_be_replaced() {
    struct Fuse;

    impl Drop for Fuse {
        fn drop(&mut self) {
            panic!("blown");
        }
    }

    let peer = Peer::new();
    let address = peer.address();
    let fuse = Fuse;
    let pool = Pool::new(1, move || {
        let _fuse = &fuse;
        TcpStream::connect(address)
    })
    .unwrap();
    pool.set_factory(move || TcpStream::connect(address));
    assert_whole(&pool);
}

/// An error that cannot be shown, or cannot be dropped.
#[derive(Debug)]
enum BadNews {
    Unspeakable,
    Sticky,
}

impl std::fmt::Display for BadNews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        assert!(matches!(self, Self::Sticky), "unspeakable");
        f.write_str("sticky")
    }
}

impl std::error::Error for BadNews {}

impl Drop for BadNews {
    fn drop(&mut self) {
        assert!(matches!(self, Self::Unspeakable), "sticky");
    }
}

const TRAPS: [fn() -> Result<(), BadNews>; 3] = [
    || Err(BadNews::Unspeakable),
    || Err(BadNews::Sticky),
    || panic_any(BadNews::Sticky),
];

#[test]
fn a_recycle_whose_error_or_panic_is_a_trap_loses_no_place() {
    let peer = Peer::new();
    for trap in TRAPS {
        let pool = peer.builder(1).recycle(move |_| trap()).build().unwrap();
        drop(pool.pull().unwrap());
        assert_eq!(pool.stats().evicted(Eviction::RecycleFailed), 1);
        assert_whole(&pool);
    }
}

#[test]
fn a_ping_whose_error_or_panic_is_a_trap_closes_the_connection() {
    let peer = Peer::new();
    for trap in TRAPS {
        let pool = peer
            .builder(1)
            .ping(Duration::from_nanos(1), move |_| trap())
            .build()
            .unwrap();
        drop(pool.pull().unwrap());
        eventually("pinged in vain", || {
            pool.reap();
            pool.stats().evicted(Eviction::PingFailed) == 1
        });
        assert_whole(&pool);
    }
}
