//! What happens in the pool, as values: for `on_event`, for the counters and for the log.

use std::panic::Location;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::report::error::Error;
use crate::report::outcome::Eviction;

/// Something that happened, for [`Builder::on_event`](crate::Builder::on_event).
///
/// Events of one connection come in the order in which they happened.
///
/// # Examples
///
/// ```
/// # use std::net::{TcpListener, TcpStream};
/// # let server = TcpListener::bind("127.0.0.1:0")?;
/// # let address = server.local_addr()?;
/// use jackpot::{Event, Pool};
/// use std::sync::mpsc;
///
/// let (seen, events) = mpsc::channel();
/// let pool = Pool::builder(move || TcpStream::connect(address))
///     .on_event(move |event| {
///         if let Event::Connected { id, .. } = event {
///             let _ = seen.send(*id);
///         }
///     })
///     .build()?;
/// let connection = pool.pull()?;
/// assert_eq!(events.recv()?, jackpot::Connection::id(&connection));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A connect and its handshake succeeded.
    Connected {
        /// The connection's number.
        id: u64,
        /// How long connect and handshake took.
        took: Duration,
    },
    /// A connect or its handshake failed.
    ConnectFailed {
        /// What went wrong: [`Error::Connect`] or [`Error::Handshake`].
        error: Arc<Error>,
        /// How long it took to fail.
        took: Duration,
    },
    /// A connection left the pool.
    Evicted {
        /// The connection's number.
        id: u64,
        /// Why it left.
        why: Eviction,
        /// How long after its connect.
        age: Duration,
    },
    /// A lease has been out for longer than `leak_after`; told once for each lease.
    Overdue {
        /// The connection's number.
        id: u64,
        /// How long the lease has been out.
        held: Duration,
        /// The name of the thread that took the lease, if it has one; `jackpot-ping` for a ping.
        thread: Option<String>,
        /// Where it was taken; `None` for a ping of the pool's own.
        at: Option<&'static Location<'static>>,
    },
    /// A caller got a connection; only with [`lease_events`](crate::Builder::lease_events).
    Leased {
        /// The connection's number.
        id: u64,
        /// How long the call took; zero if something was idle at once.
        waited: Duration,
        /// The call.
        at: &'static Location<'static>,
    },
    /// A lease is over, however it ended; only with
    /// [`lease_events`](crate::Builder::lease_events).
    ///
    /// There is one for each `Leased`. If the connection leaves the pool with it, that is told next.
    /// What [`Close::Hard`] cuts is over at that moment.
    Returned {
        /// The connection's number.
        id: u64,
        /// How long the lease lasted.
        held: Duration,
    },
    /// A call ended without a connection, by whatever error; only with
    /// [`lease_events`](crate::Builder::lease_events).
    GaveUp {
        /// How long the call took.
        waited: Duration,
        /// The call.
        at: &'static Location<'static>,
    },
    /// `free` or `free_with` was called, with this result.
    Freed(Freed),
    /// The pool ended.
    Ended,
}

/// That connects fail at present, from [`Pool::outage`](crate::Pool::outage).
///
/// # Examples
///
/// See [`Pool::outage`](crate::Pool::outage).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outage {
    /// When the first of them failed.
    pub since: Instant,
    /// How many have failed since, ten in a second at most: the pool asks no more often.
    pub failures: u64,
    /// Why the last one failed: [`Error::Connect`] or [`Error::Handshake`].
    pub error: Arc<Error>,
}

/// What [`Pool::free`](crate::Pool::free) did.
///
/// `kept + closed + doomed` is what was open once the dead connections had left.
///
/// # Examples
///
/// ```
/// # use std::net::{TcpListener, TcpStream};
/// # let server = TcpListener::bind("127.0.0.1:0")?;
/// # let address = server.local_addr()?;
/// let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
/// let (a, b) = (pool.pull()?, pool.pull()?);
/// drop(a);
/// let freed = pool.free(0);
/// assert_eq!((freed.kept, freed.closed, freed.doomed), (0, 1, 1));
/// # drop(b);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Freed {
    /// Connections that stay.
    pub kept: usize,
    /// Connections that were closed at once.
    pub closed: usize,
    /// Leased connections that will close when they come back.
    pub doomed: usize,
}

/// What happens to connections that are leased when the pool lets go of them.
///
/// # Examples
///
/// ```
/// # use std::net::{TcpListener, TcpStream};
/// # let server = TcpListener::bind("127.0.0.1:0")?;
/// # let address = server.local_addr()?;
/// use jackpot::{Close, Pool};
/// use std::io::Read;
///
/// let pool = Pool::new(20, move || TcpStream::connect(address))?;
/// let mut connection = pool.pull()?;
/// pool.free_with(0, Close::Hard);
/// assert_eq!(connection.read(&mut [0; 8])?, 0); // cut: end of file at once
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Close {
    /// They work on, and close when they come back.
    Soft,
    /// They are shut down now, so that a thread blocked on one returns at once; connects under way
    /// are given up, and their handshakes cut.
    Hard,
}
