//! Requests that may be repeated: `retry`, `retry_until`; and `pull_until`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Backoff, Close, Connection, Error, Pool};

use crate::support::operator::hour_long;
use crate::support::{Act, Gate, Peer, SOON, Server, eventually, refused};

/// A pool for this server that tries again soon.
fn quick(server: &Server, retries: u32) -> Pool {
    let address = server.address();
    let backoff = Backoff::new()
        .retries(retries)
        .min(Duration::from_millis(5));
    Pool::builder(move || TcpStream::connect(address))
        .reap_interval(None)
        .backoff(backoff.max(Duration::from_millis(10)))
        .build()
        .unwrap()
}

/// Sends a line and reads one.
fn ask(connection: &mut Connection) -> io::Result<String> {
    connection.write_all(b"hello\n")?;
    let mut line = String::new();
    BufReader::new(&**connection).read_line(&mut line)?;
    if line.ends_with('\n') {
        Ok(line)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

#[test]
fn a_connection_closed_at_the_moment_of_use_is_not_seen() {
    for act in [Act::Fin, Act::Rst] {
        let server = Server::new(move |n| if n == 1 { act } else { Act::Echo });
        // Longer than the test may take: the first repetition comes at once.
        let pool = quick(&server, 5);
        pool.set_backoff(hour_long()).unwrap();
        for _ in 0..3 {
            assert_eq!(pool.retry(ask).unwrap(), "hello\n");
        }
        assert_eq!((server.requests(), server.accepted()), (4, 2));
    }
}

#[test]
fn a_connection_made_in_reserve_counts_as_one_that_may_have_been_closed() {
    let server = Server::new(|n| if n == 0 { Act::Fin } else { Act::Echo });
    let address = server.address();
    let pool = Pool::builder(move || TcpStream::connect(address))
        .backoff(hour_long())
        .min_idle(1)
        .reap_interval(None)
        .build()
        .unwrap();
    eventually("a connection in reserve", || pool.stats().idle == 1);
    // It has rested only once the clock has gone on since its connect.
    thread::sleep(Duration::from_millis(2));
    assert_eq!(pool.retry(ask).unwrap(), "hello\n");
}

#[test]
fn a_server_that_hangs_up_on_new_connections_is_given_time_and_up_at_last() {
    let server = Server::new(|_| Act::Fin);
    let pool = quick(&server, 3);
    let started = Instant::now();
    let error = pool.retry(ask).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(server.requests(), 4);
    assert!(started.elapsed() >= Duration::from_millis(15));
}

/// Nor is it the fault of a server that is fine, so that no pause between connects hides it.
#[test]
fn a_repetition_waits_for_its_delay() {
    let server = Server::echo();
    let pool = quick(&server, 3);
    let started = Instant::now();
    let answer = pool.retry(|connection| {
        connection.shutdown(Shutdown::Both)?;
        Err::<(), _>(io::Error::other("broken by the caller"))
    });
    answer.unwrap_err();
    assert_eq!(pool.stats().allocations, 4);
    assert!(started.elapsed() >= Duration::from_millis(15));
}

#[test]
fn nothing_is_repeated_once_a_byte_of_the_reply_was_read() {
    let server = Server::new(|n| if n == 1 { Act::Half } else { Act::Echo });
    let pool = quick(&server, 5);
    assert_eq!(pool.retry(ask).unwrap(), "hello\n");
    assert!(pool.retry(ask).is_err());
    assert_eq!(server.requests(), 2);
}

#[test]
fn an_earlier_reply_on_the_connection_is_no_reply_of_this_lease() {
    let server = Server::new(|n| if n == 3 { Act::Fin } else { Act::Echo });
    let pool = quick(&server, 5);
    for _ in 0..4 {
        assert_eq!(pool.retry(ask).unwrap(), "hello\n");
    }
    assert_eq!(server.requests(), 5);
}

#[test]
fn an_error_that_is_no_break_comes_out_as_it_is() {
    let server = Server::new(|_| Act::Stall);
    let pool = quick(&server, 5);
    let mut runs = 0;
    let answer = pool.retry(|connection| {
        runs += 1;
        connection.set_read_timeout(Some(Duration::from_millis(10)))?;
        ask(connection)
    });
    let kind = answer.unwrap_err().kind();
    assert!(matches!(
        kind,
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    ));
    assert_eq!(runs, 1);
    eventually("the server has read it", || server.requests() == 1);
    let answer = pool.retry(|_| Err::<(), _>(io::Error::other("refused by the caller")));
    assert_eq!(answer.unwrap_err().to_string(), "refused by the caller");
}

#[test]
fn a_restart_of_the_server_is_not_seen() {
    let mut server = Server::echo();
    let pool = quick(&server, 1000);
    assert_eq!(pool.retry(ask).unwrap(), "hello\n");
    server.die(false);
    let (tell, told) = mpsc::channel();
    let caller = pool.clone();
    thread::spawn(move || {
        let deadline = Instant::now() + SOON;
        tell.send(caller.retry_until(deadline, ask)).unwrap();
    });
    eventually("a refused connect", || pool.stats().connect_failures > 0);
    server.come_back();
    assert_eq!(told.recv_timeout(SOON).unwrap().unwrap(), "hello\n");
}

#[test]
fn the_deadline_holds_for_the_pull_and_for_each_read() {
    let server = Server::new(|_| Act::Stall);
    let pool = quick(&server, 1000);
    let started = Instant::now();
    let error = pool
        .retry_until(started + Duration::from_millis(50), |connection| {
            assert!(connection.deadline().is_some());
            connection.set_deadline(None)?; // takes back the caller's own, not this one
            ask(connection)
        })
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(started.elapsed() < SOON);

    let address = refused();
    let pool = Pool::builder(move || TcpStream::connect(address))
        .reap_interval(None)
        .build()
        .unwrap();
    let deadline = Instant::now() + SOON / 10; // a connect fails before, on a busy machine too
    let error = pool
        .retry_until(deadline, |_| Ok::<(), Error>(()))
        .unwrap_err();
    assert!(error.is_timeout() && error.is_connect(), "{error}");
}

#[test]
fn a_deadline_that_passes_between_two_repetitions_leaves_the_requests_own_error() {
    let server = Server::new(|_| Act::Fin);
    let pool = quick(&server, 5);
    pool.set_backoff(Backoff::default().min(SOON)).unwrap();
    let started = Instant::now();
    let error = pool.retry_until(started + SOON / 2, ask).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(started.elapsed() < SOON / 2, "it slept for nothing");
}

#[test]
fn the_end_ends_the_delay_before_a_repetition() {
    let server = Server::new(|_| Act::Fin);
    let pool = quick(&server, 5);
    pool.set_backoff(hour_long()).unwrap();
    let (tell, told) = mpsc::channel();
    let caller = pool.clone();
    thread::spawn(move || tell.send(caller.retry(ask)).unwrap());
    eventually("a request", || {
        server.requests() == 1 && pool.stats().open == 0
    });
    pool.end();
    let error = told.recv_timeout(SOON).unwrap().unwrap_err();
    let source = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    assert!(source.is_some_and(Error::is_ended), "{error}");
}

#[test]
fn pulls_and_repetitions_share_their_retries() {
    // Every other connect fails, and every request.
    let server = Server::new(|_| Act::Fin);
    let address = server.address();
    let connects = std::sync::atomic::AtomicUsize::new(0);
    let pool = Pool::builder(move || {
        match connects.fetch_add(1, std::sync::atomic::Ordering::SeqCst) % 2 {
            0 => Err(io::ErrorKind::ConnectionRefused.into()),
            _ => TcpStream::connect(address),
        }
    })
    .reap_interval(None)
    .backoff(Backoff::new().retries(4).min(Duration::from_millis(5)))
    .build()
    .unwrap();
    // Connect fails, request fails, connect fails, request fails: the fourth delay is the last.
    assert!(pool.retry(ask).is_err());
    assert!(server.requests() <= 3, "{}", server.requests());
}

#[test]
fn a_lease_cut_by_a_hard_close_of_the_pool_ends_in_ended() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    let gate = Gate::default();
    let (caller, held) = (pool.clone(), gate.clone());
    let call = thread::spawn(move || {
        caller.retry(|connection| {
            connection.write_all(b"hello\n")?;
            held.pass();
            connection.read_exact(&mut [0])
        })
    });
    let _far = peer.accept();
    eventually("a lease", || gate.waiting() == 1);
    pool.end_with(Close::Hard);
    gate.open();
    let error = call.join().unwrap().unwrap_err();
    let source = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    assert!(source.is_some_and(Error::is_ended), "{error}");
}

#[test]
fn pull_until_is_over_by_then() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    let held = pool.pull().unwrap();
    let deadline = Instant::now() + Duration::from_millis(20);
    let error = pool.pull_until(deadline).unwrap_err();
    assert!(error.is_timeout() && error.is_full(), "{error}");
    assert!(Instant::now() >= deadline);
    drop(held);
    // A deadline that is past asks for what is idle.
    assert!(pool.pull_until(deadline).is_ok());
}

#[test]
fn only_the_first_repetition_comes_at_once() {
    let server = Server::new(|n| if n < 3 { Act::Echo } else { Act::Fin });
    let pool = quick(&server, 5);
    let mut leases: Vec<_> = (0..3).map(|_| pool.pull().unwrap()).collect();
    for lease in &mut leases {
        ask(lease).unwrap();
    }
    drop(leases);
    pool.set_backoff(Backoff::default().min(SOON)).unwrap();
    let error = pool
        .retry_until(Instant::now() + SOON / 2, ask)
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(server.requests(), 5);
}

#[test]
fn a_deadline_that_passes_in_the_pull_of_a_repetition_leaves_the_requests_own_error() {
    let mut server = Server::echo();
    let pool = quick(&server, 1000);
    assert_eq!(pool.retry(ask).unwrap(), "hello\n");
    let deadline = Instant::now() + Duration::from_secs(1);
    let error = pool
        .retry_until(deadline, |connection| {
            server.die(false);
            ask(connection)
        })
        .unwrap_err();
    assert!(
        error.get_ref().is_none_or(|source| !source.is::<Error>()),
        "{error}"
    );
    assert!(pool.stats().connect_failures > 0);
    assert!(Instant::now() >= deadline);
}
