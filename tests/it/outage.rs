//! The other side is away: retries, causes, the outage gate, and the way back.

mod causes;
pub(crate) mod descriptors;
mod factories;

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Backoff, Connection, Connector, Error, Eviction, Jitter, Pool};

use crate::line::{Line, Queue, fast_retries, in_time};
use crate::support::{
    Gate, Peer, SOON, Server, ask, eventually, on_threads, one_retry, refused, waiting_thread,
};

/// What the outage gate keeps between the starts of two connects.
const SPACING: Duration = Duration::from_millis(100);

/// A pool whose last connect has failed.
fn shut(line: &Line, limit: usize) -> Pool {
    line.down();
    let pool = line.pool(limit);
    assert!(pool.allocate().unwrap_err().is_connect());
    pool
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
    let callers = on_threads(&pool, 30, move |pool, n| {
        while started.elapsed() < Duration::from_millis(800) {
            let outcome = match n % 3 {
                0 => pool.allocate(),
                1 => pool.pull_timeout(Duration::from_millis(150)),
                _ => pool.pull_timeout(Duration::from_millis(3)),
            };
            assert!(outcome.unwrap_err().is_connect());
            thread::yield_now();
        }
    });
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
    let leaving = waiting_thread(&pool, |pool| {
        let timeout = Duration::from_secs(1);
        pool.pull_timeout(timeout).map(Connection::detach)
    });
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
    let callers = on_threads(&pool, 20, |pool, n| {
        ask(&mut *pool.pull().unwrap(), &n.to_string()).unwrap()
    });
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
