//! An echo server that misbehaves on purpose: one thread for each connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::random::Random;

/// How long a caller should wait for a reply of this server: less than a late one takes.
pub(crate) const PATIENCE: Duration = Duration::from_millis(50);

/// One request in so many is not just answered.
const ONE_IN: u64 = 500;

/// A reply that is longer may come in parts, and a stray byte behind it at any later time.
const SHORT: usize = 1000;

/// What the server does with a request instead of just answering it.
#[derive(Clone, Copy, Debug)]
enum Mischief {
    CloseFirst,
    CloseAfter,
    ResetFirst,
    ResetAfter,
    Stall,
    AnswerLate,
    Stray,
    Half,
}

const ALL: [(Mischief, &str); 8] = [
    (Mischief::CloseFirst, "closed instead of answering"),
    (Mischief::CloseAfter, "closed after answering"),
    (Mischief::ResetFirst, "reset instead of answering"),
    (Mischief::ResetAfter, "reset after answering"),
    (Mischief::Stall, "never answered"),
    (Mischief::AnswerLate, "answered too late"),
    (Mischief::Stray, "added a stray byte"),
    (Mischief::Half, "sent half a reply"),
];

/// The server, up or down.
pub(crate) struct Unruly {
    address: SocketAddr,
    temper: Arc<Temper>,
    running: Option<Running>,
    random: Random,
    restart_every: Duration,
    /// When it dies next or, while it is down, comes back.
    turn: Instant,
    restarts: u64,
}

type Witness = dyn Fn(&[u8]) + Send + Sync;

/// What all connections of the server share.
struct Temper {
    seed: u64,
    /// Is shown every request before anything is done with it.
    witness: Box<Witness>,
    accepted: AtomicU64,
    done: [AtomicU64; ALL.len()],
}

struct Running {
    stopping: Arc<AtomicBool>,
    sockets: Arc<Mutex<Vec<Weak<TcpStream>>>>,
    acceptor: JoinHandle<()>,
}

impl Unruly {
    /// Starts on a free port, and plans a few restarts for a run of this length.
    pub(crate) fn start(
        seed: u64,
        run: Duration,
        witness: impl Fn(&[u8]) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let restart_every = (run / 5).clamp(Duration::from_millis(500), Duration::from_secs(3));
        let mut server = Self {
            address: listener.local_addr()?,
            temper: Arc::new(Temper {
                seed,
                witness: Box::new(witness),
                accepted: AtomicU64::new(0),
                done: Default::default(),
            }),
            running: None,
            random: Random::new(seed, u64::MAX),
            restart_every,
            turn: Instant::now() + restart_every,
            restarts: 0,
        };
        server.running = Some(server.run(listener));
        Ok(server)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn restarts(&self) -> u64 {
        self.restarts
    }

    /// What it did, and how often.
    pub(crate) fn record(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.temper.done.iter().map(|count| count.load(Relaxed));
        ALL.iter().map(|(_, name)| *name).zip(counts)
    }

    /// Dies or comes back, if it is time for that.
    pub(crate) fn tick(&mut self) {
        if Instant::now() < self.turn {
            return;
        }
        let pause = if self.running.is_some() {
            self.die();
            let (least, most) = (Duration::from_millis(50), Duration::from_millis(400));
            self.random.between(least, most)
        } else if self.come_back() {
            let every = self.restart_every;
            self.random.between(every / 2, every)
        } else {
            return;
        };
        self.turn = Instant::now() + pause;
    }

    /// Comes back if it is down, so that the last requests need not wait.
    pub(crate) fn calm_down(&mut self) {
        if self.running.is_none() {
            self.come_back();
        }
    }

    /// Closes the listener and every connection, half of the time by reset.
    fn die(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        let hard = self.random.below(2) == 0;
        running.stopping.store(true, Relaxed);
        // Wakes the acceptor, which sees that it is to stop.
        let _ = TcpStream::connect(self.address);
        let _ = running.acceptor.join();
        for socket in lock(&running.sockets).iter().filter_map(Weak::upgrade) {
            if hard {
                reset_on_close(&socket);
            }
            // Wakes the serving thread, which closes it.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Listens on the same port again, if the system lets it.
    fn come_back(&mut self) -> bool {
        let Ok(listener) = TcpListener::bind(self.address) else {
            return false;
        };
        self.running = Some(self.run(listener));
        self.restarts += 1;
        true
    }

    fn run(&self, listener: TcpListener) -> Running {
        let stopping = Arc::new(AtomicBool::new(false));
        let sockets = Arc::new(Mutex::new(Vec::new()));
        let acceptor = thread::spawn({
            let (stopping, sockets) = (Arc::clone(&stopping), Arc::clone(&sockets));
            let temper = Arc::clone(&self.temper);
            move || accept(&listener, &stopping, &sockets, &temper)
        });
        Running {
            stopping,
            sockets,
            acceptor,
        }
    }
}

impl Drop for Unruly {
    fn drop(&mut self) {
        self.die();
    }
}

fn accept(
    listener: &TcpListener,
    stopping: &AtomicBool,
    sockets: &Mutex<Vec<Weak<TcpStream>>>,
    temper: &Arc<Temper>,
) {
    for socket in listener.incoming() {
        if stopping.load(Relaxed) {
            return;
        }
        let Ok(socket) = socket else { continue };
        let socket = Arc::new(socket);
        let mut open = lock(sockets);
        open.retain(|socket| socket.strong_count() > 0);
        open.push(Arc::downgrade(&socket));
        drop(open);
        let temper = Arc::clone(temper);
        thread::spawn(move || serve(&socket, &temper));
    }
}

fn serve(mut socket: &TcpStream, temper: &Temper) {
    let number = temper.accepted.fetch_add(1, Relaxed);
    let mut random = Random::new(temper.seed, number);
    let mut lines = BufReader::new(socket);
    let mut line = Vec::new();
    while matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
        (temper.witness)(&line);
        match temper.choose(&mut random) {
            None => {
                if socket.write_all(&line).is_err() {
                    return;
                }
            }
            Some(mischief) => {
                let goes_on = mischief.run(socket, &line, &mut lines, &mut random);
                if !matches!(goes_on, Ok(true)) {
                    return;
                }
            }
        }
        line.clear();
    }
}

impl Temper {
    fn choose(&self, random: &mut Random) -> Option<Mischief> {
        let choices = u64::try_from(ALL.len()).ok()?;
        let choice = usize::try_from(random.below(ONE_IN * choices)).ok()?;
        let (mischief, _) = ALL.get(choice)?;
        self.done[choice].fetch_add(1, Relaxed);
        Some(*mischief)
    }
}

impl Mischief {
    /// Whether the connection goes on afterwards.
    fn run(
        self,
        mut socket: &TcpStream,
        line: &[u8],
        requests: &mut impl Read,
        random: &mut Random,
    ) -> io::Result<bool> {
        match self {
            Self::CloseFirst => return Ok(false),
            Self::CloseAfter => {
                socket.write_all(line)?;
                return Ok(false);
            }
            Self::ResetFirst => {
                reset_on_close(socket);
                return Ok(false);
            }
            Self::ResetAfter => {
                socket.write_all(line)?;
                reset_on_close(socket);
                return Ok(false);
            }
            Self::Half => {
                socket.write_all(&line[..line.len() / 2])?;
                return Ok(false);
            }
            // What is asked behind it has no reply either: none overtakes another.
            Self::Stall => {
                io::copy(requests, &mut io::sink())?;
                return Ok(false);
            }
            Self::AnswerLate => {
                thread::sleep(random.between(PATIENCE * 2, PATIENCE * 4));
                socket.write_all(line)?;
            }
            Self::Stray if line.len() > SHORT => socket.write_all(line)?,
            Self::Stray => socket.write_all(&[line, b"?"].concat())?,
        }
        Ok(true)
    }
}

fn reset_on_close(socket: &TcpStream) {
    let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
