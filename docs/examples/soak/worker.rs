//! A thread that does whatever it likes with the pool.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Backoff, Builder, Close, Connection, Error, Jitter, Pool, Stream};

use crate::args::{Args, Part};
use crate::chaos::{Chaos, Client, Fault, factory, panic_quietly};
use crate::ledger::Ledger;
use crate::protocol::Protocol;
use crate::random::Random;
use crate::server::PATIENCE;
use crate::tally::{Histogram, Tally, count, histogram, lock, nanoseconds};

/// How many connections the pool under test has, unless a thread says otherwise.
pub(crate) const LIMIT: usize = 8;

/// One connect in so many goes wrong in the factory, in each of three ways.
const ONE_IN: u64 = 50;

/// A call that has outlasted its bound by so much was not bounded, however busy the machine.
pub(crate) const UNBOUNDED: Duration = Duration::from_secs(5);

/// The longest tick that systems have.
const TICK_AT_MOST: Duration = Duration::from_millis(20);

/// All threads act for so long, then rest, over and over: connections lie idle at times.
const BUSY: Duration = Duration::from_secs(4);
const CALM: Duration = Duration::from_secs(1);

/// What all threads share.
pub(crate) struct World {
    pub(crate) address: String,
    pub(crate) chaos: Arc<Chaos>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) seed: u64,
    without: Vec<Part>,
    pub(crate) is_over: AtomicBool,
    pub(crate) requests: Arc<AtomicU64>,
    pub(crate) ledger: Arc<Ledger>,
    began: Instant,
}

impl World {
    pub(crate) fn new(
        address: String,
        args: &Args,
        tally: Arc<Tally>,
        ledger: Arc<Ledger>,
    ) -> Self {
        Self {
            address,
            chaos: Chaos::new(args.seed),
            tally,
            seed: args.seed,
            without: args.without.clone(),
            is_over: AtomicBool::new(false),
            requests: Arc::default(),
            ledger,
            began: Instant::now(),
        }
    }

    pub(crate) fn has(&self, part: Part) -> bool {
        !self.without.contains(&part)
    }

    pub(crate) fn is_resting(&self) -> bool {
        let since = self.began.elapsed().as_micros() % (BUSY + CALM).as_micros();
        since > BUSY.as_micros()
    }

    /// A pool whose every function may fail.
    pub(crate) fn builder(&self) -> Builder<Client> {
        let (tally, requests) = (&self.tally, &self.requests);
        Pool::builder(self.factory())
            .limit(LIMIT)
            .read_timeout(Some(PATIENCE))
            .write_timeout(Some(PATIENCE * 10))
            .leak_after(Some(Duration::from_millis(20)))
            .handshake({
                let (chaos, tally) = (Arc::clone(&self.chaos), Arc::clone(tally));
                let requests = Arc::clone(requests);
                move |stream| {
                    let mut client = Client::new(stream, &chaos);
                    if chaos.strikes(Fault::HandshakePanics, 100) {
                        panic_quietly();
                    }
                    if chaos.strikes(Fault::HandshakeFails, 100) {
                        return Err(io::Error::other("on purpose"));
                    }
                    ask(&mut client, &requests, &tally).map_err(io::Error::other)?;
                    // The pool hands a new connection to its first caller as it is.
                    if has_unread(&client.stream) {
                        return Err(io::Error::other("more than was asked for"));
                    }
                    Ok(client)
                }
            })
            .ping(Duration::from_millis(30), {
                let (chaos, tally) = (Arc::clone(&self.chaos), Arc::clone(tally));
                let requests = Arc::clone(requests);
                move |client: &mut Client| {
                    if chaos.strikes(Fault::PingPanics, 100) {
                        panic_quietly();
                    }
                    if chaos.strikes(Fault::PingFails, 100) {
                        return Err("on purpose".to_owned());
                    }
                    ask(client, &requests, &tally)
                }
            })
            .recycle({
                let chaos = Arc::clone(&self.chaos);
                move |_: &mut Client| {
                    if chaos.strikes(Fault::RecyclePanics, 500) {
                        panic_quietly();
                    }
                    if chaos.strikes(Fault::RecycleFails, 500) {
                        return Err("on purpose");
                    }
                    Ok(())
                }
            })
    }

    pub(crate) fn factory(&self) -> impl jackpot::Factory {
        factory(&self.address, &self.chaos, ONE_IN)
    }
}

/// One request with a number of its own, and whether the reply is its own.
pub(crate) fn ask(
    client: &mut (impl Read + Write),
    requests: &AtomicU64,
    tally: &Tally,
) -> Result<(), String> {
    let id = format!("request {}", requests.fetch_add(1, Relaxed));
    let result = Protocol::Echo.ask(client, &id);
    tally.note(&result);
    result.map_err(|trouble| trouble.to_string())
}

/// Acts until the world is over.
pub(crate) fn work(world: &World, pool: &Pool<Client>, number: u64) {
    let mut worker = Worker {
        world,
        pool,
        random: Random::new(world.seed, number),
        pulls: histogram(),
    };
    while !world.is_over.load(Relaxed) {
        // In a rush there is no rest, so that a queue forms.
        let is_rush = worker.random.below(10) == 0;
        let actions = if is_rush { 200 } else { 20 };
        for _ in 0..actions {
            if world.is_over.load(Relaxed) || world.is_resting() {
                break;
            }
            worker.act();
            count(&world.tally.actions);
            if !is_rush {
                worker.rest(6);
            }
        }
        worker.rest(200);
    }
    let mut pulls = lock(&world.tally.pulls);
    pulls
        .add(&worker.pulls)
        .expect("all histograms have the same bounds");
}

/// Why a request that may be sent again has failed.
enum Failed {
    Pull(Error),
    Request,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Pull(error)
    }
}

struct Worker<'a> {
    world: &'a World,
    pool: &'a Pool<Client>,
    random: Random,
    pulls: Histogram,
}

impl Worker<'_> {
    fn act(&mut self) {
        match self.random.below(1000) {
            0..300 => self.lease(Pool::allocate, None),
            300..600 => self.lease(Pool::pull, None),
            600..750 => self.pull_in_time(),
            750..850 => self.lease(|pool| pool.pull_timeout(Duration::ZERO), None),
            850..855 if self.world.has(Part::Free) => self.free(),
            855..860 if self.world.has(Part::SetLimit) => self.change_limit(),
            860..880 => self.change_backoff(),
            880..885 => self.change_factory(),
            885..905 => drop(self.pool.reap()),
            905..950 => self.look(),
            950..970 => drop(
                self.pool.drain(
                    self.random
                        .between(Duration::ZERO, Duration::from_millis(5)),
                ),
            ),
            970..972 => self.be_guest(),
            972..985 if self.world.has(Part::Retry) => self.retry(),
            _ => self.rest(10),
        }
    }

    /// A request that may be sent again, all of it within a deadline.
    fn retry(&mut self) {
        let tally = &self.world.tally;
        count(&tally.retries);
        let deadline = Instant::now() + self.random.between(Duration::ZERO, PATIENCE * 2);
        let result = self.pool.retry_until(deadline, |connection| {
            count(&tally.leases);
            ask(&mut **connection, &self.world.requests, tally).map_err(|_| Failed::Request)
        });
        self.note_excess(deadline);
        match result {
            Ok(()) | Err(Failed::Request) => {}
            Err(Failed::Pull(error)) => self.note_refusal(&error),
        }
    }

    fn pull_in_time(&mut self) {
        let timeout = self
            .random
            .between(Duration::from_micros(1), Duration::from_millis(40));
        self.lease(|pool| pool.pull_timeout(timeout), Some(timeout));
    }

    fn lease(
        &mut self,
        pull: impl FnOnce(&Pool<Client>) -> Result<Connection<Client>, Error>,
        bound: Option<Duration>,
    ) {
        let tally = &self.world.tally;
        let started = Instant::now();
        let result = pull(self.pool);
        let took = started.elapsed();
        if let Some(bound) = bound {
            let by = took.saturating_sub(bound);
            tally.exceeded(by);
            if by > UNBOUNDED {
                tally.find(format!("pull_timeout({bound:?}) took {took:?}"));
            }
        }
        match result {
            Ok(connection) => {
                count(&tally.leases);
                self.pulls.saturating_record(nanoseconds(took));
                self.converse(connection);
            }
            Err(error) => self.note_refusal(&error),
        }
    }

    fn note_refusal(&self, error: &Error) {
        let tally = &self.world.tally;
        match error {
            Error::Ended | Error::InvalidConfig(_) | Error::Spawn(_) => {
                tally.find(format!(
                    "a pull failed for a cause that it cannot have: {error}"
                ));
            }
            _ => count(&tally.refused),
        }
    }

    /// By how much what was to end at this time has outlasted it.
    fn note_excess(&self, deadline: Instant) {
        let tally = &self.world.tally;
        let by = Instant::now().saturating_duration_since(deadline);
        tally.exceeded_deadline(by);
        if by > UNBOUNDED {
            tally.find(format!("a deadline was outlasted by {by:?}"));
        }
    }

    /// One conversation, in one of the ways in which programs have them.
    fn converse(&mut self, mut connection: Connection<Client>) {
        let tally = &self.world.tally;
        let chaos = &self.world.chaos;
        if connection.stream.deadline().is_some() {
            tally.find("a lease began with a deadline that it did not set".into());
        }
        if self.world.has(Part::Deadlines) && self.random.below(20) == 0 {
            return self.converse_until(&mut connection);
        }
        for turn in 0..self.random.below(3) {
            if turn > 0 && has_unread(&connection.stream) {
                return;
            }
            if ask(&mut connection, &self.world.requests, tally).is_err() {
                // Broken off, not over: the pool must see that by itself.
                return;
            }
        }
        match self.random.below(400) {
            0..4 => Connection::discard(connection),
            4..6 => {
                connection.harden();
                let mut client = Connection::detach(connection);
                if !has_unread(&client.stream) {
                    let _ = ask(&mut client, &self.world.requests, tally);
                }
            }
            6..9 => {
                chaos.count(Fault::CallerPanics);
                let _ = catch_unwind(AssertUnwindSafe(move || {
                    let _held = connection;
                    panic_quietly();
                }));
            }
            9..13 => {
                chaos.count(Fault::CallerHangsUp);
                let _ = Protocol::Echo.hang_up(&mut *connection, "never read");
            }
            13..16 => {
                chaos.count(Fault::CallerShutsDown);
                let _ = connection.stream.shutdown(Shutdown::Write);
            }
            16..18 => {
                chaos.count(Fault::CallerShutsDown);
                let _ = connection.stream.tcp().shutdown(Shutdown::Write);
            }
            18..30 => {
                chaos.count(Fault::CallerImpatient);
                if !has_unread(&connection.stream) {
                    let impatient = Some(Duration::from_micros(50));
                    let _ = connection.stream.set_read_timeout(impatient);
                    let _ = ask(&mut connection, &self.world.requests, tally);
                }
            }
            30..60 => self.look_at(&connection),
            60..70 => self.rest(30),
            70..200 => Connection::finish(connection),
            _ => drop(connection),
        }
    }

    /// Requests until a deadline, which bounds the last one however little the server says.
    fn converse_until(&mut self, connection: &mut Connection<Client>) {
        let tally = &self.world.tally;
        let most = self.random.between(Duration::ZERO, PATIENCE);
        let deadline = Instant::now() + most;
        if connection.stream.set_deadline(Some(deadline)).is_err() {
            return;
        }
        count(&tally.deadlines);
        while ask(&mut **connection, &self.world.requests, tally).is_ok()
            && !has_unread(&connection.stream)
        {}
        self.note_excess(deadline);
    }

    /// The options that a lease begins with are the pool's, whatever the last one did to them.
    fn look_at(&self, connection: &Connection<Client>) {
        let stream = Connection::stream(connection);
        let is_about = |found: io::Result<Option<Duration>>, set: Duration| {
            // The system rounds up to the next tick of its clock.
            matches!(found, Ok(Some(found)) if found >= set && found < set + TICK_AT_MOST)
        };
        let is_as_set = is_about(stream.read_timeout(), PATIENCE)
            && is_about(stream.write_timeout(), PATIENCE * 10)
            && stream.nodelay().ok() == Some(true)
            && stream.ttl().ok() != Some(7);
        if !is_as_set {
            let text = format!(
                "connection {} has other options",
                Connection::id(connection)
            );
            self.world.tally.find(text);
        }
        let _ = stream.set_nodelay(false);
        let _ = stream.set_ttl(7);
        let _ = stream.set_write_timeout(None);
        let _ = (stream.local_addr(), stream.peer_addr());
        let _ = stream.take_error();
        let _ = format!("{connection:?}");
    }

    fn free(&mut self) {
        count(&self.world.tally.frees);
        let keep = usize::try_from(self.random.below(LIMIT as u64)).unwrap_or(0);
        let freed = match self.random.below(4) {
            0 => self.pool.free_with(keep, Close::Hard),
            1 => self.pool.free_with(keep, Close::Soft),
            _ => self.pool.free(keep),
        };
        if freed.kept > keep || freed.kept + freed.closed + freed.doomed > LIMIT {
            self.world.tally.find(format!("free({keep}): {freed:?}"));
        }
    }

    fn change_limit(&mut self) {
        count(&self.world.tally.limits);
        let mut below = |end: usize| usize::try_from(self.random.below(end as u64)).unwrap_or(0);
        let (low, high) = (below(LIMIT), LIMIT / 2 + below(LIMIT / 2 + 1));
        self.pool.set_limit(low);
        self.rest(5);
        self.pool.set_limit(high.max(1));
        if self.pool.limit() > LIMIT {
            self.world
                .tally
                .find("the limit is not what was set".into());
        }
    }

    fn change_backoff(&mut self) {
        let jitters = [
            Jitter::None,
            Jitter::Equal,
            Jitter::Full,
            Jitter::Decorrelated,
        ];
        let jitter = usize::try_from(self.random.below(4)).map_or(Jitter::None, |n| jitters[n]);
        let backoff = Backoff::new()
            .retries(u32::try_from(self.random.below(4)).unwrap_or(0))
            .min(Duration::from_millis(1))
            .max(Duration::from_millis(1 + self.random.below(300)))
            .jitter(jitter);
        let refused = self.pool.set_backoff(Backoff::new().factor(0.0)).is_err();
        let taken = self.pool.set_backoff(backoff).is_ok();
        if !refused || !taken || self.pool.backoff().delays().count() > 3 {
            self.world.tally.find("set_backoff".into());
        }
    }

    fn change_factory(&mut self) {
        let one_in = 1 + self.random.below(3);
        let world = self.world;
        self.pool
            .set_factory(factory(&world.address, &world.chaos, one_in));
        self.rest(5);
        self.pool.set_factory(world.factory());
    }

    fn look(&self) {
        let stats = self.pool.stats();
        self.world.tally.check(&stats, LIMIT);
        let connections = self.pool.connections();
        let mut ids: Vec<u64> = connections.iter().map(|info| info.id).collect();
        ids.sort_unstable();
        ids.dedup();
        if connections.len() > LIMIT || ids.len() != connections.len() || self.pool.is_ended() {
            self.world.tally.find(format!("{:?}: {stats}", self.pool));
        }
    }

    /// A pool of this thread's own: built, used and ended, in one of the ways to end one.
    fn be_guest(&mut self) {
        let world = self.world;
        let most = usize::try_from(1 + self.random.below(4)).unwrap_or(1);
        let pool = world
            .builder()
            .limit(most)
            .min_idle(most / 2)
            .only_finished(self.random.below(2) == 0)
            .reap_interval((self.random.below(2) == 0).then_some(Duration::from_millis(5)))
            .build();
        let Ok(pool) = pool else {
            return world.tally.find("a pool cannot be built".into());
        };
        count(&world.tally.guests);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let within = Duration::from_millis(20);
                    if let Ok(mut connection) = pool.pull_timeout(within) {
                        let _ = ask(&mut connection, &world.requests, &world.tally);
                    }
                });
            }
            if self.random.below(2) == 0 {
                self.rest(10);
                let close = [Close::Soft, Close::Hard];
                pool.end_with(close[usize::from(self.random.below(2) == 0)]);
            }
        });
        world.tally.check(&pool.stats(), most);
        match self.random.below(3) {
            0 => drop(pool),
            1 => pool.end(),
            _ => {
                pool.end_with(Close::Hard);
                let is_final = matches!(pool.pull(), Err(Error::Ended)) && pool.is_ended();
                if !is_final || !pool.drain(UNBOUNDED) || pool.stats().open > 0 {
                    world.tally.find(format!("an ended pool: {}", pool.stats()));
                }
            }
        }
    }

    fn rest(&mut self, most_ms: u64) {
        let most = Duration::from_millis(most_ms);
        thread::sleep(self.random.between(Duration::ZERO, most));
    }
}

/// Whether the server sent more than was asked for; the second request of a lease would read it.
pub(crate) fn has_unread(stream: &Stream) -> bool {
    let peeked = stream
        .set_nonblocking(true)
        .and_then(|()| stream.peek(&mut [0]));
    let is_quiet = matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    stream.set_nonblocking(false).is_err() || !is_quiet
}
