//! Why a call of a pipeline got no reply.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::report::error::Error;
use crate::report::stats::Brief;

/// Why a call of a [`Pipeline`](crate::Pipeline) got no reply, and whether it was sent.
///
/// What was not sent can safely be called again. What was sent may have been executed.
///
/// # Examples
///
/// ```
/// # use std::io::BufRead;
/// # use std::net::{TcpListener, TcpStream};
/// # use std::time::Duration;
/// # let server = TcpListener::bind("127.0.0.1:0")?;
/// # let address = server.local_addr()?;
/// # use jackpot::{Pipeline, Pool};
/// let pool = Pool::new(4, move || TcpStream::connect(address))?;
/// let lines = Pipeline::new(pool, |reply| {
///     let mut line = String::new();
///     reply.read_line(&mut line).map(|_| line)
/// });
/// // The server never answers.
/// let error = lines.call_timeout(b"hello\n", Duration::from_millis(20)).unwrap_err();
/// assert!(error.is_timeout() && error.was_sent());
/// // A time-out of zero sends nothing.
/// let error = lines.call_timeout(b"hello\n", Duration::ZERO).unwrap_err();
/// assert!(error.is_timeout() && !error.was_sent());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CallError {
    /// The pool gave no connection. Nothing was sent.
    Pool(Arc<Error>),

    /// The time given to the call is over.
    TimedOut {
        /// Whether the request was sent; if so, it may have been executed.
        sent: bool,
        /// How long the call took.
        elapsed: Duration,
    },

    /// The request was sent, and then the connection broke or what came was no reply.
    ///
    /// Whether it was executed is unknown. Where a connection was silent for longer than the pool's
    /// [`read_timeout`](crate::Builder::read_timeout), the kind is
    /// [`TimedOut`](io::ErrorKind::TimedOut).
    Lost(Arc<io::Error>),
}

impl CallError {
    /// Whether the request was sent, wholly or in part.
    ///
    /// # Examples
    ///
    /// See [`CallError`].
    #[must_use]
    pub fn was_sent(&self) -> bool {
        match self {
            Self::Pool(_) => false,
            Self::TimedOut { sent, .. } => *sent,
            Self::Lost(_) => true,
        }
    }

    /// Whether this is [`CallError::TimedOut`].
    ///
    /// # Examples
    ///
    /// See [`CallError`].
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut { .. })
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(_) => f.write_str("not sent: the pool gave no connection"),
            Self::TimedOut { sent, elapsed } => {
                let what = if *sent { "no reply" } else { "not sent" };
                write!(f, "{what} within {}", Brief(*elapsed))
            }
            Self::Lost(_) => f.write_str("sent, but no reply: the connection was lost"),
        }
    }
}

/// Written by hand, because a derived `source` shows the `Arc` around an error, and a downcast of
/// that to what lies in it fails.
impl std::error::Error for CallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Pool(error) => Some(&**error),
            Self::TimedOut { .. } => None,
            Self::Lost(error) => Some(&**error),
        }
    }
}

/// Keeps the whole error as the inner one; the kind is `TimedOut`, that of the error which broke
/// the connection, or the one that the pool's error has as an `io::Error`.
impl From<CallError> for io::Error {
    fn from(error: CallError) -> Self {
        let kind = match &error {
            CallError::Pool(error) => error.io_kind(),
            CallError::TimedOut { .. } => io::ErrorKind::TimedOut,
            CallError::Lost(error) => error.kind(),
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    fn refused() -> Arc<io::Error> {
        Arc::new(io::ErrorKind::ConnectionRefused.into())
    }

    fn timed_out(sent: bool) -> CallError {
        CallError::TimedOut {
            sent,
            elapsed: Duration::from_millis(20),
        }
    }

    #[test]
    fn each_says_what_happened_and_whether_it_was_sent() {
        let no_connection = CallError::Pool(Arc::new(Error::Ended));
        let lost = CallError::Lost(refused());
        for (error, shown, was_sent, is_timeout) in [
            (
                no_connection,
                "not sent: the pool gave no connection",
                false,
                false,
            ),
            (timed_out(false), "not sent within 20 ms", false, true),
            (timed_out(true), "no reply within 20 ms", true, true),
            (
                lost,
                "sent, but no reply: the connection was lost",
                true,
                false,
            ),
        ] {
            assert_eq!(error.to_string(), shown);
            assert_eq!(error.was_sent(), was_sent, "{error}");
            assert_eq!(error.is_timeout(), is_timeout, "{error}");
        }
    }

    #[test]
    fn sources_are_the_errors_themselves_and_lend_their_kinds() {
        let failed = Arc::new(Error::Handshake(refused()));
        let from_pool = CallError::Pool(Arc::clone(&failed));
        let source = from_pool.source().unwrap().downcast_ref::<Error>();
        assert!(std::ptr::eq(source.unwrap(), &raw const *failed));
        let cause = refused();
        let lost = CallError::Lost(Arc::clone(&cause));
        let source = lost.source().unwrap().downcast_ref::<io::Error>();
        assert!(std::ptr::eq(source.unwrap(), &raw const *cause));
        assert!(timed_out(true).source().is_none());
        for (error, kind) in [
            (from_pool, io::ErrorKind::ConnectionRefused),
            (lost, io::ErrorKind::ConnectionRefused),
            (timed_out(true), io::ErrorKind::TimedOut),
            (
                CallError::Pool(Arc::new(Error::Ended)),
                io::ErrorKind::NotConnected,
            ),
        ] {
            let text = error.to_string();
            let error = io::Error::from(error);
            assert_eq!((error.kind(), error.to_string()), (kind, text));
            assert!(error.get_ref().unwrap().is::<CallError>());
        }
    }
}
