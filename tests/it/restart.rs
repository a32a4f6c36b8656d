//! What a restart of the server costs, and the dead that it leaves behind.

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use jackpot::{Backoff, Builder, Connection, Event, Eviction, Pool, Stats};

use crate::support::faults::keeping;
use crate::support::{
    Peer, SOON, Server, ask, background, eventually, in_one_of_a_few_tries, on_thread, one_retry,
};

/// Twenty idle connections to a server that has just been restarted.
fn after_a_restart(settings: impl FnOnce(Builder) -> Builder) -> (Server, Pool) {
    let mut server = Server::echo();
    let (pool, kept) = keeping(server.address(), |b| {
        // Whoever waits for a backoff, waits too long for these tests.
        let never = Duration::from_secs(3600);
        settings(b.limit(20).backoff(Backoff::new().min(never).max(never)))
    });
    let leases: Vec<_> = (0..20).map(|_| pool.pull().unwrap()).collect();
    eventually("all have been accepted", || server.accepted() == 20);
    drop(leases);
    assert_eq!(pool.stats().idle, 20);
    server.die(false);
    server.come_back();
    for _ in 0..20 {
        let duplicate = kept.recv().unwrap();
        assert_eq!(duplicate.peek(&mut [0]).unwrap(), 0);
    }
    (server, pool)
}

fn dead(stats: &Stats) -> u64 {
    stats.evicted(Eviction::PeerClosed)
}

#[test]
fn after_a_restart_one_pull_gets_past_all_dead_connections_without_a_backoff() {
    let (_server, pool) = after_a_restart(|b| b);
    let pulled = on_thread(&pool, |pool| {
        ask(&mut *pool.pull().unwrap(), "alive").unwrap()
    });
    assert_eq!(pulled.join(), "alive");
    let stats = pool.stats();
    let found = (dead(&stats), stats.connects, stats.idle);
    assert_eq!(found, (20, 21, 1), "{stats}");
}

#[test]
fn after_a_restart_one_allocate_gets_past_all_dead_connections() {
    let (_server, pool) = after_a_restart(|b| b);
    let allocated = on_thread(&pool, |pool| {
        ask(&mut *pool.allocate().unwrap(), "alive").unwrap()
    });
    assert_eq!(allocated.join(), "alive");
    assert_eq!(dead(&pool.stats()), 20);
}

#[test]
fn after_a_restart_one_caller_pays_for_one_dead_connection() {
    let seldom = Duration::from_secs(3600);
    let (tell, told) = mpsc::channel();
    let (_server, pool) = after_a_restart(|b| {
        b.reap_interval(Some(seldom)).on_event(move |event| {
            if let Event::Evicted { .. } = event {
                let _ = tell.send(thread::current().id());
                thread::sleep(Duration::from_millis(10));
            }
        })
    });
    drop(pool.pull().unwrap());
    let tellers: Vec<_> = (0..20).map(|_| told.recv_timeout(SOON).unwrap()).collect();
    let me = thread::current().id();
    assert_eq!(tellers.iter().filter(|&&teller| teller == me).count(), 1);
}

/// Leaves one connection idle for each item, the newest last, and kills those that are `true`.
fn idle_and_dead(
    dead: &[bool],
    settings: impl FnOnce(Builder) -> Builder,
) -> (Pool, Vec<u64>, Vec<TcpStream>) {
    let peer = Peer::new();
    let (pool, kept) = keeping(peer.address(), |b| settings(b.limit(dead.len())));
    let leases: Vec<_> = dead.iter().map(|_| pool.pull().unwrap()).collect();
    let mut alive = Vec::new();
    for &dies in dead {
        let (far, duplicate) = (peer.accept(), kept.recv().unwrap());
        if dies {
            drop(far);
            assert_eq!(duplicate.peek(&mut [0]).unwrap(), 0);
        } else {
            alive.push(far);
        }
    }
    let ids = leases.iter().map(Connection::id).collect();
    leases.into_iter().for_each(drop);
    (pool, ids, alive)
}

#[test]
fn dead_connections_cost_even_a_pull_with_a_timeout_of_zero_nothing() {
    // It probes for a millisecond at most.
    in_one_of_a_few_tries("it finds the one that lives", || {
        let (pool, ids, _alive) = idle_and_dead(&[true, false, true, true], |b| b);
        let lease = pool.pull_timeout(Duration::ZERO);
        lease.is_ok_and(|lease| {
            assert_eq!(Connection::id(&lease), ids[1]);
            assert_eq!(dead(&pool.stats()), 2);
            true
        })
    });
}

#[test]
fn the_first_dead_connection_has_all_others_swept_right_away() {
    let seldom = |b: Builder| b.reap_interval(Some(Duration::from_secs(3600)));
    let (pool, ids, _alive) = idle_and_dead(&[true, true, true, false, true], seldom);
    let lease = pool.allocate().unwrap();
    assert_eq!(Connection::id(&lease), ids[3]);
    eventually("the rest is swept", || dead(&pool.stats()) == 4);
    assert_eq!(pool.stats().open, 1);
}

#[test]
fn a_dirty_connection_costs_its_caller_nothing() {
    let seldom = |b: Builder| b.reap_interval(Some(Duration::from_secs(3600)));
    let (pool, ids, mut alive) = idle_and_dead(&[true, false, false], seldom);
    alive[1].write_all(b"!").unwrap();
    eventually("the byte is found", || {
        Connection::id(&pool.allocate().unwrap()) == ids[1]
    });
    let stats = pool.stats();
    assert_eq!(stats.evicted(Eviction::Unread), 1, "{stats}");
}

#[test]
fn the_reaper_finds_the_dead_by_itself() {
    let often = |b: Builder| b.reap_interval(Some(Duration::from_millis(5)));
    let (pool, ids, _alive) = idle_and_dead(&[true, false, true], often);
    eventually("both are gone", || dead(&pool.stats()) == 2);
    assert_eq!(Connection::id(&pool.allocate().unwrap()), ids[1]);
}

#[test]
fn a_pool_whose_callers_gave_up_works_once_the_server_is_back() {
    let mut server = Server::echo();
    let address = server.address();
    let pool = Pool::builder(move || TcpStream::connect(address))
        .backoff(one_retry())
        .build()
        .unwrap();
    ask(&mut *pool.pull().unwrap(), "before").unwrap();
    server.die(true);
    for _ in 0..3 {
        let error = pool.pull().unwrap_err();
        assert!(error.is_connect(), "{error}");
    }
    server.come_back();
    let pulled = background(move || {
        let lease = pool.set_backoff(Backoff::new()).and_then(|()| pool.pull());
        ask(&mut *lease.unwrap(), "after").unwrap()
    });
    assert_eq!(pulled.join(), "after");
}
