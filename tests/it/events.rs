//! What the pool tells, in which order and on which thread, and that it may be called back.

use std::collections::HashMap;
use std::error::Error as _;
use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Backoff, Close, Connection, Event, Pool, Stats};

use crate::support::{
    Events, Gate, Peer, SOON, Server, background, eventually, in_words, lease, on_thread,
    on_threads, refused,
};

const MILLISECOND: Duration = Duration::from_millis(1);

/// Where a function that the pool calls finds the pool; it keeps the pool until told to forget.
#[derive(Clone, Default)]
pub(crate) struct Way(Arc<Mutex<Option<Pool>>>);

impl Way {
    pub(crate) fn lead_to(&self, pool: &Pool) {
        *self.0.lock().unwrap() = Some(pool.clone());
    }

    pub(crate) fn pool(&self) -> Option<Pool> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn forget(&self) {
        let pool = self.0.lock().unwrap().take();
        drop(pool);
    }

    pub(crate) fn stats(&self) -> Option<Stats> {
        self.pool().map(|pool| pool.stats())
    }
}

#[test]
fn each_kind_of_event_is_told_once_on_the_thread_that_caused_it() {
    let peer = Peer::new();
    let address = peer.address();
    let fails = Arc::new(AtomicBool::new(true));
    let events = Events::default();
    let pool = Pool::builder({
        let fails = Arc::clone(&fails);
        move || {
            if fails.swap(false, SeqCst) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            TcpStream::connect(address)
        }
    })
    .limit(1)
    .leak_after(Some(Duration::ZERO))
    .reap_interval(None)
    .on_event(events.listener())
    .build()
    .unwrap();
    assert!(pool.allocate().is_err());
    eventually("it is told", || events.count("connect failed") == 1);
    let held = pool.pull().unwrap();
    pool.reap();
    let giver = thread::Builder::new().name("giver".into());
    let giver = giver.spawn(move || Connection::discard(held)).unwrap();
    giver.join().unwrap();
    pool.free(3);
    pool.end();

    let us = thread::current().name().unwrap().to_owned();
    let overdue = format!("1 overdue by {us}");
    let told = [
        ("connect failed", "jackpot-connect"),
        ("2 connected", "jackpot-connect"),
        (&overdue.replace('1', "2"), &us),
        ("2 evicted: discarded", "giver"),
        ("freed 0, 0, 0", &us),
        ("ended", &us),
    ];
    assert_eq!(events.all(), told.map(|(event, _)| event));
    for (event, thread) in told {
        assert_eq!(events.teller(event).as_deref(), Some(thread), "{event}");
    }
}

#[test]
fn what_the_pools_own_threads_cause_is_told_on_them() {
    let peer = Peer::new();
    let events = Events::default();
    let pool = peer
        .builder(2)
        .max_connecting(1)
        .reap_interval(Some(MILLISECOND))
        .on_event(events.listener())
        .ping(MILLISECOND, |stream| match stream.ttl()? {
            10 => Err(io::Error::other("no answer")),
            _ => Ok(()),
        })
        .build()
        .unwrap();
    let leases = lease(&pool, 2);
    drop(peer.accept());
    let _alive = peer.accept();
    leases[1].tcp().set_ttl(10).unwrap();
    drop(leases);
    eventually("both are evicted", || events.all().len() == 4);
    let teller = |event: &str| events.teller(event).unwrap();
    assert_eq!(teller("2 evicted: ping failed"), "jackpot-ping");
    assert_eq!(teller("1 evicted: closed by the peer"), "jackpot-reaper");
}

#[test]
fn events_carry_what_happened() {
    let peer = Peer::new();
    let address = peer.address();
    let fails = Arc::new(AtomicBool::new(true));
    let (seen, events) = mpsc::channel();
    let pool = Pool::builder({
        let fails = Arc::clone(&fails);
        move || {
            thread::sleep(MILLISECOND); // the time that a connect takes
            if fails.swap(false, SeqCst) {
                return Err(io::Error::other("no route"));
            }
            TcpStream::connect(address)
        }
    })
    .reap_interval(None)
    .on_event(move |event| {
        let _ = seen.send(match event {
            Event::ConnectFailed { error, took } => {
                assert_eq!(error.source().unwrap().to_string(), "no route");
                *took
            }
            Event::Connected { took, .. } => *took,
            Event::Evicted { age, .. } => *age,
            _ => Duration::ZERO,
        });
    })
    .build()
    .unwrap();
    let started = Instant::now();
    assert!(pool.allocate().is_err());
    let took = events.recv_timeout(SOON).unwrap();
    assert!(took >= MILLISECOND && took <= started.elapsed());
    let started = Instant::now();
    let held = pool.pull().unwrap();
    let pulled = Instant::now();
    let took = events.recv_timeout(SOON).unwrap();
    assert!(took >= MILLISECOND && took <= started.elapsed());
    let held_for = pulled.elapsed();
    drop(held);
    pool.free(0);
    let age = events.recv_timeout(SOON).unwrap();
    assert!(age >= held_for && age <= started.elapsed());
}

#[test]
fn an_eviction_is_not_told_before_the_lease_was_told_overdue() {
    let peer = Peer::new();
    let (events, gate) = (Events::default(), Gate::default());
    let pool = peer
        .builder(1)
        .leak_after(Some(Duration::ZERO))
        .on_event({
            let (events, gate) = (events.clone(), gate.clone());
            move |event| {
                if matches!(event, Event::Overdue { .. }) {
                    gate.pass();
                }
                events.note(event);
            }
        })
        .build()
        .unwrap();
    let held = pool.pull().unwrap();
    let reaping = on_thread(&pool, Pool::reap);
    eventually("the report is under way", || gate.waiting() == 1);
    Connection::discard(held);
    assert_eq!(pool.stats().open, 0, "it does not wait for the report");
    gate.open();
    reaping.join();
    let all = events.all();
    assert!(all[1].starts_with("1 overdue"), "{all:?}");
    assert_eq!(all[2..], ["1 evicted: discarded"]);
}

#[test]
fn of_two_reports_at_once_each_comes_before_the_eviction() {
    let peer = Peer::new();
    let (first, second) = (Gate::default(), Gate::default());
    let (events, told) = (Events::default(), AtomicUsize::new(0));
    let pool = peer
        .builder(2)
        .leak_after(Some(Duration::ZERO))
        .on_event({
            let (events, first, second) = (events.clone(), first.clone(), second.clone());
            move |event| {
                if matches!(event, Event::Overdue { .. }) {
                    match told.fetch_add(1, SeqCst) {
                        0 => first.pass(),
                        1 => second.pass(),
                        _ => {}
                    }
                }
                events.note(event);
            }
        })
        .build()
        .unwrap();
    let sweep = || {
        let pool = pool.clone();
        background(move || pool.reap())
    };
    let mut leases = lease(&pool, 2);
    drop(leases.remove(0));
    let one = sweep(); // reports the lease of number 2
    eventually("one reports", || first.waiting() == 1);
    drop(leases);
    let mut leases = lease(&pool, 2);
    let two = sweep(); // reports number 1, then number 2 again
    eventually("the other reports", || second.waiting() == 1);
    first.open();
    one.join();
    Connection::discard(leases.remove(1));
    second.open();
    two.join();
    let all: Vec<String> = events
        .all()
        .into_iter()
        .filter(|event| event.starts_with('2'))
        .map(|event| event.split(' ').nth(1).unwrap().to_owned())
        .collect();
    assert_eq!(all, ["connected", "overdue", "overdue", "evicted:"]);
}

#[test]
fn events_of_one_connection_keep_their_order_under_load() {
    let server = Server::echo();
    let events = Events::default();
    let pool = server
        .builder(4)
        .leak_after(Some(Duration::ZERO))
        .reap_interval(Some(MILLISECOND))
        .backoff(
            Backoff::new()
                .min(MILLISECOND)
                .max(MILLISECOND)
                .retries(100_000),
        )
        .on_event(events.listener())
        .build()
        .unwrap();
    let workers = on_threads(&pool, 8, |pool, worker| {
        for round in 0..60 {
            let connection = pool.pull().unwrap();
            if round % 20 == worker {
                thread::sleep(MILLISECOND); // a request that takes a while
            }
            if round % 3 == 0 {
                Connection::discard(connection);
            } else {
                drop(connection);
            }
            if round % 20 == 0 {
                pool.free_with(1, Close::Hard);
            }
        }
    });
    for worker in workers {
        worker.join();
    }
    pool.end();
    assert!(pool.drain(SOON));
    let stats = pool.stats();
    let told = |kind: &str| {
        let all = events.all();
        all.iter().filter(|event| event.contains(kind)).count() as u64
    };
    eventually("all is told", || told("evicted") == stats.releases);
    assert_eq!(told("connected"), stats.connects);

    let mut by_connection: HashMap<String, Vec<String>> = HashMap::new();
    for event in events.all() {
        if let Some((id, what)) = event
            .split_once(' ')
            .filter(|_| event.starts_with(char::is_numeric))
        {
            by_connection
                .entry(id.to_owned())
                .or_default()
                .push(what.to_owned());
        }
    }
    for (id, story) in by_connection {
        let last = story.len() - 1;
        for (n, event) in story.iter().enumerate() {
            assert_eq!(event == "connected", n == 0, "{id}: {story:?}");
            assert_eq!(event.starts_with("evicted"), n == last, "{id}: {story:?}");
        }
    }
}

/// Makes every kind of event happen in a pool whose event function is given.
fn let_everything_happen(f: impl Fn(&Event, &Way) + Send + Sync + 'static) -> Pool {
    let peer = Peer::new();
    let (good, bad) = (peer.address(), refused());
    let (way, fails) = (Way::default(), Arc::new(AtomicBool::new(true)));
    let pool = Pool::builder({
        let fails = Arc::clone(&fails);
        move || TcpStream::connect(if fails.swap(false, SeqCst) { bad } else { good })
    })
    .limit(3)
    .leak_after(Some(Duration::ZERO))
    .reap_interval(None)
    .on_event({
        let way = way.clone();
        move |event| f(event, &way)
    })
    .build()
    .unwrap();
    way.lead_to(&pool);
    let work = on_thread(&pool, |pool| {
        let _ = pool.allocate();
        let leases: Vec<_> = (0..3).filter_map(|_| pool.pull().ok()).collect();
        pool.reap();
        for (n, lease) in leases.into_iter().enumerate() {
            if n == 0 {
                Connection::discard(lease);
            }
        }
        pool.free(1);
        pool.set_limit(1);
        pool.end();
    });
    work.join();
    way.forget();
    assert!(pool.is_ended() && pool.drain(SOON));
    pool
}

#[test]
fn an_event_function_may_call_the_pool() {
    let kinds = Arc::new(Mutex::new(Vec::new()));
    let_everything_happen({
        let kinds = Arc::clone(&kinds);
        move |event, way| {
            let words = in_words(event);
            let kind = words.trim_start_matches(|c: char| c.is_numeric() || c == ' ');
            kinds
                .lock()
                .unwrap()
                .push(kind.split([' ', ':']).next().unwrap().to_owned());
            let pool = way.pool().unwrap();
            assert!(pool.stats().open <= 3 && pool.connections().len() <= 3);
            drop(pool.pull_timeout(Duration::ZERO));
            let limit = pool.limit();
            pool.set_limit(limit);
            let backoff = pool.backoff();
            pool.set_backoff(backoff).unwrap();
            let _ = (
                format!("{pool:?}"),
                pool.is_ended(),
                pool.drain(Duration::ZERO),
            );
            if !matches!(event, Event::Freed(_)) {
                pool.free(100);
                pool.reap();
            }
        }
    });
    for kind in [
        "connect",
        "connected",
        "evicted",
        "overdue",
        "freed",
        "ended",
    ] {
        // A failed connect is told on its thread, behind the caller's answer.
        eventually(kind, || {
            kinds.lock().unwrap().iter().any(|seen| seen == kind)
        });
    }
}

#[test]
fn an_event_function_may_end_the_pool() {
    for kind in [
        "connect failed",
        "connected",
        "evicted",
        "overdue",
        "freed",
        "ended",
    ] {
        let endings = Arc::new(AtomicUsize::new(0));
        let pool = let_everything_happen({
            let endings = Arc::clone(&endings);
            move |event, way| {
                let words = in_words(event);
                endings.fetch_add(usize::from(words == "ended"), SeqCst);
                if words.contains(kind) {
                    way.pool().unwrap().end_with(Close::Hard);
                }
            }
        });
        eventually(kind, || endings.load(SeqCst) == 1);
        let stats = pool.stats();
        assert_eq!((stats.open, stats.connecting), (0, 0), "{kind}");
    }
}

#[test]
fn the_last_handle_may_be_dropped_in_an_event_function() {
    let peer = Peer::new();
    let way = Way::default();
    let pool = peer
        .builder(1)
        .on_event({
            let way = way.clone();
            move |event| {
                if matches!(event, Event::Evicted { .. }) {
                    way.forget();
                }
            }
        })
        .build()
        .unwrap();
    way.lead_to(&pool);
    let held = pool.pull().unwrap();
    drop(pool);
    background(move || Connection::discard(held)).join();
    assert!(way.pool().is_none());
}
