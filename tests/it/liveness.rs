//! How dead connections are found, and what a restart of the server costs.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{
    Backoff, Builder, Connection, Connector, Error, Event, Eviction, Factory, Pool, Stats,
};
use socket2::SockRef;

use crate::support::{
    BlackHole, Peer, SOON, Server, ask, assert_back, assert_closed, assert_left, background,
    eventually, impatient, refused, reset, reset_cause,
};

/// A pool whose factory keeps a duplicate of each socket, and the duplicates.
fn keeping(
    address: SocketAddr,
    settings: impl FnOnce(Builder) -> Builder,
) -> (Pool, Receiver<TcpStream>) {
    let (keep, kept) = mpsc::channel();
    let builder = Pool::builder(move || {
        let tcp = TcpStream::connect(address)?;
        let _ = keep.send(tcp.try_clone()?);
        Ok(tcp)
    });
    let pool = settings(builder.reap_interval(None)).build().unwrap();
    (pool, kept)
}

/// What the other side does to an idle connection, and what must be found.
struct Fate {
    name: &'static str,
    strike: fn(TcpStream) -> Option<TcpStream>,
    why: fn() -> Eviction,
    /// Whether it has arrived; until then the connection passes for a healthy one.
    arrived: fn(&Pool, &TcpStream) -> bool,
}

const FATES: [Fate; 5] = [
    Fate {
        name: "FIN",
        strike: |far| {
            drop(far);
            None
        },
        why: || Eviction::PeerClosed,
        arrived: |_, duplicate| duplicate.peek(&mut [0]).unwrap() == 0,
    },
    Fate {
        name: "RST",
        strike: |far| {
            reset(far);
            None
        },
        why: || reset_cause(false),
        arrived: is_unconnected,
    },
    Fate {
        name: "stray byte",
        strike: |mut far| {
            far.write_all(b"!").unwrap();
            Some(far)
        },
        why: || Eviction::Unread,
        arrived: |_, duplicate| duplicate.peek(&mut [0]).unwrap() == 1,
    },
    Fate {
        name: "stray byte, then FIN",
        strike: |mut far| {
            far.write_all(b"!").unwrap();
            drop(far);
            None
        },
        why: || Eviction::Unread,
        arrived: |_, duplicate| duplicate.peek(&mut [0]).unwrap() == 1,
    },
    Fate {
        name: "stray byte, then RST",
        strike: |mut far| {
            far.write_all(b"!").unwrap();
            reset(far);
            None
        },
        why: || reset_cause(true),
        arrived: is_unconnected,
    },
];

/// The kernel forgets the peer of a socket that was reset; to ask does not take the error away.
fn is_unconnected(pool: &Pool, _: &TcpStream) -> bool {
    pool.connections()[0].peer.is_none()
}

/// A pool of one idle connection that met its fate; keeps the other side open if the fate did.
fn struck(
    fate: &Fate,
    settings: impl FnOnce(Builder) -> Builder,
) -> (Peer, Pool, Option<TcpStream>) {
    let peer = Peer::new();
    let (pool, kept) = keeping(peer.address(), |b| settings(b.limit(1)));
    drop(pool.pull().unwrap());
    let duplicate = kept.recv().unwrap();
    let far = (fate.strike)(peer.accept());
    eventually(fate.name, || (fate.arrived)(&pool, &duplicate));
    (peer, pool, far)
}

#[test]
fn no_caller_gets_a_dead_connection() {
    for fate in &FATES {
        let (peer, pool, _far) = struck(fate, |b| b);
        let mut lease = pool.allocate().unwrap();
        assert_eq!(pool.stats().connects, 2, "{}", fate.name);
        let mut far = peer.accept();
        lease.write_all(b"?").unwrap();
        far.write_all(b"!").unwrap();
        lease.read_exact(&mut [0; 1]).unwrap();
        drop(lease);
        let stats = pool.stats();
        let found = (stats.evicted((fate.why)()), stats.releases, stats.idle);
        assert_eq!(found, (1, 1, 1), "{}: {stats}", fate.name);
    }
}

#[test]
fn a_sweep_finds_every_dead_connection() {
    for fate in &FATES {
        let (_peer, pool, _far) = struck(fate, |b| b);
        assert_eq!(pool.reap(), 1, "{}", fate.name);
        assert_left(&pool, (fate.why)());
        assert_eq!(pool.reap(), 0);
    }
}

#[test]
fn free_evicts_the_dead_before_it_counts() {
    for fate in &FATES {
        let (_peer, pool, _far) = struck(fate, |b| b);
        let freed = pool.free(1);
        assert_eq!((freed.kept, freed.closed), (0, 0), "{}", fate.name);
        assert_left(&pool, (fate.why)());
    }
}

#[test]
fn allow_unread_excuses_bytes_and_no_error() {
    for fate in &FATES {
        let (_peer, pool, _far) = struck(fate, |b| b.allow_unread(true));
        // Where the bytes hide the reset, the look at the sending side finds it.
        let why = if fate.name == "stray byte, then RST" {
            Eviction::SocketError
        } else {
            (fate.why)()
        };
        let excused = why == Eviction::Unread;
        assert_eq!(pool.reap(), usize::from(!excused), "{}", fate.name);
        if excused {
            assert_back(&pool);
        } else {
            assert_left(&pool, why);
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
    let waiter = background({
        let pool = pool.clone();
        move || Connection::id(&pool.pull().unwrap())
    });
    eventually("somebody waits", || pool.stats().waiting == 1);
    drop(peer.accept());
    assert_eq!(kept.recv().unwrap().peek(&mut [0]).unwrap(), 0);
    drop(lease);
    assert_ne!(waiter.join(), dead);
    assert_eq!(pool.stats().evicted(Eviction::PeerClosed), 1);
}

#[test]
fn probe_after_spares_what_was_used_recently() {
    let recently = |b: Builder| b.probe_after(Duration::from_secs(3600));
    let (_peer, pool, _far) = struck(&FATES[0], recently);
    let mut lease = pool.allocate().unwrap();
    assert_eq!(pool.stats().releases, 0);
    assert_eq!(lease.read(&mut [0]).unwrap(), 0);
    drop(lease);
    assert_left(&pool, Eviction::Broken);
}

#[test]
fn probe_after_spares_nothing_that_rested_longer() {
    let rest = Duration::from_millis(20);
    let (_peer, pool, _far) = struck(&FATES[0], |b| b.probe_after(rest));
    eventually("it has rested", || pool.connections()[0].in_state > rest);
    drop(pool.allocate().unwrap());
    let stats = pool.stats();
    let found = (stats.evicted(Eviction::PeerClosed), stats.connects);
    assert_eq!(found, (1, 2), "{stats}");
}

#[test]
fn a_sweep_asks_what_probe_after_spares() {
    let recently = |b: Builder| b.probe_after(Duration::from_secs(3600));
    let (_peer, pool, _far) = struck(&FATES[0], recently);
    assert_eq!(pool.reap(), 1);
    assert_left(&pool, Eviction::PeerClosed);
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
fn a_socket_that_was_only_looked_at_goes_back() {
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

/// Windows has no flag for a read that does not wait, so that a probe switches the mode there.
#[cfg(all(unix, not(jackpot_switching)))]
#[test]
fn probes_never_disturb_the_blocking_mode_of_a_duplicate() {
    let timeout = Duration::from_millis(20);
    let peer = Peer::new();
    let (pool, kept) = keeping(peer.address(), |b| b.limit(2).read_timeout(Some(timeout)));
    let mut leased = pool.pull().unwrap();
    drop(pool.pull().unwrap());
    let (first, mut duplicate) = (kept.recv().unwrap(), kept.recv().unwrap());
    drop(first);
    let (stop, stopped) = mpsc::channel::<()>();
    let prober = background({
        let pool = pool.clone();
        move || {
            let mut rounds = 0;
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                drop(pool.allocate().unwrap());
                assert_eq!(pool.reap(), 0);
                assert_eq!(pool.free(2).kept, 2);
                rounds += 1;
            }
            rounds
        }
    });
    for _ in 0..20 {
        for reader in [&mut duplicate as &mut dyn Read, &mut leased] {
            let started = Instant::now();
            let error = reader.read(&mut [0]).unwrap_err();
            let took = started.elapsed();
            assert!(took > timeout * 9 / 10, "{error} after {took:?}");
        }
    }
    drop(stop);
    assert!(prober.join() > 20);
    assert_eq!(pool.stats().releases, 0);
}

#[test]
fn a_sweep_never_evicts_a_connection_that_is_in_use() {
    let server = Server::echo();
    let address = server.address();
    let pool = Pool::builder(move || TcpStream::connect(address))
        .limit(2)
        .reap_interval(None)
        .build()
        .unwrap();
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
    let pulled = background({
        let pool = pool.clone();
        move || ask(&mut *pool.pull().unwrap(), "alive").unwrap()
    });
    assert_eq!(pulled.join(), "alive");
    let stats = pool.stats();
    let found = (dead(&stats), stats.connects, stats.idle);
    assert_eq!(found, (20, 21, 1), "{stats}");
}

#[test]
fn after_a_restart_one_allocate_gets_past_all_dead_connections() {
    let (_server, pool) = after_a_restart(|b| b);
    let allocated = background({
        let pool = pool.clone();
        move || ask(&mut *pool.allocate().unwrap(), "alive").unwrap()
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
fn dead_connections_cost_even_a_pull_without_patience_nothing() {
    let (pool, ids, _alive) = idle_and_dead(&[true, false, true, true], |b| b);
    let lease = pool.pull_timeout(Duration::ZERO).unwrap();
    assert_eq!(Connection::id(&lease), ids[1]);
    assert_eq!(dead(&pool.stats()), 2);
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
        .backoff(impatient())
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

#[test]
fn a_connector_asks_the_kernel_to_find_vanished_peers() {
    let peer = Peer::new();
    let pool = Pool::new(1, Connector::new(peer.address().to_string())).unwrap();
    let lease = pool.pull().unwrap();
    assert!(lease.nodelay().unwrap());
    let socket = SockRef::from(&*lease);
    assert!(socket.keepalive().unwrap());
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        assert_eq!(
            socket.tcp_keepalive_time().ok(),
            Some(Duration::from_secs(30))
        );
        assert_eq!(
            socket.tcp_keepalive_interval().ok(),
            Some(Duration::from_secs(5))
        );
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            Some(Duration::from_secs(45))
        );
    }
}

#[test]
fn a_connector_sets_what_it_was_told() {
    let peer = Peer::new();
    let connector = Connector::new(peer.address().to_string());
    let bare = connector.clone().nodelay(false).keepalive(None);
    let tcp = bare.user_timeout(None).connect().unwrap();
    assert!(!tcp.nodelay().unwrap());
    let socket = SockRef::from(&tcp);
    assert!(!socket.keepalive().unwrap());
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
        let tcp = connector
            .keepalive(Some(Duration::from_millis(6001)))
            .user_timeout(Some(Duration::from_micros(8500)))
            .connect()
            .unwrap();
        let socket = SockRef::from(&tcp);
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            Some(Duration::from_millis(9))
        );
    }
}

#[test]
fn a_connector_takes_extreme_durations() {
    let peer = Peer::new();
    for extreme in [Duration::MAX, Duration::from_nanos(1)] {
        Connector::new(peer.address().to_string())
            .connect_timeout(Duration::MAX)
            .keepalive(Some(extreme))
            .user_timeout(Some(extreme))
            .connect()
            .unwrap();
    }
}

#[test]
fn a_connector_resolves_names_and_takes_ipv6() {
    let peer = Peer::new();
    let port = peer.address().port();
    let tcp = Connector::new(format!("localhost:{port}")).connect();
    assert_eq!(tcp.unwrap().peer_addr().unwrap(), peer.address());
    // Not every machine has it.
    if let Ok(listener) = TcpListener::bind("[::1]:0") {
        let address = listener.local_addr().unwrap();
        let tcp = Connector::new(address.to_string()).connect();
        assert_eq!(tcp.unwrap().peer_addr().unwrap(), address);
    }
}

#[test]
fn a_connector_gives_up_on_a_black_hole_in_time() {
    let hole = BlackHole::new();
    let timeout = Duration::from_millis(100);
    let connector = Connector::new(hole.address().to_string()).connect_timeout(timeout);
    let started = Instant::now();
    let error = connector.connect().unwrap_err();
    let took = started.elapsed();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(took >= timeout, "after {took:?}");
    assert!(took < Duration::from_secs(5), "after {took:?}");
}

#[test]
fn a_refused_connect_keeps_its_cause_and_says_where_it_was_going() {
    let address = refused().to_string();
    let connector = Connector::new(address.clone());
    let error = connector.connect().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(error.to_string().contains(&address), "{error}");

    let pool = Pool::builder(connector).backoff(impatient()).build();
    let error = pool.unwrap().pull().unwrap_err();
    let cause = error.io_error().unwrap();
    assert_eq!(cause.kind(), ErrorKind::ConnectionRefused);
    assert!(cause.raw_os_error().is_some(), "{cause}");
}

#[test]
fn a_malformed_address_fails_at_once() {
    let never = Duration::from_secs(3600);
    let addresses = [
        "",
        "localhost",
        "localhost:",
        "localhost:http",
        "127.0.0.1:65536",
    ];
    for address in addresses {
        let pool = Pool::builder(Connector::new(address))
            .backoff(Backoff::new().min(never).max(never))
            .build()
            .unwrap();
        let error = background(move || pool.pull().unwrap_err()).join();
        let Error::Exhausted { attempts: 1, .. } = error else {
            panic!("{address:?}: {error}");
        };
        let cause = error.io_error().unwrap();
        assert_eq!(
            cause.kind(),
            ErrorKind::InvalidInput,
            "{address:?}: {cause}"
        );
    }
}

#[test]
fn a_connector_without_time_fails_at_once() {
    let peer = Peer::new();
    let connector = Connector::new(peer.address().to_string()).connect_timeout(Duration::ZERO);
    let error = connector.connect().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}
