//! Where connections come from: the `Factory` trait, and a `Connector` for the usual case.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

/// Opens connections for a pool.
///
/// Every `Fn() -> io::Result<TcpStream>` is one, so a closure does for most programs.
/// [`Connector`] is one that resolves names anew, tries every address and sets keepalive.
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
    /// pointless. A panic counts as an error with the panic's message.
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
/// It resolves the name on each connect, so a pool follows a change in DNS as connections are
/// renewed, and tries every address that the name has, in the resolver's order.
///
/// | setting | default |
/// |---|---|
/// | [`connect_timeout`](Connector::connect_timeout) | 5 s, over all addresses together |
/// | [`nodelay`](Connector::nodelay) | on |
/// | [`keepalive`](Connector::keepalive) | after 30 s of silence, then 3 probes 5 s apart |
/// | [`user_timeout`](Connector::user_timeout) | 30 s, on Linux and Android |
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
#[derive(Clone, Debug)]
#[must_use]
pub struct Connector {
    address: String,
    connect_timeout: Duration,
    nodelay: bool,
    keepalive: Option<Duration>,
    user_timeout: Option<Duration>,
}

/// Linux takes no more seconds than this (`MAX_TCP_KEEPIDLE`).
const LONGEST_KEEPALIVE: u64 = 32_767;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
#[cfg(not(any(target_os = "openbsd", target_os = "redox", target_os = "solaris")))]
const KEEPALIVE_PROBES: u32 = 3;

impl Connector {
    /// Connects to `address`, a `host:port`; the host is a name or an IP address.
    ///
    /// An IPv6 address stands in brackets: `[::1]:11211`. What is malformed is found by the first
    /// connect, which fails with `InvalidInput`.
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
            nodelay: true,
            keepalive: Some(Duration::from_secs(30)),
            user_timeout: Some(Duration::from_secs(30)),
        }
    }

    /// The bound on one connect, over all addresses together; default 5 s.
    ///
    /// What is left is shared evenly among the addresses not yet tried, so a dead first address
    /// leaves time for the second. Resolving the name counts too, but cannot be cut short: the
    /// system's resolver has time-outs of its own. Zero is refused by each connect.
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
    /// dead. `None` turns keepalive off: a peer that vanished without a word stays undetected.
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

    /// How long sent data may stay unacknowledged before the kernel gives up; default 30 s.
    ///
    /// This is `TCP_USER_TIMEOUT` (RFC 5482), which Linux and Android have; elsewhere it is
    /// ignored. `None` leaves the system's default, often a quarter of an hour. Rounded up to
    /// whole milliseconds.
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::Connector;
    /// # use std::time::Duration;
    /// let connector = Connector::new("localhost:11211").user_timeout(Some(Duration::from_secs(5)));
    /// # let _ = connector;
    /// ```
    pub fn user_timeout(mut self, t: Option<Duration>) -> Self {
        self.user_timeout = t;
        self
    }

    fn prepare(&self, tcp: &TcpStream) -> io::Result<()> {
        tcp.set_nodelay(self.nodelay)?;
        let socket = SockRef::from(tcp);
        if let Some(idle) = self.keepalive {
            let seconds = whole(idle, Duration::from_secs(1)).clamp(1, LONGEST_KEEPALIVE);
            let idle = Duration::from_secs(seconds);
            keep_alive(&socket, idle)?;
        }
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(timeout) = self.user_timeout {
            let milliseconds = whole(timeout, Duration::from_millis(1)).max(1);
            socket.set_tcp_user_timeout(Some(Duration::from_millis(milliseconds)))?;
        }
        Ok(())
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

/// Tries each address in turn, with an even share of the time that is left.
fn open(addresses: &[SocketAddr], deadline: Instant) -> io::Result<TcpStream> {
    let mut last = None;
    for (n, address) in addresses.iter().enumerate() {
        let untried = u32::try_from(addresses.len() - n).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / untried;
        if share.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(address, share) {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::TimedOut.into()))
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
            .unwrap_or(started + Duration::from_secs(365 * 24 * 3600));
        let failed = |addresses: &[SocketAddr], error| self.failed(addresses, error);
        let addresses: Vec<SocketAddr> = match self.address.to_socket_addrs() {
            Ok(addresses) => addresses.collect(),
            Err(error) => return Err(failed(&[], error)),
        };
        if addresses.is_empty() {
            let error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            return Err(failed(&[], error));
        }
        let tcp = open(&addresses, deadline).map_err(|error| failed(&addresses, error))?;
        self.prepare(&tcp)
            .map_err(|error| failed(&addresses, error))?;
        Ok(tcp)
    }
}

impl Connector {
    /// The error under its own kind, with what was tried in front of it.
    fn failed(&self, addresses: &[SocketAddr], source: io::Error) -> io::Error {
        let tried: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let mut text = format!("cannot connect to {}", self.address);
        if !tried.is_empty() && tried != [self.address.clone()] {
            text = format!("{text} (tried {})", tried.join(", "));
        }
        io::Error::new(source.kind(), Failed { text, source })
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

    /// A listener that swallows connects without a word, because its backlog is full.
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

    #[test]
    fn a_dead_first_address_leaves_time_for_the_second() {
        let (hole, (_listener, live)) = (BlackHole::new(), live());
        let started = Instant::now();
        let bound = Duration::from_secs(1);
        let tcp = open(&[hole.address(), live], started + bound).unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), live);
        assert!(started.elapsed() >= bound / 2);
    }

    #[test]
    fn dead_addresses_share_the_time() {
        let (hole, bound) = (BlackHole::new(), Duration::from_millis(200));
        let started = Instant::now();
        let error = open(&[hole.address(); 4], started + bound).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let took = started.elapsed();
        assert!(took >= bound && took < Duration::from_secs(5), "{took:?}");
    }

    #[test]
    fn a_refused_first_address_costs_the_second_nothing() {
        let (deaf, (_listener, live)) = (bound(), live());
        let deadline = Instant::now() + Duration::from_secs(10);
        let tcp = open(&[address(&deaf), live], deadline).unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), live);
    }

    #[test]
    fn no_time_is_a_timeout() {
        let (_listener, live) = live();
        let error = open(&[live], Instant::now()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn durations_round_up_and_fit() {
        let second = Duration::from_secs(1);
        assert_eq!(whole(Duration::from_millis(1), second), 1);
        assert_eq!(whole(Duration::from_millis(1001), second), 2);
        assert_eq!(whole(Duration::MAX, second), i32::MAX as u64);
    }
}
