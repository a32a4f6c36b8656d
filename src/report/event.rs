//! What happens in the pool, as values: for `on_event`, for the counters and for the log.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::report::error::Error;

/// Why a connection left the pool.
///
/// `Display` gives the reason in a few words, as it stands in the log.
///
/// # Examples
///
/// ```
/// use jackpot::Eviction;
///
/// assert_eq!(Eviction::PeerClosed.to_string(), "closed by the peer");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Eviction {
    /// The other side closed it (FIN) while it was idle.
    PeerClosed,
    /// The kernel reported an error on it while it was idle: reset, keepalive ran out.
    SocketError,
    /// Our sending side was shut down behind the pool's back.
    HalfClosed,
    /// Bytes that nobody read lay in it: they belonged to an earlier caller.
    Unread,
    /// The last thing that happened in the lease was a write, or a read that timed out.
    Unanswered,
    /// It came back without `finish` in a pool with `only_finished(true)`.
    Unfinished,
    /// A caller saw end of file or an error on it, or shut it down.
    Broken,
    /// The thread that held it panicked.
    Panicked,
    /// The ping function failed or panicked.
    PingFailed,
    /// The recycle function failed or panicked.
    RecycleFailed,
    /// It was idle longer than `idle_timeout`.
    IdleTimeout,
    /// It was older than `max_lifetime`.
    MaxLifetime,
    /// The limit was lowered below it, or the process ran out of descriptors.
    OverLimit,
    /// `free` closed it.
    Freed,
    /// The pool ended.
    Ended,
    /// The caller called `Connection::discard`.
    Discarded,
    /// The caller called `Connection::detach`; it was not closed.
    Detached,
}

impl Eviction {
    pub(crate) const COUNT: usize = 17;

    /// Every reason there is, in the order of their declaration.
    ///
    /// # Examples
    ///
    /// ```
    /// use jackpot::{Eviction, Stats};
    ///
    /// let stats = Stats::default();
    /// assert!(Eviction::all().all(|why| stats.evicted(why) == 0));
    /// ```
    pub fn all() -> impl Iterator<Item = Self> {
        const ALL: [Eviction; Eviction::COUNT] = [
            Eviction::PeerClosed,
            Eviction::SocketError,
            Eviction::HalfClosed,
            Eviction::Unread,
            Eviction::Unanswered,
            Eviction::Unfinished,
            Eviction::Broken,
            Eviction::Panicked,
            Eviction::PingFailed,
            Eviction::RecycleFailed,
            Eviction::IdleTimeout,
            Eviction::MaxLifetime,
            Eviction::OverLimit,
            Eviction::Freed,
            Eviction::Ended,
            Eviction::Discarded,
            Eviction::Detached,
        ];
        ALL.into_iter()
    }
}

impl fmt::Display for Eviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PeerClosed => "closed by the peer",
            Self::SocketError => "socket error",
            Self::HalfClosed => "half-closed",
            Self::Unread => "unread bytes",
            Self::Unanswered => "unanswered",
            Self::Unfinished => "unfinished",
            Self::Broken => "broken in use",
            Self::Panicked => "caller panicked",
            Self::PingFailed => "ping failed",
            Self::RecycleFailed => "recycle failed",
            Self::IdleTimeout => "idle too long",
            Self::MaxLifetime => "too old",
            Self::OverLimit => "over the limit",
            Self::Freed => "freed",
            Self::Ended => "pool ended",
            Self::Discarded => "discarded",
            Self::Detached => "detached",
        })
    }
}

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
        /// The name of the thread that took the lease, if it has one.
        thread: Option<String>,
    },
    /// `free` or `free_with` was called, with this result.
    Freed(Freed),
    /// The pool ended.
    Ended,
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

impl Freed {
    pub(crate) const NONE: Self = Self {
        kept: 0,
        closed: 0,
        doomed: 0,
    };
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
    /// They are shut down now, so that a thread blocked on one returns at once.
    Hard,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_evictions_are_listed_once_in_order() {
        for (n, why) in Eviction::all().enumerate() {
            assert_eq!(why as usize, n);
        }
        assert_eq!(Eviction::Detached as usize + 1, Eviction::COUNT);
    }

    #[test]
    fn the_guide_explains_every_eviction_by_its_text() {
        let guide = include_str!("../../docs/GUIDE.md");
        for why in Eviction::all() {
            assert!(guide.contains(&format!("`{why}`")), "{why}");
        }
    }
}
