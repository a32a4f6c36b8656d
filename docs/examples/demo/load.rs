//! The workers, what they count, and whether the pool's own books agree.

use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jackpot::{Connection, Eviction, Pool, Stats};

use crate::protocol::{Protocol, Trouble};
use crate::random::Random;
use crate::report::{Histogram, histogram};

/// How long a worker waits for a connection before it counts a failure.
const PULL_TIMEOUT: Duration = Duration::from_secs(2);

/// One request in so many is broken off by its caller, if callers are careless.
const ONE_IN: u64 = 2000;

/// Workers rest after so many requests, so that the pool sees idle times and rushes.
const BURST: u64 = 100;

/// How long they rest at most.
const REST: Duration = Duration::from_millis(60);

/// What all workers share.
pub(crate) struct Load {
    pub(crate) pool: Pool,
    pub(crate) tally: Tally,
    protocol: Protocol,
    /// Whether some callers hang up or panic in the middle of a request.
    careless: bool,
    prefix: String,
    stopped: AtomicBool,
}

/// How requests ended.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) answered: AtomicU64,
    pub(crate) no_connection: AtomicU64,
    pub(crate) timed_out: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) broken_off: AtomicU64,
    wrong: AtomicU64,
    first_wrong: Mutex<Option<String>>,
}

impl Load {
    pub(crate) fn new(pool: Pool, protocol: Protocol, careless: bool) -> Self {
        Self {
            pool,
            tally: Tally::default(),
            protocol,
            careless,
            prefix: unique_prefix(),
            stopped: AtomicBool::new(false),
        }
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    /// Ends the pool once all workers are done, and compares what both sides counted.
    pub(crate) fn close_the_books(&self, pulls: u64) -> Books {
        let before = self.pool.stats();
        self.pool.end();
        let drained = self.pool.drain(Duration::from_secs(10));
        Books {
            pulls,
            before,
            drained,
            after: self.pool.stats(),
        }
    }
}

/// A prefix for keys that no other run of the demo has.
pub(crate) fn unique_prefix() -> String {
    format!("jackpot-demo:{:016x}", RandomState::new().hash_one(()))
}

/// One worker, until it is told to stop; how long its pulls took, in nanoseconds.
pub(crate) fn work(load: &Load, worker: usize, seed: u64) -> Histogram {
    let mut random = Random::new(seed, worker as u64);
    let mut pulls = histogram();
    let mut number = 0_u64;
    while !load.stopped.load(Relaxed) {
        number += 1;
        if number % BURST == 0 {
            thread::sleep(random.between(Duration::ZERO, REST));
        }
        let id = format!("{}:{worker}:{number}", load.prefix);
        let started = Instant::now();
        let Ok(mut connection) = load.pool.pull_timeout(PULL_TIMEOUT) else {
            count(&load.tally.no_connection);
            continue;
        };
        pulls.saturating_record(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
        if load.careless && random.below(ONE_IN) == 0 {
            break_off(load, connection, &id, random.below(2) == 0);
            continue;
        }
        // After an error of the connection the guard is simply dropped: the pool saw it too.
        match load.protocol.ask(&mut *connection, &id) {
            Ok(()) => count(&load.tally.answered),
            Err(Trouble::Wrong(text)) => {
                Connection::discard(connection);
                load.tally.note_wrong(text);
            }
            Err(Trouble::Refused(_)) => {
                Connection::discard(connection);
                count(&load.tally.refused);
            }
            Err(trouble) if trouble.is_timeout() => count(&load.tally.timed_out),
            Err(Trouble::Io(_)) => count(&load.tally.lost),
        }
    }
    pulls
}

/// A caller that sends its request and is gone before the reply: it hangs up, or it panics.
fn break_off(load: &Load, mut connection: Connection, id: &str, panics: bool) {
    count(&load.tally.broken_off);
    let sent = load.protocol.hang_up(&mut *connection, id);
    if sent.is_ok() && panics {
        // A panic without the message that the hook would print.
        let _ = catch_unwind(AssertUnwindSafe(move || {
            let _held = connection;
            resume_unwind(Box::new("a careless caller"));
        }));
    }
}

impl Tally {
    pub(crate) fn wrong(&self) -> u64 {
        self.wrong.load(Relaxed)
    }

    pub(crate) fn first_wrong(&self) -> Option<String> {
        let first = self.first_wrong.lock();
        first.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn failed(&self) -> u64 {
        [
            &self.no_connection,
            &self.timed_out,
            &self.lost,
            &self.refused,
        ]
        .map(|count| count.load(Relaxed))
        .iter()
        .sum()
    }

    fn note_wrong(&self, text: String) {
        count(&self.wrong);
        let first = self.first_wrong.lock();
        first
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(text);
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// What the workers and the pool counted, when all was over.
#[derive(Debug)]
pub(crate) struct Books {
    pulls: u64,
    before: Stats,
    drained: bool,
    pub(crate) after: Stats,
}

impl Books {
    pub(crate) fn is_balanced(&self) -> bool {
        self.entries().iter().all(|(_, left, right)| left == right)
    }

    /// What must be equal, in words and in numbers.
    pub(crate) fn entries(&self) -> Vec<(&'static str, u64, u64)> {
        let Self { before, after, .. } = self;
        let sum = |stats: &Stats| Eviction::all().map(|why| stats.evicted(why)).sum::<u64>();
        vec![
            ("pulls = allocations", self.pulls, after.allocations),
            (
                "connects = releases + open",
                before.connects,
                before.releases + before.open as u64,
            ),
            ("releases = evictions", before.releases, sum(before)),
            ("leased at the end = 0", before.leased as u64, 0),
            ("waiting at the end = 0", before.waiting as u64, 0),
            ("drained in time", u64::from(self.drained), 1),
            ("connects = releases, ended", after.connects, after.releases),
            ("releases = evictions, ended", after.releases, sum(after)),
            (
                "open + connecting, ended = 0",
                (after.open + after.connecting) as u64,
                0,
            ),
        ]
    }
}
