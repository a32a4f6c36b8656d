//! A server that means harm: what it can cost its own callers, and nobody else.

mod hang_ups;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Backoff, Close, Connection, Error, Eviction, Pool};
use socket2::{Domain, SockRef, Socket, Type};

use crate::support::faults::{Fault, Range};
use crate::support::leases::came_to_nothing;
use crate::support::{
    Act, Background, Peer, SOON, Server, ask, assert_left, assert_sums, background, eventually,
    on_threads, overhear,
};

/// Long enough to be told from "at once", short enough for a test.
const BOUND: Duration = Duration::from_millis(200);

fn pool(address: SocketAddr, limit: usize) -> Pool {
    pool_with(SOON, address, limit)
}

fn pool_with(read_timeout: Duration, address: SocketAddr, limit: usize) -> Pool {
    Pool::builder(move || TcpStream::connect(address))
        .limit(limit)
        .reap_interval(None)
        .read_timeout(Some(read_timeout))
        .build()
        .unwrap()
}

/// Somebody who talks to an honest server through a pool of its own, all the time.
struct Bystander {
    stop: Arc<AtomicBool>,
    asked: Background<usize>,
}

impl Bystander {
    fn new() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let asked = background(move || {
            let server = Server::echo();
            let pool = Pool::new(2, move || TcpStream::connect(server.address())).unwrap();
            let mut asked = 0;
            while asked == 0 || !stopped.load(SeqCst) {
                let line = format!("question {asked}");
                assert_eq!(ask(&mut pool.pull().unwrap(), &line).unwrap(), line);
                asked += 1;
                thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(pool.stats().connects, 1);
            asked
        });
        Self { stop, asked }
    }

    /// It was never disturbed.
    fn assert_undisturbed(self) {
        self.stop.store(true, SeqCst);
        assert!(self.asked.join() > 0);
    }
}

/// The kernel's buffers on both sides are what a flood can fill: the pool reads nothing by itself.
#[test]
fn a_flood_of_unread_data_stops_in_the_kernel_and_costs_the_connection() {
    let bystander = Bystander::new();
    let (full, filled) = mpsc::channel();
    let server = Server::serving(move |mut socket| {
        let _ = SockRef::from(socket).set_send_buffer_size(1 << 14);
        socket.set_write_timeout(Some(BOUND)).unwrap();
        let mut sent = 0;
        while let Ok(count) = socket.write(&[b'!'; 1 << 12]) {
            sent += count;
        }
        let _ = full.send(sent);
        let _ = socket.read(&mut [0]); // until the pool closes it
    });
    let address = server.address();
    let pool = Pool::builder(move || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_recv_buffer_size(1 << 14)?;
        socket.connect(&address.into())?;
        Ok(socket.into())
    })
    .limit(3)
    .reap_interval(None)
    .build()
    .unwrap();
    let leases: Vec<_> = (0..3).map(|_| pool.allocate().unwrap()).collect();
    drop(leases);
    for _ in 0..3 {
        let sent = filled.recv_timeout(SOON).unwrap();
        assert!(sent < 1 << 20, "{sent} bytes went somewhere");
    }
    let lease = pool.pull_timeout(SOON).unwrap();
    let stats = pool.stats();
    assert_eq!((stats.open, stats.evicted(Eviction::Unread)), (1, 3));
    drop(lease);
    assert_sums(&pool.stats());
    bystander.assert_undisturbed();
}

#[test]
fn a_server_that_never_answers_costs_each_caller_its_read_timeout() {
    let bystander = Bystander::new();
    let server = Server::new(|_| Act::Stall);
    let pool = pool_with(BOUND, server.address(), 2);
    let callers = on_threads(&pool, 2, |pool, _| {
        let mut lease = pool.pull().unwrap();
        let begun = Instant::now();
        let error = ask(&mut lease, "hello?").unwrap_err();
        (error.kind(), begun.elapsed())
    });
    for caller in callers {
        let (kind, took) = caller.join();
        assert!(matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut));
        assert!(took >= BOUND && took < SOON / 2, "{took:?}");
    }
    eventually("neither is used again", || {
        pool.stats().evicted(Eviction::Unanswered) == 2
    });
    assert_eq!(pool.stats().open, 0);
    bystander.assert_undisturbed();
}

/// The read timeout bounds each read; a caller that wants all of a reply in time sets what is left.
#[test]
fn a_server_that_drips_exceeds_no_bound_that_the_caller_keeps() {
    let server = Server::dripping(Duration::from_millis(5));
    let pool = pool(server.address(), 1);
    let begun = Instant::now();
    let mut lease = pool.pull().unwrap();
    let kind = read_within(&mut lease, 1000, begun + BOUND)
        .unwrap_err()
        .kind();
    assert!(matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut));
    assert!(begun.elapsed() < SOON / 2);
    Connection::discard(lease);
    assert_left(&pool, Eviction::Discarded);
}

#[test]
fn a_server_that_drips_holds_up_nobody_elses_bound_and_can_be_cut() {
    let bystander = Bystander::new();
    let server = Server::dripping(Duration::from_millis(5));
    let pool = pool(server.address(), 1);
    let mut lease = pool.pull().unwrap();
    let stuck = background(move || io::copy(&mut *lease, &mut io::sink()));
    let begun = Instant::now();
    let error = pool.pull_timeout(BOUND).unwrap_err();
    assert!(error.is_timeout() && error.is_full(), "{error}");
    let took = begun.elapsed();
    assert!(took >= BOUND && took < SOON / 2, "{took:?}");
    assert!(stuck.is_done_with().is_none());

    let stuck_too = pool.free_with(0, Close::Hard);
    assert_eq!(stuck_too.closed, 1);
    eventually("its place is free", || pool.stats().open == 0);
    bystander.assert_undisturbed();
}

/// Reads so many bytes, but not beyond this time.
fn read_within(lease: &mut Connection, bytes: usize, until: Instant) -> io::Result<()> {
    for _ in 0..bytes {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        lease.set_read_timeout(Some(left))?;
        lease.read_exact(&mut [0])?;
    }
    Ok(())
}
