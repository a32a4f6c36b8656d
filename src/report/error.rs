//! What can go wrong, with the cause and the pool's state kept.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::report::stats::{Brief, Stats};

/// Why a pool could not be built or gave no connection.
///
/// Each message is a diagnosis: what was tried, how often, for how long, and the pool's state. The
/// cause is not repeated in it but is the [`source`](std::error::Error::source), down to the
/// [`io::Error`] of the connect.
///
/// # Examples
///
/// ```
/// # use std::net::{TcpListener, TcpStream};
/// # let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
/// use jackpot::{Backoff, Pool};
/// use std::io::ErrorKind;
///
/// let pool = Pool::builder(move || TcpStream::connect(address))
///     .backoff(Backoff::new().retries(0))
///     .build()?;
/// let error = pool.pull().unwrap_err();
/// assert!(error.is_connect());
/// assert_eq!(error.io_error().unwrap().kind(), ErrorKind::ConnectionRefused);
/// assert!(error.to_string().starts_with("no connection after 1 try in "));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The limit is reached and nothing is idle.
    Full {
        /// The pool at that moment.
        stats: Box<Stats>,
    },

    /// As many callers wait in line as [`max_waiting`](crate::Builder::max_waiting) allows.
    QueueFull {
        /// The pool at that moment.
        stats: Box<Stats>,
    },

    /// The factory failed or panicked.
    ///
    /// Callers that share one failed connect each get an error of their own, with the same kind,
    /// the same OS code and the same text.
    Connect(io::Error),

    /// The handshake failed or panicked.
    Handshake(Arc<dyn std::error::Error + Send + Sync>),

    /// `pull` has used up its retries, or waiting cannot cure the cause.
    Exhausted {
        /// How many tries there were: one more than retries.
        attempts: u32,
        /// How long they took together.
        elapsed: Duration,
        /// What the last try failed with.
        last: Box<Error>,
        /// The pool at that moment.
        stats: Box<Stats>,
    },

    /// The time given to `pull_timeout` is over.
    TimedOut {
        /// How long the call took.
        elapsed: Duration,
        /// The last cause, if there was one.
        last: Option<Box<Error>>,
        /// The pool at that moment.
        stats: Box<Stats>,
    },

    /// The pool has ended; it never connects again.
    Ended,

    /// A setting makes no sense; the text names it and its value.
    InvalidConfig(String),

    /// The reaper thread could not be started.
    Spawn(io::Error),
}

impl Error {
    /// Whether the cause is a full pool or a full line; looks through `Exhausted` and `TimedOut`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// let pool = jackpot::Pool::new(1, move || TcpStream::connect(address))?;
    /// let only = pool.pull()?;
    /// assert!(pool.allocate().unwrap_err().is_full());
    /// # drop(only);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(
            self.cause(),
            Some(Self::Full { .. } | Self::QueueFull { .. })
        )
    }

    /// Whether the cause is a failed connect or handshake; looks through like [`Error::is_full`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let gone = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    /// let pool = jackpot::Pool::new(1, move || TcpStream::connect(gone))?;
    /// assert!(pool.allocate().unwrap_err().is_connect());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn is_connect(&self) -> bool {
        matches!(self.cause(), Some(Self::Connect(_) | Self::Handshake(_)))
    }

    /// Whether the cause is that the pool has ended; looks through like [`Error::is_full`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::TcpStream;
    /// let pool = jackpot::Pool::new(1, || TcpStream::connect("127.0.0.1:1"))?;
    /// pool.end();
    /// assert!(pool.pull().unwrap_err().is_ended());
    /// # Ok::<(), jackpot::Error>(())
    /// ```
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.cause(), Some(Self::Ended))
    }

    /// Whether this is [`Error::TimedOut`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::TcpStream;
    /// # use std::time::Duration;
    /// let pool = jackpot::Pool::new(1, || TcpStream::connect("127.0.0.1:1"))?;
    /// assert!(pool.pull_timeout(Duration::ZERO).unwrap_err().is_timeout());
    /// # Ok::<(), jackpot::Error>(())
    /// ```
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut { .. })
    }

    /// The I/O error at the bottom of the chain of sources, if there is one.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # use std::io::ErrorKind;
    /// # let gone = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    /// let pool = jackpot::Pool::new(1, move || TcpStream::connect(gone))?;
    /// let error = pool.allocate().unwrap_err();
    /// assert_eq!(error.io_error().unwrap().kind(), ErrorKind::ConnectionRefused);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn io_error(&self) -> Option<&io::Error> {
        let found = self.chain().filter_map(|error| error.downcast_ref());
        found.last()
    }

    /// This error and its sources.
    pub(crate) fn chain(&self) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
        let this: &(dyn std::error::Error + 'static) = self;
        std::iter::successors(Some(this), |error| error.source())
    }

    /// The variant under `Exhausted` and `TimedOut`; `None` for a time-out without a cause.
    fn cause(&self) -> Option<&Self> {
        match self {
            Self::Exhausted { last, .. } => last.cause(),
            Self::TimedOut { last, .. } => last.as_ref()?.cause(),
            other => Some(other),
        }
    }

    /// Whether trying again later is pointless.
    ///
    /// Where the error came from decides, not its kind alone: the system reports `EPERM`, `EACCES`
    /// and `EINVAL` for a moment too, while a policy is loaded for instance.
    pub(crate) fn is_permanent(&self) -> bool {
        use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
        match self {
            Self::Connect(error) => {
                matches!(error.kind(), PermissionDenied | InvalidInput | Unsupported)
                    && !is_from_the_system(error)
            }
            _ => false,
        }
    }

    /// Another error with the same variant, kind, OS code, text and source, for the next caller.
    pub(crate) fn another(self: &Arc<Self>) -> Self {
        match &**self {
            Self::Connect(error) => Self::Connect(match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(error.kind(), Shared(Arc::clone(self))),
            }),
            Self::Handshake(error) => Self::Handshake(Arc::clone(error)),
            _ => Self::Ended,
        }
    }
}

/// Whether this error, or one in it or below it, has an OS code.
fn is_from_the_system(error: &io::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        next = match error.downcast_ref::<io::Error>() {
            Some(error) if error.raw_os_error().is_some() => return true,
            // Its source would leave out the error that it holds, which may be another of its kind.
            Some(error) => error.get_ref().map(|inner| inner as _),
            None => error.source(),
        };
    }
    false
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { stats } => write!(f, "the pool is full ({})", stats.state()),
            Self::QueueFull { stats } => {
                write!(f, "too many callers wait already ({})", stats.state())
            }
            Self::Connect(_) => f.write_str("connect failed"),
            Self::Handshake(_) => f.write_str("handshake failed"),
            Self::Exhausted {
                attempts,
                elapsed,
                stats,
                ..
            } => {
                let tries = if *attempts == 1 { "try" } else { "tries" };
                let (elapsed, state) = (Brief(*elapsed), stats.state());
                write!(
                    f,
                    "no connection after {attempts} {tries} in {elapsed} ({state}){}",
                    stats.call_sites
                )
            }
            Self::TimedOut { elapsed, stats, .. } => {
                let (elapsed, state) = (Brief(*elapsed), stats.state());
                let sites = &stats.call_sites;
                write!(f, "no connection within {elapsed} ({state}){sites}")
            }
            Self::Ended => f.write_str("the pool has ended"),
            Self::InvalidConfig(text) => f.write_str(text),
            Self::Spawn(_) => f.write_str("cannot start the reaper thread"),
        }
    }
}

/// Written by hand, because a derived `source` shows the `Box` or the `Arc` around an error, and a
/// downcast of that to what lies in it fails.
impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(error) | Self::Spawn(error) => Some(error),
            Self::Handshake(error) => Some(&**error),
            Self::Exhausted { last, .. } => Some(&**last),
            Self::TimedOut { last, .. } => last.as_deref().map(|last| last as _),
            Self::Full { .. } | Self::QueueFull { .. } | Self::Ended | Self::InvalidConfig(_) => {
                None
            }
        }
    }
}

/// A connect error that several callers share, seen from one of them.
#[derive(Debug)]
struct Shared(Arc<Error>);

impl Shared {
    fn io(&self) -> Option<&io::Error> {
        match &*self.0 {
            Error::Connect(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.io() {
            Some(error) => error.fmt(f),
            None => self.0.fmt(f),
        }
    }
}

impl std::error::Error for Shared {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(self.io()?)
    }
}

/// Keeps the whole error as the inner one; the kind is that of the connect error at the bottom,
/// else `TimedOut`, `ResourceBusy` (full), `NotConnected` (ended) or `InvalidInput`.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(error.io_kind(), error)
    }
}

impl Error {
    /// The kind that this has as an `io::Error`.
    pub(crate) fn io_kind(&self) -> io::ErrorKind {
        use io::ErrorKind;
        match self {
            Self::TimedOut { .. } => ErrorKind::TimedOut,
            Self::InvalidConfig(_) => ErrorKind::InvalidInput,
            _ if self.is_full() => ErrorKind::ResourceBusy,
            _ if self.is_ended() => ErrorKind::NotConnected,
            _ => self.io_error().map_or(ErrorKind::Other, io::Error::kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    fn connect(error: io::Error) -> Arc<Error> {
        Arc::new(Error::Connect(error))
    }

    #[test]
    fn another_error_is_the_same_to_its_reader() {
        let custom = io::Error::other("no route in the table");
        for original in [connect(io::Error::from_raw_os_error(111)), connect(custom)] {
            let copy = original.another();
            let (a, b) = (original.io_error().unwrap(), copy.io_error().unwrap());
            assert_eq!(a.kind(), b.kind());
            assert_eq!(a.raw_os_error(), b.raw_os_error());
            assert_eq!(a.to_string(), b.to_string());
        }
    }

    #[test]
    fn a_passing_error_of_the_system_ended_every_pull_at_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot connect to example")]
        struct Wrapped(#[source] io::Error);

        for (kind, code) in [
            (io::ErrorKind::PermissionDenied, 1),
            (io::ErrorKind::PermissionDenied, 13),
            (io::ErrorKind::InvalidInput, 22),
        ] {
            let system = || io::Error::from_raw_os_error(code);
            for error in [
                system(),
                io::Error::new(kind, Wrapped(system())),
                io::Error::new(kind, system()),
                io::Error::new(kind, Wrapped(io::Error::new(kind, Wrapped(system())))),
            ] {
                assert!(!connect(error).is_permanent(), "{kind}");
            }
            for error in [
                kind.into(),
                io::Error::new(kind, "told by the factory"),
                io::Error::new(kind, Wrapped(kind.into())),
            ] {
                assert!(connect(error).is_permanent(), "{kind}");
            }
        }
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert!(!connect(refused).is_permanent());
    }

    #[test]
    fn the_io_error_is_the_one_at_the_bottom_of_a_shared_chain() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot connect to example")]
        struct Wrapped(#[source] io::Error);

        let inner = io::Error::from(io::ErrorKind::ConnectionRefused);
        let original = connect(io::Error::new(inner.kind(), Wrapped(inner)));
        let outer = Error::Exhausted {
            attempts: 6,
            elapsed: Duration::from_millis(4200),
            last: Box::new(original.another()),
            stats: Box::default(),
        };
        assert!(outer.is_connect() && !outer.is_full() && !outer.is_timeout());
        let bottom = outer.io_error().unwrap();
        assert_eq!(bottom.kind(), io::ErrorKind::ConnectionRefused);
        assert!(bottom.get_ref().is_none());
        let shown = outer.source().unwrap().source().unwrap().to_string();
        assert_eq!(shown, "cannot connect to example");
    }

    #[test]
    fn the_io_error_of_a_handshake_is_found_and_lends_its_kind() {
        let cause = io::Error::from(io::ErrorKind::UnexpectedEof);
        let failed = Arc::new(Error::Handshake(Arc::new(cause)));
        let outer = Error::TimedOut {
            elapsed: Duration::from_secs(1),
            last: Some(Box::new(failed.another())),
            stats: Box::default(),
        };
        for error in [&failed, &outer] {
            let found = error.io_error().unwrap();
            assert_eq!(found.kind(), io::ErrorKind::UnexpectedEof);
        }
        let kind = io::Error::from(failed.another()).kind();
        assert_eq!(kind, io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn sources_are_the_errors_themselves_and_not_their_boxes() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let handshake = Error::Handshake(Arc::new(refused));
        let io_error = handshake.source().unwrap().downcast_ref::<io::Error>();
        assert_eq!(io_error.unwrap().kind(), io::ErrorKind::ConnectionRefused);
        let outer = Error::TimedOut {
            elapsed: Duration::ZERO,
            last: Some(Box::new(handshake)),
            stats: Box::default(),
        };
        let inner = outer.source().unwrap().downcast_ref::<Error>();
        assert!(matches!(inner, Some(Error::Handshake(_))));
    }

    #[test]
    fn messages_are_a_diagnosis() {
        let stats = Stats {
            limit: 20,
            leased: 20,
            waiting: 35,
            ..Stats::default()
        };
        let error = Error::Exhausted {
            attempts: 6,
            elapsed: Duration::from_millis(4200),
            last: Box::new(Error::Ended),
            stats: Box::new(stats),
        };
        assert_eq!(
            error.to_string(),
            "no connection after 6 tries in 4.2 s \
             (limit 20: 0 idle, 20 leased, 0 connecting, 35 waiting)"
        );
    }

    #[test]
    fn each_question_is_answered_by_the_variant_below_and_by_no_other() {
        let stats = Box::<Stats>::default;
        let refused = || Error::Connect(io::ErrorKind::ConnectionRefused.into());
        let handshake = || Error::Handshake(Arc::new(io::Error::other("no")));
        let exhausted = |last| Error::Exhausted {
            attempts: 6,
            elapsed: Duration::ZERO,
            last: Box::new(last),
            stats: stats(),
        };
        let timed_out = |last: Option<Error>| Error::TimedOut {
            elapsed: Duration::ZERO,
            last: last.map(Box::new),
            stats: stats(),
        };
        let full = || Error::Full { stats: stats() };
        for (error, answers) in [
            (full(), "full"),
            (Error::QueueFull { stats: stats() }, "full"),
            (exhausted(full()), "full"),
            (refused(), "connect"),
            (handshake(), "connect"),
            (exhausted(refused()), "connect"),
            (timed_out(Some(handshake())), "connect timeout"),
            (Error::Ended, "ended"),
            (timed_out(Some(exhausted(Error::Ended))), "ended timeout"),
            (timed_out(None), "timeout"),
            (Error::InvalidConfig("no".into()), ""),
            (Error::Spawn(io::ErrorKind::OutOfMemory.into()), ""),
        ] {
            let questions = [
                (error.is_full(), "full"),
                (error.is_connect(), "connect"),
                (error.is_ended(), "ended"),
                (error.is_timeout(), "timeout"),
            ];
            let yes = questions.into_iter().filter(|(yes, _)| *yes);
            let said: Vec<_> = yes.map(|(_, question)| question).collect();
            assert_eq!(said.join(" "), answers, "{error:?}");
        }
    }

    #[test]
    fn the_guide_has_the_messages_as_they_are() {
        let refused = |builder: crate::Builder| builder.build().unwrap_err();
        let builder = || crate::Pool::builder(|| Err(io::ErrorKind::ConnectionRefused.into()));
        let fine = |_: &mut crate::Stream| Ok::<_, io::Error>(());
        let stats = || {
            Box::new(Stats {
                limit: 20,
                leased: 20,
                ..Stats::default()
            })
        };
        let errors = [
            Error::Full { stats: stats() },
            Error::QueueFull { stats: stats() },
            Error::Connect(io::ErrorKind::ConnectionRefused.into()),
            Error::Handshake(Arc::new(io::Error::other("no"))),
            Error::Exhausted {
                attempts: 6,
                elapsed: Duration::from_secs(86),
                last: Box::new(Error::Ended),
                stats: stats(),
            },
            Error::TimedOut {
                elapsed: Duration::from_millis(200),
                last: None,
                stats: stats(),
            },
            Error::Ended,
            Error::Spawn(io::ErrorKind::OutOfMemory.into()),
            refused(builder().limit(0)),
            refused(builder().limit(3).min_idle(5)),
            refused(builder().recycle(fine).handshake(Ok::<_, io::Error>)),
            refused(builder().backoff(crate::Backoff::new().factor(0.5))),
        ];
        let guide = include_str!("../../docs/GUIDE.md");
        for error in errors {
            let message = error.to_string();
            let start = message.split(" (limit").next().unwrap();
            let (whole, cut) = (format!("`{start}`"), format!("`{start} ("));
            assert!(guide.contains(&whole) || guide.contains(&cut), "{message}");
        }
    }

    #[test]
    fn kinds_survive_the_way_to_io() {
        let refused = Error::Connect(io::ErrorKind::ConnectionRefused.into());
        assert_eq!(
            io::Error::from(refused).kind(),
            io::ErrorKind::ConnectionRefused
        );
        assert_eq!(
            io::Error::from(Error::Ended).kind(),
            io::ErrorKind::NotConnected
        );
        let full = Error::Full {
            stats: Box::default(),
        };
        assert_eq!(io::Error::from(full).kind(), io::ErrorKind::ResourceBusy);
        // Whatever is below: the time was up.
        let timed_out = Error::TimedOut {
            elapsed: Duration::ZERO,
            last: Some(Box::new(Error::Ended)),
            stats: Box::default(),
        };
        assert_eq!(io::Error::from(timed_out).kind(), io::ErrorKind::TimedOut);
        let refused = Error::InvalidConfig("no".into());
        assert_eq!(io::Error::from(refused).kind(), io::ErrorKind::InvalidInput);
    }
}
