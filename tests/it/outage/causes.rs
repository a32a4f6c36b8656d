//! What a caller is told of an outage, and after how many tries.

use super::*;
use crate::support::{on_threads, waiting_thread};

fn attempts(error: &Error) -> u32 {
    match error {
        Error::Exhausted { attempts, .. } => *attempts,
        other => panic!("not exhausted: {other}"),
    }
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
    call: impl Fn(&Pool) -> Result<Connection, Error> + Send + Sync + 'static,
) -> Vec<Error> {
    let callers = on_threads(pool, callers, move |pool, _| call(pool).unwrap_err());
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
    let sleeper = waiting_thread(&pool, |pool| pool.pull().map(drop));
    is_forbidden.store(1, SeqCst);
    Connection::discard(only);
    let error = sleeper.join().unwrap_err();
    assert_eq!((attempts(&error), error.is_connect()), (2, true));
}
