//! How dead connections are found.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use jackpot::{Connection, Eviction};
use socket2::SockRef;

use crate::support::faults::Fault::{Fin, Rst, Stray, StrayFin, StrayRst};
use crate::support::faults::{Fault, Range, keeping, why};
use crate::support::{
    NEVER, Peer, Server, ask, assert_back, assert_closed, assert_left, eventually, waiting_thread,
};

/// What kills an idle connection.
const DEATHS: [Fault; 5] = [Fin, Rst, Stray, StrayFin, StrayRst];

#[test]
fn free_evicts_the_dead_before_it_counts() {
    for fate in DEATHS {
        let (range, _ends) = Range::struck(fate, |b| b);
        let pool = &range.pool;
        let freed = pool.free(1);
        assert_eq!((freed.kept, freed.closed), (0, 0), "{fate:?}");
        assert_left(pool, why(fate).unwrap());
    }
}

#[test]
fn allow_unread_excuses_bytes_and_no_error() {
    for fate in DEATHS {
        let (range, _ends) = Range::struck(fate, |b| b.allow_unread(true));
        let pool = &range.pool;
        // Where the bytes hide the reset, the write of nothing finds it.
        let why = if fate == StrayRst {
            Eviction::SocketError
        } else {
            why(fate).unwrap()
        };
        let excused = why == Eviction::Unread;
        assert_eq!(pool.reap(), usize::from(!excused), "{fate:?}");
        if excused {
            assert_back(pool);
        } else {
            assert_left(pool, why);
        }
    }
}

#[test]
fn a_healthy_connection_is_never_evicted() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    for _ in 0..100 {
        drop(pool.pull().unwrap());
        assert_eq!(pool.reap(), 0);
        assert_eq!(pool.free(1).kept, 1);
    }
    assert_back(&pool);
    assert_eq!(pool.stats().connects, 1);
}

#[test]
fn a_connection_used_a_moment_ago_is_probed_all_the_same() {
    let peer = Peer::new();
    let (pool, kept) = keeping(peer.address(), |b| b.limit(1));
    let mut lease = pool.pull().unwrap();
    let dead = Connection::id(&lease);
    let mut far = peer.accept();
    lease.write_all(b"?").unwrap();
    far.read_exact(&mut [0; 1]).unwrap();
    far.write_all(b"!").unwrap();
    lease.read_exact(&mut [0; 1]).unwrap();
    drop(far);
    assert_eq!(kept.recv().unwrap().peek(&mut [0]).unwrap(), 0);
    drop(lease);
    assert_ne!(Connection::id(&pool.allocate().unwrap()), dead);
    assert_eq!(pool.stats().evicted(Eviction::PeerClosed), 1);
}

#[test]
fn a_connection_that_died_while_leased_is_not_handed_to_a_waiter() {
    let peer = Peer::new();
    let (pool, kept) = keeping(peer.address(), |b| b.limit(1));
    let lease = pool.pull().unwrap();
    let dead = Connection::id(&lease);
    let waiter = waiting_thread(&pool, |pool| Connection::id(&pool.pull().unwrap()));
    drop(peer.accept());
    assert_eq!(kept.recv().unwrap().peek(&mut [0]).unwrap(), 0);
    drop(lease);
    assert_ne!(waiter.join(), dead);
    assert_eq!(pool.stats().evicted(Eviction::PeerClosed), 1);
}

#[test]
fn probe_after_spares_what_was_used_recently() {
    let (range, _ends) = Range::struck(Fin, |b| b.probe_after(NEVER));
    let pool = &range.pool;
    let mut lease = pool.allocate().unwrap();
    assert_eq!(pool.stats().releases, 0);
    assert_eq!(lease.read(&mut [0]).unwrap(), 0);
    drop(lease);
    assert_left(pool, Eviction::Broken);
}

#[test]
fn probe_after_spares_nothing_that_rested_longer() {
    let rest = Duration::from_millis(20);
    // With a reaper, and without one.
    for every in [Some(NEVER), None] {
        let (range, _ends) = Range::struck(Fin, |b| b.probe_after(rest).reap_interval(every));
        let pool = &range.pool;
        eventually("it has rested", || pool.connections()[0].in_state > rest);
        drop(pool.allocate().unwrap());
        let stats = pool.stats();
        let found = (stats.evicted(Eviction::PeerClosed), stats.connects);
        assert_eq!(found, (1, 2), "{stats}");
    }
}

#[test]
fn a_sweep_asks_what_probe_after_spares() {
    let (range, _ends) = Range::struck(Fin, |b| b.probe_after(NEVER));
    let pool = &range.pool;
    assert_eq!(pool.reap(), 1);
    assert_left(pool, Eviction::PeerClosed);
}

#[test]
fn a_sending_side_shut_down_behind_the_pools_back_is_found_on_return() {
    let ways: [fn(&Connection); 2] = [
        |lease| lease.tcp().shutdown(Shutdown::Write).unwrap(),
        |lease| {
            SockRef::from(&**lease).shutdown(Shutdown::Write).unwrap();
        },
    ];
    for shut_down in ways {
        let peer = Peer::new();
        let pool = peer.pool(1);
        let lease = pool.pull().unwrap();
        shut_down(&lease);
        drop(lease);
        assert_left(&pool, Eviction::HalfClosed);
        assert_closed(&mut peer.accept());
    }
}

#[test]
fn a_socket_of_which_only_options_were_read_goes_back() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    for _ in 0..3 {
        let lease = pool.pull().unwrap();
        assert_eq!(lease.tcp().peer_addr().unwrap(), peer.address());
        assert!(!SockRef::from(&*lease).keepalive().unwrap());
        drop(lease);
        assert_back(&pool);
    }
}

#[test]
fn a_sending_side_shut_down_through_a_duplicate_is_found_by_a_sweep() {
    let peer = Peer::new();
    let (pool, kept) = keeping(peer.address(), |b| b.limit(3));
    let leases: Vec<_> = (0..3).map(|_| pool.pull().unwrap()).collect();
    drop(leases);
    let duplicates: Vec<_> = (0..3).map(|_| kept.recv().unwrap()).collect();
    duplicates[1].shutdown(Shutdown::Write).unwrap();
    assert_eq!(pool.reap(), 1);
    let stats = pool.stats();
    assert_eq!((stats.evicted(Eviction::HalfClosed), stats.idle), (1, 2));
}

#[test]
fn every_sweep_of_a_small_pool_checks_all_sending_sides() {
    const MANY: usize = 20;
    let peer = Peer::new();
    let (pool, kept) = keeping(peer.address(), |b| b.limit(MANY));
    let leases: Vec<_> = (0..MANY).map(|_| pool.pull().unwrap()).collect();
    drop(leases);
    for _ in 0..3 {
        assert_eq!(pool.reap(), 0);
    }
    for _ in 0..MANY {
        kept.recv().unwrap().shutdown(Shutdown::Write).unwrap();
    }
    assert_eq!(pool.reap(), MANY);
    assert_eq!(pool.stats().evicted(Eviction::HalfClosed), MANY as u64);
}

/// Windows has no flag for a read that does not wait, so that a probe switches the mode there.
#[cfg(all(unix, not(jackpot_switching)))]
#[test]
fn probes_never_disturb_the_blocking_mode_of_a_duplicate() {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::{Arc, mpsc};
    use std::time::Instant;

    use crate::support::on_thread;

    let timeout = Duration::from_millis(20);
    let peer = Peer::new();
    let (pool, kept) = keeping(peer.address(), |b| b.limit(2).read_timeout(Some(timeout)));
    let mut leased = pool.pull().unwrap();
    drop(pool.pull().unwrap());
    let (first, mut duplicate) = (kept.recv().unwrap(), kept.recv().unwrap());
    drop(first);
    let (stop, stopped) = mpsc::channel::<()>();
    let rounds = Arc::new(AtomicUsize::new(0));
    let prober = on_thread(&pool, {
        let rounds = Arc::clone(&rounds);
        move |pool| {
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                drop(pool.allocate().unwrap());
                assert_eq!(pool.reap(), 0);
                assert_eq!(pool.free(2).kept, 2);
                rounds.fetch_add(1, SeqCst);
            }
        }
    });
    let mut reads = 0;
    while reads < 20 || rounds.load(SeqCst) < 20 {
        reads += 1;
        for reader in [&mut duplicate as &mut dyn Read, &mut leased] {
            let started = Instant::now();
            let error = reader.read(&mut [0]).unwrap_err();
            let took = started.elapsed();
            assert!(took > timeout * 9 / 10, "{error} after {took:?}");
        }
    }
    drop(stop);
    prober.join();
    assert_eq!(pool.stats().releases, 0);
}

#[test]
fn a_sweep_never_evicts_a_connection_that_is_in_use() {
    let server = Server::echo();
    let pool = server.builder(2).build().unwrap();
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let pool = pool.clone();
            thread::spawn(move || {
                for _ in 0..3000 {
                    ask(&mut *pool.pull().unwrap(), "?").unwrap();
                }
            })
        })
        .collect();
    while !callers.iter().all(thread::JoinHandle::is_finished) {
        pool.reap();
    }
    for caller in callers {
        caller.join().unwrap();
    }
    let stats = pool.stats();
    assert_eq!((stats.releases, stats.allocations), (0, 6000), "{stats}");
}
