//! The settings of a pool, their checks, and its start.

use std::any::TypeId;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::net::buffered::BufStream;
use crate::net::connector::Factory;
use crate::net::stream::Stream;
use crate::pool::Pool;
use crate::report::error::Error;
use crate::report::event::Event;
use crate::runtime::settings::{Functions, Settings};
use crate::runtime::shared::{Core, Shared};
use crate::runtime::{connect, reaper};
use crate::state::core::Rules;
use crate::sync::now;
use crate::sync::user_code::Hook;

/// The settings of a pool that is to be, from [`Pool::builder`].
///
/// | setting | default |
/// |---|---|
/// | [`limit`](Builder::limit) | 20 |
/// | [`min_idle`](Builder::min_idle) | 0 |
/// | [`max_waiting`](Builder::max_waiting) | off: no bound on the line |
/// | [`max_connecting`](Builder::max_connecting) | 4 |
/// | [`backoff`](Builder::backoff) | 5 retries, factor 3, 1 s to 60 s, [`Jitter::Equal`](crate::Jitter::Equal) |
/// | [`idle_timeout`](Builder::idle_timeout) | 10 minutes |
/// | [`max_lifetime`](Builder::max_lifetime) | 30 minutes |
/// | [`max_uses`](Builder::max_uses) | off |
/// | [`reap_interval`](Builder::reap_interval) | 1 s |
/// | [`probe_after`](Builder::probe_after) | zero: probe always |
/// | [`handshake_timeout`](Builder::handshake_timeout) | 10 s |
/// | [`read_timeout`](Builder::read_timeout), [`write_timeout`](Builder::write_timeout) | what the factory left on the socket |
/// | [`only_finished`](Builder::only_finished), [`allow_unread`](Builder::allow_unread), [`allow_unanswered`](Builder::allow_unanswered) | false |
/// | [`leak_after`](Builder::leak_after) | off |
/// | [`lease_events`](Builder::lease_events) | false |
/// | [`handshake`](Builder::handshake), [`ping`](Builder::ping), [`recycle`](Builder::recycle), [`on_event`](Builder::on_event) | none |
///
/// # Examples
///
/// ```
/// # let server = std::net::TcpListener::bind("127.0.0.1:0")?;
/// # let address = server.local_addr()?.to_string();
/// use jackpot::{Backoff, Connector, Pool};
/// use std::time::Duration;
///
/// let pool = Pool::builder(Connector::new(address))
///     .limit(50)
///     .min_idle(2)
///     .read_timeout(Some(Duration::from_secs(5)))
///     .backoff(Backoff::new().min(Duration::from_millis(100)))
///     .build()?;
/// assert_eq!(pool.limit(), 50);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a builder does nothing until `build`"]
pub struct Builder<C = Stream> {
    factory: Arc<dyn Factory>,
    limit: usize,
    rules: Rules,
    backoff: Backoff,
    reap_interval: Option<Duration>,
    settings: Settings,
    functions: Functions<C>,
    has_handshake: bool,
    /// The first function of the user's that a later setting dropped; `build` refuses that.
    lost: Option<String>,
}

fn set_twice(name: &str) -> String {
    format!("{name} must be set once, not twice: the second would replace the first")
}

fn set_before_handshake(name: &str) -> String {
    format!("{name} must be set after handshake, because it takes the client")
}

impl Pool {
    /// A pool of at most `limit` connections with the default settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for a limit of 0; [`Error::Spawn`] where no thread can be
    /// started.
    ///
    /// # Examples
    ///
    /// ```
    /// # let server = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// let pool = jackpot::Pool::new(100, move || std::net::TcpStream::connect(address))?;
    /// let connection = pool.pull()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(limit: usize, factory: impl Factory) -> Result<Pool, Error> {
        Self::builder(factory).limit(limit).build()
    }

    /// The settings of a pool, to be changed one by one.
    ///
    /// # Examples
    ///
    /// See [`Builder`].
    pub fn builder(factory: impl Factory) -> Builder<Stream> {
        Builder::new(factory)
    }
}

impl Builder<Stream> {
    pub(crate) fn new(factory: impl Factory) -> Self {
        Self {
            factory: Arc::new(factory),
            limit: 20,
            rules: Rules {
                max_connecting: 4,
                idle_timeout: Some(Duration::from_secs(10 * 60)),
                max_lifetime: Some(Duration::from_secs(30 * 60)),
                ..Rules::default()
            },
            backoff: Backoff::default(),
            reap_interval: Some(Duration::from_secs(1)),
            settings: Settings {
                handshake_timeout: Some(Duration::from_secs(10)),
                exact_lease_end: true,
                plain_client: true,
                ..Settings::default()
            },
            functions: Functions::new(Box::new(Ok)),
            has_handshake: false,
            lost: None,
        }
    }

    /// Turns each new socket into what callers work with; by default, a [`Stream`].
    ///
    /// The client owns the [`Stream`], which is a handle on shared state; the pool keeps another,
    /// so probing and cutting still work. The function runs on a `jackpot-connect` thread as part
    /// of the connect, with [`read_timeout`](Builder::read_timeout) and
    /// [`write_timeout`](Builder::write_timeout) already set, and must be done within
    /// [`handshake_timeout`](Builder::handshake_timeout). Its error or panic counts as a failed
    /// connect ([`Error::Handshake`]). What it wrote last does not count as unanswered.
    ///
    /// It comes before [`ping`](Builder::ping) and [`recycle`](Builder::recycle), which take the
    /// client: [`build`](Builder::build) fails if one of them was set earlier. It also refuses a
    /// second handshake: do both steps in one.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # std::thread::spawn(move || {
    /// #     use std::io::Write;
    /// #     let (mut peer, _) = server.accept().unwrap();
    /// #     peer.write_all(b"hello\n").unwrap();
    /// #     std::io::copy(&mut peer.try_clone().unwrap(), &mut peer).unwrap();
    /// # });
    /// use jackpot::Pool;
    /// use std::io::{self, BufRead, BufReader};
    ///
    /// let pool = Pool::builder(move || TcpStream::connect(address))
    ///     .handshake(|stream| {
    ///         let mut lines = BufReader::new(stream);
    ///         lines.read_line(&mut String::new())?; // the greeting
    ///         Ok::<_, io::Error>(lines)
    ///     })
    ///     .recycle(|lines| match lines.buffer() {
    ///         [] => Ok(()),
    ///         _ => Err("bytes that nobody read"),
    ///     })
    ///     .build()?;
    /// let mut lines = pool.pull()?;
    /// io::Write::write_all(lines.get_mut(), b"world\n")?;
    /// let mut line = String::new();
    /// lines.read_line(&mut line)?;
    /// assert_eq!(line, "world\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn handshake<C, E>(
        self,
        f: impl Fn(Stream) -> Result<C, E> + Send + Sync + 'static,
    ) -> Builder<C>
    where
        C: Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let functions = self.functions;
        let lost = if self.has_handshake {
            Some(set_twice("handshake"))
        } else if functions.ping.is_some() {
            Some(set_before_handshake("ping"))
        } else {
            let recycle = functions.recycle.as_ref();
            recycle.map(|_| set_before_handshake("recycle"))
        };
        Builder {
            factory: self.factory,
            limit: self.limit,
            rules: self.rules,
            backoff: self.backoff,
            reap_interval: self.reap_interval,
            settings: Settings {
                plain_client: TypeId::of::<C>() == TypeId::of::<Stream>(),
                ..self.settings
            },
            functions: Functions {
                on_event: functions.on_event,
                ..Functions::new(Box::new(move |stream| f(stream).map_err(Into::into)))
            },
            has_handshake: true,
            lost: self.lost.or(lost),
        }
    }
}

impl Builder<Stream> {
    /// Leases of a buffered stream: `write!` a request, `read_line` its reply.
    ///
    /// It is a [`handshake`](Builder::handshake) that wraps each socket in a [`BufStream`], and so
    /// it takes the place of one.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # std::thread::spawn(move || {
    /// #     let (mut peer, _) = server.accept().unwrap();
    /// #     std::io::copy(&mut peer.try_clone().unwrap(), &mut peer).unwrap();
    /// # });
    /// use jackpot::Pool;
    /// use std::io::{BufRead, Write};
    ///
    /// let pool = Pool::builder(move || TcpStream::connect(address)).buffered().build()?;
    /// let mut lease = pool.pull()?;
    /// writeln!(lease, "one {}", "line")?; // sent by the read, in one piece
    /// let mut line = String::new();
    /// lease.read_line(&mut line)?;
    /// assert_eq!(line, "one line\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn buffered(self) -> Builder<BufStream> {
        self.handshake(|stream| Ok::<_, std::io::Error>(BufStream::new(stream)))
    }
}

impl<C: Send + 'static> Builder<C> {
    /// How many connections the pool may have, idle, leased and connecting; default 20.
    ///
    /// [`build`](Builder::build) refuses 0. The limit is hard, and can be changed later with
    /// [`Pool::set_limit`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # use jackpot::Pool;
    /// let pool = Pool::builder(move || TcpStream::connect(address)).limit(1).build()?;
    /// let only = pool.pull()?;
    /// assert!(pool.allocate().is_err());
    /// # drop(only);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// How many idle connections to keep ready; default 0.
    ///
    /// They are made in the background from `build` on, and every sweep of the reaper makes up for
    /// what is missing. [`idle_timeout`](Builder::idle_timeout) leaves them alone.
    /// [`build`](Builder::build) refuses more than the limit; a limit that is lowered later goes
    /// first.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # use jackpot::Pool;
    /// let pool = Pool::builder(move || TcpStream::connect(address)).min_idle(2).build()?;
    /// while pool.stats().idle < 2 {
    ///     std::thread::yield_now();
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn min_idle(mut self, count: usize) -> Self {
        self.rules.min_idle = count;
        self
    }

    /// How many connects may be under way at once; default 4.
    ///
    /// It bounds what a burst of callers does to the server. Each is made by a thread of its own,
    /// so where a connect is quick, more of them make a cold start slower (`docs/BENCHMARKS.md`);
    /// where it is slow, and many connections are to be there at once, more make it quicker.
    /// [`build`](Builder::build) refuses 0.
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::Pool;
    /// # use std::net::TcpStream;
    /// let pool = Pool::builder(|| TcpStream::connect("127.0.0.1:1")).max_connecting(0).build();
    /// assert!(pool.unwrap_err().to_string().contains("max_connecting"));
    /// ```
    pub fn max_connecting(mut self, count: usize) -> Self {
        self.rules.max_connecting = count;
        self
    }

    /// How many callers may wait in line; default `None`: no bound.
    ///
    /// A call that would make the line longer fails at once with [`Error::QueueFull`], for which
    /// [`is_full`](Error::is_full) is true. In line is who waits for a connection to come back or a
    /// place to fall free. A caller for whom a connect is under way is not, and one that keeps its
    /// place, between two tries for instance, does not count again. `Some(0)`: nobody waits in line,
    /// and bursts below the capacity are refused too.
    ///
    /// The [guide](crate::guide#overload) says what to set, and what it does in an overload.
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::Pool;
    /// # use std::net::TcpStream;
    /// let pool = Pool::builder(|| TcpStream::connect("127.0.0.1:1"))
    ///     .limit(20)
    ///     .max_waiting(Some(40))
    ///     .build()?;
    /// # Ok::<(), jackpot::Error>(())
    /// ```
    pub fn max_waiting(mut self, callers: Option<usize>) -> Self {
        self.rules.max_waiting = callers;
        self
    }

    /// How often and how long `pull` sleeps between its tries; default [`Backoff::new`].
    ///
    /// [`build`](Builder::build) refuses what [`Backoff`]'s settings say must not be.
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::{Backoff, Pool};
    /// # use std::net::TcpStream;
    /// let backoff = Backoff::new().retries(2);
    /// let pool = Pool::builder(|| TcpStream::connect("127.0.0.1:1"))
    ///     .backoff(backoff.clone())
    ///     .build()?;
    /// assert_eq!(pool.backoff(), backoff);
    /// # Ok::<(), jackpot::Error>(())
    /// ```
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// After how long without use a connection is closed; default 10 minutes, `None` never.
    ///
    /// It is a sweep of the reaper that closes it, so up to
    /// [`reap_interval`](Builder::reap_interval) later; with [`probe_after`](Builder::probe_after)
    /// perhaps that much earlier, if this is ten intervals or more.
    /// [`min_idle`](Builder::min_idle) connections stay.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # use jackpot::{Eviction, Pool};
    /// # use std::time::Duration;
    /// let pool = Pool::builder(move || TcpStream::connect(address))
    ///     .idle_timeout(Some(Duration::ZERO))
    ///     .build()?;
    /// drop(pool.pull()?);
    /// pool.reap();
    /// assert_eq!(pool.stats().evicted(Eviction::IdleTimeout), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn idle_timeout(mut self, after: Option<Duration>) -> Self {
        self.rules.idle_timeout = after;
        self
    }

    /// After how long a connection is closed, used or not; default 30 minutes, `None` never.
    ///
    /// Each connection's own lifetime is drawn from 0.9 to 1.0 of it, so that connections made
    /// together do not all close together. It ends a connection when it comes back or while it is
    /// idle, never within a lease; with [`probe_after`](Builder::probe_after) up to one
    /// [`reap_interval`](Builder::reap_interval) late, if this is ten intervals or more.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # use jackpot::{Eviction, Pool};
    /// # use std::time::Duration;
    /// let pool = Pool::builder(move || TcpStream::connect(address))
    ///     .max_lifetime(Some(Duration::ZERO))
    ///     .build()?;
    /// drop(pool.pull()?);
    /// assert_eq!(pool.stats().evicted(Eviction::MaxLifetime), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn max_lifetime(mut self, after: Option<Duration>) -> Self {
        self.rules.max_lifetime = after;
        self
    }

    /// After how many leases a connection is closed; default `None`, never.
    ///
    /// It closes when the last of them comes back. For servers that leak a little with each request,
    /// or count requests themselves. Pings do not count. [`build`](Builder::build) refuses
    /// `Some(0)`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::Pool;
    /// # use std::net::TcpStream;
    /// let pool = Pool::builder(|| TcpStream::connect("127.0.0.1:1")).max_uses(Some(0)).build();
    /// assert_eq!(pool.unwrap_err().to_string(), "max_uses must be at least 1, not 0");
    /// ```
    pub fn max_uses(mut self, leases: Option<u64>) -> Self {
        self.rules.max_uses = leases;
        self
    }

    /// How often the reaper sweeps; default 1 s.
    ///
    /// `None` starts no thread: call [`Pool::reap`] instead. A dead connection that a caller finds
    /// wakes the reaper at once. [`build`](Builder::build) refuses zero.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # use jackpot::Pool;
    /// let pool = Pool::builder(move || TcpStream::connect(address)).reap_interval(None).build()?;
    /// assert_eq!(pool.reap(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reap_interval(mut self, every: Option<Duration>) -> Self {
        self.reap_interval = every;
        self
    }

    /// How long a connection must have been idle to be probed before use; default zero: always.
    ///
    /// The probe is one system call of about half a microsecond, and a connection can die at any
    /// moment; set this only where that price is too high. The time is counted from when the
    /// pool last read the clock before the connection came back, which is at its `pull` or later:
    /// after a long lease it may be probed sooner than asked.
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::Pool;
    /// # use std::time::Duration;
    /// let builder = Pool::builder(|| std::net::TcpStream::connect("127.0.0.1:1"))
    ///     .probe_after(Duration::from_millis(100));
    /// # let _ = builder;
    /// ```
    pub fn probe_after(mut self, idle: Duration) -> Self {
        self.rules.probe_after = idle;
        self
    }

    /// How long a whole handshake may take; default 10 s, `None`: no bound.
    ///
    /// It is a deadline for all reads and writes of the [`handshake`](Builder::handshake) together;
    /// the time-outs for each of them hold as well. At the deadline the read or write fails with
    /// `TimedOut`. [`build`](Builder::build) refuses zero.
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::Pool;
    /// # use std::time::Duration;
    /// let pool = Pool::builder(|| std::net::TcpStream::connect("127.0.0.1:1"))
    ///     .handshake_timeout(Some(Duration::ZERO))
    ///     .build();
    /// let text = pool.unwrap_err().to_string();
    /// assert_eq!(text, "handshake_timeout must be above zero, not 0ns");
    /// ```
    pub fn handshake_timeout(mut self, after: Option<Duration>) -> Self {
        self.settings.handshake_timeout = after;
        self
    }

    /// The read time-out that each lease starts with; `None` blocks for ever.
    ///
    /// The default is what the factory left on the socket.
    /// [`build`](Builder::build) refuses zero.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # use jackpot::Pool;
    /// # use std::time::Duration;
    /// let pool = Pool::builder(move || TcpStream::connect(address))
    ///     .read_timeout(Some(Duration::from_secs(5)))
    ///     .build()?;
    /// assert_eq!(pool.pull()?.read_timeout()?, Some(Duration::from_secs(5)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_timeout(mut self, t: Option<Duration>) -> Self {
        self.settings.timeouts.read = Some(t);
        self
    }

    /// The write time-out that each lease starts with; `None` blocks for ever.
    ///
    /// The default is what the factory left on the socket.
    /// [`build`](Builder::build) refuses zero.
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::Pool;
    /// # use std::time::Duration;
    /// let pool = Pool::builder(|| std::net::TcpStream::connect("127.0.0.1:1"))
    ///     .write_timeout(Some(Duration::ZERO))
    ///     .build();
    /// assert!(pool.unwrap_err().to_string().contains("write_timeout"));
    /// ```
    pub fn write_timeout(mut self, t: Option<Duration>) -> Self {
        self.settings.timeouts.write = Some(t);
        self
    }

    /// Whether only [`Connection::finish`](crate::Connection::finish) gives a lease back; default
    /// false.
    ///
    /// For protocols that want certainty: every other way out of a lease (an early `?`, a panic, a
    /// forgotten branch) then closes the connection.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # use jackpot::{Connection, Eviction, Pool};
    /// let pool = Pool::builder(move || TcpStream::connect(address)).only_finished(true).build()?;
    /// Connection::finish(pool.pull()?);
    /// drop(pool.pull()?);
    /// assert_eq!(pool.stats().evicted(Eviction::Unfinished), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn only_finished(mut self, yes: bool) -> Self {
        self.settings.only_finished = yes;
        self
    }

    /// Whether a connection in which unread bytes lie may be used; default false.
    ///
    /// For protocols in which the server may speak first, or sends what belongs to no request. It
    /// costs two things: a late reply is no longer noticed, and neither is the peer's closing
    /// behind the bytes. For TLS that is the wrong price, because a session that the server closed
    /// ends in unread bytes too: read the tickets of TLS 1.3 in the handshake instead, with a first
    /// question and its answer.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # use jackpot::Pool;
    /// # use std::io::{Read, Write};
    /// let pool = Pool::builder(move || TcpStream::connect(address)).allow_unread(true).build()?;
    /// drop(pool.pull()?);
    /// server.accept()?.0.write_all(b"news\n")?;
    /// pool.pull()?.read_exact(&mut [0; 5])?; // the same connection
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn allow_unread(mut self, yes: bool) -> Self {
        self.settings.allow_unread = yes;
        self
    }

    /// Whether a lease that ended with a write goes back; default false.
    ///
    /// For protocols in which the client only sends: log shipping, metrics. A write that timed out
    /// closes the connection all the same, because half a message may be on its way.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # use jackpot::Pool;
    /// # use std::io::Write;
    /// let pool = Pool::builder(move || TcpStream::connect(address)).allow_unanswered(true).build()?;
    /// pool.pull()?.write_all(b"requests:1|c\n")?;
    /// assert_eq!(pool.stats().idle, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn allow_unanswered(mut self, yes: bool) -> Self {
        self.settings.allow_unanswered = yes;
        self
    }

    /// After how long a lease is reported as overdue; default `None`, never.
    ///
    /// The report is a warning in the log and an [`Event::Overdue`], once for each lease, with the
    /// name of the thread that took it, `jackpot-ping` for a ping. Nothing is taken away. A sweep of
    /// the reaper finds it, so it comes up to [`reap_interval`](Builder::reap_interval) later.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # use jackpot::{Event, Pool};
    /// # use std::sync::mpsc;
    /// # use std::time::Duration;
    /// let (seen, reports) = mpsc::channel();
    /// let pool = Pool::builder(move || TcpStream::connect(address))
    ///     .leak_after(Some(Duration::ZERO))
    ///     .on_event(move |event| {
    ///         if let Event::Overdue { id, .. } = event {
    ///             let _ = seen.send(*id);
    ///         }
    ///     })
    ///     .build()?;
    /// let held = pool.pull()?;
    /// pool.reap();
    /// assert_eq!(reports.recv()?, jackpot::Connection::id(&held));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn leak_after(mut self, held: Option<Duration>) -> Self {
        self.rules.leak_after = held;
        self
    }

    /// Whether each lease is told and timed; default false.
    ///
    /// Then there is an event for each lease, each return and each call that gave up, and
    /// [`Stats::lease_times`](crate::Stats::lease_times) has how long leases lasted. It costs a
    /// reading of the clock on each `pull` and each return, and the event function's time.
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::Pool;
    /// # use std::net::TcpStream;
    /// let pool = Pool::builder(|| TcpStream::connect("127.0.0.1:1")).lease_events(true).build()?;
    /// # Ok::<(), jackpot::Error>(())
    /// ```
    pub fn lease_events(mut self, yes: bool) -> Self {
        self.settings.lease_events = yes;
        self
    }

    /// Asks connections that nobody has used for so long whether they still answer; default none.
    ///
    /// The function sends the protocol's own question and reads the answer. It runs between two
    /// leases on a thread of its own (`jackpot-ping`), on one connection at a time and only while
    /// nobody waits, after a probe, so that no byte left over passes for the answer; its connection
    /// counts as leased meanwhile. An error or a panic closes the connection. Give it a bound:
    /// [`read_timeout`](Builder::read_timeout) holds here too. A ping is no use of the connection:
    /// [`idle_timeout`](Builder::idle_timeout) goes on counting.
    /// [`build`](Builder::build) refuses an interval of zero, and a second ping.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// use std::io::{self, Read, Write};
    /// use std::time::Duration;
    ///
    /// let builder = jackpot::Pool::builder(move || TcpStream::connect(address))
    ///     .read_timeout(Some(Duration::from_secs(1)))
    ///     .ping(Duration::from_secs(30), |stream| {
    ///         stream.write_all(b"PING\r\n")?;
    ///         let mut reply = [0; 7];
    ///         stream.read_exact(&mut reply)?;
    ///         match &reply {
    ///             b"+PONG\r\n" => Ok(()),
    ///             _ => Err(io::Error::other("no pong")),
    ///         }
    ///     });
    /// # let _ = builder;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ping<E>(
        mut self,
        every: Duration,
        f: impl Fn(&mut C) -> Result<(), E> + Send + Sync + 'static,
    ) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let hook: Hook<C> = Box::new(move |client| f(client).map_err(Into::into));
        if self.functions.ping.replace((every, hook)).is_some() {
            self.lost.get_or_insert(set_twice("ping"));
        }
        self
    }

    /// Prepares a client for its next caller, or says that it is not fit; default none.
    ///
    /// The function runs when a lease comes back that is otherwise fit, on the thread that gives
    /// it back, after a probe: bytes that lie unread close the connection before. An error or a
    /// panic closes it too. It is the place to look into the client's own buffers, which no probe
    /// can see, and to roll back what a caller left open.
    /// [`build`](Builder::build) refuses a second one.
    ///
    /// # Examples
    ///
    /// See [`handshake`](Builder::handshake).
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # use jackpot::{Eviction, Pool};
    /// let pool = Pool::builder(move || TcpStream::connect(address))
    ///     .recycle(|_| Err::<(), _>("use it once"))
    ///     .build()?;
    /// drop(pool.pull()?);
    /// assert_eq!(pool.stats().evicted(Eviction::RecycleFailed), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recycle<E>(mut self, f: impl Fn(&mut C) -> Result<(), E> + Send + Sync + 'static) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let hook: Hook<C> = Box::new(move |client| f(client).map_err(Into::into));
        if self.functions.recycle.replace(hook).is_some() {
            self.lost.get_or_insert(set_twice("recycle"));
        }
        self
    }

    /// Tells this function what happens in the pool; default none.
    ///
    /// A second call replaces the first. The function runs after the lock is released, on the
    /// thread that caused the event, and may call back into the pool. Keep it short: that thread
    /// waits for it. One that pulls while it is told of [`Event::Connected`] waits for another
    /// connection: the new one is nobody's before it returns. Its panic is logged and goes no
    /// further. Of several dead connections that a `pull` finds idle when it comes, the reaper
    /// closes all but the first, and tells of them, a moment later. A function that owns a handle
    /// of its pool keeps the pool alive until `end`.
    ///
    /// # Examples
    ///
    /// See [`Event`].
    pub fn on_event(mut self, f: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.functions.on_event = Some(Box::new(f));
        self
    }

    /// Checks the settings, starts the reaper, and begins to make `min_idle` connections.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] names the setting and its value; [`Error::Spawn`] says why the
    /// reaper's thread could not be started. A server that cannot be reached is no error here.
    ///
    /// # Blocking
    ///
    /// Does not block: connections are made in the background.
    ///
    /// # Examples
    ///
    /// ```
    /// # use jackpot::Pool;
    /// let refused = Pool::builder(|| std::net::TcpStream::connect("127.0.0.1:1")).limit(0).build();
    /// assert_eq!(refused.unwrap_err().to_string(), "limit must be at least 1, not 0");
    /// ```
    pub fn build(mut self) -> Result<Pool<C>, Error> {
        self.check()?;
        self.settings.watches_leases = self.rules.leak_after.is_some();
        self.settings.watches_untold = self.settings.watches_leases && !self.settings.lease_events;
        self.settings.exact_lease_start = self.settings.watches_leases
            || self.settings.lease_events
            || self.reap_interval.is_none()
            || !self.rules.probe_after.is_zero();
        self.settings.exact_lease_end &= self.needs_exact_lease_end();
        let shared = Shared::new(
            Core::new(self.limit, self.rules, self.backoff, now()),
            self.factory,
            self.settings,
            self.functions,
            connect::start,
        );
        let pool = Pool::from_shared(Arc::clone(&shared));
        if let Some(every) = self.reap_interval {
            reaper::start(&shared, every)?;
        }
        shared.with(Core::refill);
        Ok(pool)
    }

    /// As `build` would choose it; for tests.
    #[cfg(all(test, jackpot_shuttle))]
    pub(crate) fn exact_lease_end(mut self, yes: bool) -> Self {
        self.settings.exact_lease_end = yes;
        self
    }

    /// Whether a lease that comes back must read the clock.
    ///
    /// Beside a probe that costs next to nothing. Without one, the reaper's sweeps read the clock
    /// often enough for times of ten sweeps and more.
    fn needs_exact_lease_end(&self) -> bool {
        let Some(every) = self.reap_interval else {
            return true;
        };
        let ping = self.functions.ping.as_ref().map(|(every, _)| *every);
        let times = [self.rules.idle_timeout, self.rules.max_lifetime, ping];
        let is_short = |time: Duration| time < every.saturating_mul(10);
        self.rules.probe_after.is_zero() || times.into_iter().flatten().any(is_short)
    }

    fn check(&self) -> Result<(), Error> {
        let refuse = |text: String| Err(Error::InvalidConfig(text));
        let (limit, min_idle) = (self.limit, self.rules.min_idle);
        if min_idle > limit && limit > 0 {
            return refuse(format!(
                "min_idle must not be above the limit, but {min_idle} is above {limit}"
            ));
        }
        let counts = [
            ("limit", limit == 0),
            ("max_connecting", self.rules.max_connecting == 0),
            ("max_uses", self.rules.max_uses == Some(0)),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, is_zero)| *is_zero) {
            return refuse(format!("{name} must be at least 1, not 0"));
        }
        let durations = [
            ("handshake_timeout", self.settings.handshake_timeout),
            ("read_timeout", self.settings.timeouts.read.flatten()),
            ("write_timeout", self.settings.timeouts.write.flatten()),
            ("reap_interval", self.reap_interval),
            ("ping interval", self.functions.ping.as_ref().map(|p| p.0)),
        ];
        for (name, duration) in durations {
            if duration.is_some_and(|duration| duration.is_zero()) {
                return refuse(format!("{name} must be above zero, not 0ns"));
            }
        }
        if let Some(lost) = &self.lost {
            return refuse(lost.clone());
        }
        self.backoff.check()
    }
}

impl<C> fmt::Debug for Builder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.settings;
        f.debug_struct("Builder")
            .field("limit", &self.limit)
            .field("rules", &self.rules)
            .field("backoff", &self.backoff)
            .field("reap_interval", &self.reap_interval)
            .field("read_timeout", &settings.timeouts.read)
            .field("write_timeout", &settings.timeouts.write)
            .field("handshake_timeout", &settings.handshake_timeout)
            .field("only_finished", &settings.only_finished)
            .field("allow_unread", &settings.allow_unread)
            .field("allow_unanswered", &settings.allow_unanswered)
            .finish_non_exhaustive()
    }
}
