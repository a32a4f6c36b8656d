//! A peer that vanishes without a word: in a network namespace whose link is taken down.
//!
//! That takes root and iproute2; where they are missing, the tests say so and show nothing.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Builder, Connection, Eviction, Pool};
use socket2::{SockRef, TcpKeepalive};

use crate::support::{SOON, Server, ask, assert_sums, background, eventually};

const SECOND: Duration = Duration::from_secs(1);
/// In the environment of the process that stands for the peer: its address.
const PEER: &str = "JACKPOT_TEST_PEER";

/// An echo server in a network namespace of its own, at the other end of a link.
pub(crate) struct Afar {
    pub(crate) name: String,
    near: String,
    far: String,
    server: Option<Child>,
    address: Option<SocketAddr>,
}

impl Afar {
    /// None where this may not be done.
    fn new(test: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (pid, count) = (std::process::id(), COUNT.fetch_add(1, SeqCst));
        let mut afar = Self {
            name: format!("jackpot-{pid}-{count}"),
            near: format!("jp{pid}n{count}"),
            far: format!("jp{pid}f{count}"),
            server: None,
            address: None,
        };
        // Link-local (RFC 3927): one of 8,000 blocks of four, lest two test runs choose the same.
        let block = (pid * 8 + count) % 8_000;
        let [_, _, high, low] = (block * 4).to_be_bytes();
        let (ours, theirs) = (
            format!("169.254.{}.{}", high + 1, low + 1),
            format!("169.254.{}.{}", high + 1, low + 2),
        );
        if let Err(error) = afar.set_up(&ours, &theirs) {
            let _ = writeln!(
                io::stderr(),
                "{test}: not shown, because there may be no network namespace here: {error}"
            );
            return None;
        }
        afar.start(test, &theirs);
        Some(afar)
    }

    fn set_up(&self, ours: &str, theirs: &str) -> io::Result<()> {
        let Self {
            name, near, far, ..
        } = self;
        ip(&format!("netns add {name}"))?;
        ip(&format!(
            "link add {near} type veth peer name {far} netns {name}"
        ))?;
        ip(&format!("addr add {ours}/30 dev {near}"))?;
        ip(&format!("link set {near} up"))?;
        ip(&format!("-n {name} addr add {theirs}/30 dev {far}"))?;
        ip(&format!("-n {name} link set {far} up"))?;
        ip(&format!("netns exec {name} true"))
    }

    /// Runs this test once more, in the namespace, where it serves.
    fn start(&mut self, test: &str, address: &str) {
        let mut server = Command::new("ip")
            .args(["netns", "exec", &self.name])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(PEER, address)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let told = BufReader::new(server.stdout.take().unwrap());
        self.server = Some(server);
        let address = told
            .lines()
            .find_map(|line| line.unwrap().rsplit_once("serving on ")?.1.parse().ok());
        self.address = Some(address.expect("the peer serves"));
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address.unwrap()
    }

    fn vanish(&self) {
        ip(&format!("-n {} link set {} down", self.name, self.far)).unwrap();
    }

    fn return_(&self) {
        ip(&format!("-n {} link set {} up", self.name, self.far)).unwrap();
    }

    /// A pool whose sockets notice a vanished peer within seconds.
    fn builder(&self) -> Builder {
        let address = self.address.unwrap();
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
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
        let _ = ip(&format!("link del {}", self.near));
        let _ = ip(&format!("netns del {}", self.name));
    }
}

pub(crate) fn ip(arguments: &str) -> io::Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("ip {arguments}: {}", told.trim())))
}

/// Runs the test with a peer that can vanish; in the peer's own process, serves.
pub(crate) fn with_peer(test: &str, run: impl FnOnce(&Afar)) {
    if let Ok(address) = std::env::var(PEER) {
        return serve(address.parse().unwrap());
    }
    if let Some(afar) = Afar::new(test) {
        run(&afar);
    }
}

/// Echoes until it is killed.
fn serve(address: IpAddr) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    println!("serving on {}", listener.local_addr().unwrap());
    for socket in listener.incoming().flatten() {
        thread::spawn(move || io::copy(&mut &socket, &mut &socket));
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
            let waiter = {
                let pool = pool.clone();
                background(move || pool.pull_timeout(SOON).map(|lease| Connection::id(&lease)))
            };
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
            let (name, far) = (afar.name.clone(), afar.far.clone());
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
