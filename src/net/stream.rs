//! The public handle on a connection: what can be done to it. `Socket` remembers what was.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::net::options::{Direction, Owner};
use crate::net::socket::{Reading, Socket};

/// A [`TcpStream`] that remembers what was done to it.
///
/// The pool reads this memory to tell a finished conversation from a broken-off one. A lease goes
/// back into the pool only if the last thing that happened was a read that returned bytes:
///
/// | what happened | the connection is |
/// |---|---|
/// | end of file, an error other than interrupted, would-block or timed-out, [`shutdown`](Stream::shutdown) | broken, for good |
/// | a write | unanswered, until a read returns a byte |
/// | a read that timed out or would have blocked | unanswered, until a read returns a byte |
/// | a write after such a read, if a reply was outstanding: a second try | unanswered, for good |
/// | a write that timed out or would have blocked | broken, until a write goes through |
/// | [`peek`](Stream::peek) sees end of file or an error; [`take_error`](Stream::take_error) returns one | broken, for good |
///
/// A second try leaves two replies on their way, and a byte may be of either. Outstanding is a
/// reply after a read that waited in vain, if the lease has written anything: even behind bytes,
/// since nobody waits for more once the reply is whole. A read without blocking only asks, and so
/// does a peek: there a reply is outstanding from a write to the next byte that is read. While a
/// write has taken only a part of what it was given, further writes are the rest of the same
/// request, not a second try. [`finish`](crate::Connection::finish) overrides all that is called
/// "unanswered" here.
///
/// A connection that the kernel gave up (`ETIMEDOUT` on Unix: keepalive, `TCP_USER_TIMEOUT`) is
/// broken, although the error's kind is `TimedOut`.
///
/// Time-outs, deadline, blocking mode, no-delay and TTL that were changed through the methods here
/// are put back when the lease ends: no caller inherits another caller's settings. Each lease
/// starts with what the factory and the handshake left on the socket.
///
/// It is not `Clone` and does not dereference to `TcpStream`, because both would go round the
/// bookkeeping. [`Stream::tcp`] is the documented way round it. Reading and writing work on
/// `&Stream` too, as they do on `&TcpStream`.
///
/// # Examples
///
/// ```
/// # use std::io::{Read, Write};
/// # use std::net::{TcpListener, TcpStream};
/// # let server = TcpListener::bind("127.0.0.1:0")?;
/// # let address = server.local_addr()?;
/// # std::thread::spawn(move || {
/// #     let (mut peer, _) = server.accept().unwrap();
/// #     let mut bytes = [0; 4];
/// #     while peer.read_exact(&mut bytes).is_ok() { peer.write_all(&bytes).unwrap(); }
/// # });
/// let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
/// let mut stream = pool.pull()?;
/// stream.write_all(b"ping")?; // unanswered
/// stream.read_exact(&mut [0; 4])?; // answered
/// drop(stream);
/// assert_eq!(pool.stats().idle, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Stream {
    socket: Arc<Socket>,
}

impl Stream {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self {
            socket: Arc::new(Socket::new(tcp)),
        }
    }

    #[inline]
    pub(crate) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    pub(crate) fn another(&self) -> Self {
        Self {
            socket: Arc::clone(&self.socket),
        }
    }

    /// The address of the other side; see [`TcpStream::peer_addr`].
    ///
    /// # Errors
    ///
    /// What the system says, for instance that the socket is no longer connected.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// assert_eq!(pool.pull()?.peer_addr()?, address);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket.tcp().peer_addr()
    }

    /// The address of our side; see [`TcpStream::local_addr`].
    ///
    /// # Errors
    ///
    /// What the system says.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// assert!(pool.pull()?.local_addr()?.ip().is_loopback());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.tcp().local_addr()
    }

    /// Turns Nagle's algorithm off (`true`) or on; put back when the lease ends.
    ///
    /// # Errors
    ///
    /// What the system says.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// let stream = pool.pull()?;
    /// stream.set_nodelay(true)?;
    /// assert!(stream.nodelay()?);
    /// drop(stream);
    /// assert!(!pool.pull()?.nodelay()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_nodelay(&self, yes: bool) -> io::Result<()> {
        self.socket
            .change(|options, tcp| options.set_nodelay(tcp, yes))
    }

    /// Whether Nagle's algorithm is off; see [`TcpStream::nodelay`].
    ///
    /// # Errors
    ///
    /// What the system says.
    ///
    /// # Examples
    ///
    /// See [`Stream::set_nodelay`].
    pub fn nodelay(&self) -> io::Result<bool> {
        self.socket.tcp().nodelay()
    }

    /// How long a read may block, `None` for ever; put back when the lease ends.
    ///
    /// # Errors
    ///
    /// A zero duration is refused, as by [`TcpStream::set_read_timeout`]; else what the system
    /// says.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # use std::time::Duration;
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// let stream = pool.pull()?;
    /// stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    /// drop(stream);
    /// assert_eq!(pool.pull()?.read_timeout()?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket
            .change(|options, tcp| options.set_timeout(Direction::Read, tcp, timeout))
    }

    /// How long a read may block; see [`TcpStream::read_timeout`].
    ///
    /// # Errors
    ///
    /// What the system says.
    ///
    /// # Examples
    ///
    /// See [`Stream::set_read_timeout`].
    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        self.socket.timeout(Direction::Read)
    }

    /// How long a write may block, `None` for ever; put back when the lease ends.
    ///
    /// # Errors
    ///
    /// A zero duration is refused, as by [`TcpStream::set_write_timeout`]; else what the system
    /// says.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # use std::time::Duration;
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// let stream = pool.pull()?;
    /// stream.set_write_timeout(Some(Duration::from_secs(2)))?;
    /// assert_eq!(stream.write_timeout()?, Some(Duration::from_secs(2)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket
            .change(|options, tcp| options.set_timeout(Direction::Write, tcp, timeout))
    }

    /// How long a write may block; see [`TcpStream::write_timeout`].
    ///
    /// # Errors
    ///
    /// What the system says.
    ///
    /// # Examples
    ///
    /// See [`Stream::set_write_timeout`].
    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        self.socket.timeout(Direction::Write)
    }

    /// Until when reads and writes wait at most, all together; gone when the lease ends.
    ///
    /// Each call waits for what is left until then: reads and writes, vectored ones and peeks, and
    /// those of a client on top, a TLS session or a `BufReader`. So a request ends in time, however
    /// many reads it takes, even if the server sends a byte now and then. A time-out of your own
    /// that is shorter still counts, and fails as it does without a deadline; `read_timeout` and
    /// `write_timeout` return your own values. `None`, the default, is no deadline; a new deadline
    /// replaces the old one. Within [`handshake`](crate::Builder::handshake) the pool may have a
    /// deadline of its own besides, and the earlier one counts.
    ///
    /// Past the deadline a call fails with [`TimedOut`](io::ErrorKind::TimedOut) and does not touch
    /// the socket. In non-blocking mode that is all a deadline does. It makes the connection
    /// unanswered or broken as a time-out does: see the table above.
    ///
    /// Under a deadline a call may cost two system calls more, which read and set the time-out.
    ///
    /// # Errors
    ///
    /// What the system says when `None` brings back your own time-outs.
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
    /// #     while peer.write_all(b".").is_ok() {
    /// #         std::thread::sleep(std::time::Duration::from_millis(1));
    /// #     }
    /// # });
    /// use std::io::{ErrorKind, Read};
    /// use std::time::{Duration, Instant};
    ///
    /// # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// let mut stream = pool.pull()?;
    /// stream.set_deadline(Some(Instant::now() + Duration::from_millis(50)))?;
    /// let error = stream.read_to_end(&mut Vec::new()).unwrap_err(); // a server that drips
    /// assert_eq!(error.kind(), ErrorKind::TimedOut);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_deadline(&self, deadline: Option<Instant>) -> io::Result<()> {
        self.socket.set_deadline(Owner::Caller, deadline)
    }

    /// Until when reads and writes wait at most, the pool's own deadline included.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # use std::time::{Duration, Instant};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// let stream = pool.pull()?;
    /// let deadline = Instant::now() + Duration::from_secs(5);
    /// stream.set_deadline(Some(deadline))?;
    /// assert_eq!(stream.deadline(), Some(deadline));
    /// drop(stream);
    /// assert_eq!(pool.pull()?.deadline(), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.socket.deadline()
    }

    /// Switches the blocking mode; put back when the lease ends.
    ///
    /// # Errors
    ///
    /// What the system says.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::io::{ErrorKind, Read};
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// let mut stream = pool.pull()?;
    /// stream.set_nonblocking(true)?;
    /// assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_nonblocking(&self, yes: bool) -> io::Result<()> {
        self.socket.set_nonblocking(yes)
    }

    /// Shuts down reading, writing or both, and marks the connection broken.
    ///
    /// # Errors
    ///
    /// What the system says; the connection counts as broken all the same.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// let stream = pool.pull()?;
    /// stream.shutdown(std::net::Shutdown::Write)?;
    /// drop(stream);
    /// assert_eq!(pool.stats().evicted(jackpot::Eviction::Broken), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.shutdown(how)
    }

    /// Receives without removing; end of file or an error marks the connection broken.
    ///
    /// # Errors
    ///
    /// As [`TcpStream::peek`].
    ///
    /// # Blocking
    ///
    /// Blocks like a read, for `read_timeout` and until the deadline at most.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::io::Write;
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// let stream = pool.pull()?;
    /// server.accept()?.0.write_all(b"hello")?;
    /// assert_eq!(stream.peek(&mut [0; 1])?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = !buffer.is_empty();
        self.socket
            .read(Reading::Peek, wanted, |tcp| tcp.peek(buffer))
    }

    /// Takes the socket's pending error; one that is there marks the connection broken.
    ///
    /// # Errors
    ///
    /// As [`TcpStream::take_error`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// assert!(pool.pull()?.take_error()?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.socket.take_error()
    }

    /// The time to live of outgoing packets, in hops; put back when the lease ends.
    ///
    /// # Errors
    ///
    /// What the system says.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// let stream = pool.pull()?;
    /// stream.set_ttl(5)?;
    /// assert_eq!(stream.ttl()?, 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        self.socket.change(|options, tcp| options.set_ttl(tcp, ttl))
    }

    /// The time to live of outgoing packets; see [`TcpStream::ttl`].
    ///
    /// # Errors
    ///
    /// What the system says.
    ///
    /// # Examples
    ///
    /// See [`Stream::set_ttl`].
    pub fn ttl(&self) -> io::Result<u32> {
        self.socket.tcp().ttl()
    }

    /// The socket itself: the way round the bookkeeping.
    ///
    /// Bytes that pass through it are not seen, and options set on it stay set for the next caller
    /// (but for the blocking mode on Windows, where the probe sets it). A caller who reads or
    /// writes this way and gives up in the middle must [`discard`](crate::Connection::discard) the
    /// lease. Asking for the socket makes the pool check, when the lease comes back, that its
    /// sending side was not shut down; `AsFd` and its like do the same. A pending error that a
    /// sweep of the pool's took from the socket comes back to reads and writes through `Stream`
    /// only; without one, the lease closes.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// let stream = pool.pull()?;
    /// stream.tcp().shutdown(std::net::Shutdown::Write)?;
    /// drop(stream);
    /// assert_eq!(pool.stats().evicted(jackpot::Eviction::HalfClosed), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        self.socket.bypass()
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = !buffer.is_empty();
        self.socket
            .read(Reading::Take, wanted, |mut tcp| tcp.read(buffer))
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let wanted = buffers.iter().any(|buffer| !buffer.is_empty());
        self.socket
            .read(Reading::Take, wanted, |mut tcp| tcp.read_vectored(buffers))
    }
}

impl Write for &Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.socket.write(buffer.len(), |mut tcp| tcp.write(buffer))
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let wanted = buffers.iter().map(|buffer| buffer.len()).sum();
        self.socket
            .write(wanted, |mut tcp| tcp.write_vectored(buffers))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&*self).read_vectored(buffers)
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        (&*self).write(buffer)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self).flush()
    }
}

#[cfg(unix)]
mod raw {
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

    /// Goes round the bookkeeping, like [`Stream::tcp`](super::Stream::tcp).
    impl AsFd for super::Stream {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.tcp().as_fd()
        }
    }

    /// Goes round the bookkeeping, like [`Stream::tcp`](super::Stream::tcp).
    impl AsRawFd for super::Stream {
        fn as_raw_fd(&self) -> RawFd {
            self.tcp().as_raw_fd()
        }
    }
}

#[cfg(windows)]
mod raw {
    use std::os::windows::io::{AsRawSocket, AsSocket, BorrowedSocket, RawSocket};

    /// Goes round the bookkeeping, like [`Stream::tcp`](super::Stream::tcp).
    impl AsSocket for super::Stream {
        fn as_socket(&self) -> BorrowedSocket<'_> {
            self.tcp().as_socket()
        }
    }

    /// Goes round the bookkeeping, like [`Stream::tcp`](super::Stream::tcp).
    impl AsRawSocket for super::Stream {
        fn as_raw_socket(&self) -> RawSocket {
            self.tcp().as_raw_socket()
        }
    }
}

/// Shows what `TcpStream` shows: the descriptor and both addresses.
impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stream").field(self.socket.tcp()).finish()
    }
}
