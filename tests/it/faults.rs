//! What the fault matrix in docs/RELIABILITY.md asks for and no other room shows.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use jackpot::{
    Builder, Close, Connection, Connector, Error, Event, Eviction, Factory, Pool, Stream,
};
use socket2::SockRef;

use crate::support::{
    Act, BlackHole, Gate, Opened, Peer, SOON, Server, ask, assert_left, assert_sums, background,
    eventually, impatient, panic_quietly, refused, reset, reset_cause, shows_resets,
};

const MOMENT: Duration = Duration::from_millis(100);

/// What befalls a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Fin,
    Rst,
    Stray,
    StrayFin,
    StrayRst,
    OurHalfClose,
    TheirHalfClose,
    OutOfBand,
}

use Fault::{Fin, OurHalfClose, OutOfBand, Rst, Stray, StrayFin, StrayRst, TheirHalfClose};

/// What the other side can do.
const THEIRS: [Fault; 7] = [
    Fin,
    Rst,
    Stray,
    StrayFin,
    StrayRst,
    TheirHalfClose,
    OutOfBand,
];

/// Both ends of a connection, beside the pool's own handle on it.
struct Ends {
    near: TcpStream,
    far: Option<TcpStream>,
}

impl Ends {
    /// Does it, and waits until it can be seen.
    fn strike(&mut self, fault: Fault) {
        let mut far = self.far.take().unwrap();
        if matches!(fault, Stray | StrayFin | StrayRst) {
            far.write_all(b"!").unwrap();
        }
        match fault {
            Fin | StrayFin => drop(far),
            Rst | StrayRst => reset(far),
            Stray => self.far = Some(far),
            OurHalfClose => {
                self.near.shutdown(Shutdown::Write).unwrap();
                self.far = Some(far);
            }
            TheirHalfClose => {
                far.shutdown(Shutdown::Write).unwrap();
                self.far = Some(far);
            }
            OutOfBand => {
                SockRef::from(&far).send_out_of_band(b"!").unwrap();
                self.far = Some(far);
            }
        }
        eventually("it arrives", || match fault {
            Fin | TheirHalfClose => self.near.peek(&mut [0]).unwrap() == 0,
            Rst | StrayRst => self.near.peer_addr().is_err(),
            Stray | StrayFin => self.near.peek(&mut [0]).unwrap() == 1,
            OurHalfClose => true,
            OutOfBand => {
                let urgent_peek = 1 | 2;
                let mut byte = [std::mem::MaybeUninit::uninit()];
                let near = SockRef::from(&self.near);
                near.recv_with_flags(&mut byte, urgent_peek).is_ok()
            }
        });
    }
}

/// A pool whose sockets a test can strike.
struct Range {
    peer: Peer,
    pool: Pool,
    kept: Receiver<TcpStream>,
}

impl Range {
    fn new(limit: usize, settings: impl FnOnce(Builder) -> Builder) -> Self {
        let peer = Peer::new();
        let address = peer.address();
        let (keep, kept) = mpsc::channel();
        let builder = Pool::builder(move || {
            let tcp = TcpStream::connect(address)?;
            let _ = keep.send(tcp.try_clone()?);
            Ok(tcp)
        });
        let builder = builder.limit(limit).max_connecting(1).reap_interval(None);
        let pool = settings(builder).build().unwrap();
        Self { peer, pool, kept }
    }

    /// The ends of the connection made next.
    fn ends(&self) -> Ends {
        Ends {
            near: self.kept.recv_timeout(SOON).unwrap(),
            far: Some(self.peer.accept()),
        }
    }

    fn lease(&self) -> (Connection, Ends) {
        (self.pool.allocate().unwrap(), self.ends())
    }
}

/// Sends a line through a lease and back.
fn assert_works(lease: &mut Connection, far: &mut TcpStream) {
    lease.write_all(b"line").unwrap();
    far.read_exact(&mut [0; 4]).unwrap();
    far.write_all(b"line").unwrap();
    lease.read_exact(&mut [0; 4]).unwrap();
}

/// An urgent byte is not in the stream, so that it harms nobody who does not ask for it.
fn why(fault: Fault) -> Option<Eviction> {
    match fault {
        Fin | TheirHalfClose => Some(Eviction::PeerClosed),
        Rst => Some(reset_cause(false)),
        StrayRst => Some(reset_cause(true)),
        Stray | StrayFin => Some(Eviction::Unread),
        OurHalfClose => Some(Eviction::HalfClosed),
        OutOfBand => None,
    }
}

#[test]
fn a_sweep_finds_what_befell_an_idle_connection() {
    for fault in THEIRS.into_iter().chain([OurHalfClose]) {
        let range = Range::new(1, |builder| builder);
        let (lease, mut ends) = range.lease();
        drop(lease);
        ends.strike(fault);
        assert_eq!(range.pool.reap(), usize::from(fault != OutOfBand));
        if let Some(why) = why(fault) {
            assert_left(&range.pool, why);
        }
    }
}

#[test]
fn nobody_gets_an_idle_connection_that_something_befell() {
    for fault in THEIRS {
        let range = Range::new(1, |builder| builder);
        let (lease, mut ends) = range.lease();
        drop(lease);
        ends.strike(fault);
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
    assert_sums(&range.pool.stats());
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
        let pool = range.pool.clone();
        let waiter = background(move || pool.pull().unwrap());
        eventually("it waits", || range.pool.stats().waiting == 1);
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
        let caller = {
            let pool = pool.clone();
            background(move || pool.allocate().map(drop))
        };
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

/// Why no connection can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Refused,
    BacklogFull,
    NoName,
    NoDescriptor,
    FactoryFails,
    FactoryPanics,
}

const CAUSES: [Cause; 6] = [
    Cause::Refused,
    Cause::BacklogFull,
    Cause::NoName,
    Cause::NoDescriptor,
    Cause::FactoryFails,
    Cause::FactoryPanics,
];

impl Cause {
    fn factory(self) -> Box<dyn Fn() -> io::Result<TcpStream> + Send + Sync> {
        match self {
            Self::Refused => {
                let address = refused();
                Box::new(move || TcpStream::connect(address))
            }
            Self::BacklogFull => {
                let hole = BlackHole::new();
                Box::new(move || TcpStream::connect_timeout(&hole.address(), 3 * MOMENT))
            }
            // No resolver sends a label of more than 63 characters anywhere.
            Self::NoName => {
                let connector = Connector::new(format!("{}:1", "n".repeat(70)));
                Box::new(move || connector.connect())
            }
            Self::NoDescriptor => Box::new(|| Err(io::Error::from_raw_os_error(24))),
            Self::FactoryFails => Box::new(|| Err(io::Error::other("no"))),
            Self::FactoryPanics => Box::new(|| panic_quietly()),
        }
    }
}

#[test]
fn what_is_open_works_on_while_nothing_connects() {
    let server = Server::echo();
    for cause in CAUSES {
        let (address, fails) = (server.address(), Arc::new(AtomicBool::new(false)));
        let (failing, failure) = (Arc::clone(&fails), cause.factory());
        let pool = Pool::builder(move || {
            if failing.load(SeqCst) {
                failure()
            } else {
                TcpStream::connect(address)
            }
        })
        .limit(3)
        .backoff(impatient().retries(1000))
        .reap_interval(None)
        .build()
        .unwrap();
        drop((pool.allocate().unwrap(), pool.allocate().unwrap()));
        fails.store(true, SeqCst);
        let mut first = pool.allocate().unwrap();
        let mut second = pool.allocate().unwrap();
        let caller = {
            let pool = pool.clone();
            background(move || pool.pull_timeout(MOMENT).map(drop).unwrap_err())
        };
        assert_eq!(ask(&mut first, "still there?").unwrap(), "still there?");
        let error = caller.join();
        let is_clear = cause == Cause::BacklogFull || error.is_connect();
        assert!(error.is_timeout() && is_clear, "{cause:?}: {error}");
        let waiter = {
            let pool = pool.clone();
            background(move || Connection::id(&pool.pull().unwrap()))
        };
        eventually("it waits", || pool.stats().waiting == 1);
        assert_eq!(ask(&mut second, "and you?").unwrap(), "and you?");
        let id = Connection::id(&second);
        drop(second);
        assert_eq!(waiter.join(), id, "{cause:?}");
    }
}

#[test]
fn the_end_comes_while_nothing_connects() {
    for cause in CAUSES {
        let pool = Pool::builder(cause.factory())
            .backoff(impatient().retries(1000))
            .reap_interval(None)
            .build()
            .unwrap();
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let pool = pool.clone();
                background(move || pool.pull().map(drop).unwrap_err())
            })
            .collect();
        eventually("they wait", || pool.stats().waiting == 3);
        pool.end();
        for waiter in waiters {
            assert!(waiter.join().is_ended());
        }
        assert!(pool.drain(SOON), "{cause:?}");
        assert_sums(&pool.stats());
    }
}

/// A function of the user's that fails.
#[derive(Debug)]
struct No;

impl fmt::Display for No {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no")
    }
}

impl std::error::Error for No {}

fn fail_or_panic(panics: bool) -> Result<(), No> {
    if panics {
        panic_quietly();
    }
    Err(No)
}

#[test]
fn a_factory_or_handshake_that_fails_during_the_end_holds_nothing_up() {
    for (in_handshake, panics) in [(false, false), (false, true), (true, false), (true, true)] {
        let (peer, gate) = (Peer::new(), Gate::default());
        let (address, opened) = (peer.address(), Opened::default());
        let way = gate.clone();
        let turn = move |here: bool| {
            if here {
                way.pass();
                return fail_or_panic(panics);
            }
            Ok(())
        };
        let again = turn.clone();
        let pool = Pool::builder(opened.by(move || {
            again(!in_handshake).map_err(io::Error::other)?;
            TcpStream::connect(address)
        }))
        .handshake(move |stream| turn(in_handshake).map(|()| stream))
        .reap_interval(None)
        .build()
        .unwrap();
        let caller = {
            let pool = pool.clone();
            background(move || pool.pull().map(drop).unwrap_err())
        };
        eventually("it is under way", || gate.waiting() == 1);
        pool.end();
        assert!(caller.join().is_ended());
        gate.open();
        assert!(pool.drain(SOON));
        assert_eq!((pool.stats().connecting, opened.left()), (0, 0));
    }
}

#[test]
fn a_ping_that_fails_during_the_end_holds_nothing_up() {
    for panics in [false, true] {
        let (peer, gate) = (Peer::new(), Gate::default());
        let way = gate.clone();
        let pool = peer
            .builder(1)
            .ping(Duration::from_nanos(1), move |_: &mut Stream| {
                way.pass();
                fail_or_panic(panics)
            })
            .build()
            .unwrap();
        drop(pool.pull().unwrap());
        eventually("it pings", || {
            pool.reap();
            gate.waiting() == 1
        });
        pool.end();
        gate.open();
        assert!(pool.drain(SOON));
        assert_left(&pool, Eviction::Ended);
    }
}

#[test]
fn a_recycle_that_fails_during_the_end_holds_nothing_up() {
    for panics in [false, true] {
        let (peer, gate) = (Peer::new(), Gate::default());
        let way = gate.clone();
        let pool = peer
            .builder(1)
            .recycle(move |_: &mut Stream| {
                way.pass();
                fail_or_panic(panics)
            })
            .build()
            .unwrap();
        let lease = pool.pull().unwrap();
        let returned = background(move || drop(lease));
        eventually("it is being recycled", || gate.waiting() == 1);
        pool.end();
        gate.open();
        returned.join();
        assert!(pool.drain(SOON));
        assert_left(&pool, Eviction::Ended);
    }
}

#[test]
fn an_event_function_that_panics_during_the_end_holds_nothing_up() {
    let peer = Peer::new();
    let builder = peer.builder(2).on_event(|event| {
        if matches!(event, Event::Evicted { .. } | Event::Ended) {
            panic_quietly();
        }
    });
    let pool = builder.build().unwrap();
    let (idle, leased) = (pool.pull().unwrap(), pool.pull().unwrap());
    drop(idle);
    pool.end();
    drop(leased);
    assert!(pool.drain(SOON));
    assert_eq!(pool.stats().evicted(Eviction::Ended), 2);
}

#[test]
fn a_waiter_is_served_although_event_functions_panic() {
    let peer = Peer::new();
    let builder = peer.builder(1).on_event(|_| panic_quietly());
    let pool = builder.build().unwrap();
    let lease = pool.pull().unwrap();
    let waiter = {
        let pool = pool.clone();
        background(move || pool.pull().map(drop))
    };
    eventually("it waits", || pool.stats().waiting == 1);
    Connection::discard(lease);
    waiter.join().unwrap();
}

#[test]
fn a_ping_that_fails_lets_a_waiter_connect() {
    for panics in [false, true] {
        let (peer, gate) = (Peer::new(), Gate::default());
        let way = gate.clone();
        let pool = peer
            .builder(1)
            .ping(Duration::from_nanos(1), move |_: &mut Stream| {
                way.pass();
                fail_or_panic(panics)
            })
            .build()
            .unwrap();
        drop(pool.pull().unwrap());
        eventually("it pings", || {
            pool.reap();
            gate.waiting() == 1
        });
        let waiter = {
            let pool = pool.clone();
            background(move || Connection::id(&pool.pull().unwrap()))
        };
        eventually("it waits", || pool.stats().waiting == 1);
        gate.open();
        assert_eq!(waiter.join(), 2);
        assert_eq!(pool.stats().evicted(Eviction::PingFailed), 1);
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
    let waiter = {
        let pool = pool.clone();
        background(move || Connection::id(&pool.pull().unwrap()))
    };
    eventually("it waits", || pool.stats().waiting == 1);
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
    let waiter = {
        let pool = pool.clone();
        background(move || {
            let mut lease = pool.pull().unwrap();
            tell.send(()).unwrap();
            crate::support::read_line(&mut lease).unwrap()
        })
    };
    eventually("it waits", || pool.stats().waiting == 1);
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
