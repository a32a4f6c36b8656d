//! Many threads, every method, and a server that misbehaves.
//!
//! Each action lists the errors that it may meet, every reply must carry its request's number,
//! and a run ends on identities, not on "it did not crash". `JACKPOT_SEED` repeats the choices of
//! a run (though not the scheduling), `JACKPOT_MILLIS` sets how long each of the two runs lasts.

#[path = "common/books.rs"]
mod books;
#[path = "common/process.rs"]
mod process;

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::env;
use std::fmt::Write as _;
use std::hash::BuildHasher;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Backoff, Close, Connection, Error, Event, Factory, Jitter, Pool, State, Stream};

use books::{assert_over, assert_sums};
use process::{descriptors, threads_named};

const THREADS: usize = 12;
const LIMIT: usize = 8;
/// What a panic that a test wants says; anything else is a fault.
const ON_PURPOSE: &str = "on purpose";
/// Far longer than any bound here; only a failing run waits for it.
const SOON: Duration = Duration::from_secs(15);
const STUCK: Duration = Duration::from_secs(20);

#[test]
fn every_action_at_once_keeps_the_books() {
    let _alone = alone();
    let (seed, length) = (seed(), length(4000));
    let start = Census::new();
    let run = Run::new(seed);
    run.work(length);
    run.close_the_books();
    drop(run);
    start.is_back();
}

#[test]
fn a_pool_that_ends_in_the_middle_keeps_the_books() {
    let _alone = alone();
    let (seed, length) = (seed(), length(2000));
    let rounds = 5;
    let start = Census::new();
    for round in 0..rounds {
        let run = Run::new(seed.wrapping_add(round));
        let ender = thread::spawn({
            let (shared, mut random) = (Arc::clone(&run.shared), Random(seed ^ round));
            let wait = random.millis(1 + length.as_millis() / u128::from(rounds));
            let close = random.pick(&[Close::Soft, Close::Hard]);
            move || {
                thread::sleep(wait);
                shared.is_ending.store(true, SeqCst);
                shared.pool().end_with(close);
                assert!(shared.pool().is_ended());
                assert!(matches!(shared.pool().pull(), Err(Error::Ended)));
            }
        });
        run.work(length / u32::try_from(rounds).unwrap());
        ender.join().unwrap();
        run.close_the_books();
    }
    start.is_back();
}

/// Threads and descriptors are counted, so one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    static QUIET: Once = Once::new();
    let alone = lock(&ALONE);
    QUIET.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let text = info.payload().downcast_ref::<String>();
            if text.is_none_or(|text| text != ON_PURPOSE) {
                loud(info);
            }
        }));
    });
    alone
}

fn seed() -> u64 {
    let seed = match env::var("JACKPOT_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => RandomState::new().hash_one(0) >> 32,
    };
    eprintln!("to see it again: JACKPOT_SEED={seed}");
    seed
}

fn length(default: u64) -> Duration {
    let millis = env::var("JACKPOT_MILLIS").map_or(default, |text| text.parse().unwrap());
    Duration::from_millis(millis)
}

/// What every thread of a run sees.
struct Shared {
    pool: Mutex<Option<Pool<Client>>>,
    address: SocketAddr,
    server: Arc<Server>,
    is_over: AtomicBool,
    /// Set before the pool ends; from then on every action may fail with `Ended`.
    is_ending: AtomicBool,
    leases: AtomicU64,
    next_request: AtomicU64,
    clients: Arc<AtomicUsize>,
    frees: AtomicU64,
    seen: Seen,
    progress: Vec<Progress>,
}

/// What a thread does, and how often it began something.
#[derive(Default)]
struct Progress {
    steps: AtomicU64,
    action: Mutex<&'static str>,
}

impl Shared {
    fn pool(&self) -> Pool<Client> {
        lock(&self.pool).clone().expect("the run is not over")
    }
}

struct Run {
    seed: u64,
    shared: Arc<Shared>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let server = Server::start(random.next());
        let clients: Arc<AtomicUsize> = Arc::default();
        let shared = Arc::new(Shared {
            pool: Mutex::new(None),
            address: server.address,
            server,
            is_over: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
            leases: AtomicU64::new(0),
            next_request: AtomicU64::new(1),
            clients,
            frees: AtomicU64::new(0),
            seen: Seen::default(),
            progress: (0..THREADS).map(|_| Progress::default()).collect(),
        });
        let chances = Arc::new(Mutex::new(Random(random.next())));
        let lucky = {
            let server = Arc::clone(&shared.server);
            move |percent| !server.behaves.load(SeqCst) && lock(&chances).chance(percent)
        };
        let pool = Pool::builder(factory(shared.address, Mood::Good))
            .limit(LIMIT)
            .min_idle(random.below(3))
            .max_connecting(1 + random.below(4))
            .backoff(short_backoff(&mut random))
            .idle_timeout(random.pick(&[None, Some(Duration::from_millis(30))]))
            .max_lifetime(random.pick(&[None, Some(Duration::from_millis(300))]))
            .reap_interval(Some(Duration::from_millis(10)))
            .read_timeout(Some(Duration::from_millis(40)))
            .write_timeout(Some(Duration::from_millis(100)))
            .leak_after(Some(Duration::from_millis(5)))
            .handshake({
                let (clients, lucky) = (Arc::clone(&shared.clients), lucky.clone());
                move |stream| {
                    let mut client = Client::new(stream, &clients, lucky(3));
                    assert!(!lucky(1), "{ON_PURPOSE}");
                    match read_line(&mut client.stream)?.as_str() {
                        "hello" => Ok(client),
                        other => Err(io::Error::other(format!("greeted with {other:?}"))),
                    }
                }
            })
            .ping(Duration::from_millis(20), {
                let lucky = lucky.clone();
                move |client: &mut Client| {
                    assert!(!lucky(2), "{ON_PURPOSE}");
                    client.is_fresh = true;
                    client.ask(u64::MAX)
                }
            })
            .recycle({
                move |_: &mut Client| {
                    assert!(!lucky(1), "{ON_PURPOSE}");
                    if lucky(1) { Err("not again") } else { Ok(()) }
                }
            })
            .on_event({
                let shared = Arc::downgrade(&shared);
                move |event| {
                    if let Some(shared) = shared.upgrade() {
                        shared.seen.note(event);
                        let pool = lock(&shared.pool).clone();
                        if let Some(pool) = pool {
                            shared.seen.check(&pool);
                        }
                    }
                }
            })
            .build()
            .unwrap();
        *lock(&shared.pool) = Some(pool);
        Self { seed, shared }
    }

    /// All threads do whatever they like for so long.
    fn work(&self, length: Duration) {
        let workers: Vec<_> = (0..THREADS)
            .map(|index| {
                let shared = Arc::clone(&self.shared);
                let mut random = Random(self.seed);
                for _ in 0..=index {
                    random = Random(random.next());
                }
                let name = format!("worker-{index}");
                let worker = thread::Builder::new().name(name);
                let run = move || Worker::new(&shared, index, random).run();
                worker.spawn(run).unwrap()
            })
            .collect();
        let deadline = Instant::now() + length;
        let mut watchdog = Watchdog::new(self.seed, &self.shared);
        while !workers.iter().all(thread::JoinHandle::is_finished) {
            let is_failed = self.shared.is_over.load(SeqCst);
            self.shared
                .is_over
                .store(is_failed || Instant::now() >= deadline, SeqCst);
            watchdog.check();
            thread::sleep(Duration::from_millis(5));
        }
        for worker in workers {
            if let Err(panic) = worker.join() {
                panic::resume_unwind(panic);
            }
        }
    }

    /// Nothing is left over, and everything that happened adds up.
    fn close_the_books(&self) {
        let shared = &self.shared;
        let pool = shared.pool();
        pool.set_factory(factory(shared.address, Mood::Good));
        shared.server.behave();
        eventually("everybody is home", || {
            let stats = pool.stats();
            stats.leased + stats.waiting + stats.connecting == 0
        });
        if !pool.is_ended() {
            // It still works, up to its limit.
            pool.set_limit(LIMIT);
            let backoff = Backoff::new().retries(1000).min(Duration::from_millis(1));
            pool.set_backoff(backoff.max(Duration::from_millis(20)))
                .unwrap();
            let held: Vec<_> = (0..LIMIT)
                .map(|_| pool.pull_timeout(SOON).unwrap())
                .collect();
            shared.leases.fetch_add(LIMIT as u64, SeqCst);
            assert!(matches!(pool.allocate(), Err(Error::Full { .. })));
            drop(held);
        }
        pool.end();
        assert!(pool.drain(SOON), "{}", pool.stats());
        let stats = pool.stats();
        assert_over(&stats);
        assert_eq!(stats.allocations, shared.leases.load(SeqCst));
        eventually("every event is told", || {
            let seen = lock(&shared.seen.counts);
            seen.evicted == stats.releases && seen.failed == stats.connect_failures
        });
        let seen = lock(&shared.seen.counts);
        assert_eq!(seen.connected, stats.connects);
        assert_eq!(seen.freed, shared.frees.load(SeqCst));
        assert_eq!(seen.ended, 1);
        assert_eq!(seen.faults, "");
        drop(seen);
        assert!(lock(&shared.seen.open).is_empty());
        eventually("every client is dropped", || {
            shared.clients.load(SeqCst) == 0
        });
        lock(&shared.pool).take();
        drop(pool);
        shared.server.stop();
    }
}

/// What the event function saw.
#[derive(Default)]
struct Seen {
    open: Mutex<HashSet<u64>>,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    connected: u64,
    failed: u64,
    evicted: u64,
    freed: u64,
    ended: u64,
    faults: String,
}

impl Seen {
    fn note(&self, event: &Event) {
        let mut open = lock(&self.open);
        let mut counts = lock(&self.counts);
        let is_in_order = match event {
            Event::Connected { id, .. } => {
                counts.connected += 1;
                open.insert(*id)
            }
            Event::Evicted { id, .. } => {
                counts.evicted += 1;
                open.remove(id)
            }
            Event::Overdue { id, .. } => open.contains(id),
            Event::ConnectFailed { .. } => {
                counts.failed += 1;
                true
            }
            Event::Freed(_) => {
                counts.freed += 1;
                true
            }
            Event::Ended => {
                counts.ended += 1;
                true
            }
            _ => true,
        };
        if !is_in_order {
            writeln!(counts.faults, "out of order: {event:?}").unwrap();
        }
    }

    /// What holds in every snapshot.
    fn check<C: Send + 'static>(&self, pool: &Pool<C>) {
        let told = lock(&self.counts).evicted;
        let stats = &pool.stats();
        assert_sums(stats);
        let occupied = stats.open + stats.connecting;
        assert!(occupied <= LIMIT, "{stats}");
        // Beside waiters a connection lies idle only in a convoy, which there is at the limit alone.
        // One that is being closed has its place until then, and is told of afterwards.
        let closing = usize::try_from(stats.releases - told).unwrap();
        let is_at_limit = occupied + closing >= stats.limit;
        assert!(
            stats.idle == 0 || stats.waiting == 0 || is_at_limit,
            "{stats}"
        );
        let is_above = occupied > stats.limit;
        assert!(stats.idle == 0 || !is_above, "{stats}");
        assert!(stats.waiting <= THREADS + 1, "{stats}");
    }
}

struct Worker<'a> {
    shared: &'a Shared,
    pool: Pool<Client>,
    progress: &'a Progress,
    random: Random,
}

/// Which errors an action may meet, beside `Ended` once the pool is ending.
#[derive(Clone, Copy, PartialEq, Eq)]
enum May {
    /// One try: full, or its own connect failed.
    FailOnce,
    /// Several tries, all of which failed in one of these ways.
    Exhaust,
    /// Either that, or the time is up.
    ExhaustOrTimeOut(Duration),
    /// Nothing was idle.
    FindNothingIdle,
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.shared.is_over.store(true, SeqCst);
        }
    }
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared, index: usize, random: Random) -> Self {
        Self {
            shared,
            pool: shared.pool(),
            progress: &shared.progress[index],
            random,
        }
    }

    fn run(mut self) {
        let started = Instant::now();
        while !self.shared.is_over.load(SeqCst) {
            if started.elapsed().as_millis() % 1000 > 700 {
                // A calm spell, in which connections lie idle.
                self.begin("pause");
                self.pause(60);
            }
            match self.random.below(100) {
                0..20 => self.allocate(),
                20..50 => self.pull(),
                50..65 => self.pull_in_time(),
                65..72 => self.pull_what_is_idle(),
                72..74 => self.free(),
                74..76 => self.change_limit(),
                76..81 => self.change_backoff(),
                81 => self.change_factory(),
                82..86 => self.reap(),
                86..91 => self.observe(),
                91..94 => self.drain(),
                _ => self.pause(3),
            }
        }
    }

    fn allocate(&mut self) {
        self.begin("allocate");
        let result = self.pool.allocate();
        self.use_lease(result, May::FailOnce);
    }

    fn pull(&mut self) {
        self.begin("pull");
        let result = self.pool.pull();
        self.use_lease(result, May::Exhaust);
    }

    fn pull_in_time(&mut self) {
        self.begin("pull_timeout");
        let timeout = Duration::from_micros(1) + self.random.millis(40);
        let started = Instant::now();
        let result = self.pool.pull_timeout(timeout);
        let took = started.elapsed();
        assert!(took < timeout + SOON / 3, "{timeout:?} took {took:?}");
        self.use_lease(result, May::ExhaustOrTimeOut(timeout));
    }

    fn pull_what_is_idle(&mut self) {
        self.begin("pull_timeout(0)");
        let result = self.pool.pull_timeout(Duration::ZERO);
        self.use_lease(result, May::FindNothingIdle);
    }

    fn use_lease(&mut self, result: Result<Connection<Client>, Error>, may: May) {
        match result {
            Ok(connection) => {
                self.shared.leases.fetch_add(1, SeqCst);
                self.converse(connection);
            }
            Err(Error::Ended) if self.shared.is_ending.load(SeqCst) => {}
            Err(error) => permit(&error, may),
        }
    }

    /// One conversation, in one of the ways in which programs have them.
    fn converse(&mut self, mut connection: Connection<Client>) {
        self.begin("converse");
        connection.is_fresh = true;
        for _ in 0..self.random.below(3) {
            if self.ask(&mut connection).is_err() {
                // Broken off, not over: the pool must see that by itself.
                return;
            }
        }
        self.begin("end a lease");
        match self.random.below(40) {
            0 => Connection::discard(connection),
            1 => {
                connection.is_fragile = false;
                let mut client = Connection::detach(connection);
                let _ = self.ask(&mut client);
            }
            2 => {
                let result = catch_unwind(AssertUnwindSafe(|| {
                    let _held = connection;
                    panic!("{ON_PURPOSE}");
                }));
                assert!(result.is_err());
            }
            3 => {
                // A request without a reply: over, if its sender says so.
                if connection.stream.write_all(b"quiet\n").is_ok() {
                    Connection::finish(connection);
                }
            }
            4 => {
                let _ = connection.stream.write_all(b"ask 0\n"); // and never reads the reply
            }
            5 => {
                let short = Some(Duration::from_millis(2));
                let _ = connection.stream.set_read_timeout(short);
                let _ = self.ask(&mut connection);
            }
            6 => {
                let _ = connection.stream.shutdown(Shutdown::Write);
            }
            7 => {
                self.pause(10);
                drop(connection);
            }
            8..20 => Connection::finish(connection),
            _ => drop(connection),
        }
    }

    /// A reply is the right one, or there is none.
    fn ask(&self, client: &mut Client) -> io::Result<()> {
        client.ask(self.shared.next_request.fetch_add(1, SeqCst))
    }

    fn free(&mut self) {
        self.begin("free");
        let keep = self.random.below(LIMIT);
        let freed = match self.random.below(4) {
            0 => self.pool.free_with(keep, Close::Hard),
            1 => self.pool.free_with(keep, Close::Soft),
            _ => self.pool.free(keep),
        };
        self.shared.frees.fetch_add(1, SeqCst);
        assert!(freed.kept <= keep);
        assert!(freed.kept + freed.closed + freed.doomed <= LIMIT);
    }

    fn change_limit(&mut self) {
        self.begin("set_limit");
        self.pool.set_limit(self.random.below(LIMIT + 1));
        self.pause(5);
        self.pool
            .set_limit(LIMIT / 2 + self.random.below(LIMIT / 2 + 1));
        assert!(self.pool.limit() <= LIMIT);
    }

    fn change_backoff(&mut self) {
        self.begin("set_backoff");
        if self.random.chance(20) {
            let error = self.pool.set_backoff(Backoff::new().factor(0.0));
            assert!(matches!(error, Err(Error::InvalidConfig(_))));
        }
        let backoff = short_backoff(&mut self.random);
        self.pool.set_backoff(backoff).unwrap();
        assert!(self.pool.backoff().delays().count() <= MOST_RETRIES);
    }

    fn change_factory(&mut self) {
        self.begin("set_factory");
        let mood = self
            .random
            .pick(&[Mood::Good, Mood::Slow, Mood::Failing, Mood::Panicking]);
        self.pool.set_factory(factory(self.shared.address, mood));
        self.pause(4);
        self.pool
            .set_factory(factory(self.shared.address, Mood::Good));
    }

    fn reap(&mut self) {
        self.begin("reap");
        self.pool.reap();
    }

    fn observe(&mut self) {
        self.begin("stats and connections");
        self.shared.seen.check(&self.pool);
        let connections = self.pool.connections();
        let ids: HashSet<u64> = connections.iter().map(|info| info.id).collect();
        assert!(connections.len() <= LIMIT && ids.len() == connections.len());
        let connecting = |state| state == State::Connecting;
        assert!(
            connections
                .iter()
                .all(|info| !connecting(info.state) || info.leases == 0)
        );
        assert!(format!("{:?}", self.pool).contains("Pool"));
    }

    fn drain(&mut self) {
        self.begin("drain");
        let timeout = self.random.millis(5);
        let _ = self.pool.drain(timeout);
    }

    fn pause(&mut self, millis: u128) {
        thread::sleep(self.random.millis(millis));
    }

    fn begin(&self, action: &'static str) {
        *lock(&self.progress.action) = action;
        self.progress.steps.fetch_add(1, SeqCst);
    }
}

fn permit(error: &Error, may: May) {
    let is_a_cause = |error: &Error| {
        matches!(
            error,
            Error::Full { .. } | Error::Connect(_) | Error::Handshake(_)
        )
    };
    let is_permitted = match (error, may) {
        (Error::Exhausted { attempts, last, .. }, May::Exhaust | May::ExhaustOrTimeOut(_)) => {
            (1..=MOST_RETRIES + 1).contains(&(*attempts as usize)) && is_a_cause(last)
        }
        (Error::TimedOut { elapsed, last, .. }, May::ExhaustOrTimeOut(timeout)) => {
            *elapsed >= timeout && last.as_deref().is_none_or(is_a_cause)
        }
        (Error::TimedOut { last, .. }, May::FindNothingIdle) => {
            last.as_deref().is_none_or(is_a_cause)
        }
        (error, May::FailOnce) => is_a_cause(error),
        _ => false,
    };
    assert!(is_permitted, "{error:?}");
}

const MOST_RETRIES: usize = 3;

fn short_backoff(random: &mut Random) -> Backoff {
    let jitters = [
        Jitter::None,
        Jitter::Equal,
        Jitter::Full,
        Jitter::Decorrelated,
    ];
    Backoff::new()
        .retries(u32::try_from(random.below(MOST_RETRIES + 1)).unwrap())
        .min(Duration::from_millis(1))
        // The longest ones are cut short by connections that come, or the run would not end.
        .max(random.pick(&[Duration::from_millis(10), Duration::from_millis(300)]))
        .jitter(random.pick(&jitters))
}

/// Stops the process when a thread makes no progress, and says where it was.
struct Watchdog<'a> {
    seed: u64,
    shared: &'a Shared,
    last: Vec<(u64, Instant)>,
}

impl<'a> Watchdog<'a> {
    fn new(seed: u64, shared: &'a Shared) -> Self {
        let last = vec![(0, Instant::now()); THREADS];
        Self { seed, shared, last }
    }

    fn check(&mut self) {
        for (progress, (steps, since)) in self.shared.progress.iter().zip(&mut self.last) {
            let now = progress.steps.load(SeqCst);
            if now != *steps {
                (*steps, *since) = (now, Instant::now());
            } else if since.elapsed() > STUCK {
                let pool = self.shared.pool();
                let action = lock(&progress.action);
                // Not `eprintln`, which the harness keeps to itself until the test is over; and
                // that will not be, with threads that hang.
                let _ = writeln!(
                    io::stderr(),
                    "stuck in {action}, JACKPOT_SEED={}: {}\n{:#?}",
                    self.seed,
                    pool.stats(),
                    pool.connections()
                );
                std::process::exit(101);
            }
        }
    }
}

/// What callers work with: a line protocol on the pool's stream.
struct Client {
    stream: Stream,
    alive: Arc<AtomicUsize>,
    /// Panics when the pool drops it.
    is_fragile: bool,
    /// Nothing has been asked in this lease, so nothing that lies in the socket is its own fault.
    is_fresh: bool,
}

impl Client {
    fn new(stream: Stream, alive: &Arc<AtomicUsize>, is_fragile: bool) -> Self {
        alive.fetch_add(1, SeqCst);
        Self {
            stream,
            alive: Arc::clone(alive),
            is_fragile,
            is_fresh: true,
        }
    }

    fn ask(&mut self, number: u64) -> io::Result<()> {
        self.stream
            .write_all(format!("ask {number}\n").as_bytes())?;
        let mut reply = read_line(&mut self.stream)?;
        if !std::mem::take(&mut self.is_fresh) {
            reply = reply.trim_start_matches(['?', '!']).to_owned();
        }
        assert_eq!(reply, format!("told {number}"), "somebody else's reply");
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, SeqCst);
        assert!(!self.is_fragile || thread::panicking(), "{ON_PURPOSE}");
    }
}

#[derive(Clone, Copy)]
enum Mood {
    Good,
    Slow,
    Failing,
    Panicking,
}

fn factory(address: SocketAddr, mood: Mood) -> impl Factory {
    move || {
        match mood {
            Mood::Good => {}
            Mood::Slow => thread::sleep(Duration::from_millis(15)),
            Mood::Failing => return Err(io::ErrorKind::ConnectionRefused.into()),
            Mood::Panicking => panic!("{ON_PURPOSE}"),
        }
        let tcp = TcpStream::connect(address)?;
        if tcp.local_addr()? == tcp.peer_addr()? {
            return Err(io::ErrorKind::ConnectionRefused.into()); // met itself while nobody listened
        }
        Ok(tcp)
    }
}

/// A line server that does anything except answer with the wrong number.
struct Server {
    address: SocketAddr,
    is_stopping: AtomicBool,
    behaves: AtomicBool,
    open: Mutex<Vec<Arc<TcpStream>>>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Server {
    fn start(seed: u64) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            is_stopping: AtomicBool::new(false),
            behaves: AtomicBool::new(false),
            open: Mutex::default(),
            threads: Mutex::default(),
        });
        let acceptor = thread::spawn({
            let server = Arc::clone(&server);
            move || server.accept(listener, Random(seed))
        });
        lock(&server.threads).push(acceptor);
        server
    }

    fn behave(&self) {
        self.behaves.store(true, SeqCst);
    }

    fn stop(&self) {
        self.is_stopping.store(true, SeqCst);
        self.cut(false);
        loop {
            let next = lock(&self.threads).pop();
            let Some(thread) = next else { break };
            thread.join().unwrap();
            self.cut(false);
        }
    }

    fn cut(&self, hard: bool) {
        for socket in lock(&self.open).drain(..) {
            if hard {
                reset_on_close(&socket);
            }
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Accepts, and from time to time is away for a while.
    fn accept(self: Arc<Self>, listener: TcpListener, mut random: Random) {
        let mut listener = Some(listener);
        let mut until = Instant::now() + random.millis(700);
        while !self.is_stopping.load(SeqCst) {
            if Instant::now() >= until && !self.behaves.load(SeqCst) {
                drop(listener.take());
                if random.chance(70) {
                    self.cut(random.chance(50));
                }
                thread::sleep(random.millis(60));
                until = Instant::now() + random.millis(700);
            }
            let listener = match &listener {
                Some(listener) => listener,
                None => match listen_again(self.address) {
                    Ok(again) => listener.insert(again),
                    Err(_) => continue,
                },
            };
            listener.set_nonblocking(true).unwrap();
            match listener.accept() {
                Ok((socket, _)) => self.serve(socket, Random(random.next())),
                Err(_) => thread::sleep(Duration::from_micros(300)),
            }
        }
    }

    fn serve(self: &Arc<Self>, socket: TcpStream, mut random: Random) {
        socket.set_nonblocking(false).unwrap();
        let socket = Arc::new(socket);
        let mut open = lock(&self.open);
        open.retain(|socket| Arc::strong_count(socket) > 1);
        open.push(Arc::clone(&socket));
        drop(open);
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        let server = Arc::clone(self);
        threads.push(thread::spawn(move || {
            server.greet(&socket, &mut random);
            let _ = socket.shutdown(Shutdown::Both);
            lock(&server.open).retain(|other| !Arc::ptr_eq(other, &socket));
        }));
    }

    fn greet(&self, mut socket: &TcpStream, random: &mut Random) {
        if !self.behaves.load(SeqCst) {
            match random.below(100) {
                0..2 => return,
                2..4 => return reset_on_close(socket),
                4..6 => return drop(socket.write_all(b"go away\n")),
                6 => return drop(socket.read(&mut [0])),
                _ => {}
            }
        }
        let _ = socket.write_all(b"hello\n");
        let mut count = 0;
        while let Ok(line) = read_line(&mut socket) {
            count += 1;
            let Some(number) = line.strip_prefix("ask ") else {
                continue;
            };
            let reply = format!("told {number}\n");
            let choice = if self.behaves.load(SeqCst) {
                99
            } else {
                random.below(100)
            };
            let sent = match choice {
                0 => return,
                1 => return reset_on_close(socket),
                2 => drop_into(socket.read(&mut [0])),
                3 => socket
                    .write_all(&reply.as_bytes()[..reply.len() / 2])
                    .and(Err(stop())),
                4..6 => socket.write_all(reply.as_bytes()).and(Err(stop())),
                6 => {
                    reset_on_close(socket);
                    socket.write_all(reply.as_bytes()).and(Err(stop()))
                }
                7..9 => socket.write_all(format!("{reply}?").as_bytes()),
                9..14 => {
                    thread::sleep(random.millis(8));
                    socket.write_all(reply.as_bytes())
                }
                14 if count > 5 => {
                    let _ = socket.write_all(format!("{reply}!").as_bytes());
                    return reset_on_close(socket);
                }
                _ => socket.write_all(reply.as_bytes()),
            };
            if sent.is_err() {
                return;
            }
        }
    }
}

fn stop() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

/// A stalled conversation is over once the other side has given up.
fn drop_into(result: io::Result<usize>) -> io::Result<()> {
    result.and(Err(stop()))
}

fn reset_on_close(socket: &TcpStream) {
    let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

fn listen_again(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

/// A line without its newline, byte by byte: nothing behind it is taken from the socket.
fn read_line(socket: &mut impl Read) -> io::Result<String> {
    let mut line = String::new();
    let mut byte = [0];
    loop {
        socket.read_exact(&mut byte)?;
        match byte[0] {
            b'\n' => return Ok(line),
            byte => line.push(char::from(byte)),
        }
    }
}

/// The threads and descriptors of this process, where they can be counted.
struct Census {
    descriptors: Option<usize>,
}

impl Census {
    fn new() -> Self {
        Self {
            descriptors: descriptors(),
        }
    }

    fn is_back(&self) {
        eventually("no thread of the pool is left", || {
            threads_named("jackpot-") == 0
        });
        eventually("no descriptor is left", || {
            descriptors() <= self.descriptors
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[track_caller]
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Sebastiano Vigna's `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn millis(&mut self, end: u128) -> Duration {
        let micros = u64::try_from(end * 1000).unwrap();
        Duration::from_micros(self.next() % micros)
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}
