//! The pool and its verbs, in the order in which a user meets them.

use std::fmt;
use std::panic::{Location, RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::net::connector::Factory;
use crate::net::stream::Stream;
use crate::report::error::Error;
use crate::report::event::{Close, Freed, Outage};
use crate::report::stats::{ConnectionInfo, Stats};
use crate::runtime::checkout::{Effort, pull};
use crate::runtime::connection::Connection;
use crate::runtime::ready::wait_ready;
use crate::runtime::reaper;
use crate::runtime::retry::retry;
use crate::runtime::shared::{Core, Shared};
use crate::sync::now;

/// A pool of connections; a handle that is cheap to clone and works from every thread.
///
/// `C` is what callers work with: the tracked TCP [`Stream`], or whatever a
/// [`handshake`](crate::Builder::handshake) built on top of it.
///
/// Dropping the last handle ends the pool, as [`end`](Pool::end) does.
///
/// # Examples
///
/// ```
/// # use std::net::{TcpListener, TcpStream};
/// # let server = TcpListener::bind("127.0.0.1:0")?;
/// # let address = server.local_addr()?;
/// use jackpot::Pool;
///
/// let pool = Pool::new(20, move || TcpStream::connect(address))?;
/// let threads: Vec<_> = (0..4)
///     .map(|_| {
///         let pool = pool.clone();
///         std::thread::spawn(move || pool.pull().map(drop))
///     })
///     .collect();
/// for thread in threads {
///     thread.join().unwrap()?;
/// }
/// assert!(pool.stats().idle >= 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Pool<C = Stream> {
    owner: Arc<Owner<C>>,
}

/// The handles together; leases and the pool's own threads do not count.
struct Owner<C> {
    shared: Arc<Shared<C>>,
}

impl<C> Drop for Owner<C> {
    fn drop(&mut self) {
        self.shared.end(Close::Soft);
    }
}

impl<C> Pool<C> {
    pub(crate) fn from_shared(shared: Arc<Shared<C>>) -> Self {
        Self {
            owner: Arc::new(Owner { shared }),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared<C>> {
        &self.owner.shared
    }
}

impl<C: Send + 'static> Pool<C> {
    /// One try: a live idle connection, else a new one if the limit allows.
    ///
    /// It never goes ahead of a caller that waits.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] at once when the limit leaves no room for another connect, counting those
    /// that are under way or queued behind [`max_connecting`](crate::Builder::max_connecting);
    /// [`Error::Connect`] or [`Error::Handshake`] when the connect failed, or when the last one
    /// did a moment ago; [`Error::Ended`].
    ///
    /// # Blocking
    ///
    /// Blocks until the connect that was started for it is done or a connection comes back,
    /// whichever is first: as long as the factory and the handshake take.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::new(1, move || TcpStream::connect(address))?;
    /// let connection = pool.allocate()?;
    /// assert!(pool.allocate().unwrap_err().is_full());
    /// # drop(connection);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn allocate(&self) -> Result<Connection<C>, Error> {
        pull(self.shared(), Effort::OneTry, Location::caller())
    }

    /// A connection, however many tries of the [`Backoff`] it takes.
    ///
    /// It gives a live idle connection if there is one, else a new one, else the first that comes
    /// back. Between two tries the caller keeps its place in the queue, and whatever it could use
    /// wakes it early. Waiting is first come, first served, but for barging, which is bounded: see
    /// the [guide](crate::guide#waiting-in-line).
    ///
    /// # Errors
    ///
    /// [`Error::Exhausted`] after the last try, or at once for a cause that waiting cannot cure
    /// where no connection is open that could come back; [`Error::Ended`].
    ///
    /// # Blocking
    ///
    /// Blocks for the tries and the delays between them; with the default backoff about two
    /// minutes when the pool stays full. [`pull_timeout`](Pool::pull_timeout) sets a bound.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::new(1, move || TcpStream::connect(address))?;
    /// let held = pool.pull()?;
    /// let waiter = std::thread::spawn({
    ///     let pool = pool.clone();
    ///     move || pool.pull().map(drop)
    /// });
    /// drop(held); // handed to the waiter
    /// waiter.join().unwrap()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn pull(&self) -> Result<Connection<C>, Error> {
        pull(self.shared(), Effort::Retries(None), Location::caller())
    }

    /// [`pull`](Pool::pull) with a hard upper bound on the whole call.
    ///
    /// The bound holds however long the factory takes: a connect that outlives its caller serves
    /// the next one. Zero means whatever is idle right now, and starts no connect; it looks for a
    /// live one among dead ones for a millisecond at most.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] when the time is over; else as [`pull`](Pool::pull). That includes
    /// [`Error::Exhausted`], if the backoff's retries are used up before: with the default ones
    /// after 70 s at the least. With `retries(u32::MAX)` it goes on until the time is over.
    ///
    /// # Blocking
    ///
    /// Blocks for `timeout` at most.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::new(1, move || TcpStream::connect(address))?;
    /// # use std::time::Duration;
    /// let held = pool.pull_timeout(Duration::from_secs(1))?;
    /// let error = pool.pull_timeout(Duration::from_millis(20)).unwrap_err();
    /// assert!(error.is_timeout() && error.is_full());
    /// # drop(held);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn pull_timeout(&self, timeout: Duration) -> Result<Connection<C>, Error> {
        let effort = Effort::Retries(Some(timeout));
        pull(self.shared(), effort, Location::caller())
    }

    /// [`pull`](Pool::pull) with a point in time as the hard upper bound of the whole call.
    ///
    /// A deadline that is past asks for whatever is idle right now. For the request itself, give the
    /// lease the same deadline ([`Stream::set_deadline`]); a request that may be repeated can have
    /// all of it from [`retry_until`](Pool::retry_until).
    ///
    /// # Errors
    ///
    /// As [`pull_timeout`](Pool::pull_timeout).
    ///
    /// # Blocking
    ///
    /// Until the deadline at most.
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
    /// use std::io::{Read, Write};
    /// use std::time::{Duration, Instant};
    ///
    /// let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// let deadline = Instant::now() + Duration::from_secs(2);
    /// let mut connection = pool.pull_until(deadline)?;
    /// connection.set_deadline(Some(deadline))?;
    /// connection.write_all(b"ping")?;
    /// connection.read_exact(&mut [0; 4])?; // all of this by the deadline
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn pull_until(&self, deadline: Instant) -> Result<Connection<C>, Error> {
        self.pull_timeout(deadline.saturating_duration_since(now()))
    }

    /// Runs a request that does no harm when it is executed twice, until one connection answers.
    ///
    /// A server may close an idle connection at the very moment in which a request is sent on it.
    /// No probe can see that coming, and nobody knows whether the request was executed. So this is
    /// for requests that may be repeated, such as reads or writing the same value again, and for no
    /// others.
    ///
    /// It pulls a connection and runs `request` on it. If that returns an error and the connection
    /// broke before a byte of a reply was read in this lease, it runs `request` again on another
    /// connection: the first time at once if the connection had been made before this call needed
    /// it, then after the delays of the pool's [`Backoff`]. The tries of the pulls and these delays
    /// share its retries. Every other error comes out as it is, a read that timed out for instance.
    ///
    /// What returns `Ok` is not repeated: a request has to return the connection's end as an error,
    /// which `read_line` for one does not. Each lease ends by the rules that hold for every lease
    /// (see [`Stream`]): a request that gives up in the middle of a reply has to break it, by
    /// [`Stream::shutdown`].
    ///
    /// A server that dies and comes back before the retries are used up is not seen by its callers.
    ///
    /// # Errors
    ///
    /// What `request` returned last, or why there was no connection, as from [`pull`](Pool::pull).
    ///
    /// # Blocking
    ///
    /// As long as the pulls, the requests and the delays between them take. `end` ends the delays.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # std::thread::spawn(move || {
    /// #     use std::io::{Read, Write};
    /// #     let mut hello = [0; 5];
    /// #     let (mut first, _) = server.accept().unwrap();
    /// #     first.read_exact(&mut hello).unwrap();
    /// #     first.write_all(&hello).unwrap();
    /// #     first.read_exact(&mut hello).unwrap();
    /// #     drop(first); // in place of an answer
    /// #     let (mut second, _) = server.accept().unwrap();
    /// #     second.read_exact(&mut hello).unwrap();
    /// #     second.write_all(&hello).unwrap();
    /// #     std::thread::park();
    /// # });
    /// use std::io::{Read, Write};
    ///
    /// let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// let ask = || {
    ///     pool.retry(|connection| {
    ///         let mut reply = [0; 5];
    ///         connection.write_all(b"hello")?;
    ///         connection.read_exact(&mut reply)?;
    ///         Ok::<_, std::io::Error>(reply)
    ///     })
    /// };
    /// assert_eq!(&ask()?, b"hello");
    /// assert_eq!(&ask()?, b"hello"); // although the server hangs up on this one
    /// assert_eq!(pool.stats().connects, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn retry<T, E: From<Error>>(
        &self,
        request: impl FnMut(&mut Connection<C>) -> Result<T, E>,
    ) -> Result<T, E> {
        retry(self.shared(), None, Location::caller(), request)
    }

    /// Runs a request that may be executed twice, all of it within a deadline.
    ///
    /// As [`retry`](Pool::retry), and every pull, read and write of it, by this time: each lease
    /// has the deadline already (see [`Stream::set_deadline`]; an earlier one of the request's own
    /// counts too).
    ///
    /// # Errors
    ///
    /// As [`retry`](Pool::retry). Where the deadline passes between two repetitions, the error is
    /// the request's last one; before the first, [`Error::TimedOut`].
    ///
    /// # Blocking
    ///
    /// Until the deadline, as far as the request waits in its connection's reads and writes only.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// use std::io::{self, Read, Write};
    /// use std::time::{Duration, Instant};
    ///
    /// # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// let deadline = Instant::now() + Duration::from_millis(50);
    /// let reply = pool.retry_until(deadline, |connection| {
    ///     connection.write_all(b"hello")?;
    ///     connection.read_exact(&mut [0; 5]) // the server is silent
    /// });
    /// assert_eq!(reply.unwrap_err().kind(), io::ErrorKind::TimedOut);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn retry_until<T, E: From<Error>>(
        &self,
        deadline: Instant,
        request: impl FnMut(&mut Connection<C>) -> Result<T, E>,
    ) -> Result<T, E> {
        retry(self.shared(), Some(deadline), Location::caller(), request)
    }

    /// Makes connections until `count` are open, leased ones included.
    ///
    /// So a service learns when it starts that its server cannot be reached, and not from its first
    /// users. Connects are made as for callers: no more than
    /// [`max_connecting`](crate::Builder::max_connecting) at once, and during an outage one at a
    /// time, ten in a second at most. Connections that are open already and have died are closed
    /// first. 0 is ready at once. To keep so many, set [`min_idle`](crate::Builder::min_idle) too.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] when the time is over; its source is why the last connect failed, if one
    /// did. A cause that no waiting cures, such as an address that makes no sense, comes at once as
    /// [`Error::Connect`]. [`Error::InvalidConfig`] where `count` is above the limit;
    /// [`Error::Ended`]. What was made by then stays open.
    ///
    /// # Blocking
    ///
    /// Blocks for `timeout` at most.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let gone = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    /// use jackpot::Pool;
    /// use std::time::Duration;
    ///
    /// let pool = Pool::new(20, move || TcpStream::connect(address))?;
    /// pool.wait_ready(4, Duration::from_secs(10))?;
    /// assert!(pool.stats().idle >= 4);
    ///
    /// let pool = Pool::new(20, move || TcpStream::connect(gone))?;
    /// let error = pool.wait_ready(4, Duration::from_millis(50)).unwrap_err();
    /// assert!(error.is_timeout() && error.is_connect());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_ready(&self, count: usize, timeout: Duration) -> Result<(), Error> {
        wait_ready(self.shared(), count, timeout)
    }

    /// Whether connects fail at present, since when, and why.
    ///
    /// It is the state of the pool's circuit breaker: `None` once a connect has succeeded. It costs
    /// one lock, for a health check or a banner on a status page.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let gone = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    /// let pool = jackpot::Pool::new(20, move || TcpStream::connect(gone))?;
    /// assert!(pool.outage().is_none()); // nobody has tried yet
    /// assert!(pool.allocate().is_err());
    /// let outage = pool.outage().expect("the connect has failed");
    /// assert_eq!(outage.failures, 1);
    /// assert!(outage.error.is_connect());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn outage(&self) -> Option<Outage> {
        self.shared().read(Core::outage)
    }

    /// Closes all but `keep` connections; leased ones close when they come back.
    ///
    /// The same as [`free_with`](Pool::free_with) and [`Close::Soft`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// drop((pool.pull()?, pool.pull()?, pool.pull()?));
    /// assert_eq!(pool.free(1).closed, 2);
    /// assert_eq!(pool.stats().open, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn free(&self, keep: usize) -> Freed {
        self.free_with(keep, Close::Soft)
    }

    /// Evicts what is dead, keeps up to `keep` connections, and closes the rest.
    ///
    /// Leased connections are kept first, then the most recently used idle ones. Of the rest, idle
    /// ones close at once, leased ones as [`Close`] says.
    ///
    /// [`Close::Hard`] also gives up connects under way: all those of a factory that was replaced,
    /// and of the others all but as many as are missing from `keep`. A handshake that hangs is cut; a
    /// factory that hangs cannot be, keeps its place, and what it opens late is closed.
    ///
    /// # Blocking
    ///
    /// It goes through all connections while the pool's lock is held, as `end` and
    /// [`connections`](Pool::connections) do, and lowering the limit through those that close.
    ///
    /// # Examples
    ///
    /// See [`Close`].
    pub fn free_with(&self, keep: usize, close: Close) -> Freed {
        reaper::evict_dead(self.shared());
        self.shared().free(keep, close)
    }

    /// Ends the pool: nothing connects afterwards. Leases that are out work on until dropped.
    ///
    /// Idle connections close, and every waiter gets [`Error::Ended`]. It returns at once;
    /// [`drain`](Pool::drain) waits for the rest. Calling it twice is harmless.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// # use std::time::Duration;
    /// let connection = pool.pull()?;
    /// pool.end();
    /// assert!(pool.pull().unwrap_err().is_ended());
    /// drop(connection); // closes
    /// assert!(pool.drain(Duration::from_secs(1)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn end(&self) {
        self.end_with(Close::Soft);
    }

    /// [`end`](Pool::end), with a choice of what happens to leases that are out.
    ///
    /// As [`Close`] says; [`Close::Hard`] also cuts what an earlier `end` left out.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// use jackpot::Close;
    /// use std::io::Read;
    ///
    /// let mut connection = pool.pull()?;
    /// let reader = std::thread::spawn(move || connection.read(&mut [0; 8]));
    /// pool.end_with(Close::Hard);
    /// assert_eq!(reader.join().unwrap()?, 0); // not blocked any more
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn end_with(&self, close: Close) {
        self.shared().end(close);
    }

    /// Whether the pool has ended.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::TcpStream;
    /// let pool = jackpot::Pool::new(1, || TcpStream::connect("127.0.0.1:1"))?;
    /// pool.end();
    /// assert!(pool.is_ended());
    /// # Ok::<(), jackpot::Error>(())
    /// ```
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.shared().read(Core::has_ended)
    }

    /// Waits until no lease and no connect is outstanding; true if that happened in time.
    ///
    /// A lease that was cut is outstanding until its guard is dropped. Without
    /// [`end`](Pool::end), new ones may begin as soon as this returns.
    ///
    /// # Blocking
    ///
    /// Blocks for `timeout` at most.
    ///
    /// # Examples
    ///
    /// See [`end`](Pool::end).
    #[must_use = "it says whether anything is still outstanding"]
    pub fn drain(&self, timeout: Duration) -> bool {
        self.shared().drain(timeout)
    }

    /// One sweep of the reaper on the calling thread; how many connections it evicted.
    ///
    /// A sweep evicts what is dead, idle too long or too old, refills `min_idle`, reports overdue
    /// leases, and has pinged what asks for it.
    ///
    /// # Blocking
    ///
    /// It asks the kernel about each idle connection, about a microsecond each, and never waits
    /// for the network.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # use jackpot::Pool;
    /// let pool = Pool::builder(move || TcpStream::connect(address)).reap_interval(None).build()?;
    /// drop(pool.pull()?);
    /// drop(server.accept()?); // the server closes it
    /// while pool.reap() == 0 {}
    /// assert_eq!(pool.stats().evicted(jackpot::Eviction::PeerClosed), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reap(&self) -> usize {
        reaper::sweep(self.shared()).unwrap_or(0)
    }

    /// What the pool knows of each connection, in no particular order.
    ///
    /// # Examples
    ///
    /// See [`ConnectionInfo`].
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.shared().connections()
    }

    /// The pool's numbers at this moment.
    ///
    /// # Examples
    ///
    /// See [`Stats`].
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared().stats()
    }

    /// How many connections the pool may have.
    ///
    /// # Examples
    ///
    /// See [`set_limit`](Pool::set_limit).
    #[must_use]
    pub fn limit(&self) -> usize {
        self.shared().read(Core::limit)
    }

    /// Changes how many connections the pool may have.
    ///
    /// Lowering it closes surplus idle connections at once, the least recently used ones first,
    /// and surplus leases when they come back. Raising it serves those who wait. 0 suspends the
    /// pool: nothing is handed out until the limit is raised again.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// drop((pool.pull()?, pool.pull()?));
    /// pool.set_limit(1);
    /// assert_eq!((pool.limit(), pool.stats().open), (1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_limit(&self, limit: usize) {
        self.shared().with(|core| core.set_limit(limit));
    }

    /// The backoff that the next `pull` uses.
    ///
    /// # Examples
    ///
    /// See [`set_backoff`](Pool::set_backoff).
    pub fn backoff(&self) -> Backoff {
        self.shared().read(|core| core.backoff().clone())
    }

    /// Changes the backoff for calls of `pull` that begin from now on.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] names the setting and its value, and leaves the old backoff.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::TcpStream;
    /// use jackpot::{Backoff, Pool};
    ///
    /// let pool = Pool::new(1, || TcpStream::connect("127.0.0.1:1"))?;
    /// assert!(pool.set_backoff(Backoff::new().factor(0.5)).is_err());
    /// assert_eq!(pool.backoff(), Backoff::new());
    /// # Ok::<(), jackpot::Error>(())
    /// ```
    pub fn set_backoff(&self, backoff: Backoff) -> Result<(), Error> {
        backoff.check()?;
        self.shared().with(|core| core.set_backoff(backoff));
        Ok(())
    }

    /// Changes where connections come from, for connects that have not started yet.
    ///
    /// An outage of the old one is forgotten: those who wait connect at once. Connections that
    /// are open stay; [`free`](Pool::free) closes them. Connects under way through the old factory
    /// keep their places below the limit until they end and hold up nothing else; one that succeeds
    /// is closed ([`Eviction::Freed`](crate::Eviction::Freed)). Where they fill the limit and hang,
    /// [`free_with`](Pool::free_with) and [`Close::Hard`] cut their handshakes.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let gone = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    /// let pool = jackpot::Pool::new(20, move || TcpStream::connect(gone))?;
    /// assert!(pool.allocate().is_err());
    /// pool.set_factory(move || TcpStream::connect(address));
    /// assert!(pool.allocate().is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_factory(&self, factory: impl Factory) {
        self.shared().set_factory(Arc::new(factory));
    }
}

impl<C> Clone for Pool<C> {
    fn clone(&self) -> Self {
        Self {
            owner: Arc::clone(&self.owner),
        }
    }
}

/// A panic in any function of the user's is caught and leaves the pool whole.
impl<C> UnwindSafe for Pool<C> {}
impl<C> RefUnwindSafe for Pool<C> {}

/// Shows the pool's state.
impl<C> fmt::Debug for Pool<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("stats", &self.shared().stats())
            .field("ended", &self.shared().read(Core::has_ended))
            .finish_non_exhaustive()
    }
}
