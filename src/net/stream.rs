//! The tracked socket: a `TcpStream` that remembers what was done to it.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::net::probe;
use crate::report::outcome::{Eviction, PeerSignal};
use crate::sync::user_code::log;

/// End of file, an error, or `shutdown` was seen.
const BROKEN: u8 = 1;
/// The last thing was a write, or a read that timed out.
const UNANSWERED: u8 = 2;
/// A write could not go on, so a request may be half sent.
const STALLED: u8 = 4;
/// An option was changed through `Stream`, and `before` says what it was.
const CHANGED: u8 = 8;
/// The socket itself was handed out, so anything may have been done to it.
const BYPASSED: u8 = 16;
/// The socket is in non-blocking mode.
const NONBLOCKING: u8 = 32;
/// A byte came from the other side, or may have come.
const HEARD: u8 = 64;
/// What broke it was the other side.
const HUNG_UP: u8 = 128;

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
/// | a write that timed out or would have blocked | broken, until a write goes through |
/// | [`peek`](Stream::peek) sees end of file or an error; [`take_error`](Stream::take_error) returns one | broken, for good |
///
/// Time-outs, blocking mode, no-delay and TTL that were changed through the methods here are put
/// back when the lease ends: no caller inherits another caller's settings.
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

/// What every handle on one connection shares.
pub(crate) struct Socket {
    tcp: TcpStream,
    flags: AtomicU8,
    /// What the options were before this lease changed them; only ever held for an instant.
    before: Mutex<Option<Box<Options>>>,
    /// Whether a lease is out; kept only where a probe switches the blocking mode, and held by
    /// whoever does.
    leased: Mutex<bool>,
    /// Whether its lease is to end soon.
    recalled: AtomicBool,
}

/// The values of the options that a lease has changed, from before it did.
#[derive(Default)]
struct Options {
    read_timeout: Option<Option<Duration>>,
    write_timeout: Option<Option<Duration>>,
    nodelay: Option<bool>,
    ttl: Option<u32>,
    nonblocking: Option<bool>,
}

impl Stream {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        #[cfg(unix)]
        let nonblocking = socket2::SockRef::from(&tcp).nonblocking().unwrap_or(false);
        #[cfg(not(unix))]
        let nonblocking = false;
        let flags = if nonblocking { NONBLOCKING } else { 0 };
        Self {
            socket: Arc::new(Socket {
                tcp,
                flags: AtomicU8::new(flags),
                before: Mutex::new(None),
                leased: Mutex::new(false),
                recalled: AtomicBool::new(false),
            }),
        }
    }

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
        self.socket.tcp.peer_addr()
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
        self.socket.tcp.local_addr()
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
        self.socket.remember(|tcp, before| {
            if before.nodelay.is_none() {
                before.nodelay = Some(tcp.nodelay()?);
            }
            tcp.set_nodelay(yes)
        })
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
        self.socket.tcp.nodelay()
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
        self.socket.remember(|tcp, before| {
            if before.read_timeout.is_none() {
                before.read_timeout = Some(tcp.read_timeout()?);
            }
            tcp.set_read_timeout(timeout)
        })
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
        self.socket.tcp.read_timeout()
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
        self.socket.remember(|tcp, before| {
            if before.write_timeout.is_none() {
                before.write_timeout = Some(tcp.write_timeout()?);
            }
            tcp.set_write_timeout(timeout)
        })
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
        self.socket.tcp.write_timeout()
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
        let socket = &self.socket;
        socket.remember(|_, before| {
            if before.nonblocking.is_none() {
                before.nonblocking = Some(socket.is_nonblocking());
            }
            socket.switch_nonblocking(yes)
        })
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
        self.socket.mark(BROKEN);
        self.socket.tcp.shutdown(how)
    }

    /// Receives without removing; end of file or an error marks the connection broken.
    ///
    /// # Errors
    ///
    /// As [`TcpStream::peek`].
    ///
    /// # Blocking
    ///
    /// Blocks like a read, for `read_timeout` at most.
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
        let result = self.socket.tcp.peek(buffer);
        match &result {
            Ok(0) if buffer.is_empty() => {}
            Ok(0) => self.socket.hung_up(),
            Ok(_) => self.socket.mark(HEARD),
            Err(error) if probe::is_passing(error) => {}
            Err(error) => self.socket.broke(error),
        }
        result
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
        let result = self.socket.tcp.take_error();
        match &result {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => self.socket.broke(error),
        }
        result
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
        self.socket.remember(|tcp, before| {
            if before.ttl.is_none() {
                before.ttl = Some(tcp.ttl()?);
            }
            tcp.set_ttl(ttl)
        })
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
        self.socket.tcp.ttl()
    }

    /// The socket itself: the way round the bookkeeping.
    ///
    /// Bytes that pass through it are not seen, and options set on it stay set for the next caller
    /// (but for the blocking mode on Windows, where the probe sets it). A caller who reads or
    /// writes this way and gives up in the middle must [`discard`](crate::Connection::discard) the
    /// lease. Asking for the socket makes the pool check, when the lease comes back, that its
    /// sending side was not shut down; `AsFd` and its like do the same.
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
        self.socket.mark(BYPASSED | HEARD);
        &self.socket.tcp
    }
}

impl Socket {
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// A lease begins, after its probe, or has ended and left the socket as it was.
    pub(crate) fn set_leased(&self, yes: bool) {
        if probe::SWITCHES_MODE {
            *self.leased.lock().unwrap_or_else(PoisonError::into_inner) = yes;
        }
    }

    /// Does this unless a lease is out; no lease begins, and nobody else does such a thing, before
    /// it is done.
    pub(crate) fn unless_leased<R>(&self, f: impl FnOnce(&TcpStream) -> R) -> Option<R> {
        let leased = self.leased.lock().unwrap_or_else(PoisonError::into_inner);
        (!*leased).then(|| f(&self.tcp))
    }

    pub(crate) fn is_nonblocking(&self) -> bool {
        self.has(NONBLOCKING)
    }

    /// The pool wants the lease of this connection back.
    pub(crate) fn recall(&self) {
        self.recalled.store(true, Relaxed);
    }

    pub(crate) fn is_recalled(&self) -> bool {
        self.recalled.load(Relaxed)
    }

    /// Shuts the connection down, so that a thread blocked on it returns.
    pub(crate) fn cut(&self) {
        if let Err(error) = self.tcp.shutdown(Shutdown::Both) {
            log!(Debug, "shutdown: {error}");
        }
    }

    /// What speaks against using this connection again; `over` overrides "unanswered".
    ///
    /// It puts the options back on the way, and looks at the sending side where a lease had the
    /// bare socket in its hands.
    pub(crate) fn settle(&self, over: bool) -> Option<Eviction> {
        let flags = self.flags.load(Relaxed);
        if flags & !(NONBLOCKING | HEARD) == 0 {
            return None;
        }
        if flags & (BROKEN | STALLED) != 0 {
            return Some(Eviction::Broken);
        }
        if flags & UNANSWERED != 0 && !over {
            return Some(Eviction::Unanswered);
        }
        if flags & CHANGED != 0 && self.put_back().is_err() {
            return Some(Eviction::Broken);
        }
        self.clear(UNANSWERED | CHANGED | BYPASSED);
        if flags & BYPASSED != 0 {
            return probe::cannot_send(self);
        }
        None
    }

    /// Whether the last thing was a write, or a read that timed out.
    pub(crate) fn is_unanswered(&self) -> bool {
        self.has(UNANSWERED)
    }

    /// A byte has come from the other side.
    pub(crate) fn heard(&self) {
        self.mark(HEARD);
    }

    /// What the connection tells of the other side; that it was of use to a lease counts for it.
    pub(crate) fn word(&self, was_of_use: bool) -> PeerSignal {
        if was_of_use {
            self.heard();
        }
        if self.has(HEARD) {
            PeerSignal::Heard
        } else if self.has(HUNG_UP) {
            PeerSignal::HungUp
        } else {
            PeerSignal::Silence
        }
    }

    /// Changes an option, keeping in mind what it was when the lease began.
    fn remember(
        &self,
        change: impl FnOnce(&TcpStream, &mut Options) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        self.mark(CHANGED);
        change(&self.tcp, before.get_or_insert_default())
    }

    fn put_back(&self) -> io::Result<()> {
        let before = self
            .before
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .unwrap_or_default();
        if let Some(timeout) = before.read_timeout {
            self.tcp.set_read_timeout(timeout)?;
        }
        if let Some(timeout) = before.write_timeout {
            self.tcp.set_write_timeout(timeout)?;
        }
        if let Some(yes) = before.nodelay {
            self.tcp.set_nodelay(yes)?;
        }
        if let Some(ttl) = before.ttl {
            self.tcp.set_ttl(ttl)?;
        }
        if let Some(yes) = before.nonblocking {
            self.switch_nonblocking(yes)?;
        }
        Ok(())
    }

    fn switch_nonblocking(&self, yes: bool) -> io::Result<()> {
        self.tcp.set_nonblocking(yes)?;
        if yes {
            self.mark(NONBLOCKING);
        } else {
            self.clear(NONBLOCKING);
        }
        Ok(())
    }

    fn note_read(&self, result: &io::Result<usize>, wanted: bool) {
        match result {
            Ok(0) if wanted => self.hung_up(),
            Ok(0) => {}
            Ok(_) => {
                self.mark(HEARD);
                self.clear(UNANSWERED);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if probe::is_passing(error) => self.mark(UNANSWERED),
            Err(error) => self.broke(error),
        }
    }

    fn note_write(&self, result: &io::Result<usize>, wanted: bool) {
        match result {
            Ok(_) if wanted => {
                self.clear(STALLED);
                self.mark(UNANSWERED);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if probe::is_passing(error) => self.mark(STALLED | UNANSWERED),
            Err(error) => self.broke(error),
        }
    }

    fn broke(&self, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => self.hung_up(),
            _ => self.mark(BROKEN),
        }
    }

    /// The other side ended it, unless we broke it before, by `shutdown` for instance.
    fn hung_up(&self) {
        if !self.has(BROKEN) {
            self.mark(BROKEN | HUNG_UP);
        }
    }

    fn has(&self, flags: u8) -> bool {
        self.flags.load(Relaxed) & flags == flags
    }

    /// Relaxed will do: a lease moves between threads through the pool's lock.
    fn mark(&self, flags: u8) {
        if !self.has(flags) {
            self.flags.fetch_or(flags, Relaxed);
        }
    }

    fn clear(&self, flags: u8) {
        if self.flags.load(Relaxed) & flags != 0 {
            self.flags.fetch_and(!flags, Relaxed);
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = (&self.socket.tcp).read(buffer);
        self.socket.note_read(&result, !buffer.is_empty());
        result
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let result = (&self.socket.tcp).read_vectored(buffers);
        let wanted = buffers.iter().any(|buffer| !buffer.is_empty());
        self.socket.note_read(&result, wanted);
        result
    }
}

impl Write for &Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let result = (&self.socket.tcp).write(buffer);
        self.socket.note_write(&result, !buffer.is_empty());
        result
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let result = (&self.socket.tcp).write_vectored(buffers);
        let wanted = buffers.iter().any(|buffer| !buffer.is_empty());
        self.socket.note_write(&result, wanted);
        result
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
        f.debug_tuple("Stream").field(&self.socket.tcp).finish()
    }
}
