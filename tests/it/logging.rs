//! What the log says, and that a logger may ask the pool.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use jackpot::{Backoff, Close, Connection, Eviction, Pool};
use log::Level;

use crate::events::Way;
use crate::support::{
    NEVER, Peer, background, eventually, lease, on_threads, overhear, refused, reset, reset_cause,
    shows_resets,
};

const MILLISECOND: Duration = Duration::from_millis(1);

type Records = Receiver<(Level, String, String)>;

/// An ear that remembers, for as many threads as like.
fn recorder() -> (impl Fn() + Clone + Send + Sync + 'static, Records) {
    let (seen, records) = mpsc::channel();
    let listen = move || {
        let seen = seen.clone();
        overhear(move |record| {
            let text = record.args().to_string();
            let _ = seen.send((record.level(), record.target().to_owned(), text));
        });
    };
    (listen, records)
}

#[test]
fn the_log_says_debug_for_life_and_warn_for_what_an_operator_should_see() {
    let peer = Peer::new();
    let (good, bad) = (peer.address(), refused());
    let (listen, records) = recorder();
    let fails = Arc::new(AtomicBool::new(true));
    listen();
    let pool = Pool::builder({
        let listen = listen.clone();
        move || {
            listen();
            TcpStream::connect(if fails.swap(false, SeqCst) { bad } else { good })
        }
    })
    .leak_after(Some(Duration::ZERO))
    .reap_interval(None)
    .build()
    .unwrap();
    assert!(pool.allocate().is_err());
    let held = pool.pull().unwrap();
    pool.reap();
    Connection::discard(held);
    pool.free(0);
    pool.end();

    let records = {
        let mut told = Vec::new();
        // The failed connect is told on its thread, behind the caller's answer.
        eventually("all is told", || {
            told.extend(records.try_iter());
            told.len() >= 6
        });
        told
    };
    let us = thread::current().name().unwrap().to_owned();
    for (level, parts) in [
        (
            Level::Warn,
            &["connect failed after", ": connect failed: ", "refused"][..],
        ),
        (Level::Debug, &["connection 2 made in"]),
        (Level::Warn, &["connection 2 has been leased for", &us]),
        (Level::Debug, &["connection 2 left after", "discarded"]),
        (Level::Debug, &["freed: 0 kept, 0 closed, 0 doomed"]),
        (Level::Debug, &["the pool has ended"]),
    ] {
        let found = records.iter().filter(|(seen, _, text)| {
            *seen == level && parts.iter().all(|part| text.contains(part))
        });
        assert_eq!(found.count(), 1, "{parts:?} in {records:?}");
    }
    assert!(records.iter().all(|(_, target, _)| target == "jackpot"));
    assert_eq!(records.len(), 6, "{records:?}");
}

#[test]
fn a_logger_may_ask_the_pool() {
    let peer = Peer::new();
    let address = peer.address();
    let (way, told) = (Way::default(), Arc::new(Mutex::new(Vec::new())));
    let listen = {
        let (way, told) = (way.clone(), Arc::clone(&told));
        move || {
            let (way, told) = (way.clone(), Arc::clone(&told));
            overhear(move |record| {
                let stats = way.stats();
                told.lock()
                    .unwrap()
                    .push((record.args().to_string(), stats.is_some()));
            });
        }
    };
    let fails = AtomicBool::new(true);
    let pool = Pool::builder({
        let listen = listen.clone();
        move || {
            listen();
            if fails.swap(false, SeqCst) {
                return Err(io::Error::other("not yet"));
            }
            TcpStream::connect(address)
        }
    })
    .leak_after(Some(Duration::ZERO))
    .max_connecting(1)
    .reap_interval(None)
    .ping(MILLISECOND, {
        let listen = listen.clone();
        move |stream| {
            listen();
            match stream.ttl()? {
                20 => Err(io::Error::other("no answer")),
                _ => Ok(()),
            }
        }
    })
    .recycle(|stream| match stream.ttl()? {
        10 => Err(io::Error::other("used up")),
        _ => Ok(()),
    })
    .on_event(|_| panic!("bad news"))
    .build()
    .unwrap();
    way.lead_to(&pool);
    background(move || {
        listen();
        assert!(pool.allocate().is_err());
        drop(pool.pull().unwrap());
        let mut leases = lease(&pool, 3);
        pool.reap();
        leases[0].tcp().set_ttl(10).unwrap();
        drop(leases.remove(0));
        reset(peer.accept());
        reset(peer.accept());
        drop(leases.remove(0));
        eventually("a sweep finds the reset", || {
            pool.reap();
            pool.stats().evicted(reset_cause(false)) == 1
        });
        pool.free_with(0, Close::Hard);
        drop(leases);
        let held = pool.pull().unwrap();
        held.tcp().set_ttl(20).unwrap();
        drop(held);
        eventually("a ping fails", || {
            pool.reap();
            pool.stats().evicted(Eviction::PingFailed) == 1
        });
        pool.end();
    })
    .join();
    way.forget();
    let told = told.lock().unwrap();
    let probe_found = if shows_resets() {
        "probe found"
    } else {
        "left after"
    };
    for part in [
        probe_found,
        "connect failed",
        "made in",
        "has been leased",
        "recycle failed",
        "left after",
        "freed",
        "ping failed",
        "has ended",
        "the event function panicked",
    ] {
        let asked = |(text, asked): &(String, bool)| text.contains(part) && *asked;
        assert!(told.iter().any(asked), "{part} in {told:?}");
    }
}

/// An error whose destructor wants to know how the pool is.
struct Nosy {
    way: Way,
    gone: Arc<AtomicUsize>,
}

impl Drop for Nosy {
    fn drop(&mut self) {
        let _ = self.way.stats();
        self.gone.fetch_add(1, SeqCst);
    }
}

impl fmt::Debug for Nosy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nosy")
    }
}

impl fmt::Display for Nosy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nosy")
    }
}

impl std::error::Error for Nosy {}

#[test]
fn the_destructor_of_a_connect_error_may_ask_the_pool() {
    let peer = Peer::new();
    let address = peer.address();
    let (way, gone) = (Way::default(), Arc::new(AtomicUsize::new(0)));
    let left = Arc::new(AtomicUsize::new(5));
    let pool = Pool::builder({
        let (way, gone, left) = (way.clone(), Arc::clone(&gone), Arc::clone(&left));
        move || {
            let fails = left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
            if fails.is_ok() {
                let (way, gone) = (way.clone(), Arc::clone(&gone));
                return Err(io::Error::other(Nosy { way, gone }));
            }
            TcpStream::connect(address)
        }
    })
    .limit(1)
    .reap_interval(None)
    .backoff(
        Backoff::new()
            .min(MILLISECOND)
            .max(MILLISECOND)
            .retries(100_000),
    )
    .build()
    .unwrap();
    way.lead_to(&pool);
    background(move || {
        while left.load(SeqCst) > 2 {
            let _ = pool.allocate();
        }
        // Several wait, and some have been told of a failure when they are served.
        let pullers = on_threads(&pool, 4, |pool, _| pool.pull().map(drop));
        for puller in pullers {
            puller.join().unwrap();
        }
        let held = pool.pull().unwrap();
        for _ in 0..20 {
            assert!(pool.pull_timeout(MILLISECOND).is_err());
        }
        drop(held);
        eventually("all errors are gone", || gone.load(SeqCst) == 5);
        drop(pool.pull_timeout(NEVER).unwrap());
    })
    .join();
    way.forget();
}
