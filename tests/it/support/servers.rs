//! Servers that do what a test tells them.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use jackpot::{Builder, Pool};

use super::eventually;
use super::sockets::{connect, listen_again, read_line, reset_on_close};

/// A peer that a test drives by hand: it accepts when told, and hands the sockets out.
pub(crate) struct Peer {
    listener: TcpListener,
}

impl Peer {
    pub(crate) fn new() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// The other end of the next connection; fails the test if none comes in good time.
    #[track_caller]
    pub(crate) fn accept(&self) -> TcpStream {
        self.listener.set_nonblocking(true).unwrap();
        let mut accepted = None;
        eventually("a connection", || match self.listener.accept() {
            Ok((socket, _)) => {
                accepted = Some(socket);
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                false
            }
        });
        self.listener.set_nonblocking(false).unwrap();
        let socket = accepted.unwrap();
        // Some systems pass the listener's mode on.
        socket.set_nonblocking(false).unwrap();
        socket
    }

    /// A pool of connections to this peer, without a reaper thread.
    pub(crate) fn pool(&self, limit: usize) -> Pool {
        self.builder(limit).build().unwrap()
    }

    /// Settings for a pool of connections to this peer, without a reaper thread.
    pub(crate) fn builder(&self, limit: usize) -> Builder {
        builder(self.address(), limit)
    }
}

fn builder(address: SocketAddr, limit: usize) -> Builder {
    Pool::builder(move || connect(address))
        .limit(limit)
        .reap_interval(None)
}

/// What a scripted server does with one request line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Sends the line back.
    Echo,
    /// Sends the line back after this long.
    Late(Duration),
    /// Never answers, and keeps the connection open.
    Stall,
    /// Closes in an orderly way.
    Fin,
    /// Resets the connection.
    Rst,
    /// Sends the line back, then a byte that nobody asked for.
    Stray,
    /// Sends half of the line back, then closes.
    Half,
    /// Sends the line back, then closes.
    EchoFin,
}

/// A server in threads that can die and come back on its port; most follow a script of lines.
pub(crate) struct Server {
    address: SocketAddr,
    serve: Arc<dyn Fn(&TcpStream) + Send + Sync>,
    requests: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
    running: Option<Running>,
}

struct Running {
    stop: Arc<AtomicBool>,
    sockets: Arc<Mutex<Vec<Weak<TcpStream>>>>,
    acceptor: JoinHandle<()>,
}

impl Server {
    /// Answers request *n* as the script says.
    pub(crate) fn new(script: impl Fn(usize) -> Act + Send + Sync + 'static) -> Self {
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&requests);
        let mut server = Self::serving(move |socket| serve(socket, &script, &counter));
        server.requests = requests;
        server
    }

    /// Calls this with each connection, on a thread of the connection's own.
    pub(crate) fn serving(serve: impl Fn(&TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut server = Self {
            address: listener.local_addr().unwrap(),
            serve: Arc::new(serve),
            requests: Arc::default(),
            accepted: Arc::default(),
            running: None,
        };
        server.run(listener);
        server
    }

    pub(crate) fn echo() -> Self {
        Self::new(|_| Act::Echo)
    }

    /// Sends a byte now and then, this far apart, whatever it is asked.
    pub(crate) fn dripping(every: Duration) -> Self {
        Self::serving(move |mut socket| {
            while socket.write_all(b".").is_ok() {
                thread::sleep(every);
            }
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Settings for a pool of connections to this server, without a reaper thread.
    pub(crate) fn builder(&self, limit: usize) -> Builder {
        builder(self.address, limit)
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(SeqCst)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }

    /// Closes the listener and every connection; with `hard`, by reset.
    pub(crate) fn die(&mut self, hard: bool) {
        let Some(running) = self.running.take() else {
            return;
        };
        running.stop.store(true, SeqCst);
        // Wakes the acceptor, which sees the order to stop.
        let _ = TcpStream::connect(self.address);
        running.acceptor.join().unwrap();
        let sockets = std::mem::take(&mut *running.sockets.lock().unwrap());
        for socket in sockets.iter().filter_map(Weak::upgrade) {
            if hard {
                reset_on_close(&socket);
            }
            // Wakes the serving thread, which closes it.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Listens on the same port again.
    pub(crate) fn come_back(&mut self) {
        let listener = listen_again(self.address);
        self.run(listener);
    }

    fn run(&mut self, listener: TcpListener) {
        let stop = Arc::new(AtomicBool::new(false));
        let sockets = Arc::new(Mutex::new(Vec::new()));
        let acceptor = thread::spawn({
            let (stop, sockets) = (Arc::clone(&stop), Arc::clone(&sockets));
            let (serve, accepted) = (Arc::clone(&self.serve), Arc::clone(&self.accepted));
            move || {
                for socket in listener.incoming() {
                    if stop.load(SeqCst) {
                        return;
                    }
                    let Ok(socket) = socket else { continue };
                    accepted.fetch_add(1, SeqCst);
                    let socket = Arc::new(socket);
                    sockets.lock().unwrap().push(Arc::downgrade(&socket));
                    let serve = Arc::clone(&serve);
                    thread::spawn(move || serve(&socket));
                }
            }
        });
        self.running = Some(Running {
            stop,
            sockets,
            acceptor,
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.die(false);
    }
}

fn serve(mut socket: &TcpStream, script: &dyn Fn(usize) -> Act, requests: &AtomicUsize) {
    while let Ok(line) = read_line(&mut socket) {
        let act = script(requests.fetch_add(1, SeqCst));
        let done = match act {
            Act::Echo => socket.write_all(&line),
            Act::Late(delay) => {
                thread::sleep(delay);
                socket.write_all(&line)
            }
            Act::Stall => Ok(()),
            Act::Fin => return,
            Act::Rst => return reset_on_close(socket),
            Act::Stray => socket.write_all(&[&line[..], b"?"].concat()),
            Act::Half => {
                let _ = socket.write_all(&line[..line.len() / 2]);
                return;
            }
            Act::EchoFin => {
                let _ = socket.write_all(&line);
                return;
            }
        };
        if done.is_err() {
            return;
        }
    }
}
