//! Every schedule: the pool under a checker that decides who runs next.
//!
//! `docs/RELIABILITY.md` says how to run it. Each test is a scene of a few threads, played under
//! thousands of schedules: random ones, ones with few but nasty switches (PCT), and the first ones
//! of an exhaustive search. In each of them
//!
//! - nobody sleeps for ever: that is a deadlock, which the checker finds;
//! - leases and connects under way never exceed the limit, nor do the sockets that the server sees
//!   open, and no connection is leased twice;
//! - the books balance at the end, and agree with those of the other side;
//! - the pool can then still hand out as many connections as its limit says: none was lost;
//! - nothing outlives the pool: its threads end and its sockets close.
//!
//! The connections are pairs of Unix sockets, because to the pool a stream is a stream, and no
//! schedule uses up a port.

mod callers;
mod clients;
mod convoys;
mod ends;
mod outages;
mod pipeline;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::env;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use shuttle::scheduler::{
    DfsScheduler, PctScheduler, RandomScheduler, ReplayScheduler, Schedule, Scheduler, Task, TaskId,
};
use shuttle::{Config, MaxSteps, Runner};

use crate::backoff::{Backoff, Jitter};
use crate::builder::Builder;
use crate::net::connector::Factory;
use crate::net::stream::Stream;
use crate::pool::Pool;
use crate::report::error::Error;
use crate::report::event::{Close, Event};
use crate::runtime::connection::Connection;
use crate::sync::atomic::{AtomicBool, Ordering::SeqCst};
use crate::sync::{self, Condvar, Mutex, thread};

use Return::{Broken, Deserted, Fit};

const EVER: Duration = Duration::MAX;
/// The least time between two connects during an outage.
const SPACING: Duration = Duration::from_millis(100);

/// What the clock does in a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Time {
    /// Nothing: nobody times out, and a wake-up that is lost is a deadlock.
    Stands,
    /// It moves on once everybody sleeps: an endlessly fast machine.
    Waits,
    /// It jumps whenever it likes: an endlessly loaded machine.
    Jumps,
}

/// How many schedules a scene is played under by each of the three kinds of scheduler.
fn schedules() -> usize {
    env::var("JACKPOT_SCHEDULES").map_or(500, |count| {
        count.parse().expect("JACKPOT_SCHEDULES is not a number")
    })
}

/// Plays a scene under many schedules, or under the one that `JACKPOT_REPLAY` holds.
fn play(time: Time, scene: fn()) {
    let play = move || {
        sync::restart();
        // The first thread of the scene: see `TimeLast`.
        let keeper = (time != Time::Stands).then(|| thread::spawn(sync::keep_time));
        scene();
        if let Some(keeper) = keeper {
            sync::stop();
            keeper.join().unwrap();
        }
    };
    let mut config = Config::new();
    config.stack_size = 0x2_0000;
    config.max_steps = MaxSteps::FailAfter(100_000);
    config.silence_warnings = true;
    if let Ok(schedule) = env::var("JACKPOT_REPLAY") {
        INEXACT_ENDS.set(env::var_os("JACKPOT_INEXACT_ENDS").is_some());
        Runner::new(ReplayScheduler::new_from_encoded(&schedule), config).run(play);
        return;
    }
    let count = schedules().div_ceil(2);
    for inexact_ends in [false, true] {
        INEXACT_ENDS.set(inexact_ends);
        eprintln!("JACKPOT_INEXACT_ENDS: {inexact_ends}");
        let random = TimeLast(time, RandomScheduler::new(count));
        let few_switches = TimeLast(time, PctScheduler::new(3, count));
        let exhaustive = TimeLast(time, DfsScheduler::new(Some(count), false));
        Runner::new(random, config.clone()).run(play);
        Runner::new(few_switches, config.clone()).run(play);
        Runner::new(exhaustive, config.clone()).run(play);
    }
}

std::thread_local! {
    /// Whether leases come back without reading the clock, as with `probe_after`: half of all
    /// schedules. All threads of a scene are the checker's, on one of the system's.
    static INEXACT_ENDS: Cell<bool> = const { Cell::new(false) };
}

/// A scheduler that, where the time waits, lets it run only when nobody else can.
struct TimeLast<S>(Time, S);

impl<S: Scheduler> Scheduler for TimeLast<S> {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.1.new_execution()
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        let keeper = TaskId::from(1);
        let others: Vec<&Task> = runnable
            .iter()
            .copied()
            .filter(|task| task.id() != keeper)
            .collect();
        if self.0 == Time::Waits && !others.is_empty() {
            return self.1.next_task(&others, current, is_yielding);
        }
        self.1.next_task(runnable, current, is_yielding)
    }

    fn next_u64(&mut self) -> u64 {
        self.1.next_u64()
    }
}

/// The other side, which keeps books of its own.
struct World {
    /// What leases and connects under way may come to.
    most: usize,
    /// Whether a hard close may cut connects, whose factory has made a socket then.
    may_cut: bool,
    /// Not the checker's lock: it is never held while another thread may run.
    books: std::sync::Mutex<Books>,
    /// Touched where a switch to another thread is to be possible.
    step: AtomicBool,
    /// Factories that the pool still has.
    doors: Mutex<usize>,
    gone: Condvar,
}

#[derive(Default)]
struct Books {
    /// Connects that are still to fail.
    to_fail: usize,
    /// When each connect began, and when the first one succeeded.
    begun: Vec<Duration>,
    first_success: Option<Duration>,
    under_way: usize,
    made: u64,
    failed: u64,
    peers: Vec<UnixStream>,
    leased: BTreeSet<u64>,
    leases: u64,
}

/// A factory.
struct Door {
    world: Arc<World>,
    /// Whether it never opens.
    dead: bool,
}

/// What becomes of a lease.
#[derive(Clone, Copy, Debug)]
enum Return {
    Fit,
    Broken,
    /// It goes back in good faith, but the server has closed all its connections.
    Deserted,
}

impl World {
    fn new(most: usize) -> Arc<Self> {
        Self::after_failures(most, 0)
    }

    /// For scenes with a hard close.
    fn cutting(most: usize) -> Arc<Self> {
        let world = Arc::into_inner(Self::new(most)).unwrap();
        Arc::new(Self {
            may_cut: true,
            ..world
        })
    }

    fn after_failures(most: usize, to_fail: usize) -> Arc<Self> {
        let books = Books {
            to_fail,
            ..Books::default()
        };
        Arc::new(Self {
            most,
            may_cut: false,
            books: std::sync::Mutex::new(books),
            step: AtomicBool::new(false),
            doors: Mutex::new(0),
            gone: Condvar::new(),
        })
    }

    fn door(self: &Arc<Self>, dead: bool) -> Door {
        *self.doors.lock().unwrap() += 1;
        let world = Arc::clone(self);
        Door { world, dead }
    }

    /// Of a pool whose `pull` waits for ever: no retry covers for a wake-up that is lost.
    fn builder(self: &Arc<Self>, dead: bool) -> Builder<Stream> {
        Pool::builder(self.door(dead))
            .limit(self.most)
            .reap_interval(None)
            .exact_lease_end(!INEXACT_ENDS.get())
            .backoff(Backoff::new().retries(20).min(EVER).max(EVER))
    }

    fn pool(self: &Arc<Self>) -> Pool {
        self.builder(false).build().unwrap()
    }

    fn note<R>(&self, note: impl FnOnce(&mut Books) -> R) -> R {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = note(&mut books);
        let in_use = books.leased.len() + books.under_way;
        assert!(in_use <= self.most, "{in_use} where {} may be", self.most);
        noted
    }

    /// Others may run here.
    fn step(&self) {
        self.step.load(SeqCst);
    }

    /// What a caller does with its connection.
    fn work(&self, connection: Connection, how: Return) {
        let id = Connection::id(&connection);
        self.note(|books| {
            assert!(books.leased.insert(id), "connection {id} is leased twice");
            books.leases += 1;
        });
        self.step();
        self.note(|books| {
            books.leased.remove(&id);
            if matches!(how, Return::Deserted) {
                books.peers.clear();
            }
        });
        match how {
            Return::Fit | Return::Deserted => drop(connection),
            Return::Broken => Connection::discard(connection),
        }
    }

    /// Starts a caller that pulls for each of these leases, and must get them.
    fn caller(self: &Arc<Self>, pool: &Pool, leases: &'static [Return]) -> thread::JoinHandle<()> {
        let (world, pool) = (Arc::clone(self), pool.clone());
        thread::spawn(move || {
            for &how in leases {
                world.work(pool.pull().unwrap(), how);
            }
        })
    }

    /// Starts a caller that may fail, for a reason that is expected.
    fn try_caller(
        self: &Arc<Self>,
        pool: &Pool,
        ask: fn(&Pool) -> Result<Connection, Error>,
        how: Return,
        expected: fn(&Error) -> bool,
    ) -> thread::JoinHandle<()> {
        let (world, pool) = (Arc::clone(self), pool.clone());
        thread::spawn(move || match ask(&pool) {
            Ok(connection) => world.work(connection, how),
            Err(error) => assert!(expected(&error), "{error:?}"),
        })
    }

    /// The end of a scene after which the pool is as good as new.
    fn close(self: &Arc<Self>, pool: Pool) {
        self.balance(&pool);
        let all: Vec<_> = (0..pool.limit())
            .map(|_| pool.allocate().unwrap())
            .collect();
        assert!(pool.allocate().unwrap_err().is_full());
        drop(all);
        self.leave(pool);
    }

    /// The books, once all callers are back.
    fn balance(&self, pool: &Pool) {
        assert!(pool.drain(EVER));
        let stats = pool.stats();
        assert_eq!((stats.leased, stats.connecting, stats.waiting), (0, 0, 0));
        assert_eq!(stats.open, stats.idle);
        assert!(stats.open <= stats.limit, "{stats}");
        assert_eq!(stats.connects, stats.releases + stats.open as u64);
        self.note(|books| {
            assert_eq!(books.leased.len() + books.under_way, 0);
            let cut = books.made - stats.connects;
            assert!(cut == 0 || self.may_cut, "{cut} connects are not counted");
            assert_eq!(stats.connect_failures, books.failed + cut);
            assert_eq!(stats.allocations, books.leases);
        });
    }

    /// The last handle goes, and with it everything.
    fn leave(&self, pool: Pool) {
        drop(pool);
        let mut doors = self.doors.lock().unwrap();
        while *doors > 0 {
            doors = self.gone.wait(doors).unwrap();
        }
        drop(doors);
        self.note(|books| {
            for peer in &mut books.peers {
                assert_eq!(peer.read(&mut [0]).unwrap(), 0, "a socket was left open");
            }
        });
    }
}

impl Factory for Door {
    fn connect(&self) -> io::Result<TcpStream> {
        self.world.note(|books| {
            books.under_way += 1;
            books.begun.push(sync::elapsed());
        });
        self.world.step();
        self.world.note(|books| {
            books.under_way -= 1;
            if self.dead || books.to_fail > 0 {
                books.to_fail = books.to_fail.saturating_sub(1);
                books.failed += 1;
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            books.made += 1;
            books.first_success.get_or_insert_with(sync::elapsed);
            let (ours, theirs) = UnixStream::pair()?;
            theirs.set_nonblocking(true)?;
            books.peers.push(theirs);
            let open = books.peers.iter().filter(|peer| is_open(peer)).count();
            assert!(open <= self.world.most, "{open} sockets are open at once");
            Ok(TcpStream::from(OwnedFd::from(ours)))
        })
    }
}

/// Whether the pool has not closed this connection, as the server sees it.
fn is_open(mut peer: &UnixStream) -> bool {
    let seen = peer.read(&mut [0]);
    seen.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

impl Drop for Door {
    fn drop(&mut self) {
        let mut doors = self.world.doors.lock().unwrap();
        *doors -= 1;
        self.world.gone.notify_all();
    }
}

fn join(callers: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    for caller in callers {
        caller.join().unwrap();
    }
}

fn briefly(pool: &Pool) -> Result<Connection, Error> {
    pool.pull_timeout(Duration::from_millis(10))
}
