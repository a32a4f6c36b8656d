//! A stream with a buffer for each direction, which tells the socket what it holds.

use std::fmt;
use std::io::{self, BufRead, ErrorKind, IoSlice, IoSliceMut, Read, Write};

use crate::net::stream::Stream;

/// As much as std's buffers hold, in bytes.
const CAPACITY: usize = 8 * 1024;

/// A [`Stream`] with buffers: `write!` a request, `read_line` its reply.
///
/// Writes are collected and sent with one system call: before the next read that needs the socket,
/// on [`flush`](Write::flush), or when they exceed the buffer. Reads go through a buffer too, but
/// for those that are no smaller than it.
///
/// Dropping it sends nothing. It tells the socket under it what it holds, so that the pool knows:
/// a lease that comes back with unread bytes closes as [`Unread`](crate::Eviction::Unread), unless
/// [`allow_unread`](crate::Builder::allow_unread) lets the next caller have them. One with unsent
/// bytes closes as [`Unanswered`](crate::Eviction::Unanswered), and
/// [`finish`](crate::Connection::finish) does not override that. Both hold for one that is part of
/// a client of your own as well; a handshake that ends so has failed.
///
/// Bytes that are read from or written to the [`Stream`] itself go past the buffers.
///
/// # Examples
///
/// [`Builder::buffered`](crate::Builder::buffered) makes leases of it. Here it is part of a client:
///
/// ```
/// # use std::net::{TcpListener, TcpStream};
/// # let server = TcpListener::bind("127.0.0.1:0")?;
/// # let address = server.local_addr()?;
/// # std::thread::spawn(move || {
/// #     let (mut peer, _) = server.accept().unwrap();
/// #     std::io::copy(&mut peer.try_clone().unwrap(), &mut peer).unwrap();
/// # });
/// use jackpot::{BufStream, Pool};
/// use std::io::{self, BufRead, Write};
///
/// struct Client(BufStream);
///
/// impl Client {
///     fn ask(&mut self, question: &str) -> io::Result<String> {
///         writeln!(self.0, "{question}")?;
///         let mut answer = String::new();
///         self.0.read_line(&mut answer)?;
///         Ok(answer)
///     }
/// }
///
/// let pool = Pool::builder(move || TcpStream::connect(address))
///     .handshake(|stream| Ok::<_, io::Error>(Client(BufStream::new(stream))))
///     .build()?;
/// assert_eq!(pool.pull()?.ask("echo?")?, "echo?\n");
/// assert_eq!(pool.stats().idle, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct BufStream {
    stream: Stream,
    input: Box<[u8]>,
    /// What of `input` came and was not read.
    start: usize,
    end: usize,
    /// What was written and not sent.
    output: Vec<u8>,
    capacity: usize,
}

impl BufStream {
    /// Buffers of 8 KiB for either direction.
    ///
    /// # Examples
    ///
    /// See [`BufStream`].
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self::with_capacity(CAPACITY, CAPACITY, stream)
    }

    /// Buffers of so many bytes for reading and for writing.
    ///
    /// Without room for writing, each write is sent at once; a read buffer has room for one byte at
    /// least.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// use jackpot::{BufStream, Pool};
    ///
    /// let pool = Pool::builder(move || TcpStream::connect(address))
    ///     .handshake(|stream| Ok::<_, std::io::Error>(BufStream::with_capacity(65536, 512, stream)))
    ///     .build()?;
    /// assert!(pool.pull()?.unread().is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_capacity(read: usize, write: usize, stream: Stream) -> Self {
        Self {
            stream,
            input: vec![0; read.max(1)].into_boxed_slice(),
            start: 0,
            end: 0,
            output: Vec::with_capacity(write),
            capacity: write,
        }
    }

    /// The stream under the buffers, for options and addresses.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # use std::time::Duration;
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::builder(move || TcpStream::connect(address)).buffered().build()?;
    /// let lease = pool.pull()?;
    /// lease.get_ref().set_read_timeout(Some(Duration::from_secs(5)))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn get_ref(&self) -> &Stream {
        &self.stream
    }

    /// The bytes that came and were not read.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # std::thread::spawn(move || {
    /// #     use std::io::{Read, Write};
    /// #     let (mut peer, _) = server.accept().unwrap();
    /// #     peer.read_exact(&mut [0; 1]).unwrap();
    /// #     peer.write_all(b"one\ntwo\n").unwrap();
    /// #     let _ = peer.read(&mut [0; 1]);
    /// # });
    /// # let pool = jackpot::Pool::builder(move || TcpStream::connect(address)).buffered().build()?;
    /// use std::io::{BufRead, Write};
    ///
    /// let mut lease = pool.pull()?;
    /// lease.write_all(b"?")?;
    /// lease.read_line(&mut String::new())?;
    /// assert_eq!(lease.unread(), b"two\n");
    /// drop(lease); // closes: they are no reply to the next caller
    /// assert_eq!(pool.stats().evicted(jackpot::Eviction::Unread), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    /// The bytes that were written and not sent.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::net::{TcpListener, TcpStream};
    /// # let server = TcpListener::bind("127.0.0.1:0")?;
    /// # let address = server.local_addr()?;
    /// # let pool = jackpot::Pool::builder(move || TcpStream::connect(address)).buffered().build()?;
    /// use std::io::Write;
    ///
    /// let mut lease = pool.pull()?;
    /// write!(lease, "half a requ")?;
    /// assert_eq!(lease.unsent(), b"half a requ");
    /// drop(lease); // closes, and sends nothing
    /// assert_eq!(pool.stats().evicted(jackpot::Eviction::Unanswered), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        &self.output
    }

    /// Sends what was written. After an error the rest is still there.
    fn send(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            self.send_with(&[])?;
        }
        Ok(())
    }

    /// Sends what was written and these after it, in one system call; how many of these it took.
    fn send_with(&mut self, more: &[IoSlice<'_>]) -> io::Result<usize> {
        let held = self.output.len();
        let result = match (held, more) {
            (_, []) => (&self.stream).write(&self.output),
            (0, [one]) => (&self.stream).write(one),
            (0, more) => (&self.stream).write_vectored(more),
            (_, more) => {
                let mut all = Vec::with_capacity(1 + more.len());
                all.push(IoSlice::new(&self.output));
                all.extend(more.iter().map(|buffer| IoSlice::new(buffer)));
                (&self.stream).write_vectored(&all)
            }
        };
        let sent = match result {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        self.output.drain(..sent.min(held));
        self.stream.socket().set_unsent(!self.output.is_empty());
        Ok(sent.saturating_sub(held))
    }

    /// Collects as much of these as there is room for; how much that is.
    fn collect(&mut self, buffers: &[IoSlice<'_>]) -> usize {
        let before = self.output.len();
        for buffer in buffers {
            let room = self.capacity.saturating_sub(self.output.len());
            self.output.extend(buffer.iter().take(room));
        }
        let taken = self.output.len() - before;
        if taken > 0 {
            self.stream.socket().set_unsent(true);
        }
        taken
    }

    /// Whether a read of so many bytes goes to the socket itself.
    fn goes_past(&self, wanted: usize) -> bool {
        self.unread().is_empty() && wanted >= self.input.len()
    }
}

impl Read for BufStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.goes_past(buffer.len()) {
            self.send()?;
            return self.stream.read(buffer);
        }
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let wanted = buffers.iter().map(|buffer| buffer.len()).sum();
        if self.goes_past(wanted) {
            self.send()?;
            return self.stream.read_vectored(buffers);
        }
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.fill_buf()?.read_vectored(buffers)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for BufStream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.unread().is_empty() {
            self.send()?;
            self.end = 0;
            self.start = 0;
            self.end = self.stream.read(&mut self.input)?;
            // Where it is the end instead, the connection is broken.
            self.stream.socket().set_unread(true);
        }
        Ok(self.unread())
    }

    fn consume(&mut self, amount: usize) {
        self.start = self.end.min(self.start.saturating_add(amount));
        if self.unread().is_empty() {
            self.stream.socket().set_unread(false);
        }
    }
}

impl Write for BufStream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buffer)])
    }

    /// Takes all that fits, else sends at once what is there and as much of this as the socket
    /// takes.
    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let wanted: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        if self.output.len() + wanted <= self.capacity {
            return Ok(self.collect(buffers));
        }
        loop {
            let mut taken = self.send_with(buffers)?;
            if taken == 0 {
                taken = self.collect(buffers);
            }
            if taken > 0 {
                return Ok(taken);
            }
        }
    }

    /// Sends what was written; after an error the rest is still unsent.
    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// Shows the stream, and how much the buffers hold.
impl fmt::Debug for BufStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufStream")
            .field("stream", &self.stream)
            .field("unread", &self.unread().len())
            .field("unsent", &self.output.len())
            .finish_non_exhaustive()
    }
}
