//! Plain sockets: how they are made, what they say, and what becomes of them.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use jackpot::{Eviction, Factory};

use super::servers::Peer;
use super::{SOON, eventually};

/// A connection whose send buffer says how large it is.
///
/// Wine says 16 KiB of every buffer whose size was not set, whatever it holds.
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(address)?;
    if cfg!(windows) {
        socket2::SockRef::from(&tcp).set_send_buffer_size(64 << 10)?;
    }
    Ok(tcp)
}

/// Waits until the other side has closed; fails the test if it does not in good time.
#[track_caller]
pub(crate) fn assert_closed(socket: &mut TcpStream) {
    socket.set_read_timeout(Some(SOON)).unwrap();
    let error = loop {
        match socket.read(&mut [0; 4096]) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
}

/// Closes with a reset instead of an orderly end.
pub(crate) fn reset(socket: TcpStream) {
    reset_on_close(&socket);
    drop(socket);
}

pub(super) fn reset_on_close(socket: &TcpStream) {
    let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Two plain sockets, connected to each other.
fn pair() -> (TcpStream, TcpStream) {
    let peer = Peer::new();
    let near = TcpStream::connect(peer.address()).unwrap();
    (near, peer.accept())
}

/// Whether a reset can be told from an orderly end here; plain sockets are asked.
///
/// Windows programs under Wine cannot.
pub(crate) fn shows_resets() -> bool {
    static SHOWS: LazyLock<bool> = LazyLock::new(|| {
        let (mut near, far) = pair();
        reset(far);
        let shows = near.read(&mut [0]).is_err();
        assert!(shows || cfg!(windows));
        shows
    });
    *SHOWS
}

/// How the pool sees a reset, of a socket in which bytes lie or not.
pub(crate) fn reset_cause(bytes: bool) -> Eviction {
    match (shows_resets(), bytes) {
        (true, _) => Eviction::SocketError,
        (false, true) => Eviction::Unread,
        (false, false) => Eviction::PeerClosed,
    }
}

/// Whether `shutdown` wakes a thread that is blocked on the socket; plain sockets are asked.
///
/// It is documented to do so, and does not under Wine.
pub(crate) fn shutdown_wakes() -> bool {
    static WAKES: LazyLock<bool> = LazyLock::new(|| {
        let (near, _far) = pair();
        let (tell, told) = mpsc::channel();
        let reader = Arc::new(near);
        let near = Arc::clone(&reader);
        thread::spawn(move || {
            tell.send(None).unwrap();
            let _ = tell.send(Some((&*reader).read(&mut [0])));
        });
        assert!(told.recv().unwrap().is_none());
        // No system tells that a thread is blocked in a read. Where it is not yet, this says that it
        // is woken, which is true of every system but Wine.
        thread::sleep(Duration::from_millis(100));
        near.shutdown(Shutdown::Both).unwrap();
        let wakes = told.recv_timeout(Duration::from_secs(2)).is_ok();
        assert!(wakes || cfg!(windows));
        if !wakes {
            eprintln!("skipped: here, shutdown does not wake a thread that is blocked on a socket");
        }
        wakes
    });
    *WAKES
}

/// An address on which nobody listens.
pub(crate) fn refused() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Every socket that a factory opened, to see afterwards that none was left open.
#[derive(Clone, Default)]
pub(crate) struct Opened {
    names: Arc<Mutex<Vec<PathBuf>>>,
}

impl Opened {
    /// This factory, watched.
    pub(crate) fn by(&self, factory: impl Factory) -> impl Factory {
        let names = Arc::clone(&self.names);
        move || {
            let tcp = factory.connect()?;
            names.lock().unwrap().extend(name(&tcp));
            Ok(tcp)
        }
    }

    /// How many of them this process still has open; zero where the system does not tell.
    pub(crate) fn left(&self) -> usize {
        let Ok(folder) = fs::read_dir(DESCRIPTORS) else {
            return 0;
        };
        let open: HashSet<PathBuf> = folder
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .collect();
        let names = self.names.lock().unwrap();
        names.iter().filter(|&name| open.contains(name)).count()
    }
}

const DESCRIPTORS: &str = "/proc/self/fd";

/// What the system calls this socket: `socket:[inode]`, never used twice.
#[cfg(target_os = "linux")]
fn name(tcp: &TcpStream) -> Option<PathBuf> {
    use std::os::fd::AsRawFd;

    fs::read_link(format!("{DESCRIPTORS}/{}", tcp.as_raw_fd())).ok()
}

#[cfg(not(target_os = "linux"))]
fn name(_: &TcpStream) -> Option<PathBuf> {
    None
}

/// An address that never answers a connect: a listener whose backlog is full.
pub(crate) struct BlackHole {
    listener: TcpListener,
    _backlog: Vec<TcpStream>,
}

impl BlackHole {
    pub(crate) fn new() -> Self {
        let listener = listen(([127, 0, 0, 1], 0).into(), 0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut backlog = Vec::new();
        while let Ok(tcp) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
            backlog.push(tcp);
        }
        Self {
            listener,
            _backlog: backlog,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }
}

/// Binds a port on which connections of a dead server may still linger.
pub(crate) fn listen_again(address: SocketAddr) -> TcpListener {
    let mut listener = None;
    eventually("the port is free again", || {
        listener = listen(address, 1024).ok();
        listener.is_some()
    });
    listener.unwrap()
}

fn listen(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        None,
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// One line with its newline, byte by byte: nothing behind it is taken from the socket.
pub(crate) fn read_line(socket: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') {
        socket.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(line)
}

/// Sends a line and reads one back.
pub(crate) fn ask(stream: &mut (impl Read + Write), line: &str) -> io::Result<String> {
    stream.write_all(format!("{line}\n").as_bytes())?;
    let reply = read_line(stream)?;
    Ok(String::from_utf8_lossy(&reply).trim_end().to_owned())
}
