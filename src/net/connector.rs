//! Where connections come from: the `Factory` trait, and a `Connector` for the usual case.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

use crate::net::address;
use crate::net::attempts::{Failures, LEAST_SHARE, share};
use crate::sync::seed;

/// Opens connections for a pool.
///
/// Every `Fn() -> io::Result<TcpStream>` is one, so a closure does for most programs.
/// [`Connector`] is one that resolves names at each connect, tries every address and sets keepalive.
///
/// A shared factory, `Arc<dyn Factory>`, is none itself: since every closure is a factory, Rust
/// allows no `impl` for `Arc`, which might be called like a closure some day. Pass a closure:
///
/// ```
/// use jackpot::{Connector, Factory, Pool};
/// use std::sync::Arc;
///
/// let shared: Arc<dyn Factory> = Arc::new(Connector::new("localhost:11211"));
/// let pool = Pool::new(20, move || shared.connect())?;
/// # Ok::<(), jackpot::Error>(())
/// ```
///
/// ```compile_fail,E0277
/// # use jackpot::{Connector, Factory, Pool};
/// # use std::sync::Arc;
/// # let shared: Arc<dyn Factory> = Arc::new(Connector::new("localhost:11211"));
/// let pool = Pool::new(20, shared)?; // the compiler's message says so too
/// # Ok::<(), jackpot::Error>(())
/// ```
///
/// # Examples
///
/// ```
/// use jackpot::{Factory, Pool};
/// use std::io;
/// use std::net::{SocketAddr, TcpListener, TcpStream};
///
/// struct Primary(SocketAddr);
///
/// impl Factory for Primary {
///     fn connect(&self) -> io::Result<TcpStream> {
///         TcpStream::connect(self.0)
///     }
/// }
///
/// let server = TcpListener::bind("127.0.0.1:0")?;
/// let pool = Pool::new(20, Primary(server.local_addr()?))?;
/// pool.pull()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not open connections for a pool",
    label = "not a factory",
    note = "a factory is `Connector::new(\"host:port\")`, a closure \
            `Fn() -> io::Result<TcpStream>` that is `Send`, `Sync` and `'static`, or a type of your \
            own with `impl Factory`",
    note = "an `Arc` or a `Box` with a factory in it is none: pass `move || factory.connect()`"
)]
pub trait Factory: Send + Sync + 'static {
    /// Opens one connection.
    ///
    /// Runs on a thread of the pool's own (`jackpot-connect`), and may outlive the caller that
    /// needed it. Up to [`max_connecting`](crate::Builder::max_connecting) run at once.
    ///
    /// # Errors
    ///
    /// Whatever went wrong; callers of the pool get it in [`Error::Connect`](crate::Error). The
    /// kinds `PermissionDenied`, `InvalidInput` and `Unsupported` mean that trying again is
    /// pointless, but only where the factory itself says so: an error of the system, with an OS
    /// code in it or in one of its sources, is always tried again. A panic counts as an error with
    /// the panic's message.
    ///
    /// # Blocking
    ///
    /// It may block; the pool's own time-outs hold all the same. Bound it, because `drain` waits
    /// for it, and it occupies one place below the limit for as long as it takes.
    fn connect(&self) -> io::Result<TcpStream>;
}

impl<F> Factory for F
where
    F: Fn() -> io::Result<TcpStream> + Send + Sync + 'static,
{
    fn connect(&self) -> io::Result<TcpStream> {
        self()
    }
}

/// Connects to `host:port`, with a bound on the time and with settings that find dead peers.
///
/// It resolves the name on each connect, so a pool follows a change in DNS, or a server that is
/// back, as connections are renewed: by [`max_lifetime`](crate::Builder::max_lifetime), or at once
/// after [`free(0)`](crate::Pool::free). It tries the addresses that the name has one after the
/// other, in the resolver's order or from a [random one](Connector::spread) on.
///
/// An address that failed is tried after all others from then on, the one that failed last at the
/// very end. So a dead address slows one connect and not all of them. The failure is forgotten after
/// a hundred times as long as it took, at least a second. Clones of a `Connector` share this memory.
///
/// | setting | default |
/// |---|---|
/// | [`connect_timeout`](Connector::connect_timeout) | 5 s, over all addresses together |
/// | [`spread`](Connector::spread) | off: begin at the resolver's first address |
/// | [`nodelay`](Connector::nodelay) | on |
/// | [`keepalive`](Connector::keepalive) | after 30 s of silence, then 3 probes 5 s apart |
/// | [`user_timeout`](Connector::user_timeout) | as long as keepalive takes: 45 s; Linux and Android only |
///
/// # Examples
///
/// ```
/// # let server = std::net::TcpListener::bind("127.0.0.1:0")?;
/// # let port = server.local_addr()?.port();
/// use jackpot::{Connector, Pool};
///
/// let pool = Pool::new(20, Connector::new(format!("localhost:{port}")))?;
/// assert!(pool.pull()?.nodelay()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct Connector {
    address: String,
    connect_timeout: Duration,
    spread: bool,
    nodelay: bool,
    keepalive: Option<Duration>,
    /// `None` follows keepalive.
    user_timeout: Option<Option<Duration>>,
    failures: Arc<Mutex<Failures>>,
}

const YEAR: Duration = Duration::from_secs(31_536_000);
/// After how much silence keepalive asks, if nothing else is set.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// Linux takes no more seconds than this (`MAX_TCP_KEEPIDLE`).
const LONGEST_KEEPALIVE: u64 = 32_767;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
#[cfg(not(any(target_os = "openbsd", target_os = "redox", target_os = "solaris")))]
const KEEPALIVE_PROBES: u32 = 3;

impl Connector {
    /// Connects to `address`, a `host:port`; the host is a name or an IP address.
    ///
    /// An IPv6 address stands in brackets: `[::1]:11211`. A link-local one may name its interface
    /// in them, where the system's resolver knows such names: `[fe80::1%eth0]:11211`.
    ///
    /// What is malformed is found by the first connect, which fails with `InvalidInput` and a
    /// sentence that says what is wrong.
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::{Connector, Pool};
    /// let pool = Pool::new(1, Connector::new("localhost"))?; // no port
    /// let error = pool.pull().unwrap_err(); // at once: waiting cannot cure it
    /// assert_eq!(error.io_error().unwrap().kind(), std::io::ErrorKind::InvalidInput);
    /// # Ok::<(), jackpot::Error>(())
    /// ```
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            connect_timeout: Duration::from_secs(5),
            spread: false,
            nodelay: true,
            keepalive: Some(KEEPALIVE_IDLE),
            user_timeout: None,
            failures: Arc::default(),
        }
    }

    /// The bound on one connect, over all addresses together; default 5 s.
    ///
    /// What is left is shared evenly among the addresses not yet tried, so a dead first address
    /// leaves time for the second; but each gets a quarter of a second at least, as long as the time
    /// lasts. What that leaves untried comes first in the next connect. Resolving the name counts
    /// too, but cannot be cut short: the system's resolver has time-outs of its own. With zero each
    /// connect fails as `InvalidInput`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::Connector;
    /// let connector = Connector::new("localhost:11211")
    ///     .connect_timeout(std::time::Duration::from_millis(500));
    /// # let _ = connector;
    /// ```
    pub fn connect_timeout(mut self, t: Duration) -> Self {
        self.connect_timeout = t;
        self
    }

    /// Whether to begin at a random one of the name's addresses; default false.
    ///
    /// For a name that stands for several servers of the same rank: the connections of one pool,
    /// and of a fleet of clients, spread over them, instead of all going to the resolver's first.
    /// Those that failed lately are tried last all the same. Servers that hold different data are a
    /// pool each.
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::Connector;
    /// let connector = Connector::new("cache.internal:11211").spread(true);
    /// # let _ = connector;
    /// ```
    pub fn spread(mut self, yes: bool) -> Self {
        self.spread = yes;
        self
    }

    /// Whether to turn Nagle's algorithm off; default true.
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::{Connector, Pool};
    /// # let server = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?.to_string();
    /// let pool = Pool::new(1, Connector::new(address).nodelay(false))?;
    /// assert!(!pool.pull()?.nodelay()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn nodelay(mut self, yes: bool) -> Self {
        self.nodelay = yes;
        self
    }

    /// After how much silence the kernel asks whether the other side is there; default 30 s.
    ///
    /// Three questions without an answer, 5 s apart, end the connection; the pool's probe finds it
    /// dead. `None` turns keepalive off: a peer that vanished without closing stays undetected.
    /// Rounded up to whole seconds, which is what the systems take, and cut at 32,767 of them. Where
    /// the system takes no interval (OpenBSD) or no count (Windows before version 1703), its own
    /// stays.
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::Connector;
    /// # use std::time::Duration;
    /// let connector = Connector::new("localhost:11211").keepalive(Some(Duration::from_secs(10)));
    /// # let _ = connector;
    /// ```
    pub fn keepalive(mut self, idle: Option<Duration>) -> Self {
        self.keepalive = idle;
        self
    }

    /// How long the other side may owe an acknowledgement; default: what keepalive takes, 45 s.
    ///
    /// This is `TCP_USER_TIMEOUT` (RFC 5482), which Linux and Android have; elsewhere it is
    /// ignored. It ends a connection on which sent data stays unacknowledged for so long, and also
    /// one to a peer that is alive but has stopped reading: data that its full buffer does not take
    /// counts. `None` leaves the system's default, often a quarter of an hour. Rounded up to whole
    /// milliseconds.
    ///
    /// Where it is set, the kernel also asks it, and not the number of probes, when to give up an
    /// idle connection: as soon as the silence exceeds it and one probe is unanswered. So the
    /// default follows [`keepalive`](Connector::keepalive): its silence and three times 5 s (45 s
    /// where keepalive is off). With less, one lost packet can end a live connection.
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::Connector;
    /// # use std::time::Duration;
    /// let connector = Connector::new("localhost:11211").user_timeout(Some(Duration::from_secs(90)));
    /// # let _ = connector;
    /// ```
    pub fn user_timeout(mut self, t: Option<Duration>) -> Self {
        self.user_timeout = Some(t);
        self
    }

    fn prepare(&self, tcp: &TcpStream) -> io::Result<()> {
        tcp.set_nodelay(self.nodelay)?;
        let socket = SockRef::from(tcp);
        if let Some(idle) = self.keepalive {
            keep_alive(&socket, whole_seconds(idle))?;
        }
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(timeout) = self.user_timeout.unwrap_or_else(|| Some(self.silence())) {
            let milliseconds = whole(timeout, Duration::from_millis(1)).max(1);
            socket.set_tcp_user_timeout(Some(Duration::from_millis(milliseconds)))?;
        }
        Ok(())
    }

    /// How long a connection is silent until keepalive has asked as often as it should.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn silence(&self) -> Duration {
        whole_seconds(self.keepalive.unwrap_or(KEEPALIVE_IDLE))
            + KEEPALIVE_PROBES * KEEPALIVE_INTERVAL
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries one address after the other; `dial` is what does it.
    fn reach<T>(
        &self,
        addresses: Vec<SocketAddr>,
        deadline: Instant,
        dial: impl Fn(&SocketAddr, Duration) -> io::Result<T>,
    ) -> io::Result<T> {
        let start = if self.spread { seed() } else { 0 };
        let addresses = self.failures().order(addresses, start, Instant::now());
        let (mut tried, mut last) = (0, None);
        for address in &addresses {
            let begun = Instant::now();
            let left = deadline.saturating_duration_since(begun);
            if left.is_zero() {
                break;
            }
            let share = share(left, addresses.len() - tried);
            tried += 1;
            match dial(address, share) {
                Ok(made) => {
                    self.failures().worked(*address);
                    return Ok(made);
                }
                Err(error) => {
                    let now = Instant::now();
                    let took = now.saturating_duration_since(begun);
                    // What was cut short by those before it has not shown that it is dead, and comes
                    // first in the next connect.
                    let cut_short = tried > 1 && share < LEAST_SHARE;
                    if !cut_short || error.kind() != io::ErrorKind::TimedOut {
                        self.failures().failed(*address, took, now);
                    }
                    last = Some(error);
                }
            }
        }
        let error = last.unwrap_or_else(|| io::ErrorKind::TimedOut.into());
        Err(self.failed(&addresses[..tried], error))
    }

    /// The error under its own kind, with what was tried in front of it.
    fn failed(&self, tried: &[SocketAddr], source: io::Error) -> io::Error {
        let tried: Vec<String> = tried.iter().map(ToString::to_string).collect();
        let mut text = format!("cannot connect to {}", self.address);
        if !tried.is_empty() && tried != [self.address.clone()] {
            text = format!("{text} (tried {})", tried.join(", "));
        }
        io::Error::new(source.kind(), Failed { text, source })
    }
}

#[cfg(not(any(target_os = "openbsd", target_os = "redox", target_os = "solaris")))]
fn keep_alive(socket: &SockRef<'_>, idle: Duration) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(idle)
        .with_interval(KEEPALIVE_INTERVAL);
    let counted = keepalive.clone().with_retries(KEEPALIVE_PROBES);
    // Windows takes a count since version 1703 only.
    socket
        .set_tcp_keepalive(&counted)
        .or_else(|_| socket.set_tcp_keepalive(&keepalive))
}

#[cfg(any(target_os = "openbsd", target_os = "redox", target_os = "solaris"))]
fn keep_alive(socket: &SockRef<'_>, idle: Duration) -> io::Result<()> {
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))
}

/// As keepalive takes it: whole seconds, of which Linux takes so many.
fn whole_seconds(idle: Duration) -> Duration {
    let seconds = whole(idle, Duration::from_secs(1));
    Duration::from_secs(seconds.clamp(1, LONGEST_KEEPALIVE))
}

/// How many whole units cover the duration, within what a C `int` holds.
fn whole(duration: Duration, unit: Duration) -> u64 {
    let count = duration.as_nanos().div_ceil(unit.as_nanos());
    u64::try_from(count)
        .unwrap_or(u64::MAX)
        .min(i32::MAX as u64)
}

impl Factory for Connector {
    fn connect(&self) -> io::Result<TcpStream> {
        if self.connect_timeout.is_zero() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "connect_timeout must be above zero, not 0ns",
            ));
        }
        let started = Instant::now();
        // A bound beyond the clock's range is a year: nobody sees the difference.
        let deadline = started
            .checked_add(self.connect_timeout)
            .unwrap_or(started + YEAR);
        let addresses = address::resolve(&self.address).map_err(|error| self.failed(&[], error))?;
        let tcp = self.reach(addresses, deadline, TcpStream::connect_timeout)?;
        self.prepare(&tcp).map_err(|error| {
            let peer: Vec<SocketAddr> = tcp.peer_addr().into_iter().collect();
            self.failed(&peer, error)
        })?;
        Ok(tcp)
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("address", &self.address)
            .field("connect_timeout", &self.connect_timeout)
            .field("spread", &self.spread)
            .field("nodelay", &self.nodelay)
            .field("keepalive", &self.keepalive)
            .field("user_timeout", &self.user_timeout)
            .finish_non_exhaustive()
    }
}

/// A failed connect with what was tried; the system's own error is the source.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Failed {
    text: String,
    source: io::Error,
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};
    use std::net::TcpListener;

    /// A listener that never answers a connect, because its backlog is full.
    struct BlackHole {
        listener: Socket,
        _backlog: Vec<TcpStream>,
    }

    impl BlackHole {
        fn new() -> Self {
            let listener = bound();
            listener.listen(0).unwrap();
            let address = address(&listener);
            let moment = Duration::from_millis(100);
            let backlog =
                std::iter::from_fn(|| TcpStream::connect_timeout(&address, moment).ok()).collect();
            Self {
                listener,
                _backlog: backlog,
            }
        }

        fn address(&self) -> SocketAddr {
            address(&self.listener)
        }
    }

    /// A socket with a port of its own on which it does not listen yet.
    fn bound() -> Socket {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).unwrap();
        socket
    }

    fn address(socket: &Socket) -> SocketAddr {
        socket.local_addr().unwrap().as_socket().unwrap()
    }

    fn live() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn connector() -> Connector {
        Connector::new("several.example:80")
    }

    /// As the connector does it for a name with these addresses.
    fn connect(
        connector: &Connector,
        addresses: &[SocketAddr],
        bound: Duration,
    ) -> io::Result<TcpStream> {
        let deadline = Instant::now() + bound;
        connector.reach(addresses.to_vec(), deadline, TcpStream::connect_timeout)
    }

    #[test]
    fn a_dead_address_cost_its_share_at_each_connect() {
        let (hole, (_listener, live)) = (BlackHole::new(), live());
        let (connector, bound) = (connector(), Duration::from_secs(2));
        let mut slow = Vec::new();
        for turn in 0..5 {
            let started = Instant::now();
            // A clone knows what its original learned.
            let connector = connector.clone();
            let tcp = connect(&connector, &[hole.address(), live], bound).unwrap();
            assert_eq!(tcp.peer_addr().unwrap(), live);
            if started.elapsed() >= bound / 2 {
                slow.push(turn);
            }
        }
        assert_eq!(slow, [0]);
    }

    #[test]
    fn dead_addresses_share_the_time() {
        let (hole, bound) = (BlackHole::new(), Duration::from_millis(200));
        let started = Instant::now();
        let error = connect(&connector(), &[hole.address(); 4], bound).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let took = started.elapsed();
        assert!(took >= bound && took < Duration::from_secs(5), "{took:?}");
    }

    #[test]
    fn a_refused_first_address_costs_the_second_nothing() {
        let (deaf, (_listener, live)) = (bound(), live());
        let addresses = [address(&deaf), live];
        let tcp = connect(&connector(), &addresses, Duration::from_secs(10)).unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), live);
    }

    #[test]
    fn an_address_that_failed_comes_back_when_the_others_fail() {
        let (first, (second_listener, second)) = (bound(), live());
        let (connector, bound) = (connector(), Duration::from_secs(10));
        let addresses = [address(&first), second];
        let tcp = connect(&connector, &addresses, bound).unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), second);
        drop((tcp, second_listener));
        first.listen(1).unwrap();
        let tcp = connect(&connector, &addresses, bound).unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), address(&first));
    }

    #[test]
    fn forty_live_addresses_far_away_were_never_reached() {
        let path = Duration::from_millis(200);
        let addresses = (1..=40).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let deadline = Instant::now() + connector().connect_timeout;
        let reached = connector().reach(addresses.collect(), deadline, |address, bound| {
            std::thread::sleep(path.min(bound));
            if bound < path {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Ok(*address)
        });
        assert_eq!(reached.unwrap().port(), 1);
    }

    #[test]
    fn an_address_that_never_got_enough_time_was_never_reached() {
        let [dead, live] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let path = Duration::from_millis(100);
        let connector = connector();
        let connect = || {
            let deadline = Instant::now() + Duration::from_millis(300);
            connector.reach(vec![dead, live], deadline, |address, bound| {
                if *address == dead || bound < path {
                    std::thread::sleep(bound);
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Ok(*address)
            })
        };
        assert!(connect().is_err());
        assert_eq!(connect().unwrap(), live);
    }

    #[test]
    fn the_last_address_has_all_the_time_that_is_left() {
        let addresses = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let (third, mut shares) = (Duration::from_secs(1000), Vec::new());
        let deadline = Instant::now() + 3 * third;
        let seen = Mutex::new(&mut shares);
        let refused = connector().reach::<()>(addresses.to_vec(), deadline, |_, share| {
            seen.lock().unwrap().push(share);
            Err(io::ErrorKind::ConnectionRefused.into())
        });
        refused.unwrap_err();
        // A failed connect takes no time here, so that the next address has its share too.
        for (share, expected) in shares.iter().zip([third, third * 3 / 2, third * 3]) {
            assert!(
                *share <= expected && *share > expected * 9 / 10,
                "{shares:?}"
            );
        }
    }

    /// Those that time out, when each of forty has its least share, or when there is no time for one.
    #[test]
    fn addresses_that_had_their_time_are_not_the_first_again() {
        for (dead, bound) in [(10, Duration::from_secs(5)), (1, LEAST_SHARE / 2)] {
            let addresses = (1..=40).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
            let addresses: Vec<_> = addresses.collect();
            loop {
                let (connector, begun) = (connector(), Instant::now());
                let reach = || {
                    let dials = Mutex::new(0);
                    let reached =
                        connector.reach(addresses.clone(), begun + bound, |address, _| {
                            *dials.lock().unwrap() += 1;
                            if address.port() <= dead {
                                return Err(io::ErrorKind::TimedOut.into());
                            }
                            Ok(address.port())
                        });
                    (reached.ok(), dials.into_inner().unwrap())
                };
                let found = [reach(), reach()];
                // Later there is no time left, and a failure may have been forgotten.
                if begun.elapsed() < bound.min(Duration::from_secs(1)) {
                    let first = Some(dead + 1);
                    assert_eq!(found, [(first, dead + 1), (first, 1)]);
                    break;
                }
            }
        }
    }

    #[test]
    fn all_connections_went_to_the_first_address_of_many() {
        let listeners: Vec<_> = (0..4).map(|_| live()).collect();
        let addresses: Vec<_> = listeners.iter().map(|(_, address)| *address).collect();
        let reached = |connector: Connector| {
            let mut reached = [0; 4];
            for _ in 0..200 {
                let tcp = connect(&connector, &addresses, Duration::from_secs(10)).unwrap();
                let peer = tcp.peer_addr().unwrap();
                let index = addresses.iter().position(|a| *a == peer).unwrap();
                reached[index] += 1;
                listeners[index].0.accept().unwrap();
            }
            reached
        };
        assert_eq!(reached(connector()), [200, 0, 0, 0]);
        let spread = reached(connector().spread(true));
        // Fewer than 20 of 200 at a chance of a quarter: once in five million runs.
        assert!(spread.iter().all(|&count| count >= 20), "{spread:?}");
    }

    #[test]
    fn no_time_is_a_timeout() {
        let (_listener, live) = live();
        let error = connect(&connector(), &[live], Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn an_error_names_what_was_tried_and_no_more() {
        let deaf = [bound(), bound()];
        let addresses = [address(&deaf[0]), address(&deaf[1])];
        let error = connect(&connector(), &addresses, Duration::from_secs(10)).unwrap_err();
        let [first, second] = addresses;
        let expected = format!("cannot connect to several.example:80 (tried {first}, {second})");
        assert_eq!(error.to_string(), expected);
        let error = connect(&connector(), &addresses, Duration::ZERO).unwrap_err();
        assert_eq!(error.to_string(), "cannot connect to several.example:80");
    }

    #[test]
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn keepalive_decides_the_user_timeout_unless_it_is_set() {
        let seconds = Duration::from_secs;
        for (keepalive, expected) in [
            (Some(seconds(30)), seconds(45)),
            (Some(seconds(120)), seconds(135)),
            (Some(Duration::from_millis(1)), seconds(16)),
            (Some(Duration::MAX), seconds(LONGEST_KEEPALIVE + 15)),
            (None, seconds(45)),
        ] {
            assert_eq!(connector().keepalive(keepalive).silence(), expected);
        }
    }

    #[test]
    fn debug_shows_the_settings() {
        let shown = format!("{:?}", connector());
        let expected = "address: \"several.example:80\", connect_timeout: 5s, spread: false, \
                        nodelay: true, keepalive: Some(30s), user_timeout: None";
        assert!(shown.contains(expected), "{shown}");
    }

    #[test]
    fn durations_round_up_and_fit() {
        let second = Duration::from_secs(1);
        assert_eq!(whole(Duration::from_millis(1), second), 1);
        assert_eq!(whole(Duration::from_millis(1001), second), 2);
        assert_eq!(whole(Duration::MAX, second), i32::MAX as u64);
    }
}
