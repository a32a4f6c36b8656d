//! What a sweep evicts, refills, pings and reports, and the threads that do it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Builder, Close, Connection, Event, Eviction, Pool};

use crate::support::{
    Background, Events, Gate, Peer, Server, ask, assert_sums, background, eventually, idle, lease,
    reset, reset_cause, shutdown_wakes,
};

const NEVER: Duration = Duration::from_secs(3600);
const TICK: Duration = Duration::from_millis(1);

#[test]
fn what_is_idle_too_long_leaves_least_recently_used_first_down_to_min_idle() {
    let peer = Peer::new();
    let events = Events::default();
    let pool = peer
        .builder(5)
        .min_idle(2)
        .idle_timeout(Some(Duration::ZERO))
        .on_event(events.listener())
        .build()
        .unwrap();
    eventually("min_idle is filled", || pool.stats().idle == 2);
    let mut leases = lease(&pool, 4);
    for index in [2, 0, 1, 0] {
        drop(leases.remove(index)); // numbers 3, 1, 4, 2
    }

    assert_eq!(pool.reap(), 2);
    let evicted: Vec<String> = events.all().into_iter().skip(4).collect();
    assert_eq!(
        evicted,
        ["3 evicted: idle too long", "1 evicted: idle too long"]
    );
    for _ in 0..20 {
        assert_eq!(pool.reap(), 0, "min_idle is not churned");
    }
    assert_eq!(idle(&pool), [2, 4]);
    assert_eq!((pool.stats().connects, pool.stats().connecting), (4, 0));
}

#[test]
fn what_was_used_within_the_idle_timeout_stays() {
    let peer = Peer::new();
    let pool = peer.builder(2).idle_timeout(Some(NEVER)).build().unwrap();
    drop(lease(&pool, 2));
    assert_eq!(pool.reap(), 0);
    assert_eq!(pool.stats().idle, 2);
}

#[test]
fn min_idle_is_filled_from_build_on_and_made_up_for_by_a_sweep() {
    let peer = Peer::new();
    let pool = peer.builder(4).min_idle(3).build().unwrap();
    eventually("min_idle is filled", || pool.stats().idle == 3);
    assert_eq!(pool.stats().connects, 3);

    for lease in lease(&pool, 2) {
        Connection::discard(lease);
    }
    assert_eq!((pool.stats().idle, pool.stats().connecting), (1, 0));
    pool.reap();
    eventually("the sweep refills it", || pool.stats().idle == 3);
    for _ in 0..20 {
        pool.reap();
    }
    assert_eq!((pool.stats().connects, pool.stats().connecting), (5, 0));
    assert_sums(&pool.stats());
}

#[test]
fn min_idle_keeps_to_the_limit() {
    let peer = Peer::new();
    let pool = peer.builder(3).min_idle(3).build().unwrap();
    eventually("min_idle is filled", || pool.stats().idle == 3);
    pool.set_limit(2);
    pool.reap();
    let leases = lease(&pool, 2);
    pool.reap();
    let stats = pool.stats();
    assert_eq!((stats.open, stats.connecting, stats.connects), (2, 0, 3));
    drop(leases);
}

#[test]
fn a_refill_that_failed_is_tried_again_by_a_later_sweep() {
    let peer = Peer::new();
    let address = peer.address();
    let works = Arc::new(AtomicBool::new(false));
    let pool = Pool::builder({
        let works = Arc::clone(&works);
        move || {
            if works.load(SeqCst) {
                TcpStream::connect(address)
            } else {
                Err(io::ErrorKind::ConnectionRefused.into())
            }
        }
    })
    .min_idle(2)
    .max_connecting(1)
    .reap_interval(None)
    .build()
    .unwrap();
    eventually("the first one fails", || {
        pool.stats().connect_failures == 1 && pool.stats().connecting == 0
    });
    works.store(true, SeqCst);
    eventually("sweeps make up for it", || {
        pool.reap();
        pool.stats().idle == 2
    });
}

#[test]
fn a_lifetime_never_ends_within_a_lease() {
    let server = Server::echo();
    let address = server.address();
    let pool = Pool::builder(move || TcpStream::connect(address))
        .max_lifetime(Some(Duration::ZERO))
        .reap_interval(None)
        .build()
        .unwrap();
    let mut connection = pool.pull().unwrap();
    for _ in 0..10 {
        assert_eq!(pool.reap(), 0);
        assert_eq!(ask(&mut *connection, "still there").unwrap(), "still there");
    }
    drop(connection);
    assert_eq!(pool.stats().evicted(Eviction::MaxLifetime), 1);
    assert_eq!(pool.stats().open, 0);
}

#[test]
fn what_grew_too_old_while_idle_is_evicted_by_a_sweep() {
    let peer = Peer::new();
    let pool = peer
        .builder(1)
        .max_lifetime(Some(Duration::from_millis(200)))
        .build()
        .unwrap();
    drop(pool.pull().unwrap());
    eventually("its time is over", || {
        pool.reap();
        pool.stats().evicted(Eviction::MaxLifetime) == 1
    });
    assert_eq!(pool.stats().open, 0);
}

/// Lets connections that were made together grow old; their ages when they left, and how many
/// sweeps it took to evict them.
fn ages_at_the_end_of(lifetime: Duration) -> (Vec<Duration>, usize) {
    let peer = Peer::new();
    let ages = Arc::new(Mutex::new(Vec::new()));
    let pool = peer
        .builder(30)
        .max_lifetime(Some(lifetime))
        .on_event({
            let ages = Arc::clone(&ages);
            move |event| {
                if let Event::Evicted { age, .. } = event {
                    ages.lock().unwrap().push(*age);
                }
            }
        })
        .build()
        .unwrap();
    drop(lease(&pool, 30));
    let mut sweeps = 0;
    eventually("all are too old", || {
        sweeps += usize::from(pool.reap() > 0);
        pool.stats().open == 0
    });
    let ages = std::mem::take(&mut *ages.lock().unwrap());
    (ages, sweeps)
}

#[test]
fn each_lifetime_is_drawn_from_the_last_tenth_of_the_setting() {
    let lifetime = Duration::from_millis(600);
    // A machine that stalls may sweep late, but no sweep can find a connection too old too early.
    let spread = (0..10).any(|_| {
        let (ages, sweeps) = ages_at_the_end_of(lifetime);
        assert_eq!(ages.len(), 30);
        assert!(ages.iter().all(|&age| age >= lifetime / 10 * 9), "{ages:?}");
        sweeps >= 5 && ages.iter().any(|&age| age < lifetime)
    });
    assert!(spread, "connections made together end together");
}

/// A pool to which a lease of at least this long has just come back.
///
/// Where a lease's end is not worth a look at the clock, its beginning may stand for it: but not
/// beside a time-out that is no longer than the lease.
fn after_a_lease_of(long: Duration, settings: impl FnOnce(Builder) -> Builder) -> (Peer, Pool) {
    let peer = Peer::new();
    let address = peer.address();
    let builder = Pool::builder(move || TcpStream::connect(address)).probe_after(NEVER);
    let pool = settings(builder).build().unwrap();
    let lease = pool.pull().unwrap();
    thread::sleep(long);
    drop(lease);
    (peer, pool)
}

#[test]
fn a_lease_longer_than_a_short_idle_timeout_does_not_count_as_idle() {
    let short = Duration::from_millis(200);
    let (_peer, pool) = after_a_lease_of(short, |b| b.idle_timeout(Some(short)));
    let returned = Instant::now();
    let evicted = pool.reap();
    assert!(evicted == 0 || returned.elapsed() >= short);
}

#[test]
fn with_probe_after_too_a_connection_leaves_when_its_short_life_is_over() {
    let short = Duration::from_millis(20);
    let (_peer, pool) = after_a_lease_of(short, |b| b.max_lifetime(Some(short)));
    assert_eq!(pool.stats().evicted(Eviction::MaxLifetime), 1);
}

/// Where a probe switches the blocking mode (`--cfg jackpot_switching`, Windows), it must not meet
/// a ping that does.
#[test]
fn sweeps_beside_pings_that_change_the_blocking_mode_never_block() {
    let peer = Peer::new();
    let pool = peer
        .builder(8)
        .min_idle(8)
        .ping(TICK / 1000, |stream| stream.set_nonblocking(true))
        .build()
        .unwrap();
    let _far: Vec<TcpStream> = (0..8).map(|_| peer.accept()).collect();
    let begun = Instant::now();
    let sweepers: Vec<_> = (0..3)
        .map(|_| {
            let pool = pool.clone();
            background(move || {
                while begun.elapsed() < Duration::from_secs(1) {
                    assert_eq!(pool.reap(), 0);
                }
            })
        })
        .collect();
    sweepers.into_iter().for_each(Background::join);
}

#[test]
fn a_sweep_finds_every_kind_of_dead_connection() {
    let peer = Peer::new();
    let address = peer.address();
    let copies = Arc::new(Mutex::new(Vec::new()));
    let pool = Pool::builder({
        let copies = Arc::clone(&copies);
        move || {
            let socket = TcpStream::connect(address)?;
            copies.lock().unwrap().push(socket.try_clone()?);
            Ok(socket)
        }
    })
    .max_connecting(1)
    .reap_interval(None)
    .build()
    .unwrap();
    drop(lease(&pool, 5));
    let mut ends: Vec<TcpStream> = (0..5).map(|_| peer.accept()).collect();
    let _healthy = ends.pop();
    ends[2].write_all(b"?").unwrap();
    copies.lock().unwrap()[3].shutdown(Shutdown::Write).unwrap();
    reset(ends.remove(1));
    drop(ends.remove(0));

    let causes = [
        Eviction::PeerClosed,
        reset_cause(false),
        Eviction::Unread,
        Eviction::HalfClosed,
    ];
    eventually("all four are evicted", || {
        pool.reap();
        let times = |why| causes.iter().filter(|&&cause| cause == why).count() as u64;
        let stats = pool.stats();
        causes.iter().all(|&why| stats.evicted(why) == times(why))
    });
    assert_eq!(idle(&pool), [5]);
    assert_sums(&pool.stats());
}

#[test]
fn the_reaper_sweeps_without_being_asked() {
    let peer = Peer::new();
    let pool = peer.builder(1).reap_interval(Some(TICK)).build().unwrap();
    drop(pool.pull().unwrap());
    drop(peer.accept());
    eventually("the dead one is evicted", || pool.stats().open == 0);
    assert_eq!(pool.stats().evicted(Eviction::PeerClosed), 1);
}

#[test]
fn a_dead_connection_that_a_caller_finds_has_all_the_others_swept() {
    let peer = Peer::new();
    let pool = peer
        .builder(5)
        .max_connecting(1)
        .reap_interval(Some(NEVER))
        .build()
        .unwrap();
    drop(lease(&pool, 5));
    for _ in 0..3 {
        drop(peer.accept());
    }
    let _alive = peer.accept();
    drop(peer.accept());
    let connection = pool.pull().unwrap();
    assert_eq!(Connection::id(&connection), 4, "after the dead number 5");
    eventually("the others are evicted", || {
        pool.stats().evicted(Eviction::PeerClosed) == 4
    });
    assert_eq!(pool.stats().open, 1);
}

#[test]
fn sweeps_never_make_the_pool_look_full() {
    let peer = Peer::new();
    let pool = peer.builder(1).build().unwrap();
    drop(pool.pull().unwrap());
    let (sweeps, stop) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let reaping = background({
        let (pool, sweeps, stop) = (pool.clone(), Arc::clone(&sweeps), Arc::clone(&stop));
        move || {
            while !stop.load(SeqCst) {
                pool.reap();
                sweeps.fetch_add(1, SeqCst);
            }
        }
    });
    eventually("both have done enough", || {
        for _ in 0..500 {
            drop(pool.allocate().expect("a sweep does not take connections"));
        }
        sweeps.load(SeqCst) > 1000
    });
    stop.store(true, SeqCst);
    reaping.join();
    assert_eq!(pool.stats().connects, 1);
}

#[test]
fn pings_run_one_at_a_time_on_a_thread_of_their_own() {
    let peer = Peer::new();
    let gate = Gate::default();
    let names = Arc::new(Mutex::new(Vec::new()));
    let pool = peer
        .builder(3)
        .ping(TICK, {
            let (gate, names) = (gate.clone(), Arc::clone(&names));
            move |_| {
                let name = thread::current().name().map(str::to_owned);
                names.lock().unwrap().push(name);
                gate.pass();
                Ok::<_, io::Error>(())
            }
        })
        .build()
        .unwrap();
    drop(lease(&pool, 3));
    eventually("they are due", || {
        pool.reap();
        gate.waiting() > 0
    });
    for _ in 0..20 {
        pool.reap();
    }
    assert_eq!(gate.waiting(), 1);
    assert_eq!((pool.stats().leased, pool.stats().idle), (1, 2));
    gate.open();
    eventually("each was pinged", || {
        pool.connections().iter().all(|c| c.leases == 2) && pool.stats().idle == 3
    });
    assert!(
        names
            .lock()
            .unwrap()
            .iter()
            .all(|name| name.as_deref() == Some("jackpot-ping"))
    );
    assert_eq!(pool.stats().allocations, 3);
}

#[test]
fn what_was_used_a_moment_ago_is_not_pinged() {
    let peer = Peer::new();
    let pool = peer
        .builder(2)
        .ping(NEVER, |_| Err::<(), _>("nobody asked"))
        .build()
        .unwrap();
    drop(lease(&pool, 2));
    for _ in 0..20 {
        pool.reap();
    }
    assert_eq!(idle(&pool), [1, 2]);
    assert!(pool.connections().iter().all(|c| c.leases == 1));
}

#[test]
fn a_ping_that_ends_serves_the_oldest_waiter_and_no_other_ping() {
    let peer = Peer::new();
    let gate = Gate::default();
    let pings = Arc::new(AtomicUsize::new(0));
    let pool = peer
        .builder(1)
        .ping(TICK, {
            let (gate, pings) = (gate.clone(), Arc::clone(&pings));
            move |_| {
                pings.fetch_add(1, SeqCst);
                gate.pass();
                Ok::<_, io::Error>(())
            }
        })
        .build()
        .unwrap();
    drop(pool.pull().unwrap());
    eventually("a ping is under way", || {
        pool.reap();
        gate.waiting() == 1
    });
    let puller = background({
        let pool = pool.clone();
        move || pool.pull()
    });
    eventually("a caller waits", || pool.stats().waiting == 1);
    pool.reap();
    gate.open();
    let connection = puller.join().unwrap();
    assert_eq!((Connection::id(&connection), pings.load(SeqCst)), (1, 1));
    assert_eq!((pool.stats().connects, pool.stats().leased), (1, 1));
}

#[test]
fn a_ping_that_fails_or_leaves_its_question_open_closes_the_connection() {
    let peer = Peer::new();
    let pool = peer
        .builder(3)
        .ping(TICK, |stream| {
            let port = stream.peer_addr()?.port();
            match stream.ttl()? {
                10 => Err(io::Error::other(format!("port {port} is out of tune"))),
                20 => stream.write_all(b"are you there?"),
                _ => Ok(()),
            }
        })
        .build()
        .unwrap();
    let leases = lease(&pool, 3);
    for (lease, ttl) in leases.iter().zip([10, 20, 30]) {
        lease.tcp().set_ttl(ttl).unwrap();
    }
    drop(leases);
    eventually("two are evicted", || {
        let two_left = pool.stats().releases == 2;
        if !two_left {
            pool.reap();
        }
        two_left && pool.stats().idle == 1
    });
    let stats = pool.stats();
    assert_eq!(stats.evicted(Eviction::PingFailed), 1);
    assert_eq!(stats.evicted(Eviction::Unanswered), 1);
    assert_eq!(idle(&pool), [3]);
    assert_sums(&stats);
}

/// A pool in which a ping of connection 1 waits at the gate, and the others are idle.
fn with_a_hanging_ping(peer: &Peer, connections: usize) -> (Pool, Gate) {
    let gate = Gate::default();
    let pool = peer
        .builder(connections)
        .max_connecting(1)
        .ping(TICK, {
            let gate = gate.clone();
            move |_| {
                gate.pass();
                Ok::<_, io::Error>(())
            }
        })
        .build()
        .unwrap();
    drop(lease(&pool, connections));
    eventually("a ping is under way", || {
        pool.reap();
        gate.waiting() == 1
    });
    (pool, gate)
}

#[test]
fn a_hanging_ping_holds_up_neither_sweeps_nor_callers() {
    let peer = Peer::new();
    let (pool, gate) = with_a_hanging_ping(&peer, 3);
    let _pinged = peer.accept();
    let _healthy = peer.accept();
    drop(peer.accept());
    eventually("a sweep evicts the dead one", || pool.reap() == 1);
    let connection = pool.pull().unwrap();
    assert_eq!(Connection::id(&connection), 2);
    let fresh = pool.pull().unwrap();
    let error = pool.pull_timeout(Duration::from_millis(20)).unwrap_err();
    assert!(error.is_timeout() && error.is_full(), "{error}");
    drop((connection, fresh));
    gate.open();
    eventually("the ping ends", || pool.stats().idle == 3);
}

#[test]
fn a_ping_is_no_use_of_the_connection() {
    let peer = Peer::new();
    let pool = peer
        .builder(3)
        .ping(TICK, |_| {
            thread::sleep(Duration::from_millis(5)); // the time that an answer takes
            Ok::<_, io::Error>(())
        })
        .build()
        .unwrap();
    let mut leases = lease(&pool, 3);
    while let Some(last) = leases.pop() {
        drop(last); // so that number 1 is the most recently used
    }
    let given_back = Instant::now();
    eventually("all were pinged", || {
        let pinged = pool.connections().iter().all(|c| c.leases >= 2);
        if !pinged {
            pool.reap();
        }
        pinged && pool.stats().idle == 3
    });
    let unused = given_back.elapsed();
    for connection in pool.connections() {
        assert!(connection.in_state >= unused, "the idle time-out goes on");
    }
    assert_eq!(Connection::id(&pool.pull().unwrap()), 1);
}

#[test]
fn a_connection_in_a_ping_is_doomed_by_free() {
    let peer = Peer::new();
    let (pool, gate) = with_a_hanging_ping(&peer, 2);
    let freed = pool.free(0);
    assert_eq!((freed.kept, freed.closed, freed.doomed), (0, 1, 1));
    gate.open();
    eventually("it closes after the ping", || pool.stats().open == 0);
    assert_eq!(pool.stats().evicted(Eviction::Freed), 2);
}

#[test]
fn a_hard_close_cuts_a_hanging_ping() {
    if !shutdown_wakes() {
        return;
    }
    let peer = Peer::new();
    let pinging = Arc::new(AtomicBool::new(false));
    let pool = peer
        .builder(1)
        .ping(TICK, {
            let pinging = Arc::clone(&pinging);
            move |stream| {
                pinging.store(true, SeqCst);
                stream.read_exact(&mut [0]) // for ever: the peer says nothing
            }
        })
        .build()
        .unwrap();
    drop(pool.pull().unwrap());
    let _silent = peer.accept();
    eventually("a ping is under way", || {
        pool.reap();
        pinging.load(SeqCst)
    });
    let freed = pool.free_with(0, Close::Hard);
    assert_eq!((freed.kept, freed.closed, freed.doomed), (0, 1, 0));
    assert!(pool.drain(crate::support::SOON), "the ping returns");
    let stats = pool.stats();
    assert_eq!((stats.evicted(Eviction::Freed), stats.releases), (1, 1));
}

#[test]
fn the_end_does_not_wait_for_a_ping_and_closes_what_it_used() {
    let peer = Peer::new();
    let (pool, gate) = with_a_hanging_ping(&peer, 1);
    let mut pinged = peer.accept();
    pool.end();
    assert!(!pool.drain(Duration::ZERO), "the ping is outstanding");
    gate.open();
    assert!(pool.drain(crate::support::SOON));
    assert_eq!(pinged.read(&mut [0]).unwrap(), 0);
    assert_eq!(pool.stats().evicted(Eviction::Ended), 1);
}

/// Takes a lease on a thread with this name.
fn lease_on(name: &str, pool: &Pool) -> Connection {
    let pool = pool.clone();
    let thread = thread::Builder::new().name(name.to_owned());
    let puller = thread.spawn(move || pool.pull().unwrap()).unwrap();
    puller.join().unwrap()
}

#[test]
fn a_lease_that_is_out_too_long_is_reported_once_with_its_thread() {
    let peer = Peer::new();
    let events = Events::default();
    let pool = peer
        .builder(1)
        .leak_after(Some(Duration::ZERO))
        .on_event(events.listener())
        .build()
        .unwrap();
    for (holder, reports) in [("clerk-1", 1), ("clerk-2", 1), ("clerk-1", 2)] {
        let held = lease_on(holder, &pool);
        for _ in 0..3 {
            assert_eq!(pool.reap(), 0, "nothing is taken away");
        }
        assert_eq!(events.count(&format!("1 overdue by {holder}")), reports);
        drop(held);
    }
    pool.reap();
    assert_eq!(events.all().len(), 4, "one connect and three reports");
}

#[test]
fn a_lease_that_was_waited_for_is_reported_with_the_thread_that_waited() {
    let peer = Peer::new();
    let events = Events::default();
    let pool = peer
        .builder(1)
        .leak_after(Some(Duration::ZERO))
        .on_event(events.listener())
        .build()
        .unwrap();
    let first = pool.pull().unwrap();
    let waiter = background({
        let pool = pool.clone();
        move || lease_on("patient", &pool)
    });
    eventually("it waits", || pool.stats().waiting == 1);
    drop(first);
    let held = waiter.join();
    pool.reap();
    assert_eq!(events.count("1 overdue by patient"), 1);
    drop(held);
}

#[test]
fn a_lease_that_is_not_out_for_long_is_not_reported() {
    let peer = Peer::new();
    let events = Events::default();
    let pool = peer
        .builder(1)
        .leak_after(Some(NEVER))
        .on_event(events.listener())
        .build()
        .unwrap();
    let held = pool.pull().unwrap();
    pool.reap();
    drop(held);
    pool.reap();
    assert_eq!(events.all(), ["1 connected"]);
}

#[cfg(target_os = "linux")]
mod threads {
    use super::{Duration, NEVER, Peer, Pool, TcpStream, eventually};
    use crate::support::{SOON, alone, threads_named};

    fn pool_with_a_reaper(peer: &Peer, every: Duration) -> Pool {
        let pool = peer.builder(4).reap_interval(Some(every)).build().unwrap();
        eventually("the reaper runs", || threads_named("jackpot-reaper") == 1);
        pool
    }

    #[test]
    fn the_reaper_ends_with_the_pool_however_long_its_interval() {
        alone(
            "reaper::threads::the_reaper_ends_with_the_pool_however_long_its_interval",
            || {
                let peer = Peer::new();
                for every in [Duration::from_millis(1), NEVER, Duration::MAX] {
                    let pool = pool_with_a_reaper(&peer, every);
                    let lease = pool.pull().unwrap();
                    pool.end();
                    eventually("all threads end", || threads_named("jackpot-") == 0);
                    drop(lease);
                }
            },
        );
    }

    #[test]
    fn the_reaper_ends_with_the_last_handle() {
        alone(
            "reaper::threads::the_reaper_ends_with_the_last_handle",
            || {
                let peer = Peer::new();
                let pool = pool_with_a_reaper(&peer, NEVER);
                let lease = pool.pull().unwrap();
                let other = pool.clone();
                drop(pool);
                drop(other.pull().unwrap());
                assert_eq!(threads_named("jackpot-reaper"), 1);
                drop(other);
                eventually("all threads end", || threads_named("jackpot-") == 0);
                drop(lease);
            },
        );
    }

    #[test]
    fn connect_and_ping_threads_end_when_their_work_is_done() {
        alone(
            "reaper::threads::connect_and_ping_threads_end_when_their_work_is_done",
            || {
                let peer = Peer::new();
                let address = peer.address();
                let pool = Pool::builder(move || TcpStream::connect(address))
                    .limit(8)
                    .min_idle(8)
                    .ping(super::TICK, |_| Ok::<_, std::io::Error>(()))
                    .reap_interval(None)
                    .build()
                    .unwrap();
                eventually("min_idle is filled", || pool.stats().idle == 8);
                eventually("they were pinged", || {
                    pool.reap();
                    pool.connections().iter().all(|c| c.leases > 0)
                });
                eventually("all threads end", || threads_named("jackpot-") == 0);
                assert!(pool.drain(SOON));
            },
        );
    }
}
