//! The guard: a lease of one connection.

use std::fmt;
use std::io::{self, BufRead, IoSlice, IoSliceMut, Read, Write};
use std::ops::{Deref, DerefMut};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use crate::net::stream::Stream;
use crate::report::outcome::PeerSignal;
use crate::runtime::shared::{Held, Shared};
use crate::state::slots::SlotKey;

/// A lease of one connection; dropped, it goes back if it is fit for the next caller.
///
/// It dereferences to the client, the tracked [`Stream`] unless a
/// [`handshake`](crate::Builder::handshake) made something else of it, and it reads and writes as
/// the client does. What is its own is called as a function, `Connection::id(&connection)`, so
/// that the client's methods come first.
///
/// The table in [`Stream`]'s documentation says what makes a connection fit. Where that rule
/// cannot know, the caller says so: [`finish`](Connection::finish) when the conversation is over
/// although the last thing was a write, [`discard`](Connection::discard) when it was given up in
/// the middle of a reply.
///
/// A lease whose thread panics closes its connection. One in a thread-local outlives the panic: its
/// destructor runs after the unwinding, when nothing tells of the panic any more. It is judged by
/// what was done to it: in the middle of a request it closes, otherwise it goes back. Where that is
/// not enough, say [`only_finished(true)`](crate::Builder::only_finished).
///
/// Leaking the guard (`mem::forget`) leaks the connection and its place below the limit;
/// `free_with(…, Close::Hard)` gets the place back.
///
/// # Blocking
///
/// Dropping neither waits nor joins. It runs the `recycle` and event functions, where there are
/// any.
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
///
/// let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
/// {
///     let mut connection = pool.pull()?;
///     connection.write_all(b"hello")?;
///     connection.read_exact(&mut [0; 5])?;
/// } // goes back here
/// assert_eq!(pool.stats().idle, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a lease that is dropped at once was not needed"]
pub struct Connection<C = Stream> {
    /// There until the lease ends.
    held: Option<Held<C>>,
    key: SlotKey,
    shared: Arc<Shared<C>>,
}

impl<C> Connection<C> {
    pub(crate) fn new(shared: Arc<Shared<C>>, key: SlotKey, held: Held<C>) -> Self {
        Self {
            held: Some(held),
            key,
            shared,
        }
    }

    /// The connection's number, unique within its pool; it keeps it from lease to lease.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// use jackpot::Connection;
    ///
    /// let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// let first = Connection::id(&pool.pull()?);
    /// assert_eq!(Connection::id(&pool.pull()?), first); // the same one again
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn id(this: &Self) -> u64 {
        this.key.id
    }

    /// The socket under the client, for options and addresses.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// use jackpot::{Connection, Pool};
    /// use std::io::BufReader;
    ///
    /// let pool = Pool::builder(move || TcpStream::connect(address))
    ///     .handshake(|stream| Ok::<_, std::io::Error>(BufReader::new(stream)))
    ///     .build()?;
    /// let lines = pool.pull()?;
    /// assert_eq!(Connection::stream(&lines).peer_addr()?, address);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn stream(this: &Self) -> &Stream {
        &this.held().stream
    }

    /// Gives the lease back: the conversation is over, even if the last thing was a write.
    ///
    /// With [`only_finished`](crate::Builder::only_finished) it is the only way back into the
    /// pool. It overrides "unanswered" and nothing else: what is broken, doomed, or finished while
    /// its thread panics still closes, and so do bytes that a [`BufStream`](crate::BufStream) has not
    /// sent.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::io::Write;
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// use jackpot::Connection;
    ///
    /// let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// let mut connection = pool.pull()?;
    /// connection.write_all(b"set quiet 1 0 1\r\n")?; // the server sends no reply
    /// Connection::finish(connection);
    /// assert_eq!(pool.stats().idle, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn finish(mut this: Self) {
        if let Some(held) = this.held.take() {
            this.shared.give_back(this.key, held, true);
        }
    }

    /// Closes the connection; somebody who waits may have its place.
    ///
    /// For a caller that gives up in the middle of a reply, which the pool cannot see.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// jackpot::Connection::discard(pool.pull()?);
    /// assert_eq!(pool.stats().open, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn discard(mut this: Self) {
        let Some(held) = this.held.take() else {
            return;
        };
        this.shared.tell_returned(this.key);
        let (key, signal) = (this.key, held.stream.socket().peer_signal(false));
        this.shared.with(|core| core.discard(key, held, signal));
    }

    /// Takes the client out of the pool for good; somebody who waits may have its place.
    ///
    /// The connection is not closed, and is no longer counted or limited. `free` and `end` do not
    /// reach it any more.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::new(20, move || TcpStream::connect(address))?;
    /// let stream = jackpot::Connection::detach(pool.pull()?);
    /// assert_eq!(pool.stats().open, 0);
    /// assert_eq!(stream.peer_addr()?, address); // still connected
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    ///
    /// Never: a lease holds its client until it ends.
    #[must_use = "to close the connection, call `discard`"]
    pub fn detach(mut this: Self) -> C {
        let held = this.held.take().expect("bug: a lease without a client");
        this.shared.tell_returned(this.key);
        let (key, signal) = (this.key, held.stream.socket().peer_signal(false));
        this.shared.with(|core| core.detach(key, signal));
        held.client
    }

    /// Whether the pool wants this lease back soon; costs no lock.
    ///
    /// It does if the lease is to close when it comes back (`free`, `end`, a lifetime that a sweep
    /// found over), if the limit was lowered below what is open, and if callers wait whom no connect
    /// under way will serve.
    pub(crate) fn is_wanted_back(this: &Self) -> bool {
        this.shared.wants_back(this.held().stream.socket())
    }

    /// Whether the connection lay idle, or served another lease, before this one.
    pub(crate) fn is_reused(this: &Self) -> bool {
        this.shared.with(|core| core.is_reused(this.key))
    }

    pub(crate) fn key(&self) -> SlotKey {
        self.key
    }

    /// Leaves the lease to the pool: it counts as leased, and closes as soon as somebody wants its
    /// place, unless it is taken back before.
    pub(crate) fn abandon(mut this: Self) -> Abandoned<C> {
        let (key, shared) = (this.key, Arc::clone(&this.shared));
        if let Some(held) = this.held.take() {
            shared.with(|core| core.abandon(key, held));
        }
        Abandoned { key, shared }
    }

    fn held(&self) -> &Held<C> {
        self.held.as_ref().expect("bug: a lease without a client")
    }
}

/// A lease on which its holder waits for nothing any more; dropped, it closes.
pub(crate) struct Abandoned<C> {
    key: SlotKey,
    shared: Arc<Shared<C>>,
}

impl<C> Abandoned<C> {
    /// The lease again, unless it has been closed.
    pub(crate) fn take_back(self) -> Option<Connection<C>> {
        let key = self.key;
        let held = self.shared.with(|core| core.take_abandoned(key))?;
        let shared = Arc::clone(&self.shared);
        Some(Connection::new(shared, key, held))
    }
}

impl<C> Drop for Abandoned<C> {
    fn drop(&mut self) {
        let key = self.key;
        self.shared.with(|core| {
            if let Some(client) = core.take_abandoned(key) {
                core.discard(key, client, PeerSignal::Silence);
            }
        });
    }
}

impl<C> Drop for Connection<C> {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.shared.give_back(self.key, held, false);
        }
    }
}

impl<C> Deref for Connection<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.held().client
    }
}

impl<C> DerefMut for Connection<C> {
    fn deref_mut(&mut self) -> &mut C {
        let held = self.held.as_mut();
        &mut held.expect("bug: a lease without a client").client
    }
}

impl<C: Read> Read for Connection<C> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (**self).read(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (**self).read_vectored(buffers)
    }

    fn read_to_end(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        (**self).read_to_end(buffer)
    }

    fn read_to_string(&mut self, buffer: &mut String) -> io::Result<usize> {
        (**self).read_to_string(buffer)
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        (**self).read_exact(buffer)
    }
}

impl<C: Write> Write for Connection<C> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        (**self).write(buffer)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        (**self).write_vectored(buffers)
    }

    fn write_all(&mut self, buffer: &[u8]) -> io::Result<()> {
        (**self).write_all(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        (**self).flush()
    }
}

impl<C: BufRead> BufRead for Connection<C> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        (**self).fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        (**self).consume(amount);
    }
}

/// A lease whose thread panics is closed, not reused; nobody sees it half-way.
impl<C: UnwindSafe> UnwindSafe for Connection<C> {}
impl<C: RefUnwindSafe> RefUnwindSafe for Connection<C> {}

/// Shows the number and the socket, whatever the client is.
impl<C> fmt::Debug for Connection<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.key.id)
            .field("stream", &self.held.as_ref().map(|held| &held.stream))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::Builder;
    use crate::pool::Pool;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    /// A pool without a reaper thread, and the server that it connects to.
    fn pool(limit: usize, lifetime: Option<Duration>) -> (Pool, TcpListener) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let pool = Builder::new(move || TcpStream::connect(address))
            .limit(limit)
            .max_lifetime(lifetime)
            .reap_interval(None)
            .build()
            .unwrap();
        (pool, server)
    }

    #[test]
    fn a_doomed_lease_is_wanted_back_and_no_other() {
        let (pool, _server) = pool(3, None);
        let (a, b) = (pool.pull().unwrap(), pool.pull().unwrap());
        assert!(!Connection::is_wanted_back(&a) && !Connection::is_wanted_back(&b));
        pool.free(1);
        assert!(!Connection::is_wanted_back(&a) && Connection::is_wanted_back(&b));
        drop(b);
        let c = pool.pull().unwrap();
        assert!(!Connection::is_wanted_back(&c));
        pool.end();
        assert!(Connection::is_wanted_back(&a) && Connection::is_wanted_back(&c));
    }

    #[test]
    fn an_aborted_lease_is_wanted_back() {
        let (pool, _server) = pool(1, None);
        let lease = pool.pull().unwrap();
        pool.free_with(0, crate::Close::Hard);
        assert!(Connection::is_wanted_back(&lease));
    }

    #[test]
    fn leases_are_wanted_back_while_there_are_more_than_the_limit() {
        let (pool, _server) = pool(2, None);
        let (a, b) = (pool.pull().unwrap(), pool.pull().unwrap());
        pool.set_limit(1);
        assert!(Connection::is_wanted_back(&a) && Connection::is_wanted_back(&b));
        drop(a);
        assert!(!Connection::is_wanted_back(&b));
    }

    #[test]
    fn a_lease_is_wanted_back_while_somebody_waits_whom_no_connect_serves() {
        let (pool, _server) = pool(1, None);
        let lease = pool.pull().unwrap();
        let waiter = std::thread::spawn({
            let pool = pool.clone();
            move || pool.pull().map(|lease| Connection::is_wanted_back(&lease))
        });
        while !Connection::is_wanted_back(&lease) {
            std::thread::yield_now();
        }
        drop(lease);
        assert!(!waiter.join().unwrap().unwrap());
    }

    #[test]
    fn a_sweep_wants_back_what_is_too_old() {
        let (pool, _server) = pool(2, Some(Duration::ZERO));
        let lease = pool.pull().unwrap();
        assert!(!Connection::is_wanted_back(&lease));
        pool.reap();
        assert!(Connection::is_wanted_back(&lease));
    }
}
