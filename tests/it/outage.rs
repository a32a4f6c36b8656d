//! The other side is away: retries, causes, the outage gate, and the way back.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Backoff, Connection, Connector, Error, Eviction, Jitter, Pool};

use crate::line::{Line, Queue, fast_retries, in_time};
use crate::support::{Gate, Peer, SOON, Server, ask, background, eventually, one_retry, refused};

/// What the outage gate keeps between the starts of two connects.
const SPACING: Duration = Duration::from_millis(100);

fn attempts(error: &Error) -> u32 {
    match error {
        Error::Exhausted { attempts, .. } => *attempts,
        other => panic!("not exhausted: {other}"),
    }
}

/// A pool whose last connect has failed.
fn shut(line: &Line, limit: usize) -> Pool {
    line.down();
    let pool = line.pool(limit);
    assert!(pool.allocate().unwrap_err().is_connect());
    pool
}

#[test]
fn pull_tries_once_more_than_it_retries() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    line.down();
    let pool = line.pool(5);
    for retries in [0, 1, 4] {
        let backoff = Backoff::new()
            .retries(retries)
            .factor(1.0)
            .min(Duration::from_millis(20))
            .jitter(Jitter::None);
        pool.set_backoff(backoff).unwrap();
        let started = Instant::now();
        let error = pool.pull().unwrap_err();
        let took = started.elapsed();
        assert_eq!(attempts(&error), retries + 1);
        assert!(took >= Duration::from_millis(20) * retries, "{took:?}");
        let Error::Exhausted { elapsed, stats, .. } = &error else {
            unreachable!();
        };
        assert!(*elapsed <= took);
        assert_eq!((stats.limit, stats.open), (5, 0));
        let tries = if retries == 0 { "1 try" } else { "tries" };
        assert!(error.to_string().contains(tries), "{error}");
    }
}

#[test]
fn zero_retries_is_one_try() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    line.down();
    let pool = line.pool(1);
    pool.set_backoff(one_retry().retries(0)).unwrap();
    let error = pool.pull().unwrap_err();
    // On a slow machine the pool has tried again before the caller has left.
    assert_eq!(attempts(&error), 1);
    assert!(error.is_connect() && !error.is_full());
}

#[test]
fn zero_retries_at_the_limit_is_one_try_too() {
    let peer = Peer::new();
    let pool = Line::to(peer.address()).pool(1);
    pool.set_backoff(one_retry().retries(0)).unwrap();
    let _lease = pool.pull().unwrap();
    let error = pool.pull().unwrap_err();
    assert_eq!(attempts(&error), 1);
    assert!(error.is_full() && !error.is_connect());
}

#[test]
fn what_waiting_cannot_cure_fails_at_once() {
    let peer = Peer::new();
    for kind in [ErrorKind::PermissionDenied, ErrorKind::InvalidInput] {
        let line = Line::to(peer.address());
        line.meets(move |_| Err(kind.into()));
        let error = in_time(&line.pool(5), Pool::pull).unwrap_err();
        // On a slow machine the pool has tried again before the caller has left.
        assert_eq!(attempts(&error), 1);
        assert_eq!(error.io_error().unwrap().kind(), kind);
    }
}

#[test]
fn an_address_that_is_none_fails_at_once() {
    let connector = Connector::new("127.0.0.1:no port");
    let pool = Pool::new(5, connector).unwrap();
    let error = in_time(&pool, Pool::pull).unwrap_err();
    assert_eq!(attempts(&error), 1);
    assert!(error.is_connect());
}

/// Fails the test unless all of these errors have this connect error at the bottom.
#[track_caller]
fn expect_cause(errors: &[Error], kind: ErrorKind, code: Option<i32>, text: &str) {
    for error in errors {
        assert!(error.is_connect() && !error.is_full(), "{error:?}");
        let cause = error.io_error().unwrap();
        assert_eq!((cause.kind(), cause.raw_os_error()), (kind, code));
        assert_eq!(cause.to_string(), text);
    }
}

/// What so many callers at once get who all fail.
#[track_caller]
fn errors_of(
    callers: usize,
    pool: &Pool,
    call: impl Fn(&Pool) -> Result<Connection, Error> + Copy + Send + 'static,
) -> Vec<Error> {
    let callers: Vec<_> = (0..callers)
        .map(|_| {
            let pool = pool.clone();
            background(move || call(&pool).unwrap_err())
        })
        .collect();
    callers.into_iter().map(|caller| caller.join()).collect()
}

#[test]
fn the_cause_is_given_to_every_caller_whose_retries_are_used_up() {
    let address = refused();
    let original = TcpStream::connect(address).unwrap_err();
    let pool = Line::to(address).builder(20).backoff(one_retry());
    let errors = errors_of(10, &pool.build().unwrap(), Pool::pull);
    assert!(errors.iter().all(|error| attempts(error) == 2));
    let text = original.to_string();
    expect_cause(&errors, original.kind(), original.raw_os_error(), &text);
}

#[test]
fn the_cause_is_given_to_every_caller_whose_time_is_up() {
    let address = refused();
    let original = TcpStream::connect(address).unwrap_err();
    let pool = Line::to(address).pool(20);
    let errors = errors_of(10, &pool, |pool| {
        pool.pull_timeout(Duration::from_millis(500))
    });
    assert!(errors.iter().all(Error::is_timeout));
    let text = original.to_string();
    expect_cause(&errors, original.kind(), original.raw_os_error(), &text);
}

#[test]
fn the_cause_keeps_its_text_where_there_is_no_code() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let kind = ErrorKind::HostUnreachable;
    line.meets(move |_| Err(io::Error::new(kind, "the switchboard is closed")));
    let pool = line.builder(20).backoff(one_retry()).build().unwrap();
    let errors = errors_of(10, &pool, Pool::pull);
    expect_cause(&errors, kind, None, "the switchboard is closed");
}

#[test]
fn the_cause_is_the_outage_for_those_too_for_whom_the_limit_leaves_no_connect() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = shut(&line, 1);
    pool.set_backoff(one_retry()).unwrap();
    let errors = errors_of(10, &pool, Pool::pull);
    let text = io::Error::from(ErrorKind::ConnectionRefused).to_string();
    expect_cause(&errors, ErrorKind::ConnectionRefused, None, &text);
    let errors = errors_of(10, &pool, |pool| {
        pool.pull_timeout(Duration::from_millis(30))
    });
    expect_cause(&errors, ErrorKind::ConnectionRefused, None, &text);
}

#[test]
fn the_cause_is_full_when_all_of_the_limit_is_leased_although_a_connect_once_failed() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = line.pool(2);
    let _lease = pool.allocate().unwrap();
    line.down();
    assert!(pool.allocate().unwrap_err().is_connect());
    pool.set_limit(1);
    pool.set_backoff(one_retry()).unwrap();
    assert!(pool.pull().unwrap_err().is_full());
    assert!(pool.allocate().unwrap_err().is_full());
    let error = pool.pull_timeout(Duration::from_millis(5)).unwrap_err();
    assert!(error.is_full(), "{error:?}");
}

#[test]
fn first_attempts_in_an_outage_share_the_last_failure() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    line.meets(|call| Err(io::Error::other(format!("call {call}"))));
    let pool = line.pool(50);
    let started = Instant::now();
    for _ in 0..1000 {
        let error = pool.allocate().unwrap_err();
        let text = error.io_error().unwrap().to_string();
        assert_eq!(text, format!("call {}", line.calls() - 1));
    }
    expect_spacing(&line, started, 0);
}

/// No more than ten calls a second since then, the first `before` ones apart.
#[track_caller]
fn expect_spacing(line: &Line, since: Instant, before: usize) {
    let calls = line.calls() - before;
    let tenths = since.elapsed().as_millis() / SPACING.as_millis();
    assert!(calls as u128 <= tenths + 1, "{calls} in {tenths} tenths");
}

#[test]
fn in_an_outage_a_failing_factory_is_not_called_in_a_tight_loop() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = shut(&line, 50);
    pool.set_backoff(fast_retries()).unwrap();
    let started = Instant::now();
    let callers: Vec<_> = (0..30)
        .map(|n| {
            let pool = pool.clone();
            background(move || {
                while started.elapsed() < Duration::from_millis(800) {
                    let outcome = match n % 3 {
                        0 => pool.allocate(),
                        1 => pool.pull_timeout(Duration::from_millis(150)),
                        _ => pool.pull_timeout(Duration::from_millis(3)),
                    };
                    assert!(outcome.unwrap_err().is_connect());
                    thread::yield_now();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join();
    }
    expect_spacing(&line, started, 1);
    assert!(line.calls() > 3, "it was hardly called");
    assert_eq!(line.most(), 1);
}

#[test]
fn in_an_outage_one_connect_is_under_way_however_many_threads_pull() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = shut(&line, 50);
    pool.set_backoff(fast_retries()).unwrap();
    let gate = line.held();
    let queue = Queue::of(&pool, 20);
    eventually("one connects", || gate.waiting() == 1);
    // Many retries go by, and more than the gate keeps between two connects.
    thread::sleep(3 * SPACING);
    assert_eq!((line.inside(), pool.stats().connecting), (1, 1));
    assert!(pool.allocate().unwrap_err().is_connect());
    gate.open();
    let leases: Vec<_> = (0..20).map(|_| queue.next()).collect();
    assert_eq!(pool.stats().leased, leases.len());
}

#[test]
fn the_pool_keeps_trying_while_the_callers_sleep_for_a_minute() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    line.down();
    let pool = line.pool(10);
    let started = Instant::now();
    let queue = Queue::of(&pool, 5);
    eventually("the pauses have grown to their longest", || {
        line.calls() >= 6
    });
    let starts = line.starts();
    for (earlier, later) in starts.iter().zip(&starts[1..]) {
        let pause = later.duration_since(*earlier);
        assert!(pause < Duration::from_secs(2), "{pause:?}");
    }
    expect_spacing(&line, started, 5);
    let up_again = Instant::now();
    line.up();
    let leases: Vec<_> = (0..5).map(|_| queue.next()).collect();
    let took = up_again.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(pool.stats().leased, leases.len());
}

#[test]
fn a_waiter_that_leaves_hands_the_trying_on_to_the_next() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = shut(&line, 10);
    let leaving = pool.clone();
    let leaving = background(move || {
        let timeout = Duration::from_secs(1);
        leaving.pull_timeout(timeout).map(Connection::detach)
    });
    eventually("it waits", || pool.stats().waiting == 1);
    let queue = Queue::of(&pool, 2);
    assert!(leaving.join().unwrap_err().is_connect());
    let calls = line.calls();
    eventually("the pool tries on", || line.calls() > calls);
    line.up();
    drop([queue.next(), queue.next()]);
}

#[test]
fn nobody_sits_out_a_delay_before_a_server_that_is_back() {
    let mut server = Server::echo();
    let line = Line::to(server.address());
    let pool = line.pool(5);
    let leases: Vec<_> = (0..5).map(|_| pool.allocate().unwrap()).collect();
    drop(leases);
    server.die(true);
    let callers: Vec<_> = (0..20)
        .map(|n| {
            let pool = pool.clone();
            background(move || ask(&mut *pool.pull().unwrap(), &n.to_string()).unwrap())
        })
        .collect();
    eventually("all of them wait", || pool.stats().waiting == 20);
    eventually("and see the outage", || pool.stats().connect_failures >= 2);
    server.come_back();
    for (n, caller) in callers.into_iter().enumerate() {
        assert_eq!(caller.join(), n.to_string());
    }
    assert_eq!(pool.stats().waiting, 0);
}

#[test]
fn a_connection_that_comes_back_serves_a_waiter_in_an_outage() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = line.pool(5);
    let lease = pool.allocate().unwrap();
    line.down();
    let queue = Queue::of(&pool, 3);
    eventually("the connect has failed", || {
        pool.stats().connect_failures > 0
    });
    drop(lease);
    queue.expect_order(0..3);
    assert_eq!(pool.stats().connects, 1);
}

#[test]
fn another_factory_lifts_the_gate() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = shut(&line, 5);
    let queue = Queue::of(&pool, 2);
    pool.set_factory(Line::to(peer.address()).factory());
    let calls = line.calls();
    drop(pool.allocate().unwrap());
    drop([queue.next(), queue.next()]);
    assert!(line.calls() <= calls + 1, "only what was under way");
}

#[test]
fn callers_do_not_wait_for_a_stuck_connect_of_the_factory_before() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = shut(&line, 5);
    let gate = line.held();
    let queue = Queue::of(&pool, 2);
    eventually("the pool tries by itself", || gate.waiting() == 1);
    assert!(pool.allocate().unwrap_err().is_connect());
    pool.set_factory(Line::to(peer.address()).factory());
    let leases = [queue.next(), queue.next()];
    let caller = pool.clone();
    let caller = background(move || caller.allocate().map(Connection::detach));
    caller.join().unwrap();
    assert_eq!((line.inside(), pool.stats().connecting), (1, 1));
    drop(leases);
    gate.open();
}

#[test]
fn a_late_failure_of_the_factory_before_does_not_shut_the_gate() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let gate = Gate::default();
    let way = gate.clone();
    line.meets(move |_| {
        way.pass();
        Err(ErrorKind::ConnectionRefused.into())
    });
    let pool = line.pool(5);
    let timeout = Duration::from_millis(1);
    assert!(pool.pull_timeout(timeout).unwrap_err().is_timeout());
    eventually("its connect goes on", || gate.waiting() == 1);
    pool.set_factory(Line::to(peer.address()).factory());
    gate.open();
    eventually("the old one has failed", || {
        pool.stats().connect_failures == 1
    });
    pool.allocate().map(Connection::detach).unwrap();
}

#[test]
fn a_connect_not_yet_started_uses_the_new_factory() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let gate = line.held();
    let pool = line.builder(5).max_connecting(1).build().unwrap();
    let queue = Queue::of(&pool, 3);
    eventually("one connects", || gate.waiting() == 1);
    let other = Line::to(peer.address());
    pool.set_factory(other.factory());
    gate.open();
    let leases: Vec<_> = (0..3).map(|_| queue.next()).collect();
    assert_eq!((line.calls(), other.calls()), (1, 3));
    drop(leases);
}

#[test]
fn the_first_success_lets_everybody_connect_at_once() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = shut(&line, 10);
    let queue = Queue::of(&pool, 5);
    let first = Mutex::new(true);
    let gate = Gate::default();
    let way = gate.clone();
    line.meets(move |_| {
        if !std::mem::take(&mut *first.lock().unwrap()) {
            way.pass();
        }
        Ok(())
    });
    let lease = queue.next();
    eventually("all the others connect", || gate.waiting() == 4);
    gate.open();
    let leases: Vec<_> = (0..4).map(|_| queue.next()).collect();
    drop((lease, leases));
}

#[test]
fn giving_up_is_per_call_and_the_pool_never_does() {
    let mut server = Server::echo();
    let line = Line::to(server.address());
    let pool = line.builder(5).backoff(one_retry()).build().unwrap();
    server.die(false);
    for _ in 0..20 {
        assert!(pool.pull().unwrap_err().is_connect());
    }
    server.come_back();
    eventually("it works again", || pool.pull().is_ok());
    assert_eq!(ask(&mut *pool.pull().unwrap(), "hello").unwrap(), "hello");
}

#[test]
fn a_sleeping_waiter_keeps_its_place_across_retries() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = shut(&line, 1);
    // The first has long delays and the others short ones: whoever tries most is not first.
    let sleeper = Queue::of(&pool, 1);
    pool.set_backoff(fast_retries()).unwrap();
    let others = Queue::of(&pool, 4);
    let calls = line.calls();
    eventually("there have been retries", || line.calls() >= calls + 2);
    line.up();
    let (_, lease) = sleeper.next();
    assert_eq!(pool.stats().waiting, 4);
    drop(lease);
    others.expect_order(0..4);
}

#[test]
fn there_is_jitter_at_the_cap() {
    let cap = Duration::from_secs(10);
    let backoff = Backoff::new().retries(100).max(cap);
    for jitter in [Jitter::Equal, Jitter::Full, Jitter::Decorrelated] {
        let at_the_cap = backoff.clone().jitter(jitter).delays().skip(10);
        let delays: HashSet<Duration> = at_the_cap.collect();
        assert!(delays.len() > 50, "{jitter:?}");
        assert!(delays.iter().all(|delay| *delay <= cap));
        let below = delays.iter().filter(|delay| **delay < cap * 9 / 10);
        assert!(below.count() > 20, "{jitter:?}");
    }
}

/// What the system says then: EMFILE, or WSAEMFILE.
const NO_DESCRIPTOR: i32 = if cfg!(windows) { 10024 } else { 24 };

/// A process with no descriptor left.
pub(crate) fn out_of_descriptors() -> io::Error {
    io::Error::from_raw_os_error(NO_DESCRIPTOR)
}

#[test]
fn out_of_descriptors_idle_connections_are_given_up_for_a_new_one() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = line.pool(10);
    let leases: Vec<_> = (0..4).map(|_| pool.allocate().unwrap()).collect();
    let oldest = Connection::id(&leases[0]);
    let gate = Gate::default();
    let way = gate.clone();
    line.meets(move |call| {
        way.pass();
        if call < 5 {
            return Err(out_of_descriptors());
        }
        Ok(())
    });
    let queue = Queue::of(&pool, 1);
    eventually("it connects", || gate.waiting() == 1);
    drop(leases); // the first one goes to the waiter
    let (_, lease) = queue.next();
    assert_eq!(Connection::id(&lease), oldest);
    assert_eq!(pool.stats().idle, 3);
    gate.open();
    eventually("the connect is through", || pool.stats().connecting == 0);
    let stats = pool.stats();
    assert_eq!((stats.connects, stats.connect_failures), (5, 0));
    assert_eq!(stats.evicted(Eviction::OverLimit), 1);
    let ids: Vec<u64> = pool.connections().iter().map(|c| c.id).collect();
    assert!(!ids.contains(&(oldest + 1)), "the least recently used one");
}

#[test]
fn out_of_descriptors_without_idle_connections_is_a_failure_like_others() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = line.pool(10);
    let lease = pool.allocate().unwrap();
    line.meets(|_| Err(out_of_descriptors()));
    let error = pool.allocate().unwrap_err();
    assert_eq!(
        error.io_error().unwrap().raw_os_error(),
        Some(NO_DESCRIPTOR)
    );
    let queue = Queue::of(&pool, 1);
    drop(lease);
    assert_eq!(queue.next().0, 0);
}

#[test]
fn the_first_success_wakes_all_who_sleep() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = shut(&line, 2);
    let (serve, served) = mpsc::channel();
    for _ in 0..50 {
        let (pool, serve) = (pool.clone(), serve.clone());
        thread::spawn(move || serve.send(pool.pull().is_ok()));
    }
    eventually("all of them wait", || pool.stats().waiting == 50);
    line.up();
    for _ in 0..50 {
        assert!(served.recv_timeout(SOON).unwrap());
    }
    assert!(pool.stats().connects <= 2);
}

#[test]
fn one_try_is_one_connect_however_long_that_takes_to_fail() {
    let connects = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connects);
    let pool = Pool::builder(move || {
        counted.fetch_add(1, SeqCst);
        // Longer than the pause after which the pool would try again for one who waits.
        thread::sleep(Duration::from_millis(250));
        Err::<TcpStream, _>(io::ErrorKind::ConnectionRefused.into())
    })
    .reap_interval(None)
    .build()
    .unwrap();
    assert!(pool.allocate().unwrap_err().is_connect());
    assert_eq!(pool.stats().connecting, 0);
    assert_eq!(connects.load(SeqCst), 1);
}

#[test]
fn a_socket_that_is_connected_to_itself_is_a_failed_connect() {
    let pool = Pool::builder(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
        socket.bind(&any.into())?;
        socket.connect(&socket.local_addr()?)?;
        Ok(socket.into())
    })
    .reap_interval(None)
    .build()
    .unwrap();
    let error = pool.allocate().unwrap_err();
    let cause = error.io_error().unwrap();
    assert_eq!(cause.kind(), io::ErrorKind::ConnectionRefused);
    assert!(cause.to_string().contains("connected to itself"), "{cause}");
}

#[test]
fn one_who_sleeps_in_a_backoff_hears_at_once_of_what_waiting_cannot_cure() {
    let peer = Peer::new();
    let (address, is_forbidden) = (peer.address(), Arc::new(AtomicUsize::new(0)));
    let forbidden = Arc::clone(&is_forbidden);
    let pool = Pool::builder(move || match forbidden.load(SeqCst) {
        0 => TcpStream::connect(address),
        _ => Err(ErrorKind::PermissionDenied.into()),
    })
    .limit(1)
    .reap_interval(None)
    .backoff(Backoff::new().min(Duration::from_secs(60)))
    .build()
    .unwrap();
    let only = pool.pull().unwrap();
    let sleeper = {
        let pool = pool.clone();
        background(move || pool.pull().map(drop))
    };
    eventually("it sleeps", || pool.stats().waiting == 1);
    is_forbidden.store(1, SeqCst);
    Connection::discard(only);
    let error = sleeper.join().unwrap_err();
    assert_eq!((attempts(&error), error.is_connect()), (2, true));
}
