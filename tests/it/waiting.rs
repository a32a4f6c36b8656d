//! The line of those who wait: its order, and the races of giving up.

use std::io;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Backoff, Connection, Error, Event, Eviction, Jitter, Pool};

use crate::line::{Line, Queue, fast_retries, in_time, slow_retries};
use crate::support::{
    Gate, Peer, Server, background, eventually, on_thread, on_threads, waiting_thread,
};

const MOMENT: Duration = Duration::from_millis(30);

/// Chances for an unlucky moment to be met.
const ROUNDS: u64 = 1000;

#[test]
fn waiters_are_served_first_come_first_served() {
    let peer = Peer::new();
    let pool = Line::to(peer.address()).pool(1);
    let lease = pool.allocate().unwrap();
    let queue = Queue::of(&pool, 8);
    drop(lease);
    queue.expect_order(0..8);
    assert_eq!(pool.stats().connects, 1);
}

#[test]
fn a_caller_that_comes_back_at_once_does_not_barge_in() {
    let peer = Peer::new();
    let pool = Line::to(peer.address()).pool(1);
    for _ in 0..100 {
        let lease = pool.pull().unwrap();
        let waiter = pool.clone();
        let (served, serve) = mpsc::channel();
        let waiter = background(move || {
            let lease = waiter.pull().unwrap();
            serve.recv().unwrap();
            drop(lease);
        });
        eventually("somebody waits", || pool.stats().waiting == 1);
        drop(lease);
        assert!(pool.allocate().unwrap_err().is_full());
        assert!(pool.pull_timeout(Duration::ZERO).unwrap_err().is_timeout());
        served.send(()).unwrap();
        drop(pool.pull().unwrap());
        waiter.join();
    }
}

#[test]
fn allocate_does_not_go_ahead_of_a_waiter() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = line.pool(3);
    let lease = pool.allocate().unwrap();
    let id = Connection::id(&lease);
    let gate = line.held();
    let queue = Queue::of(&pool, 1);
    let late_comer = on_thread(&pool, |pool| {
        pool.allocate().map(|lease| Connection::id(&lease))
    });
    eventually("both connect", || gate.waiting() == 2);
    drop(lease);
    let (_, first) = queue.next();
    assert_eq!(Connection::id(&first), id);
    gate.open();
    assert_ne!(late_comer.join().unwrap(), id);
}

#[test]
fn a_waiter_whose_connection_proves_dead_keeps_its_place() {
    let peer = Peer::new();
    let gate = Gate::default();
    let way = gate.clone();
    let pool = Line::to(peer.address())
        .builder(1)
        .on_event(move |event| {
            // Runs on the waiter's thread, after the connection has left.
            if let Event::Evicted {
                why: Eviction::PeerClosed,
                ..
            } = event
            {
                way.pass();
            }
        })
        .build()
        .unwrap();
    let lease = pool.allocate().unwrap();
    let queue = Queue::of(&pool, 2);
    drop(peer.accept());
    eventually("the end has arrived", || {
        matches!(lease.tcp().peek(&mut [0]), Ok(0))
    });
    drop(lease);
    eventually("the first waiter has found it dead", || gate.waiting() == 1);
    eventually("there is a new one", || pool.stats().connects == 2);
    assert_eq!(pool.stats().waiting, 1);
    gate.open();
    queue.expect_order(0..2);
}

#[test]
fn a_connection_that_comes_back_as_its_waiter_gives_up_is_not_lost() {
    const LIMIT: usize = 2;
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = line.pool(LIMIT);
    let callers = on_threads(&pool, 6, |pool, caller| {
        let mut timeouts = 0;
        for turn in 0..400 {
            let timeout = Duration::from_micros((caller * 31 + turn * 17) as u64 % 200);
            match pool.pull_timeout(timeout) {
                Ok(lease) if turn % 7 == 0 => {
                    thread::sleep(Duration::from_micros(50));
                    drop(lease);
                }
                Ok(lease) => drop(lease),
                Err(error) if error.is_timeout() => timeouts += 1,
                Err(error) => panic!("{error}"),
            }
        }
        timeouts
    });
    let timeouts: usize = callers.into_iter().map(|caller| caller.join()).sum();
    assert!(timeouts > 0, "nobody gave up, so this has shown nothing");
    eventually("what was under way is through", || {
        pool.stats().connecting == 0
    });
    let stats = pool.stats();
    assert_eq!((stats.leased, stats.waiting), (0, 0), "{stats}");
    assert_eq!((stats.releases, stats.connects), (0, stats.open as u64));
    let leases: Vec<_> = (0..LIMIT).map(|_| pool.allocate().unwrap()).collect();
    assert!(pool.allocate().unwrap_err().is_full());
    assert!(line.calls() <= LIMIT);
    drop(leases);
}

#[test]
fn a_connection_that_comes_back_at_the_deadline_is_handed_over_or_idle() {
    let peer = Peer::new();
    let pool = Line::to(peer.address()).pool(1);
    drop(pool.allocate().unwrap());
    let (begin, rounds) = mpsc::channel::<Instant>();
    let waiter = on_thread(&pool, |pool| {
        let mut served = 0;
        for deadline in rounds {
            let timeout = deadline.saturating_duration_since(Instant::now());
            served += usize::from(pool.pull_timeout(timeout).is_ok());
        }
        served
    });
    // It wakes up a little after its deadline: the return is aimed at that moment.
    for round in 0..ROUNDS {
        let lease = in_time(&pool, Pool::pull).unwrap();
        let deadline = Instant::now() + Duration::from_micros(300);
        begin.send(deadline).unwrap();
        let moment = deadline + Duration::from_micros(round % 150);
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        drop(lease);
    }
    drop(begin);
    let served = waiter.join();
    assert!(served > 0, "the aim was too late");
    assert_eq!((pool.stats().leased, pool.stats().idle), (0, 1));
    assert_eq!(pool.stats().connects, 1);
}

#[test]
fn no_return_is_missed_between_finding_none_idle_and_queueing() {
    let peer = Peer::new();
    let pool = Line::to(peer.address()).pool(1);
    // A return that nobody sees leaves the other thread asleep for a minute.
    let callers = [0, 1, 2].map(|_| {
        let pool = pool.clone();
        background(move || {
            for _ in 0..1000 {
                drop(pool.pull().unwrap());
            }
        })
    });
    for caller in callers {
        caller.join();
    }
    assert_eq!(pool.stats().connects, 1);
}

#[test]
fn a_slot_whose_requester_timed_out_is_freed_once() {
    let server = Server::echo();
    let line = Line::to(server.address());
    line.meets(|call| {
        thread::sleep(Duration::from_micros(500));
        if call % 2 == 0 {
            return Ok(());
        }
        Err(io::ErrorKind::ConnectionRefused.into())
    });
    let pool = line.pool(2);
    let until = Instant::now() + Duration::from_millis(700);
    let callers = [0, 1, 2, 3].map(|_| {
        let pool = pool.clone();
        background(move || {
            while Instant::now() < until {
                let timeout = Duration::from_micros(400);
                if let Ok(lease) = pool.pull_timeout(timeout) {
                    Connection::discard(lease);
                }
            }
        })
    });
    for caller in callers {
        caller.join();
    }
    line.up();
    eventually("what was under way is through", || {
        pool.stats().connecting == 0
    });
    pool.set_backoff(fast_retries()).unwrap();
    let _leases = [pool.pull().unwrap(), pool.pull().unwrap()];
    assert!(pool.allocate().unwrap_err().is_full());
    assert!(line.most() <= 2);
}

#[test]
fn a_limit_of_zero_suspends_the_pool_until_it_is_raised() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let pool = line.pool(3);
    let leases = [pool.allocate().unwrap(), pool.allocate().unwrap()];
    drop(pool.allocate().unwrap());
    pool.set_limit(0);
    let stats = pool.stats();
    assert_eq!((stats.limit, stats.idle, stats.leased), (0, 0, 2));
    let queue = Queue::of(&pool, 3);
    drop(leases);
    let stats = pool.stats();
    assert_eq!((stats.open, stats.connecting, stats.waiting), (0, 0, 3));
    assert_eq!(stats.evicted(Eviction::OverLimit), 3);
    assert!(pool.allocate().unwrap_err().is_full());
    assert!(pool.pull_timeout(MOMENT).unwrap_err().is_full());
    pool.set_limit(1);
    queue.expect_order(0..3);
    assert_eq!(line.calls(), 4);
}

#[test]
fn a_limit_of_zero_turns_away_those_whose_connects_are_under_way() {
    let peer = Peer::new();
    let line = Line::to(peer.address());
    let gate = line.held();
    let pool = line.pool(3);
    let caller = on_thread(&pool, |pool| pool.allocate().map(Connection::detach));
    eventually("it connects", || gate.waiting() == 1);
    pool.set_limit(0);
    assert!(caller.join().unwrap_err().is_full());
    gate.open();
    eventually("the connection is closed", || {
        pool.stats().evicted(Eviction::OverLimit) == 1
    });
    assert_eq!((pool.stats().open, pool.stats().allocations), (0, 0));
}

#[test]
#[cfg(target_os = "linux")]
fn waiters_and_hand_offs_do_not_spin() {
    use crate::support::SOON;

    let peer = Peer::new();
    let pool = Line::to(peer.address()).pool(1);
    let lease = pool.allocate().unwrap();
    let (report, reports) = mpsc::channel();
    for _ in 0..10 {
        let (pool, report) = (pool.clone(), report.clone());
        thread::spawn(move || {
            let before = processor_time();
            let lease = pool.pull().unwrap();
            thread::sleep(MOMENT);
            drop(lease);
            report
                .send(processor_time().saturating_sub(before))
                .unwrap();
        });
    }
    eventually("all of them wait", || pool.stats().waiting == 10);
    thread::sleep(MOMENT);
    drop(lease);
    let burnt: Duration = (0..10).map(|_| reports.recv_timeout(SOON).unwrap()).sum();
    // Ten that spin burn more than fifty moments together.
    assert!(burnt < 3 * MOMENT, "{burnt:?}");
}

/// How long the calling thread has run on a processor.
#[cfg(target_os = "linux")]
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanoseconds = text.split(' ').next().unwrap().parse().unwrap();
    Duration::from_nanos(nanoseconds)
}

#[test]
fn those_who_give_up_leave_the_order_of_the_others_alone() {
    let peer = Peer::new();
    let pool = Line::to(peer.address()).pool(1);
    let lease = pool.allocate().unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let callers: Vec<_> = (0..8)
        .map(|place| {
            let (caller, order) = (pool.clone(), Arc::clone(&order));
            let waiting = pool.stats().waiting;
            let handle = background(move || {
                let lease = if place % 2 == 0 {
                    caller.pull()
                } else {
                    caller.pull_timeout(Duration::from_secs(1))
                };
                if lease.is_ok() {
                    order.lock().unwrap().push(place);
                }
            });
            eventually("it waits", || pool.stats().waiting > waiting);
            handle
        })
        .collect();
    eventually("half of them have given up", || pool.stats().waiting == 4);
    drop(lease);
    for caller in callers {
        caller.join();
    }
    assert_eq!(*order.lock().unwrap(), [0, 2, 4, 6]);
}

#[test]
fn a_changed_backoff_is_for_the_calls_that_come_after() {
    let peer = Peer::new();
    let pool = Line::to(peer.address()).pool(1);
    let lease = pool.allocate().unwrap();
    let queue = Queue::of(&pool, 1);
    pool.set_backoff(slow_retries().retries(0)).unwrap();
    assert!(in_time(&pool, Pool::pull).unwrap_err().is_full());
    drop(lease);
    assert_eq!(queue.next().0, 0);
}

#[test]
fn a_connection_that_proves_dead_between_two_tries_costs_no_retry() {
    let mut server = Server::echo();
    let delay = Duration::from_millis(300);
    let pool = server
        .builder(1)
        .backoff(Backoff::new().retries(1).min(delay).jitter(Jitter::None))
        .build()
        .unwrap();
    let lease = pool.pull().unwrap();
    let waiter = waiting_thread(&pool, |pool| pool.pull().unwrap_err());
    server.die(false);
    assert_eq!(lease.tcp().peek(&mut [0]).unwrap(), 0);
    drop(lease);
    let Error::Exhausted {
        attempts, elapsed, ..
    } = waiter.join()
    else {
        panic!("it has given up");
    };
    assert_eq!(attempts, 2);
    assert!(elapsed >= delay, "given up after {elapsed:?}");
}
