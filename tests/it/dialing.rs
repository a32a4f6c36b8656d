//! `Connector`: what it sets, where it connects, and how it fails.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use jackpot::{Backoff, Connector, Error, Factory, Pool};
use socket2::SockRef;

use crate::support::{BlackHole, Peer, background, one_retry, refused};

#[test]
fn a_connector_asks_the_kernel_to_find_vanished_peers() {
    let peer = Peer::new();
    let pool = Pool::new(1, Connector::new(peer.address().to_string())).unwrap();
    let lease = pool.pull().unwrap();
    assert!(lease.nodelay().unwrap());
    let socket = SockRef::from(&*lease);
    assert!(socket.keepalive().unwrap());
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let expected = Some(Duration::from_secs(30));
        assert_eq!(socket.tcp_keepalive_time().ok(), expected);
        assert_eq!(
            socket.tcp_keepalive_interval().ok(),
            Some(Duration::from_secs(5))
        );
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            Some(Duration::from_secs(45))
        );
    }
}

#[test]
fn a_connector_sets_what_it_was_told() {
    let peer = Peer::new();
    let connector = Connector::new(peer.address().to_string());
    let bare = connector.clone().nodelay(false).keepalive(None);
    let tcp = bare.user_timeout(None).connect().unwrap();
    assert!(!tcp.nodelay().unwrap());
    let socket = SockRef::from(&tcp);
    assert!(!socket.keepalive().unwrap());
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
        let tcp = connector
            .keepalive(Some(Duration::from_millis(6001)))
            .user_timeout(Some(Duration::from_micros(8500)))
            .connect()
            .unwrap();
        let socket = SockRef::from(&tcp);
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            Some(Duration::from_millis(9))
        );
    }
}

#[test]
fn a_connector_takes_extreme_durations() {
    let peer = Peer::new();
    for extreme in [Duration::MAX, Duration::from_nanos(1)] {
        Connector::new(peer.address().to_string())
            .connect_timeout(Duration::MAX)
            .keepalive(Some(extreme))
            .user_timeout(Some(extreme))
            .connect()
            .unwrap();
    }
}

#[test]
fn a_connector_resolves_names_and_takes_ipv6() {
    let peer = Peer::new();
    let port = peer.address().port();
    let tcp = Connector::new(format!("localhost:{port}")).connect();
    assert_eq!(tcp.unwrap().peer_addr().unwrap(), peer.address());
    // Not every machine has it.
    if let Ok(listener) = TcpListener::bind("[::1]:0") {
        let address = listener.local_addr().unwrap();
        let tcp = Connector::new(address.to_string()).connect();
        assert_eq!(tcp.unwrap().peer_addr().unwrap(), address);
    }
}

#[test]
fn a_connector_gives_up_on_a_black_hole_in_time() {
    let hole = BlackHole::new();
    let timeout = Duration::from_millis(100);
    let connector = Connector::new(hole.address().to_string()).connect_timeout(timeout);
    let started = Instant::now();
    let error = connector.connect().unwrap_err();
    let took = started.elapsed();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(took >= timeout, "after {took:?}");
    assert!(took < Duration::from_secs(5), "after {took:?}");
}

#[test]
fn a_refused_connect_keeps_its_cause_and_says_where_it_was_going() {
    let address = refused().to_string();
    let connector = Connector::new(address.clone());
    let error = connector.connect().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(error.to_string().contains(&address), "{error}");

    let pool = Pool::builder(connector).backoff(one_retry()).build();
    let error = pool.unwrap().pull().unwrap_err();
    let cause = error.io_error().unwrap();
    assert_eq!(cause.kind(), ErrorKind::ConnectionRefused);
    assert!(cause.raw_os_error().is_some(), "{cause}");
}

#[test]
fn a_malformed_address_fails_at_once() {
    let never = Duration::from_secs(3600);
    let addresses = [
        "",
        "localhost",
        "localhost:",
        "localhost:http",
        "127.0.0.1:65536",
    ];
    for address in addresses {
        let pool = Pool::builder(Connector::new(address))
            .backoff(Backoff::new().min(never).max(never))
            .build()
            .unwrap();
        let error = background(move || pool.pull().unwrap_err()).join();
        let Error::Exhausted { attempts: 1, .. } = error else {
            panic!("{address:?}: {error}");
        };
        let cause = error.io_error().unwrap();
        assert_eq!(
            cause.kind(),
            ErrorKind::InvalidInput,
            "{address:?}: {cause}"
        );
    }
}

#[test]
fn a_connector_without_time_fails_at_once() {
    let peer = Peer::new();
    let connector = Connector::new(peer.address().to_string()).connect_timeout(Duration::ZERO);
    let error = connector.connect().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}
