//! Functions of the user's that panic: nothing is lost, and the message is kept.

mod destructors;

use std::io;
use std::net::{Shutdown, TcpStream};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jackpot::{Backoff, Builder, Close, Connection, Error, Event, Eviction, Pool, Stream};

use crate::support::{
    Gate, Peer, assert_sums, eventually, lease, on_threads, one_retry, overhear, panic_quietly,
    reset, waiting_thread,
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
    let pullers = on_threads(&pool, 6, |pool, _| pool.pull());
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
    let waiter = waiting_thread(&pool, |pool| pool.pull());
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
