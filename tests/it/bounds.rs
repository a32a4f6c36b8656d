//! Bounds are bounds: of time, and of what a server can make a pool do.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Connection, Event, Eviction, Pool};

use crate::support::{Events, Gate, Peer, SOON, Server, ask, assert_left, eventually, lease};

/// A pool of so many connections, all idle and dead, and each slow to leave.
fn dead_and_slow(count: usize) -> (Pool, Peer) {
    let peer = Peer::new();
    let pool = peer
        .builder(count)
        .on_event(|event| {
            if matches!(event, Event::Evicted { .. }) {
                thread::sleep(Duration::from_millis(5));
            }
        })
        .build()
        .unwrap();
    let leases = lease(&pool, count);
    let far: Vec<TcpStream> = leases.iter().map(|_| peer.accept()).collect();
    drop(far);
    for lease in &leases {
        let socket = Connection::stream(lease).tcp().try_clone().unwrap();
        assert_eq!(socket.peek(&mut [0]).unwrap(), 0);
    }
    for lease in leases {
        Connection::finish(lease);
    }
    assert_eq!(pool.stats().idle, count);
    (pool, peer)
}

#[test]
fn a_millisecond_over_many_dead_connections_is_over_after_the_first_slow_one() {
    let (pool, _peer) = dead_and_slow(20);
    let error = pool.pull_timeout(Duration::from_millis(1)).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_eq!((pool.stats().idle, pool.stats().releases), (19, 1));
}

#[test]
fn no_time_at_all_over_many_dead_connections_ends_too() {
    let (pool, _peer) = dead_and_slow(20);
    let error = pool.pull_timeout(Duration::ZERO).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_eq!((pool.stats().idle, pool.stats().releases), (19, 1));
}

#[test]
fn who_waits_passes_over_all_that_are_dead() {
    let (pool, _peer) = dead_and_slow(20);
    let lease = pool.pull_timeout(SOON).unwrap();
    assert_eq!((pool.stats().leased, pool.stats().releases), (1, 20));
    drop(lease);
}

#[test]
fn a_server_that_hangs_up_is_asked_ten_times_a_second_although_connections_are_to_be_kept() {
    let hangs_up = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&hangs_up);
    let server = Server::serving(move |mut socket| {
        if !told.load(SeqCst) {
            let _ = socket.read(&mut [0]);
        }
    });
    let address = server.address();
    let pool = Pool::builder(move || TcpStream::connect(address))
        .limit(5)
        .min_idle(3)
        .build()
        .unwrap();
    let begun = Instant::now();
    let tenths = || u64::try_from(begun.elapsed().as_millis() / 100).unwrap();
    while tenths() < 15 {
        drop(pool.pull_timeout(Duration::ZERO));
        thread::sleep(Duration::from_micros(200));
    }
    let stats = pool.stats();
    let connects = stats.connects + stats.connect_failures;
    // Ten are tolerated, and a limit of five may be under way. Under Wine a hang-up is seen so late
    // that callers get some of these connections, and such a one does not count as hung up.
    let most = (tenths() + 1 + 10 + 5) * if cfg!(windows) { 2 } else { 1 };
    assert!(connects <= most, "{connects}, not {most} at most: {stats}");
    hangs_up.store(false, SeqCst);
    eventually("they are kept again", || pool.stats().idle == 3);
}

/// All that it kept died at once, younger than a second: that is not the server's malice.
#[test]
fn a_restart_of_a_server_whose_connections_were_not_used_yet_slows_nobody_for_long() {
    let mut server = Server::echo();
    let address = server.address();
    let pool = Pool::builder(move || TcpStream::connect(address))
        .limit(100)
        .min_idle(100)
        .reap_interval(Some(Duration::from_millis(20)))
        .build()
        .unwrap();
    eventually("all are there", || pool.stats().idle == 100);
    // What the same takes on this machine without a restart.
    let begun = Instant::now();
    let other = Server::echo();
    let address = other.address();
    let undisturbed = Pool::new(100, move || TcpStream::connect(address)).unwrap();
    let mut leases: Vec<Connection> = Vec::new();
    while leases.len() < 100 {
        let mut lease = undisturbed.pull_timeout(SOON).unwrap();
        ask(&mut lease, "?").unwrap();
        leases.push(lease);
    }
    let usual = begun.elapsed();
    server.die(true);
    server.come_back();
    let mut leases: Vec<Connection> = Vec::new();
    let begun = Instant::now();
    while leases.len() < 100 {
        let mut lease = pool.pull_timeout(SOON).unwrap();
        // A server that was known to be alive before is believed after the first byte.
        if lease.write_all(b"?\n").is_ok() && lease.read_exact(&mut [0; 2]).is_ok() {
            leases.push(lease);
        } else {
            Connection::discard(lease);
        }
    }
    // At ten connects a second it would take ten seconds more.
    let took = begun.elapsed();
    assert!(
        took < 2 * usual + Duration::from_secs(5),
        "{took:?}, usually {usual:?}"
    );
}

#[test]
fn bytes_left_over_do_not_pass_for_the_reply_to_a_ping() {
    let peer = Peer::new();
    let (gate, pings) = (Gate::default(), Arc::<AtomicUsize>::default());
    let (way, count) = (gate.clone(), Arc::clone(&pings));
    let pool = peer
        .builder(2)
        .ping(Duration::from_nanos(1), move |_| {
            count.fetch_add(1, SeqCst);
            way.pass();
            Ok::<_, std::io::Error>(())
        })
        .build()
        .unwrap();
    let leases = lease(&pool, 2);
    let mut far = [peer.accept(), peer.accept()];
    let second = leases[1].tcp().try_clone().unwrap();
    leases.into_iter().for_each(Connection::finish);
    pool.reap();
    eventually("the first ping hangs", || gate.waiting() == 1);
    // After the sweep's probe, before its ping.
    for far in &mut far {
        far.write_all(b"+").unwrap();
    }
    assert_eq!(second.peek(&mut [0]).unwrap(), 1);
    gate.open();
    eventually("the second has left", || {
        pool.stats().evicted(Eviction::Unread) == 1
    });
    assert_eq!(pings.load(SeqCst), 1);
}

#[test]
fn a_lease_with_unread_bytes_does_not_reach_recycle() {
    let peer = Peer::new();
    let calls = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&calls);
    let pool = peer
        .builder(1)
        .recycle(move |_| {
            count.fetch_add(1, SeqCst);
            Ok::<_, std::io::Error>(())
        })
        .build()
        .unwrap();
    let lease = pool.allocate().unwrap();
    let mut far = peer.accept();
    far.write_all(b"late").unwrap();
    assert_eq!(lease.peek(&mut [0]).unwrap(), 1);
    drop(lease);
    assert_left(&pool, Eviction::Unread);
    assert_eq!(calls.load(SeqCst), 0);
    drop(pool.allocate().unwrap());
    assert_eq!(calls.load(SeqCst), 1);
}

#[test]
fn a_ping_that_hangs_is_reported_as_overdue() {
    let peer = Peer::new();
    let (gate, events) = (Gate::default(), Events::default());
    let way = gate.clone();
    let pool = peer
        .builder(1)
        .leak_after(Some(Duration::from_millis(20)))
        .ping(Duration::from_nanos(1), move |_| {
            way.pass();
            Ok::<_, std::io::Error>(())
        })
        .on_event(events.listener())
        .build()
        .unwrap();
    drop(pool.allocate().unwrap());
    pool.reap();
    eventually("the ping hangs", || gate.waiting() == 1);
    eventually("it is reported", || {
        pool.reap();
        events.count("1 overdue by jackpot-ping") > 0
    });
    pool.reap();
    assert_eq!(events.count("1 overdue by jackpot-ping"), 1);
    gate.open();
    eventually("it is idle again", || pool.stats().idle == 1);
}
