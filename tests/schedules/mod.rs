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

use Return::{Broken, Deserted, Fit};

#[test]
fn two_callers_share_one_place() {
    play(Time::Stands, || {
        let world = World::new(1);
        let pool = world.pool();
        join([
            world.caller(&pool, &[Fit, Fit]),
            world.caller(&pool, &[Fit]),
        ]);
        assert_eq!(world.note(|books| books.made), 1);
        world.close(pool);
    });
}

#[test]
fn two_callers_share_one_place_and_break_what_they_get() {
    play(Time::Stands, || {
        let world = World::new(1);
        let pool = world.pool();
        join([
            world.caller(&pool, &[Broken, Fit]),
            world.caller(&pool, &[Broken]),
        ]);
        world.close(pool);
    });
}

#[test]
fn three_callers_share_one_place_with_every_kind_of_return() {
    play(Time::Stands, || {
        let world = World::new(1);
        let pool = world.pool();
        join([
            world.caller(&pool, &[Fit]),
            world.caller(&pool, &[Broken]),
            world.caller(&pool, &[Deserted]),
        ]);
        world.close(pool);
    });
}

#[test]
fn three_callers_share_two_places_with_one_that_asks_only_once() {
    play(Time::Stands, || {
        let world = World::new(2);
        let pool = world.pool();
        join([
            world.caller(&pool, &[Fit, Broken]),
            world.caller(&pool, &[Deserted]),
            world.try_caller(&pool, Pool::allocate, Fit, Error::is_full),
        ]);
        world.close(pool);
    });
}

#[test]
fn connects_queue_behind_the_most_at_once() {
    play(Time::Stands, || {
        let world = World::new(3);
        let pool = world.builder(false).max_connecting(1).build().unwrap();
        join([
            world.caller(&pool, &[Fit]),
            world.caller(&pool, &[Broken]),
            world.caller(&pool, &[Fit]),
        ]);
        world.close(pool);
    });
}

fn briefly(pool: &Pool) -> Result<Connection, Error> {
    pool.pull_timeout(Duration::from_millis(10))
}

#[test]
fn a_waiter_times_out_while_it_is_being_served() {
    play(Time::Jumps, || {
        let world = World::new(1);
        let pool = world.pool();
        join([
            world.try_caller(&pool, briefly, Fit, Error::is_timeout),
            world.try_caller(&pool, briefly, Broken, Error::is_timeout),
            world.try_caller(&pool, briefly, Fit, Error::is_timeout),
        ]);
        world.close(pool);
    });
}

#[test]
fn a_waiter_times_out_on_a_connection_that_proves_dead() {
    play(Time::Jumps, || {
        let world = World::new(2);
        let pool = world.pool();
        join([
            world.try_caller(&pool, briefly, Deserted, Error::is_timeout),
            world.try_caller(&pool, briefly, Fit, Error::is_timeout),
            world.try_caller(&pool, briefly, Deserted, Error::is_timeout),
        ]);
        world.close(pool);
    });
}

/// A time-out passes the wake-up on: who waits for ever gets what the one who left does not take.
#[test]
fn one_waiter_times_out_and_another_waits_for_ever() {
    play(Time::Jumps, || {
        let world = World::new(1);
        let pool = world.pool();
        join([
            world.caller(&pool, &[Fit]),
            world.try_caller(&pool, briefly, Broken, Error::is_timeout),
            world.caller(&pool, &[Fit]),
        ]);
        world.close(pool);
    });
}

#[test]
fn a_time_out_is_kept_to_the_instant() {
    play(Time::Waits, || {
        let world = World::new(1);
        let pool = world.pool();
        let held = pool.allocate().unwrap();
        world.note(|books| books.leases += 1);
        join([10, 20, 20].map(|ms| {
            let pool = pool.clone();
            thread::spawn(move || {
                let timeout = Duration::from_millis(ms);
                assert!(pool.pull_timeout(timeout).unwrap_err().is_timeout());
                assert_eq!(sync::elapsed(), timeout);
            })
        }));
        drop(held);
        world.close(pool);
    });
}

#[test]
fn end_meets_a_connect_under_way() {
    play(Time::Stands, || {
        let world = World::new(2);
        let pool = world.pool();
        let callers = [
            world.try_caller(&pool, Pool::pull, Fit, Error::is_ended),
            world.try_caller(&pool, Pool::allocate, Fit, Error::is_ended),
        ];
        pool.end();
        assert!(pool.pull().unwrap_err().is_ended());
        join(callers);
        world.balance(&pool);
        assert_eq!(pool.stats().open, 0);
        world.leave(pool);
    });
}

#[test]
fn end_wakes_everyone() {
    play(Time::Stands, || {
        let world = World::new(1);
        let pool = world.pool();
        let held = pool.pull().unwrap();
        world.note(|books| books.leases += 1);
        let (drained, its_pool) = (Arc::clone(&world), pool.clone());
        let callers = [
            world.try_caller(&pool, Pool::pull, Fit, Error::is_ended),
            world.try_caller(&pool, Pool::pull, Fit, Error::is_ended),
            thread::spawn(move || {
                assert!(its_pool.drain(EVER));
                drained.step();
            }),
        ];
        pool.end();
        drop(held);
        join(callers);
        world.balance(&pool);
        assert_eq!(pool.stats().open, 0);
        world.leave(pool);
    });
}

#[test]
fn a_hard_end_cuts_what_is_out() {
    play(Time::Stands, || {
        let world = World::cutting(2);
        let pool = world.pool();
        let callers = [
            world.try_caller(&pool, Pool::pull, Fit, Error::is_ended),
            world.try_caller(&pool, Pool::pull, Broken, Error::is_ended),
            world.try_caller(&pool, Pool::pull, Fit, Error::is_ended),
        ];
        pool.end_with(Close::Hard);
        assert_eq!(pool.stats().open, 0);
        assert!(pool.drain(EVER));
        join(callers);
        world.balance(&pool);
        world.leave(pool);
    });
}

#[test]
fn free_meets_pulls() {
    play(Time::Stands, || {
        let world = World::new(2);
        let pool = world.pool();
        let callers = [
            world.caller(&pool, &[Fit, Fit]),
            world.caller(&pool, &[Broken]),
            world.caller(&pool, &[Fit]),
        ];
        pool.free(0);
        pool.free(1);
        join(callers);
        world.close(pool);
    });
}

/// A connection that is cut is no longer below the limit, so there is one place for each caller.
#[test]
fn a_hard_free_meets_pulls() {
    play(Time::Stands, || {
        let world = World::cutting(3);
        let pool = world.builder(false).limit(1).build().unwrap();
        let callers = [world.caller(&pool, &[Fit]), world.caller(&pool, &[Broken])];
        pool.free_with(0, Close::Hard);
        join(callers);
        world.close(pool);
    });
}

#[test]
fn the_limit_is_lowered_while_all_is_leased() {
    play(Time::Stands, || {
        let world = World::new(2);
        let pool = world.pool();
        let callers = [
            world.caller(&pool, &[Fit, Fit]),
            world.caller(&pool, &[Fit, Fit]),
        ];
        pool.set_limit(1);
        join(callers);
        world.close(pool);
    });
}

#[test]
fn the_limit_is_lowered_to_nothing_and_raised_again() {
    play(Time::Stands, || {
        let world = World::new(2);
        let pool = world.pool();
        let callers = [
            world.caller(&pool, &[Fit]),
            world.caller(&pool, &[Broken]),
            world.caller(&pool, &[Fit]),
        ];
        pool.set_limit(0);
        world.step();
        pool.set_limit(1);
        join(callers);
        world.close(pool);
    });
}

#[test]
fn a_sweep_refills_and_pings_while_callers_pull() {
    play(Time::Stands, || {
        let world = World::new(2);
        let ping = |_: &mut Stream| Ok::<(), io::Error>(());
        let builder = world.builder(false).min_idle(1).ping(SPACING, ping);
        let pool = builder.build().unwrap();
        let callers = [
            world.caller(&pool, &[Deserted]),
            world.caller(&pool, &[Fit]),
        ];
        sync::pass(SPACING);
        pool.reap();
        join(callers);
        world.balance(&pool);
        world.leave(pool);
    });
}

/// The reaper is a thread of the scene's, which comes once and at any time.
#[test]
fn the_dead_are_left_to_the_reaper_and_each_is_told_of_once() {
    play(Time::Stands, || {
        let world = World::new(3);
        let told = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let tellers = Arc::clone(&told);
        let builder = world.builder(false).on_event(move |event| {
            tellers.fetch_add(u64::from(matches!(event, Event::Evicted { .. })), SeqCst);
        });
        let pool = builder.build().unwrap();
        let all: Vec<_> = (0..3).map(|_| pool.allocate().unwrap()).collect();
        for connection in all {
            world.work(connection, Deserted);
        }
        let (waker, _woken) = crossbeam_channel::bounded(1);
        pool.shared().set_reaper(waker);
        let callers = [world.caller(&pool, &[Fit]), world.caller(&pool, &[Broken])];
        let reaper = {
            let pool = pool.clone();
            thread::spawn(move || {
                pool.reap();
            })
        };
        join(callers);
        reaper.join().unwrap();
        world.balance(&pool);
        world.leave(pool);
        world.note(|books| assert_eq!(told.load(SeqCst), books.made));
    });
}

/// A client that is not the plain stream: its destructor must find the socket shut down.
struct Client {
    stream: Stream,
    world: Arc<World>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.world.step();
        let sent = (&self.stream).write(b"goodbye");
        assert!(sent.is_err(), "a destructor sent something");
    }
}

/// Closes and returns leases of clients whose destructors are the user's, in a pool that ends.
fn clients(world: &Arc<World>, end: fn(&Pool<Client>)) {
    let maker = Arc::clone(world);
    let pool = world
        .builder(false)
        .handshake(move |stream| {
            let world = Arc::clone(&maker);
            Ok::<_, io::Error>(Client { stream, world })
        })
        .build()
        .unwrap();
    let callers = [Broken, Fit].map(|how| {
        let (world, pool) = (Arc::clone(world), pool.clone());
        thread::spawn(move || match pool.pull() {
            Ok(lease) if matches!(how, Broken) => Connection::discard(lease),
            Ok(lease) => {
                world.step();
                drop(lease);
            }
            Err(error) => assert!(error.is_ended(), "{error:?}"),
        })
    });
    end(&pool);
    join(callers);
    assert!(pool.drain(EVER));
    let stats = pool.stats();
    assert_eq!(stats.connects, stats.releases + stats.open as u64);
    drop(pool);
    let mut doors = world.doors.lock().unwrap();
    while *doors > 0 {
        doors = world.gone.wait(doors).unwrap();
    }
}

#[test]
fn clients_are_dropped_after_their_sockets_were_shut_down() {
    play(Time::Stands, || clients(&World::new(1), |_| ()));
}

#[test]
fn a_hard_end_meets_clients_with_destructors() {
    play(Time::Stands, || {
        clients(&World::new(1), |pool| pool.end_with(Close::Hard));
    });
}

#[test]
fn another_factory_ends_an_outage() {
    play(Time::Stands, || {
        let world = World::new(2);
        let pool = world.builder(true).build().unwrap();
        let callers = [
            world.caller(&pool, &[Fit]),
            world.caller(&pool, &[Broken]),
            world.try_caller(&pool, Pool::allocate, Fit, |error| {
                error.is_full() || error.is_connect()
            }),
        ];
        pool.set_factory(world.door(false));
        join(callers);
        world.close(pool);
    });
}

/// No connect before its time, and nobody served later than the first success.
#[test]
fn an_outage_ends_and_everybody_is_served_at_once() {
    play(Time::Waits, || {
        let world = World::after_failures(2, 4);
        let pool = world.pool();
        join([(); 3].map(|()| {
            let (world, pool) = (Arc::clone(&world), pool.clone());
            thread::spawn(move || {
                let connection = pool.pull().unwrap();
                let first_success = world.note(|books| books.first_success);
                assert_eq!(first_success, Some(sync::elapsed()));
                world.work(connection, Fit);
            })
        }));
        world.note(|books| {
            let success = books.first_success.unwrap();
            let during = books.begun.iter().copied().filter(|&begun| begun < success);
            let (burst, later): (Vec<Duration>, _) = during.partition(Duration::is_zero);
            assert!(burst.len() <= 2, "{:?}", books.begun);
            let mut last = Duration::ZERO;
            for begun in later {
                assert!(begun >= last + SPACING, "{:?}", books.begun);
                last = begun;
            }
        });
        pool.free(0); // so that all connect again, and at once
        world.close(pool);
    });
}

#[test]
fn an_outage_that_does_not_end_is_tried_at_every_second_and_given_up_by_each_caller() {
    play(Time::Waits, || {
        let world = World::new(2);
        let backoff = Backoff::new().jitter(Jitter::None).retries(2);
        let pool = world.builder(true).backoff(backoff).build().unwrap();
        let exhausted = |error: &Error| matches!(error, Error::Exhausted { attempts: 3, .. });
        join([(); 2].map(|()| world.try_caller(&pool, Pool::pull, Fit, exhausted)));
        assert_eq!(sync::elapsed(), Duration::from_secs(4));
        let begun = world.note(|books| books.begun.len());
        assert!((5..=42).contains(&begun), "{begun} connects");
        world.balance(&pool);
        world.leave(pool);
    });
}

#[test]
fn an_outage_comes_and_goes_while_callers_time_out() {
    play(Time::Jumps, || {
        let world = World::after_failures(2, 3);
        let pool = world.pool();
        let gave_up = |error: &Error| !error.is_ended();
        join([
            world.caller(&pool, &[Fit]),
            world.try_caller(&pool, Pool::allocate, Broken, gave_up),
            world.try_caller(
                &pool,
                |pool| pool.pull_timeout(Duration::from_millis(300)),
                Deserted,
                gave_up,
            ),
        ]);
        world.note(|books| books.to_fail = 0);
        pool.set_factory(world.door(false));
        world.close(pool);
    });
}

/// Makes the pool believe that hand-offs have followed close upon each other.
fn form_convoy(pool: &Pool) {
    pool.shared().with(|core| {
        for _ in 0..100 {
            core.convoy().handed_off(sync::now());
        }
    });
}

/// A connection that lies idle while a waiter may be overtaken is taken up when that time is over.
#[test]
fn nobody_in_a_convoy_is_overtaken_for_longer_than_may_be() {
    play(Time::Waits, || {
        let world = World::new(1);
        let pool = world.pool();
        form_convoy(&pool);
        join([
            world.caller(&pool, &[Fit, Fit, Fit]),
            world.caller(&pool, &[Fit]),
            world.caller(&pool, &[Fit, Broken]),
        ]);
        assert!(sync::elapsed() < Duration::from_millis(20));
        world.close(pool);
    });
}

#[test]
fn a_return_in_a_convoy_meets_the_end_of_barging() {
    play(Time::Jumps, || {
        let world = World::new(1);
        let pool = world.pool();
        form_convoy(&pool);
        let held = pool.allocate().unwrap();
        world.note(|books| books.leases += 1);
        let caller = world.caller(&pool, &[Fit]);
        drop(held);
        join([caller]);
        world.close(pool);
    });
}

#[test]
fn a_convoy_meets_time_outs_and_one_that_asks_only_once() {
    play(Time::Jumps, || {
        let world = World::new(1);
        let pool = world.pool();
        form_convoy(&pool);
        join([
            world.caller(&pool, &[Fit, Fit]),
            world.try_caller(&pool, briefly, Fit, Error::is_timeout),
            world.try_caller(&pool, Pool::allocate, Deserted, Error::is_full),
        ]);
        world.close(pool);
    });
}

#[test]
fn end_meets_a_convoy() {
    play(Time::Waits, || {
        let world = World::new(1);
        let pool = world.pool();
        form_convoy(&pool);
        let callers = [
            world.try_caller(&pool, Pool::pull, Fit, Error::is_ended),
            world.try_caller(&pool, Pool::pull, Fit, Error::is_ended),
            world.try_caller(&pool, briefly, Fit, Error::is_ended),
        ];
        pool.end();
        join(callers);
        assert!(sync::elapsed() < Duration::from_millis(10));
        world.balance(&pool);
        world.leave(pool);
    });
}
