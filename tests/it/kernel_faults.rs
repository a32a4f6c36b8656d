//! Errors of system calls that no peer can provoke, put there by strace.
//!
//! A child process works through a pool. While strace is attached to it, calls of one kind fail in
//! each of its threads: the first one, the second one, some at random, or all. Once strace has let
//! go, every thread of the child must get replies again; at the end its books must balance, and no
//! thread of the pool and no descriptor may be left, but for those whose `close` was the call that
//! failed.
//!
//! That takes strace and the right to attach it. Where they are missing the tests say so and show
//! nothing; with `JACKPOT_REQUIRE_STRACE` in the environment they fail.

mod tracer;

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::io::{self, BufRead, BufReader, Lines, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Backoff, Builder, Close, Connection, Connector, Error, Eviction, Pool, Stream};

use crate::support::{
    Background, SOON, Server, ask, assert_at_rest, assert_over, background, descriptors,
    eventually, threads_named,
};
use tracer::{Count, Traced, Tracer, whens};

/// In the environment of the child: the server's address.
const PEER: &str = "JACKPOT_TEST_PEER";
const REQUIRE: &str = "JACKPOT_REQUIRE_STRACE";
/// How long a call goes on failing after it has failed once.
const WHILE: Duration = Duration::from_millis(150);
const MOMENT: Duration = Duration::from_millis(20);
const LIMIT: usize = 3;
/// More than the limit, so that some always wait.
const THREADS: usize = 5;
/// How many replies each thread gets after the calls have stopped failing.
const REPLIES: usize = 10;

/// Has this system call fail in these ways, now and then and in most ways always; in the child,
/// works.
fn while_failing(test: &str, call: &str, errors: &[&str]) {
    if let Ok(address) = std::env::var(PEER) {
        // A plain stream is only closed; over a client, the socket is shut down first.
        return match call {
            "clone3" | "shutdown" => work(pool(&address).handshake(Client::new)),
            _ => work(pool(&address)),
        };
    }
    let mut child = Traced::start(test);
    let mut dead: usize = child.order("work").parse().unwrap();
    let mut all = Count::default();
    for error in errors {
        for when in whens(call, error) {
            let tracer = match Tracer::attach(child.process.id(), call, error, &when) {
                Ok(tracer) => tracer,
                Err(reason) => return not_shown(test, &reason),
            };
            let begun = Instant::now();
            while tracer.count().injected == 0 {
                assert!(begun.elapsed() < SOON, "{call} never failed at {when}");
                thread::sleep(Duration::from_millis(5));
            }
            thread::sleep(WHILE);
            let count = tracer.detach();
            println!("{call}, {error}, {when}: failed {} times", count.injected);
            all.injected += count.injected;
            all.cut += count.cut;
            // Nothing that passes by itself says that a connection is dead. A call that was being
            // failed when strace let go may end with ENOSYS, which does.
            let found: usize = child.order("recover").parse().unwrap();
            let passes = ["EAGAIN", "EINTR"].contains(error);
            if passes && ["recvfrom", "sendto"].contains(&call) {
                assert!(
                    found <= dead + count.cut,
                    "{call}, {error}, {when}: {found} were found dead, {dead} before, {count:?}"
                );
            }
            dead = found;
        }
    }
    let left: usize = child.order("end").parse().unwrap();
    let lost = if call == "close" {
        all
    } else {
        Count::default()
    };
    assert!(
        left <= lost.injected + lost.cut,
        "{left} descriptors are left, and {lost:?} were not closed"
    );
    assert!(child.process.wait().unwrap().success());
    assert!(child.server.requests() > THREADS * REPLIES * errors.len());
}

fn not_shown(test: &str, reason: &io::Error) {
    assert!(
        std::env::var_os(REQUIRE).is_none(),
        "strace cannot be used: {reason}"
    );
    let _ = writeln!(
        io::stderr(),
        "{test}: not shown, because strace cannot be used here: {reason}"
    );
}

/// What the threads of the child share.
#[derive(Default)]
struct Work {
    stop: AtomicBool,
    next: AtomicUsize,
    replies: [AtomicUsize; THREADS],
    faults: Mutex<Vec<String>>,
}

/// In the child: works as it is told to, line by line.
fn work<C: Conversation>(builder: Builder<C>) {
    let before = descriptors().unwrap();
    let pool = builder
        .ping(MOMENT / 2, |client: &mut C| ask(client, "ping").map(drop))
        .build()
        .unwrap();
    let work: Arc<Work> = Arc::default();
    let mut threads: Vec<Background<()>> = Vec::new();
    for line in io::stdin().lines() {
        let order = line.unwrap();
        match order.as_str() {
            "work" => {
                threads.extend((0..THREADS).map(|me| {
                    let (work, pool) = (Arc::clone(&work), pool.clone());
                    background(move || work.run(me, &pool))
                }));
                work.recover();
            }
            "recover" => work.recover(),
            "end" => {
                work.stop.store(true, SeqCst);
                threads.drain(..).for_each(Background::join);
                work.assert_faultless();
                // A ping may be under way, or the next one begin.
                let mut rest = None;
                eventually("nothing is under way", || {
                    let stats = pool.stats();
                    rest = Some(stats).filter(|stats| stats.leased + stats.connecting == 0);
                    rest.is_some()
                });
                assert_at_rest(&rest.unwrap());
                pool.end();
                assert!(pool.drain(SOON));
                assert_over(&pool.stats());
                eventually("no thread is left", || threads_named("jackpot-") == 0);
                return println!("{order}: {}", left_over(before));
            }
            _ => unreachable!(),
        }
        let stats = pool.stats();
        let found = [Eviction::SocketError, Eviction::HalfClosed].map(|why| stats.evicted(why));
        println!("{order}: {}", found[0] + found[1]);
    }
}

/// How many descriptors are open that were not before. A thread that closes some may have been
/// started so lately that it has no name yet.
fn left_over(before: usize) -> usize {
    let deadline = Instant::now() + SOON / 5;
    loop {
        let left = descriptors().unwrap() - before;
        if left == 0 || Instant::now() > deadline {
            return left;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// For a pool that connects, closes, pings and sets options all the time.
fn pool(address: &str) -> Builder {
    Pool::builder(Connector::new(address))
        .limit(LIMIT)
        .min_idle(1)
        .backoff(Backoff::new().retries(2).min(MOMENT / 20).max(MOMENT / 4))
        .reap_interval(Some(MOMENT / 4))
        .idle_timeout(Some(MOMENT))
        .max_lifetime(Some(MOMENT * 5))
        .read_timeout(Some(MOMENT * 20))
        .write_timeout(Some(MOMENT * 20))
}

/// What the threads of the child speak through.
trait Conversation: Read + Write + Send + 'static {
    fn stream(&self) -> &Stream;
}

impl Conversation for Stream {
    fn stream(&self) -> &Stream {
        self
    }
}

struct Client(Stream);

impl Client {
    #[expect(clippy::unnecessary_wraps, reason = "a handshake returns a result")]
    fn new(stream: Stream) -> io::Result<Self> {
        Ok(Self(stream))
    }
}

impl Conversation for Client {
    fn stream(&self) -> &Stream {
        &self.0
    }
}

impl Read for Client {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Client {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Work {
    #[track_caller]
    fn assert_faultless(&self) {
        let faults = self.faults.lock().unwrap().clone();
        assert!(faults.is_empty(), "{faults:#?}");
    }

    /// Waits until every thread has had replies.
    fn recover(&self) {
        self.assert_faultless();
        let goals = self
            .replies
            .each_ref()
            .map(|count| count.load(SeqCst) + REPLIES);
        eventually("every thread gets replies again", || {
            let mut counts = self.replies.iter().zip(goals);
            counts.all(|(count, goal)| count.load(SeqCst) >= goal)
        });
    }

    fn run<C: Conversation>(&self, me: usize, pool: &Pool<C>) {
        let (started, mut turn) = (Instant::now(), me);
        while !self.stop.load(SeqCst) {
            turn += 1;
            if turn % 40 == 0 {
                pool.free_with(1, Close::Hard);
            }
            // At times some wait for a connection, at times connections lie idle.
            if started.elapsed().as_millis() / MOMENT.as_millis() % 2 == 0 {
                thread::sleep(MOMENT / 5);
            }
            let begun = Instant::now();
            let lease = match turn % 3 {
                0 => pool.allocate(),
                1 => pool.pull(),
                _ => pool.pull_timeout(MOMENT),
            };
            if turn % 3 == 2 && begun.elapsed() > SOON / 2 {
                self.note(format!("pull_timeout took {:?}", begun.elapsed()));
            }
            match lease {
                Ok(lease) => self.converse(me, turn, lease),
                Err(Error::Full { .. }) => thread::yield_now(),
                Err(error) if error.is_ended() => self.note(error.to_string()),
                Err(_) => thread::sleep(MOMENT / 20), // as a program would, lest it spin
            }
        }
    }

    fn converse<C: Conversation>(&self, me: usize, turn: usize, mut lease: Connection<C>) {
        let stream = lease.stream();
        let options = (stream.read_timeout().ok(), stream.nodelay().ok());
        if options != (Some(Some(MOMENT * 20)), Some(true)) {
            self.note(format!("a lease began with {options:?}"));
        }
        if turn % 4 == 0 {
            let _ = lease.stream().set_read_timeout(Some(MOMENT * 10));
            let _ = lease.stream().set_nodelay(false);
        }
        let line = format!("request {}", self.next.fetch_add(1, SeqCst));
        let Ok(reply) = ask(&mut *lease, &line) else {
            return;
        };
        if reply != line {
            self.note(format!("{line:?} was answered {reply:?}"));
        }
        self.replies[me].fetch_add(1, SeqCst);
        match turn % 5 {
            0 => Connection::discard(lease),
            1 => Connection::finish(lease),
            _ => drop(lease),
        }
    }

    fn note(&self, fault: String) {
        self.stop.store(true, SeqCst);
        self.faults.lock().unwrap().push(fault);
    }
}

#[test]
fn a_pool_survives_a_connect_that_fails_in_the_kernel() {
    while_failing(
        "kernel_faults::a_pool_survives_a_connect_that_fails_in_the_kernel",
        "connect",
        &["ENOBUFS", "ENOMEM", "EINTR", "EAGAIN", "EADDRNOTAVAIL"],
    );
}

#[test]
fn a_pool_survives_sockets_that_cannot_be_made() {
    while_failing(
        "kernel_faults::a_pool_survives_sockets_that_cannot_be_made",
        "socket",
        &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"],
    );
}

#[test]
fn a_pool_survives_reads_and_probes_that_fail_in_the_kernel() {
    while_failing(
        "kernel_faults::a_pool_survives_reads_and_probes_that_fail_in_the_kernel",
        "recvfrom",
        &["ENOBUFS", "ENOMEM", "EINTR", "EAGAIN"],
    );
}

#[test]
fn a_pool_survives_writes_that_fail_in_the_kernel() {
    while_failing(
        "kernel_faults::a_pool_survives_writes_that_fail_in_the_kernel",
        "sendto",
        &["ENOBUFS", "ENOMEM", "EINTR", "EAGAIN"],
    );
}

#[test]
fn a_pool_survives_options_that_cannot_be_set() {
    while_failing(
        "kernel_faults::a_pool_survives_options_that_cannot_be_set",
        "setsockopt",
        &["ENOBUFS", "ENOMEM", "EINTR", "EAGAIN"],
    );
}

#[test]
fn a_pool_survives_threads_that_cannot_be_started() {
    while_failing(
        "kernel_faults::a_pool_survives_threads_that_cannot_be_started",
        "clone3",
        &["EAGAIN", "ENOMEM"],
    );
}

#[test]
fn a_pool_survives_a_shutdown_that_fails_in_the_kernel() {
    while_failing(
        "kernel_faults::a_pool_survives_a_shutdown_that_fails_in_the_kernel",
        "shutdown",
        &["ENOBUFS", "ENOMEM", "EINTR", "ENOTCONN"],
    );
}

#[test]
fn a_pool_survives_a_close_that_fails_in_the_kernel() {
    while_failing(
        "kernel_faults::a_pool_survives_a_close_that_fails_in_the_kernel",
        "close",
        &["EINTR", "EIO"],
    );
}
