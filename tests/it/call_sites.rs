//! Who holds the connections: call sites of leases.

use std::panic::Location;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use jackpot::{Backoff, Connection, Error, Event, Pool};

use crate::support::{Peer, one_retry, waiting_thread};

fn at(pool: &Pool) -> Option<&'static Location<'static>> {
    let all = pool.connections();
    all.iter().find_map(|connection| connection.taken_at)
}

#[test]
fn each_way_to_a_lease_shows_where_it_was_called() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    let soon = || Instant::now() + Duration::from_secs(10);
    let check = |line: u32| {
        let found = at(&pool).unwrap();
        assert_eq!((found.file(), found.line()), (file!(), line));
    };
    let lease = pool.pull();
    check(line!() - 1);
    drop(lease);
    assert_eq!(at(&pool), None);
    let lease = pool.allocate();
    check(line!() - 1);
    drop(lease);
    let lease = pool.pull_timeout(Duration::ZERO);
    check(line!() - 1);
    drop(lease);
    let lease = pool.pull_until(soon());
    check(line!() - 1);
    drop(lease);
    let inside = |_: &mut Connection| {
        check(line!() + 3);
        Ok::<_, Error>(())
    };
    pool.retry(inside).unwrap();
    let inside = |_: &mut Connection| {
        check(line!() + 3);
        Ok::<_, Error>(())
    };
    pool.retry_until(soon(), inside).unwrap();
}

#[test]
fn a_lease_that_was_waited_for_shows_where_too() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    let held = pool.pull().unwrap();
    let waiter = waiting_thread(&pool, |pool| (line!(), pool.pull().unwrap()));
    drop(held);
    let (line, lease) = waiter.join();
    assert_eq!(at(&pool).unwrap().line(), line);
    drop(lease);
}

#[test]
fn errors_of_a_full_pool_name_the_three_call_sites_with_the_most_leases() {
    let peer = Peer::new();
    let pool = peer.builder(10).backoff(one_retry()).build().unwrap();
    let pull = || pool.pull().unwrap();
    let line = line!() - 1;
    let mut leases: Vec<_> = (0..5).map(|_| pull()).collect();
    leases.extend([(); 3].map(|()| pool.pull().unwrap()));
    let second = line!() - 1;
    leases.push(pool.pull().unwrap());
    let third = line!() - 1;
    leases.push(pool.allocate().unwrap());
    let here = file!();
    let sites =
        format!("; 10 leased: 5 at {here}:{line}, 3 at {here}:{second}, 1 at {here}:{third}");
    let whole = format!("(limit 10: 0 idle, 10 leased, 0 connecting, 0 waiting){sites}");
    let timed_out = pool.pull_timeout(Duration::from_millis(5)).unwrap_err();
    let exhausted = pool.pull().unwrap_err();
    assert!(matches!(exhausted, Error::Exhausted { .. }));
    for error in [&timed_out, &exhausted] {
        let text = error.to_string();
        assert!(text.ends_with(&whole), "{text}");
        // Said once in the chain, and not in a line for the log.
        let source = std::error::Error::source(error).unwrap().to_string();
        assert!(!source.contains(here), "{source}");
    }
    assert!(!pool.stats().to_string().contains(here));
    assert!(!pool.allocate().unwrap_err().to_string().contains(here));
}

#[test]
fn an_overdue_lease_says_where_it_was_taken() {
    let peer = Peer::new();
    let (tell, told) = mpsc::channel();
    let pool = peer
        .builder(1)
        .leak_after(Some(Duration::ZERO))
        .on_event(move |event| {
            if let Event::Overdue { at, .. } = event {
                tell.send(*at).unwrap();
            }
        })
        .build()
        .unwrap();
    let lease = pool.pull().unwrap();
    let line = line!() - 1;
    pool.reap();
    assert_eq!(told.try_recv().unwrap().unwrap().line(), line);
    drop(lease);
}

#[test]
fn a_time_out_without_leases_names_no_call_sites() {
    let gone = crate::support::refused();
    let pool = Pool::builder(move || std::net::TcpStream::connect(gone))
        .backoff(Backoff::new().retries(0))
        .build()
        .unwrap();
    let text = pool.pull().unwrap_err().to_string();
    assert!(text.ends_with(" waiting)"), "{text}");
}
