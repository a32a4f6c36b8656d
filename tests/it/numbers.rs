//! Histograms, counts, and the events of leases.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jackpot::{Backoff, Close, Connection, Event, Pool};

use crate::support::{
    Events, NEVER, Peer, Server, eventually, on_threads, one_retry, refused, waiting_thread,
};

#[test]
fn waits_connects_and_timeouts_are_counted() {
    let peer = Peer::new();
    let pool = peer.pool(1);
    let held = pool.pull().unwrap();
    let stats = pool.stats();
    assert_eq!((stats.connect_times.count(), stats.connects), (1, 1));
    assert!(stats.connect_times.max() > Duration::ZERO);
    let waiter = waiting_thread(&pool, |pool| pool.pull().map(drop));
    let timeout = Duration::from_millis(20);
    assert!(pool.pull_timeout(timeout).unwrap_err().is_timeout());
    assert!(pool.pull_timeout(Duration::ZERO).unwrap_err().is_timeout());
    drop(held);
    waiter.join().unwrap();
    let stats = pool.stats();
    assert_eq!(stats.timeouts, 2);
    assert_eq!((stats.waits, stats.wait_times.count()), (3, 3));
    assert_eq!(stats.wait_times.sum(), stats.wait_total);
    assert_eq!(stats.wait_times.max(), stats.wait_max);
    assert!(stats.wait_max >= timeout);
    assert_eq!(stats.lease_times.count(), 0, "not without lease_events");
    let line = stats.to_string();
    assert!(line.ends_with("; 2 timeouts, 0 refusals") && !line.contains('\n'));
    // A failed connect is none that was made, and a call that gives up by itself no time-out.
    let gone = refused();
    let pool = Pool::builder(move || std::net::TcpStream::connect(gone))
        .backoff(one_retry())
        .build()
        .unwrap();
    assert!(!pool.pull().unwrap_err().is_timeout());
    assert_eq!(pool.stats().connect_times.count(), 0);
    assert_eq!(pool.stats().timeouts, 0);
}

/// The events without what differs from run to run.
fn told(events: &Events) -> Vec<String> {
    let all = events.all();
    let brief = |event: &String| match event.split_once(" { ") {
        Some((name, rest)) => {
            let id = rest.split([',', ' ']).nth(1).unwrap();
            format!("{name} {id}")
        }
        None => event.clone(),
    };
    all.iter().map(brief).collect()
}

#[test]
fn each_lease_is_told_and_timed_where_that_is_wanted() {
    let peer = Peer::new();
    let events = Events::default();
    let pool = peer
        .builder(1)
        .lease_events(true)
        .backoff(Backoff::new().retries(0))
        .on_event(events.listener())
        .build()
        .unwrap();
    let lease = pool.pull().unwrap();
    assert!(pool.pull().is_err());
    drop(lease);
    Connection::finish(pool.pull().unwrap());
    Connection::discard(pool.pull().unwrap());
    drop(Connection::detach(pool.pull().unwrap()));
    let told = told(&events);
    assert!(told[2].starts_with("GaveUp "), "{told:?}");
    let others: Vec<_> = told.iter().filter(|t| !t.starts_with("GaveUp")).collect();
    assert_eq!(
        others,
        [
            "1 connected",
            "Leased 1",
            "Returned 1",
            "Leased 1",
            "Returned 1",
            "Leased 1",
            "Returned 1",
            "1 evicted: discarded",
            "2 connected",
            "Leased 2",
            "Returned 2",
            "2 evicted: detached",
        ]
    );
    assert_eq!(pool.stats().lease_times.count(), 4);
}

#[test]
fn the_times_and_places_in_the_events_are_those_of_the_calls() {
    let peer = Peer::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&seen);
    let pool = peer
        .builder(1)
        .lease_events(true)
        .on_event(move |event| {
            let mut notes = notes.lock().unwrap();
            match event {
                Event::Leased { waited, at, .. } => notes.push(("leased", *waited, at.line())),
                Event::Returned { held, .. } => notes.push(("returned", *held, 0)),
                Event::GaveUp { waited, at } => notes.push(("gave up", *waited, at.line())),
                _ => {}
            }
        })
        .build()
        .unwrap();
    drop(pool.pull().unwrap());
    let lease = pool.pull().unwrap();
    let line = line!() - 1;
    let time = Duration::from_millis(20);
    let late = pool.pull_timeout(time);
    drop(lease);
    assert!(late.is_err());
    let seen = seen.lock().unwrap();
    assert_eq!(seen[2], ("leased", Duration::ZERO, line));
    assert!(seen[3].0 == "gave up" && seen[3].1 >= time && seen[3].2 == line + 3);
    assert!(seen[4].0 == "returned" && seen[4].1 >= time, "{seen:?}");
    let times = pool.stats().lease_times;
    assert_eq!((times.count(), times.max()), (2, seen[4].1));
}

/// Where the reaper would else be the one that reads the clock.
#[test]
fn a_lease_is_not_told_to_have_begun_before_its_call() {
    let peer = Peer::new();
    let builder = peer.builder(1).reap_interval(Some(NEVER));
    let pool = builder.lease_events(true).build().unwrap();
    let lease = || {
        let begun = Instant::now();
        drop(pool.pull().unwrap());
        begun.elapsed()
    };
    let first = lease();
    let rest = Duration::from_millis(20);
    eventually("it has rested", || pool.connections()[0].in_state > rest);
    let longest = first.max(lease());
    assert!(pool.stats().lease_times.max() <= longest);
}

#[test]
fn a_lease_that_is_cut_is_returned_before_its_connection_leaves() {
    let peer = Peer::new();
    let events = Events::default();
    let builder = peer.builder(1).lease_events(true);
    let pool = builder.on_event(events.listener()).build().unwrap();
    let lease = pool.pull().unwrap();
    pool.free_with(0, Close::Hard);
    drop(lease);
    let told = told(&events);
    let expected = ["1 connected", "Leased 1", "Returned 1", "1 evicted: freed"];
    assert_eq!(told[..4], expected);
    assert_eq!(told.len(), 5, "{told:?}"); // and that `free` was called
    assert_eq!(pool.stats().lease_times.count(), 1);
}

#[test]
fn without_lease_events_there_are_none() {
    let peer = Peer::new();
    let events = Events::default();
    let pool = peer.builder(1).on_event(events.listener()).build().unwrap();
    drop(pool.pull().unwrap());
    assert_eq!(events.all(), ["1 connected"]);
}

/// Many threads lease, return, cut; whatever happens, each connection's events come in order.
#[test]
fn the_events_of_a_connection_come_in_order_whoever_tells_them() {
    let server = Server::echo();
    let told = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&told);
    let pool = server
        .builder(3)
        .lease_events(true)
        .leak_after(Some(Duration::ZERO))
        .reap_interval(Some(Duration::from_millis(1)))
        .on_event(move |event| {
            let (id, what) = match event {
                Event::Connected { id, .. } => (*id, 'c'),
                Event::Leased { id, .. } => (*id, 'l'),
                Event::Overdue { id, .. } => (*id, 'o'),
                Event::Returned { id, .. } => (*id, 'r'),
                Event::Evicted { id, .. } => (*id, 'e'),
                _ => return,
            };
            // Where a teller is slow, another one may overtake it.
            std::thread::yield_now();
            notes.lock().unwrap().push((id, what));
        })
        .build()
        .unwrap();
    let threads = on_threads(&pool, 6, |pool, n| {
        for round in 0..150 {
            let Ok(lease) = pool.pull() else { continue };
            if (round + n) % 25 == 0 {
                pool.free_with(1, Close::Hard);
            }
            drop(lease);
        }
    });
    for thread in threads {
        thread.join();
    }
    pool.end();
    eventually("all is told", || {
        let told = told.lock().unwrap();
        let count = |what| told.iter().filter(|(_, other)| *other == what).count();
        count('c') == count('e') && count('l') == count('r')
    });
    let told = told.lock().unwrap();
    let highest = told.iter().map(|(id, _)| *id).max().unwrap();
    for id in 1..=highest {
        let of_it = told.iter().filter(|(other, _)| *other == id);
        let story: String = of_it.map(|(_, what)| what).collect();
        if story.is_empty() {
            continue; // a connect that `free_with` gave up
        }
        let plain = story.replace('o', "");
        let leases = plain.trim_start_matches('c').trim_end_matches('e');
        assert!(plain.starts_with('c') && plain.ends_with('e'), "{story}");
        assert!(leases.replace("lr", "").is_empty(), "{story}");
        assert!(!story.contains("ro") && !story.contains("eo"), "{story}");
    }
}
