//! A peer that vanishes without closing: in a network namespace whose link is taken down.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use jackpot::{Builder, Connection, Eviction, Pool};
use socket2::{SockRef, TcpKeepalive};

use crate::support::namespaces::{
    Addresses, Namespace, Process, ip, is_peer, link_names, not_shown,
};
use crate::support::{SOON, Server, ask, assert_sums, background, eventually, on_thread};

const SECOND: Duration = Duration::from_secs(1);

/// An echo server in a network namespace of its own, at the other end of a link.
pub(crate) struct Afar {
    pub(crate) namespace: Namespace,
    near: String,
    far: String,
    pub(crate) address: SocketAddr,
    _server: Process,
}

impl Afar {
    fn new(test: &str) -> io::Result<Self> {
        let namespace = Namespace::new()?;
        let (near, far) = link_names();
        let Addresses { ours, theirs, .. } = Addresses::new();
        let name = &namespace.name;
        ip(&format!(
            "link add {near} type veth peer name {far} netns {name}"
        ))?;
        ip(&format!("addr add {ours}/30 dev {near}"))?;
        ip(&format!("link set {near} up"))?;
        namespace.ip(&format!("addr add {theirs}/30 dev {far}"))?;
        namespace.ip(&format!("link set {far} up"))?;
        ip(&format!("netns exec {name} true"))?;
        let (server, address) = namespace.serve(test, &theirs);
        Ok(Self {
            namespace,
            near,
            far,
            address,
            _server: server,
        })
    }

    fn vanish(&self) {
        let down = format!("link set {} down", self.far);
        self.namespace.ip(&down).unwrap();
    }

    fn return_(&self) {
        let up = format!("link set {} up", self.far);
        self.namespace.ip(&up).unwrap();
    }

    /// A pool whose sockets notice a vanished peer within seconds.
    fn builder(&self) -> Builder {
        let address = self.address;
        Pool::builder(move || {
            let tcp = TcpStream::connect_timeout(&address, SECOND)?;
            let socket = SockRef::from(&tcp);
            let keepalive = TcpKeepalive::new()
                .with_time(SECOND)
                .with_interval(SECOND)
                .with_retries(1);
            socket.set_tcp_keepalive(&keepalive)?;
            socket.set_tcp_user_timeout(Some(SECOND))?;
            Ok(tcp)
        })
        .reap_interval(Some(SECOND / 20))
    }
}

impl Drop for Afar {
    fn drop(&mut self) {
        let _ = ip(&format!("link del {}", self.near));
    }
}

/// Runs the test with a peer that can vanish; in the peer's own process, serves.
pub(crate) fn with_peer(test: &str, run: impl FnOnce(&Afar)) {
    if is_peer() {
        return;
    }
    match Afar::new(test) {
        Ok(afar) => run(&afar),
        Err(error) => not_shown(test, &error),
    }
}

/// A pool whose peer is near knows nothing of it.
fn assert_others_work(other: &Pool) {
    let mut lease = other.pull().unwrap();
    assert_eq!(ask(&mut lease, "and you?").unwrap(), "and you?");
}

#[test]
fn a_peer_that_vanished_while_idle_is_found_by_keepalive() {
    with_peer(
        "vanished::a_peer_that_vanished_while_idle_is_found_by_keepalive",
        |afar| {
            let server = Server::echo();
            let address = server.address();
            let other = Pool::new(1, move || TcpStream::connect(address)).unwrap();
            let pool = afar.builder().build().unwrap();
            let mut three: Vec<_> = (0..3).map(|_| pool.pull().unwrap()).collect();
            for lease in &mut three {
                assert_eq!(ask(lease, "there?").unwrap(), "there?");
            }
            let mut leased = three.pop().unwrap();
            let late = three.pop().unwrap();
            drop(three);
            assert_others_work(&other);
            afar.vanish();
            let begun = Instant::now();
            drop(late);
            let reading = background(move || leased.read(&mut [0; 8]).unwrap_err().kind());
            eventually("all are found dead", || pool.stats().open == 0);
            assert!(begun.elapsed() > SECOND, "keepalive takes its time");
            assert_eq!(pool.stats().evicted(Eviction::SocketError), 2);
            let kind = reading.join();
            let expected = [ErrorKind::TimedOut, ErrorKind::HostUnreachable];
            assert!(expected.contains(&kind), "{kind}");

            let error = pool.pull_timeout(SECOND / 4).unwrap_err();
            assert!(error.is_timeout(), "{error}");
            assert_others_work(&other);

            afar.return_();
            let mut lease = pool.pull_timeout(SOON).unwrap();
            assert_eq!(ask(&mut lease, "back?").unwrap(), "back?");
            drop(lease);
            assert_sums(&pool.stats());
            assert_eq!(other.stats().connects, 1);
        },
    );
}

#[test]
fn a_peer_that_vanished_with_data_unacknowledged_is_found_by_user_timeout() {
    with_peer(
        "vanished::a_peer_that_vanished_with_data_unacknowledged_is_found_by_user_timeout",
        |afar| {
            let pool = afar.builder().limit(2).build().unwrap();
            let mut leased = pool.pull().unwrap();
            let mut returned = pool.pull().unwrap();
            assert_eq!(ask(&mut leased, "there?").unwrap(), "there?");
            assert_eq!(ask(&mut returned, "there?").unwrap(), "there?");
            afar.vanish();
            // One caller waits for its answer, another one wants none.
            returned.write_all(b"nobody answers this\n").unwrap();
            Connection::finish(returned);
            let caller = background(move || ask(&mut leased, "hello?").unwrap_err().kind());
            let waiter = on_thread(&pool, |pool| {
                pool.pull_timeout(SOON).map(|lease| Connection::id(&lease))
            });
            let kind = caller.join();
            let expected = [ErrorKind::TimedOut, ErrorKind::HostUnreachable];
            assert!(expected.contains(&kind), "{kind}");
            // Before that, the one that came back could not be told from a live one.
            let _ = waiter.join();
            eventually("both are gone", || pool.stats().open == 0);

            let error = pool.pull_timeout(SECOND / 4).unwrap_err();
            assert!(error.is_timeout(), "{error}");
            afar.return_();
            let mut lease = pool.pull_timeout(SOON).unwrap();
            assert_eq!(ask(&mut lease, "back?").unwrap(), "back?");
        },
    );
}

#[test]
fn a_handshake_whose_peer_vanished_fails_in_time() {
    with_peer(
        "vanished::a_handshake_whose_peer_vanished_fails_in_time",
        |afar| {
            let (name, far) = (afar.namespace.name.clone(), afar.far.clone());
            let builder = afar.builder().handshake(move |mut stream| {
                ip(&format!("-n {name} link set {far} down"))?;
                stream.write_all(b"?")?;
                stream.read_exact(&mut [0]).map(|()| stream)
            });
            let pool = builder.build().unwrap();
            let begun = Instant::now();
            let error = pool.allocate().unwrap_err();
            assert!(begun.elapsed() < SOON, "{error}");
            assert_eq!((pool.stats().open, pool.stats().connect_failures), (0, 1));
        },
    );
}

#[test]
fn the_end_comes_although_the_peer_vanished() {
    with_peer(
        "vanished::the_end_comes_although_the_peer_vanished",
        |afar| {
            let pool = afar.builder().limit(2).build().unwrap();
            let mut both = [pool.pull().unwrap(), pool.pull().unwrap()];
            for lease in &mut both {
                assert_eq!(ask(lease, "there?").unwrap(), "there?");
            }
            let [idle, mut leased] = both;
            drop(idle);
            afar.vanish();
            let blocked = background(move || {
                leased.write_all(b"hello?\n").unwrap();
                leased.read(&mut [0; 8]).is_ok_and(|count| count > 0)
            });
            let begun = Instant::now();
            pool.end();
            assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
            assert!(pool.drain(SOON), "the user timeout ends the last lease");
            assert!(!blocked.join());
            assert_eq!(pool.stats().evicted(Eviction::Ended), 2);
        },
    );
}
