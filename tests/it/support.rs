//! A server that does what it is told, and the means to wait for what must happen.

#[path = "../common/books.rs"]
mod books;
pub(crate) mod faults;
pub(crate) mod lateness;
pub(crate) mod leases;
#[cfg(target_os = "linux")]
pub(crate) mod namespaces;
pub(crate) mod operator;
#[cfg(target_os = "linux")]
#[path = "../common/process.rs"]
mod process;

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, LazyLock, Mutex, Once, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use jackpot::{Backoff, Builder, Connection, Event, Eviction, Factory, Pool};

pub(crate) use books::{assert_at_rest, assert_over, assert_sums};
#[cfg(target_os = "linux")]
pub(crate) use process::{descriptors, threads_named};

/// Far longer than anything here takes; only a failing test waits for it.
///
/// Wine makes the system calls of all its programs one after the other.
pub(crate) const SOON: Duration = Duration::from_secs(if cfg!(windows) { 40 } else { 10 });

/// Longer than any test lasts.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);

/// Waits until the condition holds, and fails the test if it does not in good time.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// For a promise that ends with a short time, over which a busy machine may stall.
#[track_caller]
pub(crate) fn in_one_of_a_few_tries(what: &str, attempt: impl FnMut() -> bool) {
    let mut attempts = std::iter::repeat_with(attempt).take(10);
    assert!(attempts.any(|held| held), "never in ten tries: {what}");
}

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
        let address = self.address();
        Pool::builder(move || connect(address))
            .limit(limit)
            .reap_interval(None)
    }
}

/// The one connection that this pool has made is idle again.
#[track_caller]
pub(crate) fn assert_back<C: Send + 'static>(pool: &Pool<C>) {
    let stats = pool.stats();
    assert_eq!(
        (stats.idle, stats.open, stats.releases),
        (1, 1, 0),
        "{stats}"
    );
}

/// The one connection that this pool has made has left it, for this reason.
#[track_caller]
pub(crate) fn assert_left<C: Send + 'static>(pool: &Pool<C>, why: Eviction) {
    let stats = pool.stats();
    let found = (stats.evicted(why), stats.releases, stats.open);
    assert_eq!(found, (1, 1, 0), "not only {why}: {stats}");
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

/// A panic that says nothing on the terminal.
pub(crate) fn panic_quietly() -> ! {
    std::panic::resume_unwind(Box::new("on purpose"))
}

/// Closes with a reset instead of an orderly end.
pub(crate) fn reset(socket: TcpStream) {
    reset_on_close(&socket);
    drop(socket);
}

fn reset_on_close(socket: &TcpStream) {
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

/// One retry after a moment: for tests of what happens when `pull` gives up.
pub(crate) fn one_retry() -> Backoff {
    Backoff::new()
        .retries(1)
        .min(Duration::from_millis(10))
        .max(Duration::from_millis(20))
}

/// A gate that threads wait at until a test opens it.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    inner: Arc<(Mutex<bool>, Condvar)>,
    waiting: Arc<AtomicUsize>,
}

impl Gate {
    pub(crate) fn pass(&self) {
        self.waiting.fetch_add(1, SeqCst);
        let (open, bell) = &*self.inner;
        let mut guard = open.lock().unwrap();
        while !*guard {
            guard = bell.wait(guard).unwrap();
        }
        self.waiting.fetch_sub(1, SeqCst);
    }

    pub(crate) fn open(&self) {
        *self.inner.0.lock().unwrap() = true;
        self.inner.1.notify_all();
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }
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

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
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

/// Runs `f` on a thread of its own and gives a handle that says whether it is done.
pub(crate) fn background<T: Send + 'static>(
    f: impl FnOnce() -> T + Send + 'static,
) -> Background<T> {
    let (done, result): (Sender<T>, Receiver<T>) = mpsc::channel();
    thread::spawn(move || {
        let _ = done.send(f());
    });
    Background { result }
}

pub(crate) struct Background<T> {
    result: Receiver<T>,
}

impl<T> Background<T> {
    /// What it returned; fails the test if it does not return in good time or panicked.
    #[track_caller]
    pub(crate) fn join(self) -> T {
        self.result
            .recv_timeout(SOON)
            .expect("the thread is done in good time")
    }

    pub(crate) fn is_done_with(&self) -> Option<T> {
        self.result.try_recv().ok()
    }
}

/// So many leases, in the order in which their connections were made.
pub(crate) fn lease<C: Send + 'static>(pool: &Pool<C>, count: usize) -> Vec<Connection<C>> {
    let mut leases: Vec<_> = (0..count).map(|_| pool.allocate().unwrap()).collect();
    leases.sort_by_key(Connection::id);
    leases
}

/// The connections that are idle, by their numbers.
pub(crate) fn idle<C: Send + 'static>(pool: &Pool<C>) -> Vec<u64> {
    let mut ids: Vec<u64> = pool
        .connections()
        .iter()
        .filter(|connection| connection.state == jackpot::State::Idle)
        .map(|connection| connection.id)
        .collect();
    ids.sort_unstable();
    ids
}

/// What an event function saw, in order, in a few words each.
#[derive(Clone, Default)]
pub(crate) struct Events {
    seen: Arc<Mutex<Vec<(String, String)>>>,
}

impl Events {
    /// Remembers an event and the thread that tells it.
    pub(crate) fn note(&self, event: &Event) {
        let thread = thread::current().name().unwrap_or("?").to_owned();
        self.seen.lock().unwrap().push((in_words(event), thread));
    }

    /// An event function that only remembers.
    pub(crate) fn listener(&self) -> impl Fn(&Event) + Send + Sync + 'static {
        let events = self.clone();
        move |event| events.note(event)
    }

    pub(crate) fn all(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|(event, _)| event.clone()).collect()
    }

    pub(crate) fn count(&self, event: &str) -> usize {
        self.all().iter().filter(|seen| *seen == event).count()
    }

    /// The name of the thread that told this event first.
    pub(crate) fn teller(&self, event: &str) -> Option<String> {
        let seen = self.seen.lock().unwrap();
        let found = seen.iter().find(|(what, _)| what == event);
        found.map(|(_, thread)| thread.clone())
    }
}

/// The event without its durations.
pub(crate) fn in_words(event: &Event) -> String {
    match event {
        Event::Connected { id, .. } => format!("{id} connected"),
        Event::ConnectFailed { error, .. } => format!("{error}"),
        Event::Evicted { id, why, .. } => format!("{id} evicted: {why}"),
        Event::Overdue { id, thread, .. } => {
            format!("{id} overdue by {}", thread.as_deref().unwrap_or("?"))
        }
        Event::Freed(freed) => {
            let (kept, closed, doomed) = (freed.kept, freed.closed, freed.doomed);
            format!("freed {kept}, {closed}, {doomed}")
        }
        Event::Ended => "ended".to_owned(),
        other => format!("{other:?}"),
    }
}

type Ear = Arc<dyn Fn(&log::Record<'_>) + Send + Sync>;

thread_local! {
    static EAR: RefCell<Option<Ear>> = const { RefCell::new(None) };
}

/// From now on this thread's log records go to `ear`.
///
/// A pool's own threads run functions of the test's, which can call this there.
pub(crate) fn overhear(ear: impl Fn(&log::Record<'_>) + Send + Sync + 'static) {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        log::set_logger(&Logger).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
    EAR.set(Some(Arc::new(ear)));
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let ear = EAR.try_with(|ear| ear.borrow().clone());
        if let Ok(Some(ear)) = ear {
            ear(record);
        }
    }

    fn flush(&self) {}
}

/// Runs a test in a process of its own, where the threads that it counts are its own.
#[cfg(target_os = "linux")]
pub(crate) fn alone(name: &str, test: impl FnOnce()) {
    const MARK: &str = "JACKPOT_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        return test();
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--show-output"])
        .env(MARK, "yes")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("1 passed"),
        "{told}"
    );
    print!("{told}");
    // Why something is not shown is said there.
    let _ = io::stderr().write_all(&output.stderr);
}
