//! Connections that leave: what closes their sockets, when their places are free, and where a
//! client's destructor runs.

use std::fmt;
use std::io::{self, BufWriter, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Builder, Connection, Eviction, Pool, Stream};

use crate::support::{Gate, Peer, SOON, eventually, happens_within, one_retry, waiting_thread};

/// Less than any destructor here takes, and more than anything else does.
const PROMPT: Duration = Duration::from_secs(10);

/// A client whose destructor says goodbye, waits at a gate, and tells which thread it ran on.
struct Polite {
    stream: Stream,
    manners: Arc<Manners>,
}

#[derive(Default)]
struct Manners {
    /// How many are inside, and whether they may go on.
    gate: Mutex<(usize, bool)>,
    bell: Condvar,
    dropped: AtomicUsize,
    threads: Mutex<Vec<String>>,
}

impl Manners {
    /// Waits until a test lets go; in a test that fails, for longer than anything may take.
    fn wait(&self) {
        let mut gate = self.gate.lock().unwrap();
        gate.0 += 1;
        let waited = self
            .bell
            .wait_timeout_while(gate, 2 * PROMPT, |gate| !gate.1);
        waited.unwrap().0.0 -= 1;
    }

    fn let_go(&self) {
        self.gate.lock().unwrap().1 = true;
        self.bell.notify_all();
    }

    fn waiting(&self) -> usize {
        self.gate.lock().unwrap().0
    }
}

impl Drop for Polite {
    fn drop(&mut self) {
        let name = thread::current().name().unwrap_or_default().to_owned();
        self.manners.threads.lock().unwrap().push(name);
        let _ = self.stream.write_all(b"goodbye");
        self.manners.wait();
        self.manners.dropped.fetch_add(1, SeqCst);
    }
}

/// A server that counts how many connections are open at once, as it sees them.
struct Counter {
    /// The pool's.
    limit: usize,
    address: std::net::SocketAddr,
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Counter {
    fn new(limit: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let counter = Self {
            limit,
            address: listener.local_addr().unwrap(),
            open: Arc::default(),
            most: Arc::default(),
            said: Arc::default(),
        };
        let (open, most) = (Arc::clone(&counter.open), Arc::clone(&counter.most));
        let said = Arc::clone(&counter.said);
        thread::spawn(move || {
            // Of all that were accepted, the ones that the other side has not closed yet.
            let mut sockets: Vec<TcpStream> = Vec::new();
            for socket in listener.incoming() {
                sockets.push(socket.unwrap());
                // What was closed before this one was opened is seen to be closed by now, or soon:
                // the two may come by way of different processors.
                happens_within(Duration::from_millis(100), || {
                    sockets.retain(|socket| !has_ended(socket, &said));
                    sockets.len() <= limit
                });
                open.store(sockets.len(), SeqCst);
                most.fetch_max(sockets.len(), SeqCst);
            }
        });
        counter
    }

    fn builder(&self) -> (Builder<Polite>, Arc<Manners>) {
        let (address, manners) = (self.address, Arc::<Manners>::default());
        let theirs = Arc::clone(&manners);
        let builder = Pool::builder(move || TcpStream::connect(address))
            .limit(self.limit)
            .reap_interval(None)
            .backoff(one_retry())
            .handshake(move |stream| {
                let manners = Arc::clone(&theirs);
                Ok::<_, io::Error>(Polite { stream, manners })
            });
        (builder, manners)
    }
}

/// Whether the other side has closed this connection; what it sent before is noted.
fn has_ended(mut socket: &TcpStream, said: &Mutex<Vec<u8>>) -> bool {
    socket.set_nonblocking(true).unwrap();
    let mut bytes = [0; 64];
    loop {
        match socket.read(&mut bytes) {
            Ok(0) => return true,
            Ok(count) => said.lock().unwrap().extend_from_slice(&bytes[..count]),
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

#[track_caller]
fn promptly<R>(what: &str, f: impl FnOnce() -> R) -> R {
    let begin = Instant::now();
    let result = f();
    let took = begin.elapsed();
    assert!(took < PROMPT, "{what} took {took:?}");
    result
}

#[test]
fn a_destructor_that_blocks_holds_up_nobody_and_no_place() {
    let server = Counter::new(1);
    let (builder, manners) = server.builder();
    let pool = builder.build().unwrap();
    for round in 0..10 {
        let lease = promptly("a pull", || pool.pull_timeout(SOON).unwrap());
        if round % 2 == 0 {
            promptly("a discard", || Connection::discard(lease));
        } else {
            lease.stream.shutdown(Shutdown::Both).unwrap();
            promptly("a return", || drop(lease));
        }
    }
    eventually("the server has seen one", || server.most.load(SeqCst) > 0);
    assert_eq!(server.most.load(SeqCst), 1, "a place was free too early");
    assert_eq!(manners.dropped.load(SeqCst), 0);
    eventually("the first is being dropped", || manners.waiting() > 0);
    assert_eq!(manners.waiting(), 1, "more than one at a time");
    manners.let_go();
    eventually("all are dropped", || manners.dropped.load(SeqCst) == 10);
    let threads = manners.threads.lock().unwrap();
    assert!(threads.iter().all(|name| name == "jackpot-close"));
    drop(threads);
    drop(pool);
    assert!(server.said.lock().unwrap().is_empty(), "a goodbye was sent");
}

#[test]
fn a_call_over_dead_connections_keeps_its_time_whatever_their_destructors_do() {
    let peer = Peer::new();
    let address = peer.address();
    let manners = Arc::<Manners>::default();
    let theirs = Arc::clone(&manners);
    let is_away = Arc::new(AtomicBool::new(false));
    let away = Arc::clone(&is_away);
    let gate = Gate::default();
    let hold = gate.clone();
    let pool = Pool::builder(move || {
        if away.load(SeqCst) {
            hold.pass();
        }
        TcpStream::connect(address)
    })
    .limit(5)
    .reap_interval(None)
    .handshake(move |stream| {
        let manners = Arc::clone(&theirs);
        Ok::<_, io::Error>(Polite { stream, manners })
    })
    .build()
    .unwrap();
    let all: Vec<_> = (0..5).map(|_| pool.pull().unwrap()).collect();
    let far: Vec<_> = (0..5).map(|_| peer.accept()).collect();
    drop(all);
    drop(far);
    is_away.store(true, SeqCst);
    let none = promptly("pull_timeout(0)", || pool.pull_timeout(Duration::ZERO));
    assert!(none.unwrap_err().is_timeout());
    let brief = Duration::from_millis(100);
    let none = promptly("pull_timeout(100 ms)", || pool.pull_timeout(brief));
    assert!(none.unwrap_err().is_timeout());
    gate.open();
    manners.let_go();
}

#[test]
fn a_waiter_beside_a_blocked_destructor_is_served_promptly() {
    let server = Counter::new(1);
    let (builder, manners) = server.builder();
    let pool = builder.build().unwrap();
    let lease = pool.pull().unwrap();
    let waiter = waiting_thread(&pool, |pool| drop(pool.pull_timeout(SOON).unwrap()));
    promptly("the hand-over", || {
        Connection::discard(lease);
        waiter.join();
    });
    assert_eq!(manners.dropped.load(SeqCst), 0);
    manners.let_go();
}

#[test]
fn dropping_the_last_handle_waits_for_no_destructor() {
    let server = Counter::new(8);
    let (builder, manners) = server.builder();
    let pool = builder.build().unwrap();
    let all: Vec<_> = (0..8).map(|_| pool.pull().unwrap()).collect();
    drop(all);
    promptly("the drop of the pool", || drop(pool));
    manners.let_go();
    eventually("all are dropped", || manners.dropped.load(SeqCst) == 8);
    assert!(server.said.lock().unwrap().is_empty());
}

#[test]
fn the_reaper_goes_on_while_a_destructor_blocks() {
    let server = Counter::new(6);
    let (builder, manners) = server.builder();
    let pool = builder
        .idle_timeout(Some(Duration::ZERO))
        .reap_interval(Some(Duration::from_millis(10)))
        .build()
        .unwrap();
    for round in 1..=3 {
        let pair = [pool.pull().unwrap(), pool.pull().unwrap()];
        drop(pair);
        eventually("both are evicted", || {
            pool.stats().evicted(Eviction::IdleTimeout) == 2 * round
        });
    }
    manners.let_go();
}

#[test]
fn a_hard_end_is_not_held_up_by_destructors() {
    let server = Counter::new(3);
    let (builder, manners) = server.builder();
    let pool = builder.build().unwrap();
    let (idle, leased) = (pool.pull().unwrap(), pool.pull().unwrap());
    drop(idle);
    promptly("the end", || pool.end_with(jackpot::Close::Hard));
    promptly("the return", || drop(leased));
    assert!(pool.drain(SOON));
    manners.let_go();
    eventually("both are dropped", || manners.dropped.load(SeqCst) == 2);
    assert!(server.said.lock().unwrap().is_empty());
}

#[test]
fn a_handshake_that_breaks_its_connection_is_not_held_up_by_the_client() {
    let peer = Peer::new();
    let manners = Arc::<Manners>::default();
    let theirs = Arc::clone(&manners);
    let pool = peer
        .builder(1)
        .handshake(move |stream| {
            stream.shutdown(Shutdown::Both)?;
            let manners = Arc::clone(&theirs);
            Ok::<_, io::Error>(Polite { stream, manners })
        })
        .build()
        .unwrap();
    let error = promptly("the failure", || pool.allocate().map(drop).unwrap_err());
    assert!(error.is_connect());
    manners.let_go();
}

/// A pool of buffered writers, of which one lies idle with a request that was never flushed.
fn unflushed(
    settings: impl FnOnce(Builder<BufWriter<Stream>>) -> Builder<BufWriter<Stream>>,
) -> (Pool<BufWriter<Stream>>, TcpStream) {
    let peer = Peer::new();
    let builder = peer
        .builder(1)
        .handshake(|stream| Ok::<_, io::Error>(BufWriter::new(stream)));
    let pool = settings(builder).build().unwrap();
    let mut lease = pool.pull().unwrap();
    let far = peer.accept();
    lease.write_all(b"transfer everything\n").unwrap();
    drop(lease);
    assert_eq!(pool.stats().idle, 1, "the pool cannot see the buffer");
    (pool, far)
}

#[track_caller]
fn assert_nothing_was_sent(mut far: TcpStream) {
    let mut sent = Vec::new();
    far.set_read_timeout(Some(SOON)).unwrap();
    far.read_to_end(&mut sent).unwrap();
    assert_eq!(String::from_utf8_lossy(&sent), "");
}

#[test]
fn no_buffer_is_sent_because_an_idle_connection_is_closed() {
    let (pool, far) = unflushed(|builder| builder.idle_timeout(Some(Duration::ZERO)));
    assert_eq!(pool.reap(), 1);
    assert_nothing_was_sent(far);
}

#[test]
fn no_buffer_is_sent_because_of_a_discard() {
    let (pool, far) = unflushed(|builder| builder);
    Connection::discard(pool.pull().unwrap());
    assert_nothing_was_sent(far);
}

#[test]
fn no_buffer_is_sent_because_of_free() {
    let (pool, far) = unflushed(|builder| builder);
    pool.free(0);
    assert_nothing_was_sent(far);
}

#[test]
fn no_buffer_is_sent_because_of_the_end() {
    let (pool, far) = unflushed(|builder| builder);
    pool.end();
    assert_nothing_was_sent(far);
}

#[test]
fn no_buffer_is_sent_because_an_aborted_lease_is_dropped() {
    let (pool, far) = unflushed(|builder| builder);
    let lease = pool.pull().unwrap();
    pool.free_with(0, jackpot::Close::Hard);
    drop(lease);
    assert_nothing_was_sent(far);
}

#[test]
#[cfg(target_os = "linux")]
fn a_plain_stream_needs_no_thread_to_close() {
    crate::support::alone("closing::a_plain_stream_needs_no_thread_to_close", || {
        let peer = Peer::new();
        let pool = peer.pool(1);
        for _ in 0..20 {
            Connection::discard(pool.pull().unwrap());
            crate::support::assert_closed(&mut peer.accept());
            assert_eq!(crate::support::threads_named("jackpot-close"), 0);
        }
    });
}

/// What a factory captured, with a destructor that panics.
struct Fragile;

impl Drop for Fragile {
    fn drop(&mut self) {
        panic!("the destructor of a captured value");
    }
}

impl fmt::Debug for Fragile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fragile")
    }
}

#[test]
fn captured_values_whose_destructors_panic_do_not_reach_who_drops_the_last_lease() {
    let peer = Peer::new();
    let (address, captured, others) = (peer.address(), Fragile, [Fragile, Fragile, Fragile]);
    let [a, b, c] = others;
    let pool = Pool::builder(move || {
        let _ = &captured;
        TcpStream::connect(address)
    })
    .reap_interval(None)
    .handshake(move |stream| {
        let _ = &a;
        Ok::<_, io::Error>(stream)
    })
    .recycle(move |_| {
        let _ = &b;
        Ok::<_, io::Error>(())
    })
    .on_event(move |_| {
        let _ = &c;
    })
    .build()
    .unwrap();
    let lease = pool.pull().unwrap();
    drop(pool);
    // A destructor that panicked before does not keep the others from running.
    let dropped = thread::spawn(move || drop(lease)).join();
    assert!(dropped.is_ok());
}
