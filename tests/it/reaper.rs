//! What a sweep evicts and refills, and the thread that does it.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jackpot::{Builder, Connection, Event, Eviction, Pool};

use crate::support::{
    Events, NEVER, Peer, Server, ask, assert_sums, background, eventually, idle, lease, reset,
    reset_cause,
};

const MILLISECOND: Duration = Duration::from_millis(1);

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
    // A machine that stalls may sweep late, but no sweep can find a connection too old too early.
    let spread = (1..=10).any(|times| {
        let lifetime = times * Duration::from_millis(600);
        let (ages, sweeps) = ages_at_the_end_of(lifetime);
        assert_eq!(ages.len(), 30);
        assert!(ages.iter().all(|&age| age >= lifetime / 10 * 9), "{ages:?}");
        sweeps >= 5 && ages.iter().any(|&age| age < lifetime)
    });
    assert!(spread, "connections made together end together");
}

/// A pool to which a lease of at least this long has just come back.
///
/// Where a lease's end is not worth reading the clock, its beginning may stand for it: but not
/// beside a time-out that is no longer than the lease.
fn after_a_lease_of(long: Duration, settings: impl FnOnce(Builder) -> Builder) -> (Peer, Pool) {
    let peer = Peer::new();
    let address = peer.address();
    let builder = Pool::builder(move || TcpStream::connect(address)).probe_after(NEVER);
    let pool = settings(builder).build().unwrap();
    let lease = pool.pull().unwrap();
    eventually("the lease is as long", || {
        pool.connections()[0].in_state >= long
    });
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
    let pool = peer
        .builder(1)
        .reap_interval(Some(MILLISECOND))
        .build()
        .unwrap();
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
        sweeps.load(SeqCst) > 200
    });
    stop.store(true, SeqCst);
    reaping.join();
    assert_eq!(pool.stats().connects, 1);
}

#[cfg(target_os = "linux")]
mod threads {
    use super::{Duration, NEVER, Peer, Pool, eventually};
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
                let pool = peer
                    .builder(8)
                    .min_idle(8)
                    .ping(super::MILLISECOND, |_| Ok::<_, std::io::Error>(()))
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
