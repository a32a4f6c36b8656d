//! Shared calls: many callers on few connections.

mod call;
mod input;
mod lane;
mod leader;
mod shared;
mod wire;

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::net::stream::Stream;
use crate::pipeline::shared::{Core, ReadReply};
use crate::pool::Pool;
use crate::report::call_error::CallError;
use crate::report::error::Error;
use crate::report::pipeline_stats::PipelineStats;
use crate::runtime::shared::Listener;
use crate::state::lanes::Rules;
use crate::sync::now;

/// Many callers on few connections: nobody holds one, and nobody gives one back.
///
/// A lease carries one request at a time, so a pool of leases answers no more than its connections
/// divided by the round trip, however many threads ask. A pipeline sends requests of many threads
/// one behind the other on the same connections, and reads the replies in that order. Each
/// connection in use is a *lane*; one of the callers on it reads for all of them, so there is no
/// thread beside yours. Alone, a caller pays about what a lease costs. A call that comes while all
/// lanes wait for replies is sent when the next bytes come. Over a plain [`Stream`] it need not wait
/// for them: it is sent at once where the server is far (no answer yet took less than 100 µs) or all
/// have waited for 500 µs, else after 5 ms. Over TLS or a [`BufStream`](crate::BufStream) it does.
///
/// It is a handle that is cheap to clone and works from every thread.
///
/// # What it is not for
///
/// It fits protocols with exactly one reply for each request, in order, whose requests stand for
/// themselves: memcached, Redis, many line protocols. It does not fit
///
/// - a conversation of several steps, a transaction, anything that leaves state on the connection
///   (`MULTI`, `SELECT`, `AUTH` in the middle): use a [lease](crate::Pool::pull);
/// - requests without a reply, pushes, replies out of order;
/// - requests that block, such as `BLPOP`: what is sent behind one waits for its reply.
///
/// **A failure is larger than with leases.** When a connection breaks, every request in flight on
/// it is lost, up to [`max_in_flight`](PipelineBuilder::max_in_flight) of them, not one. So is what
/// follows a reply that makes no sense. What was only queued goes out on another.
///
/// # What a call promises
///
/// - It is executed once at most, unless the pipeline is
///   [`repeatable`](PipelineBuilder::repeatable); and what [says](CallError::was_sent) that it was
///   not sent was not.
/// - Its reply goes to nobody else. A caller whose time is up is abandoned, not its connection: the
///   reply is read and dropped when it comes, and until a byte comes nothing new goes out behind it.
///   If nobody else waits on the connection, nobody reads: it stays leased until the next call, which
///   takes it on if a byte has come and else closes it, as do `free`, `end`, and who wants its place.
/// - It ends by its deadline, give or take a tick of the system's clock and a wake-up.
/// - A connection that is silent for the pool's [`read_timeout`](crate::Builder::read_timeout)
///   (and up to an eighth longer) while somebody waits for a reply on it is given up.
///
/// # In its pool
///
/// Lanes are leases. They go back when nothing is in flight and nothing queued, and early, once what
/// is in flight is answered, when somebody waits for a connection, after [`free`](Pool::free),
/// [`end`](Pool::end) or a lowered limit, and at the end of a lifetime. Two pipelines may share a
/// pool, for instance one for what may be repeated and one for what may not. The pool stays open as
/// long as there is a handle on the pipeline. After `end` what is in flight is answered, unless
/// [`Close::Hard`](crate::Close::Hard) cuts it; who is queued or comes later gets
/// [`CallError::Pool`] with [`Error::Ended`].
///
/// A lane may be out for as long as calls come, which is no leak, although
/// [`leak_after`](crate::Builder::leak_after) reports it; where it was taken is in this crate.
///
/// # Examples
///
/// ```
/// # use std::io::Write;
/// # use std::net::TcpListener;
/// # let server = TcpListener::bind("127.0.0.1:0")?;
/// # let address = server.local_addr()?.to_string();
/// # std::thread::spawn(move || {
/// #     for peer in server.incoming() {
/// #         let mut peer = peer.unwrap();
/// #         std::thread::spawn(move || {
/// #             std::io::copy(&mut peer.try_clone().unwrap(), &mut peer).unwrap();
/// #         });
/// #     }
/// # });
/// use jackpot::{Connector, Pipeline, Pool};
/// use std::io::{self, BufRead};
///
/// /// Reads exactly one reply; here, that is one line.
/// fn read_reply(reply: &mut dyn BufRead) -> io::Result<String> {
///     let mut line = String::new();
///     reply.read_line(&mut line)?;
///     Ok(line)
/// }
///
/// let pool = Pool::new(4, Connector::new(address))?;
/// let lines = Pipeline::new(pool, read_reply);
/// std::thread::scope(|scope| {
///     for n in 0..100 {
///         let lines = &lines;
///         scope.spawn(move || {
///             let request = format!("request {n}\n");
///             assert_eq!(lines.call(request.as_bytes()).unwrap(), request);
///         });
///     }
/// });
/// assert!(lines.pool().stats().open <= 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Pipeline<R, C = Stream> {
    core: Arc<Core<R, C>>,
}

impl<R: Send + 'static, C: Read + Write + Send + 'static> Pipeline<R, C> {
    /// A pipeline with the default settings: as many lanes as the pool's limit.
    ///
    /// `read_reply` reads exactly one reply and not a byte more: what it takes of the next one is
    /// missing there. Where a request has two replies, or none, all later ones are paired wrongly.
    /// It may be run again from the reply's first byte, when the caller that reads gives up in the
    /// middle, so it should have no effects of its own. Where it needs bytes that have not come,
    /// reading blocks; an error that it gets then it should return. Its own errors and panics break
    /// the connection, and so does a reply of no bytes. So a reply that says "error" in the words of
    /// the protocol is a value to return, and no `Err`. A reply may not end with the connection's
    /// end.
    ///
    /// # Examples
    ///
    /// See [`Pipeline`].
    pub fn new(
        pool: Pool<C>,
        read_reply: impl Fn(&mut dyn BufRead) -> io::Result<R> + Send + Sync + 'static,
    ) -> Self {
        Self::builder(pool, read_reply).finish()
    }

    /// The settings of a pipeline, to be changed one by one.
    ///
    /// # Examples
    ///
    /// See [`PipelineBuilder`].
    pub fn builder(
        pool: Pool<C>,
        read_reply: impl Fn(&mut dyn BufRead) -> io::Result<R> + Send + Sync + 'static,
    ) -> PipelineBuilder<R, C> {
        PipelineBuilder {
            pool,
            read_reply: Box::new(read_reply),
            lanes: None,
            max_in_flight: 32,
            max_bytes: 16 * 1024,
            repeatable: false,
        }
    }

    /// Sends a request and waits for its reply.
    ///
    /// The request is everything that has one reply: several commands in one request would have
    /// several.
    ///
    /// # Errors
    ///
    /// [`CallError::Pool`] where the pool gave no connection, after the retries of its
    /// [`Backoff`](crate::Backoff); [`CallError::Lost`] where the connection broke.
    ///
    /// # Blocking
    ///
    /// Blocks until the reply is there. Without a
    /// [`read_timeout`](crate::Builder::read_timeout) of the pool that may be for ever.
    ///
    /// # Examples
    ///
    /// See [`Pipeline`].
    pub fn call(&self, request: &[u8]) -> Result<R, CallError> {
        self.core.call(request, now(), None)
    }

    /// [`call`](Pipeline::call) with a hard upper bound on the whole call.
    ///
    /// Zero sends nothing.
    ///
    /// # Errors
    ///
    /// [`CallError::TimedOut`] when the time is over, which says whether the request was sent; else
    /// as [`call`](Pipeline::call). A call that got no connection in time ends so too:
    /// [`Pool::outage`] of [`pool`](Pipeline::pool) has the cause.
    ///
    /// # Blocking
    ///
    /// Blocks for `timeout` at most.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::io::BufRead;
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # std::thread::spawn(move || {
    /// #     let (mut peer, _) = server.accept().unwrap();
    /// #     std::io::copy(&mut peer.try_clone().unwrap(), &mut peer).unwrap();
    /// # });
    /// # let pool = jackpot::Pool::new(4, move || TcpStream::connect(address))?;
    /// # let lines = jackpot::Pipeline::new(pool, |reply| {
    /// #     let mut line = String::new();
    /// #     reply.read_line(&mut line).map(|_| line)
    /// # });
    /// use std::time::Duration;
    ///
    /// let reply = lines.call_timeout(b"hello\n", Duration::from_secs(2))?;
    /// assert_eq!(reply, "hello\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call_timeout(&self, request: &[u8], timeout: Duration) -> Result<R, CallError> {
        let now = now();
        self.core.call(request, now, now.checked_add(timeout))
    }

    /// [`call`](Pipeline::call), by this time at the latest.
    ///
    /// # Errors
    ///
    /// As [`call_timeout`](Pipeline::call_timeout).
    ///
    /// # Blocking
    ///
    /// Blocks until `deadline` at most.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::io::BufRead;
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # std::thread::spawn(move || {
    /// #     let (mut peer, _) = server.accept().unwrap();
    /// #     std::io::copy(&mut peer.try_clone().unwrap(), &mut peer).unwrap();
    /// # });
    /// # let pool = jackpot::Pool::new(4, move || TcpStream::connect(address))?;
    /// # let lines = jackpot::Pipeline::new(pool, |reply| {
    /// #     let mut line = String::new();
    /// #     reply.read_line(&mut line).map(|_| line)
    /// # });
    /// use std::time::{Duration, Instant};
    ///
    /// let deadline = Instant::now() + Duration::from_secs(2); // of the whole request to us
    /// let first = lines.call_until(b"1\n", deadline)?;
    /// let second = lines.call_until(b"2\n", deadline)?;
    /// # assert_eq!((&*first, &*second), ("1\n", "2\n"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn call_until(&self, request: &[u8], deadline: Instant) -> Result<R, CallError> {
        self.core.call(request, now(), Some(deadline))
    }

    /// The pool under it, for leases beside the shared calls, its numbers and its end.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::io::BufRead;
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # std::thread::spawn(move || {
    /// #     let (mut peer, _) = server.accept().unwrap();
    /// #     std::io::copy(&mut peer.try_clone().unwrap(), &mut peer).unwrap();
    /// # });
    /// # let pool = jackpot::Pool::new(4, move || TcpStream::connect(address))?;
    /// # let lines = jackpot::Pipeline::new(pool, |reply| {
    /// #     let mut line = String::new();
    /// #     reply.read_line(&mut line).map(|_| line)
    /// # });
    /// assert_eq!(lines.pool().limit(), 4);
    /// lines.pool().end();
    /// assert!(lines.call(b"hello\n").is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn pool(&self) -> &Pool<C> {
        &self.core.pool
    }

    /// The pipeline's numbers at this moment.
    ///
    /// # Examples
    ///
    /// See [`PipelineStats`].
    #[must_use]
    pub fn stats(&self) -> PipelineStats {
        self.core.stats()
    }
}

/// The settings of a [`Pipeline`], from [`Pipeline::builder`].
///
/// # Examples
///
/// ```
/// # use std::io::BufRead;
/// # use std::net::{TcpListener, TcpStream};
/// # let server = TcpListener::bind("127.0.0.1:0")?;
/// # let address = server.local_addr()?;
/// # std::thread::spawn(move || {
/// #     let (mut peer, _) = server.accept().unwrap();
/// #     std::io::copy(&mut peer.try_clone().unwrap(), &mut peer).unwrap();
/// # });
/// # fn read_reply(reply: &mut dyn BufRead) -> std::io::Result<String> {
/// #     let mut line = String::new();
/// #     reply.read_line(&mut line).map(|_| line)
/// # }
/// # use jackpot::{Pipeline, Pool};
/// let pool = Pool::new(20, move || TcpStream::connect(address))?;
/// let reads = Pipeline::builder(pool.clone(), read_reply)
///     .lanes(4) // leaves sixteen connections to leases
///     .repeatable(true) // only what does no harm twice
///     .build()?;
/// let writes = Pipeline::builder(pool, read_reply).lanes(2).build()?;
/// # assert_eq!(reads.call(b"get\n")?, "get\n");
/// # drop(writes);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub struct PipelineBuilder<R, C = Stream> {
    pool: Pool<C>,
    read_reply: ReadReply<R>,
    lanes: Option<usize>,
    max_in_flight: usize,
    max_bytes: usize,
    repeatable: bool,
}

impl<R: Send + 'static, C: Read + Write + Send + 'static> PipelineBuilder<R, C> {
    /// How many connections it uses at once; default: the pool's limit, and never more.
    ///
    /// Two to eight do for hundreds of threads. More lanes mean smaller losses when one breaks, and
    /// less waiting behind slow replies; fewer mean more requests for each system call, which is
    /// `calls / writes` of [`PipelineStats`].
    ///
    /// # Examples
    ///
    /// See [`PipelineBuilder`].
    pub fn lanes(self, connections: usize) -> Self {
        Self {
            lanes: Some(connections),
            ..self
        }
    }

    /// How many requests may be in flight on one connection; default 32.
    ///
    /// So many may be lost when it breaks.
    ///
    /// # Examples
    ///
    /// See [`PipelineBuilder`].
    pub fn max_in_flight(self, requests: usize) -> Self {
        Self {
            max_in_flight: requests,
            ..self
        }
    }

    /// How many bytes of requests may be in flight on one connection; default 16 KiB.
    ///
    /// The buffers of the sockets hold that much, so that nobody blocks in a write while the server
    /// waits for somebody to read its replies. A larger request goes out alone, when nothing else is
    /// in flight on its connection. Beyond 16 KiB, and where the factory has set the send buffer
    /// below about 32 KiB, only the caller that leads a connection writes, within its deadline.
    ///
    /// # Examples
    ///
    /// See [`PipelineBuilder`].
    pub fn max_bytes(self, bytes: usize) -> Self {
        Self {
            max_bytes: bytes,
            ..self
        }
    }

    /// Whether a lost request is sent once more, within its deadline; default false.
    ///
    /// Say yes only where a request that is executed twice does no harm.
    ///
    /// # Examples
    ///
    /// See [`PipelineBuilder`].
    pub fn repeatable(self, yes: bool) -> Self {
        Self {
            repeatable: yes,
            ..self
        }
    }

    /// The pipeline; it connects when the first call comes.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] names a setting that is zero.
    ///
    /// # Examples
    ///
    /// See [`PipelineBuilder`].
    pub fn build(self) -> Result<Pipeline<R, C>, Error> {
        let settings = [
            ("lanes", self.lanes.unwrap_or(1)),
            ("max_in_flight", self.max_in_flight),
            ("max_bytes", self.max_bytes),
        ];
        match settings.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => {
                let text = format!("{name} must be at least 1, not 0");
                Err(Error::InvalidConfig(text))
            }
            None => Ok(self.finish()),
        }
    }

    fn finish(self) -> Pipeline<R, C> {
        let limit = self.pool.limit().max(1);
        let rules = Rules {
            lanes: self.lanes.map_or(limit, |lanes| lanes.min(limit)),
            max_in_flight: self.max_in_flight,
            max_bytes: self.max_bytes,
        };
        let pool = self.pool;
        let core = Arc::new(Core::new(pool, self.read_reply, self.repeatable, rules));
        let listener: Arc<dyn Listener> = Arc::<Core<R, C>>::clone(&core);
        core.pool.shared().listen(Arc::downgrade(&listener));
        if core.pool.is_ended() {
            core.pool_ended();
        }
        Pipeline { core }
    }
}

impl<R, C> Clone for Pipeline<R, C> {
    fn clone(&self) -> Self {
        Self {
            core: Arc::clone(&self.core),
        }
    }
}

/// A panic in the reply function is caught and leaves the pipeline whole.
impl<R, C> UnwindSafe for Pipeline<R, C> {}
impl<R, C> RefUnwindSafe for Pipeline<R, C> {}

/// Shows the numbers.
impl<R, C> fmt::Debug for Pipeline<R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").finish_non_exhaustive()
    }
}

impl<R, C> fmt::Debug for PipelineBuilder<R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipelineBuilder")
            .field("lanes", &self.lanes)
            .field("max_in_flight", &self.max_in_flight)
            .field("max_bytes", &self.max_bytes)
            .field("repeatable", &self.repeatable)
            .finish_non_exhaustive()
    }
}
