//! Settings that are refused, errors as their readers see them, and what the types promise.

mod errors;
mod types;

use std::cell::Cell;
use std::error::Error as _;
use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::thread;
use std::time::Duration;

use jackpot::{
    Backoff, Builder, Close, Connection, ConnectionInfo, Connector, Delays, Error, Event, Eviction,
    Factory, Freed, Jitter, Pool, State, Stats, Stream,
};

use crate::support::{Events, Gate, NEVER, Peer, Server, ask, eventually, one_retry, refused};

fn nowhere() -> io::Result<TcpStream> {
    Err(ErrorKind::ConnectionRefused.into())
}

#[test]
fn a_setting_that_makes_no_sense_is_refused_by_its_name_and_value() {
    let new = || Pool::builder(nowhere);
    let zero = Some(Duration::ZERO);
    let backoff = Backoff::new();
    let cases = [
        (new().limit(0), &["limit", "not 0"][..]),
        (new().limit(3).min_idle(5), &["min_idle", "5", "3"]),
        (new().max_connecting(0), &["max_connecting", "not 0"]),
        (new().read_timeout(zero), &["read_timeout", "not 0ns"]),
        (new().write_timeout(zero), &["write_timeout", "not 0ns"]),
        (new().reap_interval(zero), &["reap_interval", "not 0ns"]),
        (
            new().ping(Duration::ZERO, |_| Ok::<_, io::Error>(())),
            &["ping interval", "not 0ns"],
        ),
        (
            new().backoff(backoff.clone().factor(0.99)),
            &["backoff factor", "not 0.99"],
        ),
        (
            new().backoff(backoff.clone().factor(f64::NAN)),
            &["backoff factor", "not NaN"],
        ),
        (
            new().backoff(backoff.clone().factor(f64::INFINITY)),
            &["backoff factor", "not inf"],
        ),
        (
            new().backoff(backoff.clone().min(NEVER)),
            &["backoff min", "3600s", "60s"],
        ),
    ];
    for (builder, parts) in cases {
        let error = builder.build().unwrap_err();
        assert!(matches!(error, Error::InvalidConfig(_)), "{error:?}");
        assert!(error.source().is_none());
        let text = error.to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
    let error = Pool::new(0, nowhere).unwrap_err();
    assert_eq!(error.to_string(), "limit must be at least 1, not 0");
}

#[test]
fn a_ping_or_recycle_before_the_handshake_is_refused() {
    let fine = |_: &mut Stream| Ok::<_, io::Error>(());
    for (builder, name) in [
        (Pool::builder(nowhere).ping(NEVER, fine), "ping"),
        (Pool::builder(nowhere).recycle(fine), "recycle"),
    ] {
        let builder = builder.handshake(Ok::<_, io::Error>);
        let error = builder.build().unwrap_err();
        assert!(matches!(error, Error::InvalidConfig(_)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("handshake"), "{text}");
    }
    let builder = Pool::builder(nowhere).handshake(Ok::<_, io::Error>);
    builder.ping(NEVER, fine).recycle(fine).build().unwrap();
}

#[test]
fn a_handshake_leaves_the_other_settings_as_they_were() {
    let events = Events::default();
    let builder = Pool::builder(nowhere)
        .limit(7)
        .min_idle(3)
        .max_connecting(2)
        .backoff(one_retry())
        .idle_timeout(Some(Duration::from_secs(11)))
        .max_lifetime(Some(Duration::from_secs(12)))
        .reap_interval(None)
        .probe_after(Duration::from_secs(13))
        .read_timeout(Some(Duration::from_secs(14)))
        .write_timeout(Some(Duration::from_secs(15)))
        .only_finished(true)
        .allow_unread(true)
        .allow_unanswered(true)
        .leak_after(Some(Duration::from_secs(16)))
        .on_event(events.listener());
    let before = format!("{builder:?}");
    let builder = builder.handshake(|_| Ok::<_, io::Error>(Cell::new(1)));
    assert_eq!(format!("{builder:?}"), before);
    let pool = builder.build().unwrap();
    assert_eq!((pool.limit(), pool.backoff()), (7, one_retry()));
    pool.end();
    eventually("its end is told", || events.count("ended") == 1);
}

#[test]
fn settings_may_be_extreme() {
    let server = Server::echo();
    let ever = Duration::MAX;
    let pool = server
        .builder(usize::MAX)
        .min_idle(1)
        .max_connecting(usize::MAX)
        .backoff(
            Backoff::new()
                .retries(u32::MAX)
                .factor(f64::MAX)
                .min(ever)
                .max(ever),
        )
        .idle_timeout(Some(ever))
        .max_lifetime(Some(ever))
        .reap_interval(Some(ever))
        .probe_after(ever)
        .read_timeout(Some(ever))
        .write_timeout(Some(ever))
        .leak_after(Some(ever))
        .ping(ever, |_| Ok::<_, io::Error>(()))
        .build()
        .unwrap();
    let mut connection = pool.pull_timeout(ever).unwrap();
    assert_eq!(ask(&mut *connection, "hello").unwrap(), "hello");
    pool.reap();
    drop(connection);
    eventually("min_idle is filled", || pool.stats().connecting == 0);
    let open = pool.stats().open;
    assert_eq!(pool.free(usize::MAX).kept, open);
    assert!(pool.drain(ever));
}

#[test]
fn the_largest_limit_may_all_be_kept_idle_while_somebody_waits() {
    let gate = Gate::default();
    let pool = Pool::builder({
        let gate = gate.clone();
        move || {
            gate.pass();
            nowhere()
        }
    })
    .limit(usize::MAX)
    .min_idle(usize::MAX)
    .max_connecting(1)
    .build()
    .unwrap();
    let caller = thread::spawn({
        let pool = pool.clone();
        move || pool.allocate().map(drop)
    });
    eventually("somebody waits", || pool.stats().waiting == 1);
    gate.open();
    assert!(caller.join().unwrap().unwrap_err().is_connect());
}

#[test]
fn lapses_of_zero_are_allowed() {
    let peer = Peer::new();
    let pool = peer
        .builder(1)
        .idle_timeout(Some(Duration::ZERO))
        .max_lifetime(Some(Duration::ZERO))
        .leak_after(Some(Duration::ZERO))
        .backoff(
            Backoff::new()
                .retries(0)
                .min(Duration::ZERO)
                .max(Duration::ZERO),
        )
        .build()
        .unwrap();
    drop(pool.pull().unwrap());
    assert_eq!(pool.stats().evicted(Eviction::MaxLifetime), 1);
}
