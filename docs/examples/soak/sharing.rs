//! Shared calls: many callers on two pools, each with a pipeline whose lost requests are sent once
//! more and one that never repeats anything.

use std::io::{self, BufRead, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{CallError, Close, Error, Pipeline, PipelineStats, Pool, Stream};

use crate::args::Part;
use crate::chaos::{Chaos, Client, Fault, panic_quietly};
use crate::ledger::Kind;
use crate::random::Random;
use crate::server::PATIENCE;
use crate::tally::{Histogram, Tally, count, histogram, lock, nanoseconds};
use crate::worker::{LIMIT, UNBOUNDED, World, ask, has_unread};

/// How long a caller rests between two calls at most, unless it is in a rush.
const REST: Duration = Duration::from_millis(30);

/// No more than so much may the buffers of all pipelines grow after the warm-up. Each lane keeps
/// what the largest batch and the largest reply needed.
pub(crate) const BUFFERS: usize = 4 << 20;

type Lines<C> = Pipeline<Vec<u8>, C>;

/// Two pipelines on one pool.
struct Pair<C> {
    once: Lines<C>,
    again: Lines<C>,
}

/// All that callers share.
pub(crate) struct Shared {
    /// Of plain streams, which all callers can write on.
    pub(crate) plain: Pool<Stream>,
    on_plain: Pair<Stream>,
    /// On the pool of which the workers have their leases.
    on_clients: Pair<Client>,
}

impl<C: Read + Write + Send + 'static> Pair<C> {
    fn new(pool: &Pool<C>, lanes: usize, chaos: &Arc<Chaos>) -> Result<Self, Error> {
        let build = |kind| {
            Pipeline::builder(pool.clone(), reply(kind, chaos))
                .lanes(lanes)
                .repeatable(kind == Kind::Twice)
                .build()
        };
        Ok(Self {
            once: build(Kind::Once)?,
            again: build(Kind::Twice)?,
        })
    }

    fn of(&self, kind: Kind) -> &Lines<C> {
        match kind {
            Kind::Once => &self.once,
            Kind::Twice => &self.again,
        }
    }

    fn stats(&self) -> [PipelineStats; 2] {
        [self.once.stats(), self.again.stats()]
    }
}

/// Reads one reply of this kind; at times it fails on purpose.
fn reply(
    kind: Kind,
    chaos: &Arc<Chaos>,
) -> impl Fn(&mut dyn BufRead) -> io::Result<Vec<u8>> + Send + Sync + 'static {
    let chaos = Arc::clone(chaos);
    move |reply| {
        let mut line = Vec::new();
        reply.read_until(b'\n', &mut line)?;
        if chaos.strikes(Fault::ReplyPanics, 2000) {
            panic_quietly();
        }
        let fails = chaos.strikes(Fault::ReplyFails, 2000);
        let is_reply = line.starts_with(kind.word().as_bytes()) && line.ends_with(b"\n");
        if fails || !is_reply {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(line)
    }
}

impl Shared {
    pub(crate) fn new(world: &World, clients: &Pool<Client>) -> Result<Self, Error> {
        let plain = Pool::builder(world.factory())
            .limit(LIMIT)
            .read_timeout(Some(PATIENCE))
            .write_timeout(Some(PATIENCE * 10))
            .idle_timeout(Some(Duration::from_millis(400)))
            .max_lifetime(Some(Duration::from_secs(1)))
            .reap_interval(Some(Duration::from_millis(20)))
            .build()?;
        Ok(Self {
            on_plain: Pair::new(&plain, 3, &world.chaos)?,
            on_clients: Pair::new(clients, 2, &world.chaos)?,
            plain,
        })
    }

    /// What all pipelines counted, and what they hold.
    pub(crate) fn stats(&self) -> [(&'static str, Kind, PipelineStats); 4] {
        let [once, again] = self.on_plain.stats();
        let [clients_once, clients_again] = self.on_clients.stats();
        [
            ("streams, once", Kind::Once, once),
            ("streams, repeatable", Kind::Twice, again),
            ("clients, once", Kind::Once, clients_once),
            ("clients, repeatable", Kind::Twice, clients_again),
        ]
    }

    /// Both pools have ended, and a call says so.
    pub(crate) fn check_ended(&self, tally: &Tally) {
        let is_over = |result: Result<Vec<u8>, CallError>| matches!(result, Err(CallError::Pool(error)) if error.is_ended());
        let timeout = Duration::from_secs(1);
        for kind in [Kind::Once, Kind::Twice] {
            let on_plain = self.on_plain.of(kind).call_timeout(b"?\n", timeout);
            let on_clients = self.on_clients.of(kind).call(b"?\n");
            if !is_over(on_plain) || !is_over(on_clients) {
                tally.find("a call after the end of its pool".into());
            }
        }
    }
}

/// What callers counted of the pipelines of one kind.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    pub(crate) all: AtomicU64,
    pub(crate) replies: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) no_connection: AtomicU64,
    pub(crate) timed_out: AtomicU64,
    pub(crate) of_them_sent: AtomicU64,
}

/// Calls until the world is over.
pub(crate) fn share(world: &World, shared: &Shared, number: u64) {
    let mut caller = Caller {
        world,
        shared,
        random: Random::new(world.seed, number),
        request: Vec::new(),
        calls: histogram(),
    };
    while !world.is_over.load(Relaxed) {
        // In a rush there is no rest, so that requests go out in batches.
        let is_rush = caller.random.below(4) == 0;
        for _ in 0..if is_rush { 30 } else { 5 } {
            if world.is_over.load(Relaxed) || world.is_resting() {
                break;
            }
            caller.act();
            if !is_rush {
                caller.rest(REST);
            }
        }
        caller.rest(REST * 2);
    }
    let mut calls = lock(&world.tally.call_times);
    calls
        .add(&caller.calls)
        .expect("all histograms have the same bounds");
}

struct Caller<'a> {
    world: &'a World,
    shared: &'a Shared,
    random: Random,
    request: Vec<u8>,
    calls: Histogram,
}

impl Caller<'_> {
    fn act(&mut self) {
        match self.random.below(1000) {
            0..30 => self.lease(),
            30..34 if self.world.has(Part::Free) => self.free(),
            34..38 if self.world.has(Part::SetLimit) => self.change_limit(),
            38..80 => self.sleep(),
            n => {
                let kind = if n % 2 == 0 { Kind::Once } else { Kind::Twice };
                let shared = self.shared;
                if n % 3 == 0 {
                    self.call(shared.on_clients.of(kind), kind);
                } else {
                    self.call(shared.on_plain.of(kind), kind);
                }
            }
        }
    }

    fn call<C: Read + Write + Send + 'static>(&mut self, lines: &Lines<C>, kind: Kind) {
        let tally = &self.world.tally;
        let len = match self.random.below(100) {
            0..2 => 17_000 + self.random.below(50_000),
            2..10 => 500 + self.random.below(8_000),
            _ => self.random.below(60),
        };
        let len = usize::try_from(len).unwrap_or(0);
        let number = self.world.ledger.begin(kind, len, &mut self.request);
        let timeout = match self.random.below(20) {
            0 => None,
            1 => Some(Duration::from_micros(self.random.below(1000))),
            2..10 => Some(self.random.between(Duration::from_millis(1), PATIENCE / 2)),
            _ => Some(self.random.between(PATIENCE / 2, PATIENCE * 4)),
        };
        let started = Instant::now();
        let result = match timeout {
            None => lines.call(&self.request),
            Some(timeout) if number % 2 == 0 => lines.call_until(&self.request, started + timeout),
            Some(timeout) => lines.call_timeout(&self.request, timeout),
        };
        let took = started.elapsed();
        if let Some(timeout) = timeout {
            let by = took.saturating_sub(timeout);
            tally.call_overshoot.fetch_max(nanoseconds(by), Relaxed);
            if by > UNBOUNDED {
                tally.find(format!("a call of {timeout:?} took {took:?}"));
            }
        }
        self.note(kind, number, timeout, &result);
        self.calls.saturating_record(nanoseconds(took));
    }

    fn note(
        &self,
        kind: Kind,
        number: u64,
        timeout: Option<Duration>,
        result: &Result<Vec<u8>, CallError>,
    ) {
        let tally = &self.world.tally;
        let calls = &tally.calls[kind as usize];
        count(&calls.all);
        match result {
            Ok(reply) if *reply == self.request => count(&calls.replies),
            Ok(reply) => {
                let beginning = String::from_utf8_lossy(&reply[..reply.len().min(20)]);
                tally.find(format!("call {number} got a foreign reply: {beginning}"));
            }
            Err(CallError::TimedOut { sent, .. }) => {
                count(&calls.timed_out);
                if *sent {
                    count(&calls.of_them_sent);
                }
                if timeout.is_none() {
                    tally.find(format!("call {number} timed out, and had no time-out"));
                }
            }
            Err(CallError::Lost(_)) => count(&calls.lost),
            Err(CallError::Pool(error)) => {
                count(&calls.no_connection);
                if let Error::Ended | Error::InvalidConfig(_) | Error::Spawn(_) = **error {
                    tally.find(format!("a call failed for what cannot be: {error}"));
                }
            }
            Err(error) => tally.find(format!("an unknown error: {error}")),
        }
        if matches!(result, Err(error) if !error.was_sent()) {
            self.world.ledger.unsent(number);
        }
    }

    /// By how much this machine outlasts a time-out that nothing but the system keeps.
    fn sleep(&mut self) {
        let most = self.random.between(Duration::from_millis(1), PATIENCE / 2);
        let (mutex, bell) = (Mutex::new(()), Condvar::new());
        let started = Instant::now();
        let mut nobody = lock(&mutex);
        while let Some(left) = most.checked_sub(started.elapsed()).filter(|t| !t.is_zero()) {
            let woken = bell.wait_timeout(nobody, left);
            nobody = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let by = started.elapsed().saturating_sub(most);
        let worst = &self.world.tally.sleep_overshoot;
        worst.fetch_max(nanoseconds(by), Relaxed);
    }

    /// An exclusive lease on the pool that the pipelines have to themselves otherwise.
    fn lease(&mut self) {
        let timeout = self.random.between(Duration::ZERO, PATIENCE);
        let Ok(mut connection) = self.shared.plain.pull_timeout(timeout) else {
            return;
        };
        count(&self.world.tally.plain_leases);
        for turn in 0..=self.random.below(2) {
            if turn > 0 && has_unread(&connection) {
                return;
            }
            if ask(&mut *connection, &self.world.requests, &self.world.tally).is_err() {
                return;
            }
        }
    }

    fn free(&mut self) {
        count(&self.world.tally.frees);
        let close = [Close::Soft, Close::Hard];
        let keep = usize::try_from(self.random.below(LIMIT as u64)).unwrap_or(0);
        let plain = &self.shared.plain;
        plain.free_with(keep, close[usize::from(self.random.below(4) == 0)]);
    }

    fn change_limit(&mut self) {
        count(&self.world.tally.limits);
        let low = usize::try_from(self.random.below(LIMIT as u64)).unwrap_or(0);
        self.shared.plain.set_limit(low);
        self.rest(Duration::from_millis(5));
        self.shared.plain.set_limit(LIMIT);
    }

    fn rest(&mut self, most: Duration) {
        thread::sleep(self.random.between(Duration::ZERO, most));
    }
}
