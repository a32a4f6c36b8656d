//! Functions of the user's that panic: nothing is lost, and the message is kept.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use jackpot::{Backoff, Builder, Close, Connection, Error, Event, Eviction, Pool, Stream};

use crate::support::{
    Gate, Peer, assert_sums, background, eventually, lease, one_retry, overhear, panic_quietly,
    reset,
};

const MILLISECOND: Duration = Duration::from_millis(1);

fn no_retries() -> Backoff {
    Backoff::new().retries(0)
}

/// All of an error's texts, from the outside in.
fn texts(error: &dyn std::error::Error) -> String {
    let mut all = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        all = format!("{all}: {error}");
        next = error.source();
    }
    all
}

/// Nothing is outstanding, and the pool gives as many connections as it may.
#[track_caller]
fn assert_whole<C: Send + 'static>(pool: &Pool<C>) {
    eventually("nothing is outstanding", || {
        let stats = pool.stats();
        stats.leased + stats.connecting + stats.waiting == 0
    });
    let all: Vec<_> = (0..pool.limit())
        .map(|_| pool.pull_timeout(crate::support::SOON).unwrap())
        .collect();
    assert!(pool.allocate().unwrap_err().is_full());
    assert_sums(&pool.stats());
    drop(all);
}

#[test]
fn a_factory_that_panics_is_a_failed_connect() {
    let peer = Peer::new();
    let address = peer.address();
    let (calls, failures) = (AtomicUsize::new(0), Arc::new(Mutex::new(Vec::new())));
    let pool = Pool::builder(move || match calls.fetch_add(1, SeqCst) {
        0 => panic!("no {} today", "luck"),
        1 => panic!("none at all"),
        2 => panic_any(7),
        _ => TcpStream::connect(address),
    })
    .limit(1)
    .backoff(no_retries())
    .reap_interval(None)
    .on_event({
        let failures = Arc::clone(&failures);
        move |event| {
            if let Event::ConnectFailed { error, .. } = event {
                failures.lock().unwrap().push(texts(&**error));
            }
        }
    })
    .build()
    .unwrap();
    eventually("it works in the end", || match pool.pull() {
        Ok(_) => true,
        Err(error) => {
            let told = texts(&error);
            assert!(told.contains("the factory panicked: no"), "{told}");
            assert!(error.is_connect() && error.io_error().is_some());
            false
        }
    });
    let told = ["no luck today", "none at all", "no message"]
        .map(|message| format!("connect failed: the factory panicked: {message}"));
    eventually("all is told", || *failures.lock().unwrap() == told);
    assert_eq!(pool.stats().connect_failures, 3);
    assert_whole(&pool);
}

#[test]
fn a_factory_that_panics_fails_every_caller_that_waits_for_it() {
    let pool = Pool::builder(|| panic!("out of order"))
        .limit(6)
        .backoff(one_retry())
        .build()
        .unwrap();
    let pullers: Vec<_> = (0..6)
        .map(|_| {
            let pool = pool.clone();
            background(move || pool.pull())
        })
        .collect();
    for puller in pullers {
        let error = puller.join().unwrap_err();
        assert!(texts(&error).contains("out of order"), "{}", texts(&error));
    }
    eventually("nothing is under way", || pool.stats().connecting == 0);
}

#[test]
fn a_handshake_that_panics_is_a_failed_connect() {
    let peer = Peer::new();
    let shaky = Arc::new(AtomicBool::new(true));
    let pool = peer
        .builder(2)
        .backoff(no_retries())
        .handshake({
            let shaky = Arc::clone(&shaky);
            move |stream| {
                assert!(!shaky.load(SeqCst), "cold feet");
                Ok::<_, io::Error>(stream)
            }
        })
        .build()
        .unwrap();
    let error = pool.allocate().unwrap_err();
    assert!(matches!(error, Error::Handshake(_)) && error.is_connect());
    assert!(texts(&error).contains("cold feet"), "{}", texts(&error));
    assert_eq!(pool.stats().connect_failures, 1);
    shaky.store(false, SeqCst);
    eventually("it works again", || pool.pull().is_ok());
    assert_whole(&pool);
}

#[test]
fn a_ping_that_panics_closes_the_connection_and_is_not_the_last_ping() {
    let peer = Peer::new();
    let pings = Arc::new(AtomicUsize::new(0));
    let pool = peer
        .builder(2)
        .ping(MILLISECOND, {
            let pings = Arc::clone(&pings);
            move |_| {
                assert!(pings.fetch_add(1, SeqCst) > 0, "wrong tone");
                Ok::<_, io::Error>(())
            }
        })
        .build()
        .unwrap();
    drop(lease(&pool, 2));
    eventually("the other one is pinged", || {
        pool.reap();
        pings.load(SeqCst) >= 3
    });
    let stats = pool.stats();
    assert_eq!((stats.open, stats.evicted(Eviction::PingFailed)), (1, 1));
    assert_whole(&pool);
}

#[test]
fn a_recycle_that_panics_closes_the_connection_and_serves_a_waiter() {
    let peer = Peer::new();
    let clean = Arc::new(AtomicBool::new(false));
    let pool = peer
        .builder(1)
        .recycle({
            let clean = Arc::clone(&clean);
            move |_| {
                assert!(clean.load(SeqCst), "spilled");
                Ok::<_, io::Error>(())
            }
        })
        .build()
        .unwrap();
    let held = pool.pull().unwrap();
    let waiter = background({
        let pool = pool.clone();
        move || pool.pull()
    });
    eventually("somebody waits", || pool.stats().waiting == 1);
    drop(held);
    let connection = waiter.join().unwrap();
    assert_eq!(Connection::id(&connection), 2);
    assert_eq!(pool.stats().evicted(Eviction::RecycleFailed), 1);
    clean.store(true, SeqCst);
    drop(connection);
    assert_eq!(pool.stats().idle, 1);
    assert_whole(&pool);
}

#[test]
fn an_event_function_that_panics_disturbs_nobody() {
    let peer = Peer::new();
    let events = Arc::new(AtomicUsize::new(0));
    let pool = peer
        .builder(2)
        .leak_after(Some(Duration::ZERO))
        .reap_interval(Some(MILLISECOND))
        .on_event({
            let events = Arc::clone(&events);
            move |_| {
                events.fetch_add(1, SeqCst);
                panic!("bad news");
            }
        })
        .build()
        .unwrap();
    let told = || events.load(SeqCst);
    let held = pool.pull().unwrap();
    eventually("connected and overdue", || told() == 2);
    Connection::discard(held);
    eventually("evicted", || told() == 3);
    pool.free(0);
    assert_eq!(told(), 4);
    drop(pool.pull().unwrap());
    drop((peer.accept(), peer.accept()));
    eventually("the reaper lives", || {
        pool.stats().evicted(Eviction::PeerClosed) == 1
    });
    assert_whole(&pool);
    let before = told();
    pool.end();
    assert!(told() > before);
    assert!(pool.is_ended());
}

#[test]
fn an_event_functions_panic_is_in_the_log() {
    let peer = Peer::new();
    let pool = peer
        .builder(1)
        .on_event(|_| panic!("bad news"))
        .build()
        .unwrap();
    let (seen, records) = std::sync::mpsc::channel();
    overhear(move |record| {
        let _ = seen.send((record.level(), record.args().to_string()));
    });
    pool.end();
    assert!(
        records
            .try_iter()
            .any(|(level, text)| { level == log::Level::Error && text.contains("bad news") })
    );
}

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
    let waiter = background({
        let pool = pool.clone();
        move || pool.pull().map(|connection| Connection::id(&connection))
    });
    eventually("somebody waits", || pool.stats().waiting == 1);
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
fn a_thread_that_panics_while_finishing_closes_its_connection() {
    struct FinishOnDrop(Option<Connection>);

    impl Drop for FinishOnDrop {
        fn drop(&mut self) {
            Connection::finish(self.0.take().unwrap());
        }
    }

    let peer = Peer::new();
    let pool = peer.pool(1);
    let connection = pool.pull().unwrap();
    let panicking = thread::spawn(move || {
        let _guard = FinishOnDrop(Some(connection));
        panic!("too early");
    });
    assert!(panicking.join().is_err());
    assert_eq!(pool.stats().evicted(Eviction::Panicked), 1);
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
    let failing = background({
        let pool = pool.clone();
        move || pool.allocate().map(drop)
    });
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
    let puller = background({
        let pool = pool.clone();
        move || pool.pull().map(drop)
    });
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

#[test]
fn a_recycle_whose_error_or_panic_is_a_trap_loses_no_place() {
    let peer = Peer::new();
    let traps: [fn() -> Result<(), BadNews>; 3] = [
        || Err(BadNews::Unspeakable),
        || Err(BadNews::Sticky),
        || panic_any(BadNews::Sticky),
    ];
    for trap in traps {
        let pool = peer.builder(1).recycle(move |_| trap()).build().unwrap();
        drop(pool.pull().unwrap());
        assert_eq!(pool.stats().evicted(Eviction::RecycleFailed), 1);
        assert_whole(&pool);
    }
}

#[test]
fn a_ping_whose_error_or_panic_is_a_trap_closes_the_connection() {
    let peer = Peer::new();
    let traps: [fn() -> Result<(), BadNews>; 3] = [
        || Err(BadNews::Unspeakable),
        || Err(BadNews::Sticky),
        || panic_any(BadNews::Sticky),
    ];
    for trap in traps {
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

#[test]
fn a_logger_that_panics_takes_nothing_with_it() {
    let peer = Peer::new();
    let address = peer.address();
    let panicking = || overhear(|_| panic_quietly());
    let pool = Pool::builder(move || {
        panicking();
        TcpStream::connect(address)
    })
    .limit(2)
    .reap_interval(None)
    .recycle(|stream| match stream.ttl()? {
        10 => Err(io::Error::other("used up")),
        _ => Ok(()),
    })
    .build()
    .unwrap();
    panicking();
    drop(pool.pull().unwrap());
    reset(peer.accept());
    eventually("it is reset", || pool.connections()[0].peer.is_none());
    // Found dead, which is logged, while the caller is on its way to another one.
    let lease = pool.pull().unwrap();
    assert_eq!(pool.stats().connects, 2);
    lease.set_ttl(10).unwrap();
    drop(lease);
    drop(pool.pull().unwrap());
    pool.free(0);
    pool.end();
    let stats = pool.stats();
    assert_eq!((stats.leased, stats.waiting, stats.open), (0, 0, 0));
    assert_sums(&stats);
}
