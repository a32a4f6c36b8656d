//! What a `Connector` does to addresses and sockets, and which failed connects are final.

use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use jackpot::{Backoff, Connector, Error, Factory, Pool, Stream};

use crate::support::{Peer, background};
#[cfg(target_os = "linux")]
use crate::{
    support::{ask, eventually, namespaces::ip, on_thread},
    vanished::with_peer,
};

/// Retries so far apart that a test which waits for one fails.
fn never() -> Backoff {
    let never = Duration::from_secs(3600);
    Backoff::new().min(never).max(never)
}

#[test]
fn a_malformed_address_was_retried_as_a_failure_of_the_name_server() {
    for (address, why) in [
        ("localhost", "it has no port"),
        (":80", "it has no host"),
        ("::1", "an IPv6 address must stand in brackets"),
        ("2001:db8::11211", "an IPv6 address must stand in brackets"),
        ("http://localhost:80", "a scheme, a path"),
        ("[::1%lo]:80", "only a link-local address"),
        ("localhost:0", "the port must be a number from 1 to 65535"),
    ] {
        let builder = Pool::builder(Connector::new(address)).backoff(never());
        let pool = builder.build().unwrap();
        let error = background(move || pool.pull().unwrap_err()).join();
        let Error::Exhausted { attempts: 1, .. } = error else {
            panic!("{address}: {error}");
        };
        let cause = error.io_error().unwrap();
        assert_eq!(cause.kind(), ErrorKind::InvalidInput, "{address}");
        let text = cause.to_string();
        assert!(text.contains(address) && text.contains(why), "{text}");
        assert!(text.contains("looks like example.com:80"), "{text}");
    }
}

#[test]
fn an_error_that_the_system_reports_for_a_moment_ended_every_pull() {
    let peer = Peer::new();
    // EPERM, EACCES, EINVAL
    for code in [1, 13, 22] {
        let (address, calls) = (peer.address(), AtomicUsize::new(0));
        let factory = move || match calls.fetch_add(1, SeqCst) {
            0 => Err(io::Error::from_raw_os_error(code)),
            _ => TcpStream::connect(address),
        };
        // The pool itself tries again in a moment, as long as somebody waits.
        let pool = Pool::builder(factory).backoff(never()).build().unwrap();
        let lease = pool.pull().unwrap();
        assert_eq!(lease.peer_addr().unwrap(), address);
        assert_eq!(pool.stats().connect_failures, 1);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_route_that_is_prohibited_for_a_moment_ended_every_pull() {
    with_peer(
        "connector::a_route_that_is_prohibited_for_a_moment_ended_every_pull",
        |afar| {
            let address = afar.address;
            let route = format!("prohibit {}/32", address.ip());
            ip(&format!("route add {route}")).unwrap();
            let pool = Pool::builder(Connector::new(address.to_string()))
                .backoff(never())
                .build()
                .unwrap();
            let puller = on_thread(&pool, |pool| {
                ask(&mut *pool.pull().unwrap(), "allowed?").unwrap()
            });
            eventually("it is forbidden", || pool.stats().connect_failures > 0);
            let error = pool.allocate().unwrap_err();
            let kind = error.io_error().unwrap().kind();
            ip(&format!("route del {route}")).unwrap();
            assert_eq!(kind, ErrorKind::PermissionDenied);
            assert_eq!(puller.join(), "allowed?");
        },
    );
}

#[test]
#[cfg(target_os = "linux")]
fn a_live_connection_died_of_one_lost_keepalive_probe() {
    with_peer(
        "connector::a_live_connection_died_of_one_lost_keepalive_probe",
        |afar| {
            let connector =
                Connector::new(afar.address.to_string()).keepalive(Some(Duration::from_secs(1)));
            let pool = Pool::new(1, connector).unwrap();
            let mut lease = pool.pull().unwrap();
            assert_eq!(ask(&mut lease, "there?").unwrap(), "there?");
            let local = lease.local_addr().unwrap();
            drop(lease);
            let unanswered = || unanswered_probes(local.port());
            assert_eq!(unanswered(), Some(0));
            let no_way_back = format!("blackhole {}/32", local.ip());
            ip(&format!(
                "-n {} route add {no_way_back}",
                afar.namespace.name
            ))
            .unwrap();
            eventually("a probe is lost", || unanswered() == Some(1));
            ip(&format!(
                "-n {} route del {no_way_back}",
                afar.namespace.name
            ))
            .unwrap();
            // The next probe comes five seconds later, or the connection is gone by then.
            eventually("that is over", || unanswered() != Some(1));
            let mut lease = pool.pull().unwrap();
            assert_eq!(ask(&mut lease, "still there?").unwrap(), "still there?");
            drop(lease);
            assert_eq!(pool.stats().connects, 1, "{}", pool.stats());
        },
    );
}

/// How many keepalive probes in a row went without an answer; `None` where the socket is gone.
#[cfg(target_os = "linux")]
fn unanswered_probes(local: u16) -> Option<u32> {
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ours = format!(":{local:04X}");
    let line = sockets
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        // Its address is ours and its state is ESTABLISHED.
        .find(|fields| fields[1].ends_with(&ours) && fields[3] == "01")?;
    // What proc(5) calls "timeout": zero-window and keepalive probes.
    Some(line[8].parse().unwrap())
}

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn the_user_timeout_follows_keepalive_unless_it_is_set() {
    let peer = Peer::new();
    let connector = || Connector::new(peer.address().to_string());
    let timeout = |connector: Connector| {
        let tcp = connector.connect().unwrap();
        let socket = socket2::SockRef::from(&tcp);
        socket.tcp_user_timeout().unwrap()
    };
    let seconds = |n| Some(Duration::from_secs(n));
    assert_eq!(timeout(connector()), seconds(45));
    assert_eq!(timeout(connector().keepalive(seconds(120))), seconds(135));
    assert_eq!(timeout(connector().keepalive(seconds(10))), seconds(25));
    assert_eq!(timeout(connector().keepalive(None)), seconds(45));
    let set = connector().user_timeout(seconds(5));
    assert_eq!(timeout(set.keepalive(seconds(120))), seconds(5));
    let unset = connector().user_timeout(None);
    assert_eq!(timeout(unset.keepalive(seconds(120))), None);
}

/// For the documents, which warn of it.
#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn the_user_timeout_ends_a_peer_that_has_stopped_reading() {
    use std::io::Write;
    use std::time::Instant;

    let peer = Peer::new();
    let second = Duration::from_secs(1);
    let connector = Connector::new(peer.address().to_string());
    let mut tcp = connector.user_timeout(Some(second)).connect().unwrap();
    let alive = peer.accept();
    let begun = Instant::now();
    let error = background(move || {
        loop {
            if let Err(error) = tcp.write_all(&[0; 8192]) {
                return error;
            }
        }
    })
    .join();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(begun.elapsed() >= second);
    drop(alive);
}

#[test]
fn a_second_function_replaced_the_first_in_silence() {
    let builder = || Pool::builder(|| Err(ErrorKind::ConnectionRefused.into()));
    let fine = |_: &mut Stream| Ok::<_, io::Error>(());
    let often = Duration::from_secs(60);
    for (name, twice) in [
        (
            "handshake",
            builder()
                .handshake(Ok::<_, io::Error>)
                .handshake(Ok::<_, io::Error>),
        ),
        ("ping", builder().ping(often, fine).ping(often, fine)),
        ("recycle", builder().recycle(fine).recycle(fine)),
    ] {
        let error = twice.build().unwrap_err();
        assert!(matches!(error, Error::InvalidConfig(_)), "{error}");
        let expected =
            format!("{name} must be set once, not twice: the second would replace the first");
        assert_eq!(error.to_string(), expected);
    }
    let once = builder()
        .handshake(Ok::<_, io::Error>)
        .ping(often, fine)
        .recycle(fine);
    assert!(once.build().is_ok());
}

#[test]
fn the_first_function_that_is_lost_is_the_one_that_is_named() {
    let builder = || Pool::builder(|| Err(ErrorKind::ConnectionRefused.into()));
    let fine = |_: &mut Stream| Ok::<_, io::Error>(());
    let before = builder().recycle(fine).handshake(Ok::<_, io::Error>);
    let error = before.handshake(Ok::<_, io::Error>).build().unwrap_err();
    assert!(error.to_string().starts_with("recycle must be set after"));
}

#[test]
fn retries_without_a_pause_were_allowed() {
    let none = Backoff::new().min(Duration::ZERO);
    let build = |backoff| {
        let builder = Pool::builder(|| Err(ErrorKind::ConnectionRefused.into()));
        builder.backoff(backoff).build()
    };
    let text = "backoff min must be at least 1ms, not 0ns";
    assert_eq!(build(none.clone()).unwrap_err().to_string(), text);
    let pool = build(none.clone().retries(0)).unwrap();
    let error = pool.set_backoff(none).unwrap_err();
    assert_eq!(error.to_string(), text);
    assert_eq!(pool.backoff().delays().count(), 0);
}

#[test]
fn a_shared_factory_is_passed_in_a_closure() {
    let peer = Peer::new();
    let shared: Arc<dyn Factory> = Arc::new(Connector::new(peer.address().to_string()));
    let pools = [(); 2].map(|()| {
        let factory = Arc::clone(&shared);
        Pool::new(1, move || factory.connect()).unwrap()
    });
    for pool in pools {
        assert_eq!(pool.pull().unwrap().peer_addr().unwrap(), peer.address());
    }
}
