//! What a sweep's probe takes away from a socket, and what the holder of its lease sees of that.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use jackpot::{Connection, Eviction, Pool};

use crate::support::{Peer, SOON, Server, overhear, read_line, reset, shows_resets};

/// Enough to see, before the repair, one half reply or more pass for a whole one.
const CALLS: usize = 1_000;

/// Sends half a reply to each request and resets the connection.
fn resetting() -> Server {
    Server::serving(|mut socket| {
        if read_line(&mut socket).is_ok() {
            let _ = socket.write_all(b"half a reply");
            let own = socket.try_clone().unwrap();
            reset(own);
        }
    })
}

/// A lease that began between a sweep's decision to probe its socket and that probe.
///
/// The sweep finds two idle connections, and the first one dead. While it says so to the logger,
/// which is this test, the second one is leased, answers, and is reset.
fn swept_too_late(use_it: fn(&mut Connection, TcpStream)) -> Option<(Pool, Connection)> {
    if !shows_resets() {
        eprintln!("skipped: here, a reset looks like an end of file");
        return None;
    }
    let peer = Peer::new();
    let pool = peer.pool(2);
    let (first, second) = (pool.pull().unwrap(), pool.pull().unwrap());
    let (far, other) = (peer.accept(), peer.accept());
    let is_first = far.peer_addr().unwrap() == first.local_addr().unwrap();
    let (dead, far) = if is_first { (far, other) } else { (other, far) };
    drop(first);
    let id = Connection::id(&second);
    drop(second);
    reset(dead);

    let far = Mutex::new(Some(far));
    let leased = Arc::new(Mutex::new(None));
    overhear({
        let (pool, leased) = (pool.clone(), Arc::clone(&leased));
        move |record| {
            let found = record.args().to_string().starts_with("probe found");
            let far = far.lock().unwrap().take_if(|_| found);
            if let Some(far) = far {
                let mut lease = pool.pull().unwrap();
                use_it(&mut lease, far);
                *leased.lock().unwrap() = Some(lease);
            }
        }
    });
    assert_eq!(pool.reap(), 1);
    overhear(|_| {});
    let lease = leased.lock().unwrap().take().unwrap();
    assert_eq!(Connection::id(&lease), id);
    Some((pool, lease))
}

#[test]
fn a_reset_that_a_late_probe_took_is_the_holders_error() {
    let half = swept_too_late(|lease, mut far| {
        lease.write_all(b"ask").unwrap();
        far.write_all(b"half").unwrap();
        reset(far);
    });
    let Some((pool, mut lease)) = half else {
        return;
    };
    let mut reply = Vec::new();
    let error = lease.read_to_end(&mut reply).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(reply, b"half");
    drop(lease);
    assert_eq!(pool.stats().evicted(Eviction::Broken), 1);
}

/// Where a probe switches the blocking mode, it passes over what is leased.
#[test]
#[cfg(not(any(windows, jackpot_switching)))]
fn a_reset_that_a_late_probe_took_closes_a_lease_that_did_not_see_it() {
    let whole = swept_too_late(|lease, mut far| {
        lease.write_all(b"ask").unwrap();
        far.write_all(b"whole").unwrap();
        lease.read_exact(&mut [0; 5]).unwrap();
        reset(far);
    });
    let Some((pool, lease)) = whole else {
        return;
    };
    assert_eq!(pool.stats().evicted(Eviction::SocketError), 1);
    drop(lease);
    assert_eq!(pool.stats().evicted(Eviction::SocketError), 2);
    assert_eq!(pool.stats().open, 0);
}

/// A probe of an idle socket may come late, when it has been leased already.
#[test]
fn a_sweep_does_not_turn_a_reset_into_the_end_of_a_reply() {
    if !shows_resets() {
        return eprintln!("skipped: here, a reset looks like an end of file");
    }
    let server = resetting();
    let pool = server.builder(4).build().unwrap();
    let over = AtomicBool::new(false);
    let (calls, wrong) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(SeqCst) {
                    pool.reap();
                }
            });
        }
        let callers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let end = Instant::now() + SOON;
                    while calls.load(SeqCst) < CALLS && Instant::now() < end {
                        drop(pool.pull()); // idle for an instant, so that sweeps find it
                        let Ok(mut lease) = pool.pull() else { continue };
                        if lease.write_all(b"ask\n").is_err() {
                            continue;
                        }
                        calls.fetch_add(1, SeqCst);
                        if lease.read_to_end(&mut Vec::new()).is_ok() {
                            wrong.fetch_add(1, SeqCst);
                        }
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.join().unwrap();
        }
        over.store(true, SeqCst);
    });
    let (calls, wrong) = (calls.into_inner(), wrong.into_inner());
    println!("{calls} calls, {wrong} wrong");
    assert!(calls > 0);
    assert_eq!(wrong, 0, "of {calls} half replies passed for whole ones");
    assert!(pool.stats().evicted(Eviction::Broken) > 0);
}
