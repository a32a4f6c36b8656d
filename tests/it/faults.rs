//! What the fault matrix in docs/RELIABILITY.md asks for and no other room shows.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use jackpot::{Close, Connection, Error, Eviction, Pool};
use socket2::SockRef;

use crate::support::faults::Fault::{
    Fin, OurHalfClose, OutOfBand, Rst, Stray, StrayFin, StrayRst, TheirHalfClose,
};
use crate::support::faults::{Ends, Range, THEIRS, why};
use crate::support::{
    Act, Opened, Peer, SOON, Server, ask, assert_back, assert_left, assert_sums, on_thread,
    panic_quietly, reset, shows_resets, waiting_thread,
};

const MOMENT: Duration = Duration::from_millis(100);

/// Sends a line through a lease and back.
fn assert_works(lease: &mut Connection, far: &mut TcpStream) {
    lease.write_all(b"line").unwrap();
    far.read_exact(&mut [0; 4]).unwrap();
    far.write_all(b"line").unwrap();
    lease.read_exact(&mut [0; 4]).unwrap();
}

#[test]
fn a_sweep_finds_what_befell_an_idle_connection() {
    for fault in THEIRS.into_iter().chain([OurHalfClose]) {
        let (range, _ends) = Range::struck(fault, |builder| builder);
        assert_eq!(range.pool.reap(), usize::from(fault != OutOfBand));
        match why(fault) {
            Some(why) => assert_left(&range.pool, why),
            None => assert_back(&range.pool),
        }
        assert_eq!(range.pool.reap(), 0);
    }
}

#[test]
fn nobody_gets_an_idle_connection_that_something_befell() {
    for fault in THEIRS {
        let (range, ends) = Range::struck(fault, |builder| builder);
        assert_lives(&range, ends, why(fault));
    }
}

#[test]
fn nobody_gets_a_connection_that_something_befell_before_it_came_back() {
    for fault in THEIRS {
        let range = Range::new(1, |builder| builder);
        let (mut lease, mut ends) = range.lease();
        assert_works(&mut lease, ends.far.as_mut().unwrap());
        ends.strike(fault);
        drop(lease);
        assert_lives(&range, ends, why(fault));
    }
}

/// The next lease works: on the old connection, or on a new one if that had to leave.
#[track_caller]
fn assert_lives(range: &Range, ends: Ends, why: Option<Eviction>) {
    let mut lease = range.pool.allocate().unwrap();
    let mut far = match why {
        None => ends.far.unwrap(),
        Some(why) => {
            assert_eq!(range.pool.stats().evicted(why), 1);
            range.peer.accept()
        }
    };
    assert_works(&mut lease, &mut far);
    drop(lease);
    let (stats, left) = (range.pool.stats(), u64::from(why.is_some()));
    assert_sums(&stats);
    let found = (stats.connects, stats.releases, stats.idle);
    assert_eq!(found, (1 + left, left, 1), "{stats}");
}

#[test]
fn a_caller_sees_what_befalls_its_lease_and_the_connection_is_closed() {
    let timed_out = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
    for fault in THEIRS {
        let range = Range::new(1, |builder| builder.read_timeout(Some(MOMENT)));
        let (mut lease, mut ends) = range.lease();
        ends.strike(fault);
        let mut read = 0;
        let end = loop {
            match lease.read(&mut [0; 8]) {
                Ok(0) => break None,
                Ok(count) => read += count,
                Err(error) => break Some(error.kind()),
            }
        };
        assert_eq!(
            read,
            usize::from(matches!(fault, Stray | StrayFin | StrayRst))
        );
        drop(lease);
        match fault {
            Fin | StrayFin | TheirHalfClose | OurHalfClose => assert_eq!(end, None),
            Rst | StrayRst if !shows_resets() => assert_eq!(end, None),
            Rst | StrayRst => assert_eq!(end, Some(ErrorKind::ConnectionReset), "{fault:?}"),
            Stray | OutOfBand => assert!(timed_out.contains(&end.unwrap())),
        }
        let why = match fault {
            Stray | OutOfBand => Eviction::Unanswered,
            _ => Eviction::Broken,
        };
        assert_left(&range.pool, why);
    }
}

#[test]
fn a_waiter_gets_a_live_connection_whatever_befell_the_one_that_comes_back() {
    for fault in THEIRS.into_iter().chain([OurHalfClose]) {
        let range = Range::new(1, |builder| builder);
        let (lease, mut ends) = range.lease();
        let waiter = waiting_thread(&range.pool, |pool| pool.pull().unwrap());
        if fault == OurHalfClose {
            lease.shutdown(Shutdown::Write).unwrap();
        } else {
            ends.strike(fault);
        }
        drop(lease);
        let mut lease = waiter.join();
        let mut far = match fault {
            OutOfBand => ends.far.unwrap(),
            _ => range.peer.accept(),
        };
        assert_works(&mut lease, &mut far);
    }
}

#[test]
fn a_handshake_sees_what_befalls_its_connection_and_its_caller_is_told() {
    for fault in THEIRS {
        let peer = Peer::new();
        let address = peer.address();
        let pool = Pool::builder(move || TcpStream::connect(address))
            .read_timeout(Some(MOMENT))
            .handshake(|mut stream| {
                stream.read_exact(&mut [0; 2])?;
                Ok::<_, io::Error>(stream)
            })
            .reap_interval(None)
            .build()
            .unwrap();
        let caller = on_thread(&pool, |pool| pool.allocate().map(drop));
        let mut far = peer.accept();
        // Half of the greeting is there in any case.
        far.write_all(b"!").unwrap();
        let _open = match fault {
            Fin | StrayFin => None,
            Rst | StrayRst => {
                reset(far);
                None
            }
            TheirHalfClose => {
                far.shutdown(Shutdown::Write).unwrap();
                Some(far)
            }
            OutOfBand => {
                SockRef::from(&far).send_out_of_band(b"!").unwrap();
                Some(far)
            }
            Stray | OurHalfClose => Some(far),
        };
        let error = caller.join().unwrap_err();
        assert!(matches!(error, Error::Handshake(_)), "{fault:?}: {error}");
        let stats = pool.stats();
        assert_eq!((stats.open, stats.connect_failures), (0, 1), "{stats}");
    }
}

#[test]
fn the_end_comes_whatever_befell_the_connections() {
    for fault in THEIRS.into_iter().chain([OurHalfClose]) {
        let peer = Peer::new();
        let (address, opened) = (peer.address(), Opened::default());
        let pool = Pool::builder(opened.by(move || TcpStream::connect(address)))
            .max_connecting(1)
            .reap_interval(None)
            .build()
            .unwrap();
        let both = [pool.allocate().unwrap(), pool.allocate().unwrap()];
        for lease in &both {
            let near = lease.tcp().try_clone().unwrap();
            let far = Some(peer.accept());
            Ends { near, far }.strike(fault);
        }
        let [idle, leased] = both;
        drop(idle);
        pool.end();
        assert!(!pool.drain(Duration::ZERO), "a lease is out");
        drop(leased);
        assert!(pool.drain(SOON));
        assert_eq!((pool.stats().open, opened.left()), (0, 0));
        assert_sums(&pool.stats());
    }
}

#[test]
fn a_lease_whose_thread_panics_after_the_end_is_the_last_one_out() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    let lease = pool.pull().unwrap();
    pool.end();
    let holder = thread::spawn(move || {
        let _lease = lease;
        panic_quietly();
    });
    assert!(pool.drain(SOON));
    assert!(holder.join().is_err());
    assert_left(&pool, Eviction::Ended);
}

#[test]
fn a_waiter_behind_a_leaked_guard_is_told_that_the_pool_is_full_until_it_is_cut() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    std::mem::forget(pool.pull().unwrap());
    let error = pool.pull_timeout(MOMENT).unwrap_err();
    assert!(error.is_timeout() && error.is_full(), "{error}");
    let waiter = waiting_thread(&pool, |pool| Connection::id(&pool.pull().unwrap()));
    pool.free_with(0, Close::Hard);
    assert_eq!(waiter.join(), 2);
}

#[test]
fn a_leaked_guard_holds_up_drain_for_its_time_and_the_end_not_at_all() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    std::mem::forget(pool.pull().unwrap());
    pool.end();
    assert!(!pool.drain(MOMENT));
    assert_eq!(pool.stats().leased, 1);
    pool.end_with(Close::Hard);
    assert_left(&pool, Eviction::Ended);
    let mut far = peer.accept();
    assert_eq!(far.read(&mut [0]).unwrap(), 0, "its socket is shut down");
}

#[test]
fn a_time_out_during_the_end_closes_like_any_other() {
    for act in [Act::Stall, Act::Late(3 * MOMENT)] {
        let server = Server::new(move |_| act);
        let address = server.address();
        let pool = Pool::builder(move || TcpStream::connect(address))
            .read_timeout(Some(MOMENT))
            .reap_interval(None)
            .build()
            .unwrap();
        let mut lease = pool.pull().unwrap();
        pool.end();
        ask(&mut lease, "hello?").unwrap_err();
        drop(lease);
        assert!(pool.drain(SOON));
        assert_left(&pool, Eviction::Ended);
    }
}

#[test]
fn a_server_that_is_slower_than_the_read_timeout_fails_the_handshake() {
    let server = Server::new(|_| Act::Late(3 * MOMENT));
    let address = server.address();
    let pool = Pool::builder(move || TcpStream::connect(address))
        .read_timeout(Some(MOMENT))
        .handshake(|mut stream| ask(&mut stream, "hello?").map(|_| stream))
        .reap_interval(None)
        .build()
        .unwrap();
    let error = pool.allocate().unwrap_err();
    assert!(matches!(error, Error::Handshake(_)), "{error}");
    assert_eq!(pool.stats().open, 0);
}

#[test]
fn half_a_reply_is_never_read_by_a_waiter() {
    let (peer, (tell, told)) = (Peer::new(), mpsc::channel());
    let pool = peer.builder(1).read_timeout(Some(MOMENT)).build().unwrap();
    let mut lease = pool.pull().unwrap();
    let mut far = peer.accept();
    let waiter = waiting_thread(&pool, move |pool| {
        let mut lease = pool.pull().unwrap();
        tell.send(()).unwrap();
        crate::support::read_line(&mut lease).unwrap()
    });
    lease.write_all(b"?\n").unwrap();
    far.write_all(b"hal").unwrap();
    lease.read_exact(&mut [0; 4]).unwrap_err();
    drop(lease);
    let _ = far.write_all(b"f\n");
    told.recv_timeout(SOON).unwrap();
    peer.accept().write_all(b"whole\n").unwrap();
    assert_eq!(waiter.join(), b"whole\n");
    assert_eq!(pool.stats().evicted(Eviction::Unanswered), 1);
}
