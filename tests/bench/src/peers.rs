//! The pools that are measured, all with the same sockets, options and liveness check.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

/// Something that hands out connections, to many threads at once.
pub(crate) trait Source: Sync {
    type Lease<'a>: Talk
    where
        Self: 'a;

    fn lease(&self) -> Self::Lease<'_>;
}

/// What a lease is good for.
pub(crate) trait Talk: Read + Write {}

impl<T: Read + Write> Talk for T {}

/// A new socket, with the options that all share.
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// A new socket that the server has accepted, not only its kernel.
///
/// Ten thousand connects in a row would outrun the server otherwise, and a connect that finds its
/// queue full waits for a second.
pub(crate) fn connect_and_greet(address: SocketAddr) -> io::Result<TcpStream> {
    let mut socket = connect(address)?;
    socket.write_all(&[0])?;
    socket.read_exact(&mut [0])?;
    Ok(socket)
}

/// The liveness check that all share: one peek that does not wait.
pub(crate) fn is_alive(socket: &TcpStream) -> bool {
    const PEEK_WITHOUT_WAITING: i32 = 0x2 | 0x40;
    let mut byte = [MaybeUninit::uninit()];
    let found = socket2::SockRef::from(socket).recv_with_flags(&mut byte, PEEK_WITHOUT_WAITING);
    found.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// The pool that this is all about, filled to `size` connections.
pub(crate) fn jackpot(address: SocketAddr, size: usize) -> jackpot::Pool {
    filled(jackpot::Pool::builder(move || connect(address)), size)
}

/// The same, without a check of connections that were used within the last second.
pub(crate) fn jackpot_unprobed(address: SocketAddr, size: usize) -> jackpot::Pool {
    let builder = jackpot::Pool::builder(move || connect(address));
    filled(builder.probe_after(Duration::from_secs(1)), size)
}

/// Builds a pool with this limit and waits until that many connections are idle.
pub(crate) fn filled(builder: jackpot::Builder, size: usize) -> jackpot::Pool {
    let pool = builder
        .limit(size)
        .min_idle(size)
        .build()
        .expect("the settings are fine");
    while pool.stats().idle < size {
        thread::sleep(Duration::from_millis(1));
    }
    pool
}

impl Source for jackpot::Pool {
    type Lease<'a> = jackpot::Connection;

    fn lease(&self) -> jackpot::Connection {
        self.pull().expect("a connection comes in time")
    }
}

/// What r2d2 calls for connects and checks.
#[derive(Debug)]
pub(crate) struct Manager<F>(pub(crate) F);

impl<F> r2d2::ManageConnection for Manager<F>
where
    F: Fn() -> io::Result<TcpStream> + Send + Sync + 'static,
{
    type Connection = TcpStream;
    type Error = io::Error;

    fn connect(&self) -> io::Result<TcpStream> {
        (self.0)()
    }

    fn is_valid(&self, socket: &mut TcpStream) -> io::Result<()> {
        if is_alive(socket) {
            Ok(())
        } else {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }

    fn has_broken(&self, _: &mut TcpStream) -> bool {
        false
    }
}

/// r2d2, with `size` connections; `check` is its `test_on_check_out`.
pub(crate) fn r2d2(address: SocketAddr, size: u32, check: bool) -> impl Source {
    let builder = r2d2::Pool::builder().max_size(size);
    builder
        .test_on_check_out(check)
        .build(Manager(move || connect(address)))
        .expect("r2d2 connects")
}

impl<M: r2d2::ManageConnection<Connection = TcpStream>> Source for r2d2::Pool<M> {
    type Lease<'a> = Borrowed<M>;

    fn lease(&self) -> Borrowed<M> {
        Borrowed(self.get().expect("a connection comes in time"))
    }
}

/// r2d2's lease, which does not pass reading and writing on by itself.
pub(crate) struct Borrowed<M: r2d2::ManageConnection>(r2d2::PooledConnection<M>);

impl<M: r2d2::ManageConnection<Connection = TcpStream>> Read for Borrowed<M> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<M: r2d2::ManageConnection<Connection = TcpStream>> Write for Borrowed<M> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A bounded channel full of sockets: the pool that people write by hand.
pub(crate) struct Channel {
    address: SocketAddr,
    idle: Receiver<TcpStream>,
    back: Sender<TcpStream>,
}

impl Channel {
    pub(crate) fn new(address: SocketAddr, size: usize) -> Self {
        let (back, idle) = crossbeam_channel::bounded(size);
        for _ in 0..size {
            let socket = connect(address).expect("the server accepts");
            back.send(socket).expect("the receiver is here");
        }
        Self {
            address,
            idle,
            back,
        }
    }
}

impl Source for Channel {
    type Lease<'a> = Taken<'a>;

    fn lease(&self) -> Taken<'_> {
        let mut socket = self.idle.recv().expect("the sender is here");
        if !is_alive(&socket) {
            socket = connect(self.address).expect("the server accepts");
        }
        Taken {
            socket: Some(socket),
            back: &self.back,
        }
    }
}

/// A socket that goes back into its channel.
pub(crate) struct Taken<'a> {
    socket: Option<TcpStream>,
    back: &'a Sender<TcpStream>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            let _ = self.back.send(socket);
        }
    }
}

impl Taken<'_> {
    fn socket(&mut self) -> &mut TcpStream {
        self.socket.as_mut().expect("taken only by drop")
    }
}

impl Read for Taken<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket().read(buffer)
    }
}

impl Write for Taken<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.socket().write(buffer)
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket().write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// No pool: a fresh connection for each request.
pub(crate) struct Fresh(pub(crate) SocketAddr);

impl Source for Fresh {
    type Lease<'a> = TcpStream;

    fn lease(&self) -> TcpStream {
        connect(self.0).expect("the server accepts")
    }
}

/// The least that a checked lease can cost: one peek, two uncontended lock and unlock pairs around
/// a pop and a push, and one look at the clock.
pub(crate) struct Floor(Mutex<Vec<(TcpStream, Instant)>>);

impl Floor {
    pub(crate) fn new(address: SocketAddr) -> Self {
        let socket = connect(address).expect("the server accepts");
        Self(Mutex::new(vec![(socket, Instant::now())]))
    }

    #[inline]
    pub(crate) fn cycle(&self) {
        let taken = self.0.lock().expect("nobody panics").pop();
        let (socket, _) = taken.expect("one socket, one thread");
        assert!(is_alive(&socket));
        let now = Instant::now();
        self.0.lock().expect("nobody panics").push((socket, now));
    }
}
