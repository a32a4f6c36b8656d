//! What the threads and the pool's functions counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jackpot::{Event, Stats};

use crate::books::imbalance;
use crate::protocol::Trouble;
use crate::sharing::Calls;

pub(crate) type Histogram = hdrhistogram::Histogram<u64>;

/// For nanoseconds up to ten minutes, to two digits.
pub(crate) fn histogram() -> Histogram {
    Histogram::new_with_bounds(1, 600_000_000_000, 2).expect("these bounds are valid")
}

/// No more than so many findings are kept; one is enough to fail.
const MOST_FINDINGS: usize = 10;

#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) actions: AtomicU64,
    pub(crate) asked: AtomicU64,
    pub(crate) answered: AtomicU64,
    pub(crate) troubled: AtomicU64,
    pub(crate) wrong: AtomicU64,
    /// Leases that callers of the pool under test got.
    pub(crate) leases: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) guests: AtomicU64,
    /// By how much a call of `pull_timeout` outlasted its bound at most, in nanoseconds.
    pub(crate) overshoot: AtomicU64,
    /// Leases with a deadline, and by how much that or a request's was outlasted at most.
    pub(crate) deadlines: AtomicU64,
    pub(crate) deadline_overshoot: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) frees: AtomicU64,
    pub(crate) limits: AtomicU64,
    /// Shared calls, by their kind, and by how much one outlasted its time-out at most.
    pub(crate) calls: [Calls; 2],
    pub(crate) call_overshoot: AtomicU64,
    pub(crate) call_times: Mutex<Histogram>,
    /// By how much a sleeping thread outlasted its own at most.
    pub(crate) sleep_overshoot: AtomicU64,
    /// Leases of the pool of plain streams that are no pipeline's.
    pub(crate) plain_leases: AtomicU64,
    pub(crate) events: Events,
    pub(crate) pulls: Mutex<Histogram>,
    findings: Mutex<Vec<String>>,
}

/// What the event function was told.
#[derive(Debug, Default)]
pub(crate) struct Events {
    pub(crate) connected: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) evicted: AtomicU64,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            actions: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            troubled: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            leases: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            guests: AtomicU64::new(0),
            overshoot: AtomicU64::new(0),
            deadlines: AtomicU64::new(0),
            deadline_overshoot: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            frees: AtomicU64::new(0),
            limits: AtomicU64::new(0),
            calls: Default::default(),
            call_overshoot: AtomicU64::new(0),
            call_times: Mutex::new(histogram()),
            sleep_overshoot: AtomicU64::new(0),
            plain_leases: AtomicU64::new(0),
            events: Events::default(),
            pulls: Mutex::new(histogram()),
            findings: Mutex::default(),
        }
    }

    /// What must not be, in words.
    pub(crate) fn find(&self, text: String) {
        let mut findings = lock(&self.findings);
        if findings.len() < MOST_FINDINGS {
            findings.push(text);
        }
    }

    pub(crate) fn findings(&self) -> Vec<String> {
        lock(&self.findings).clone()
    }

    /// How one request ended.
    pub(crate) fn note(&self, result: &Result<(), Trouble>) {
        count(&self.asked);
        match result {
            Ok(()) => count(&self.answered),
            Err(Trouble::Wrong(text)) => {
                count(&self.wrong);
                self.find(format!("a wrong reply: {text}"));
            }
            Err(_) => count(&self.troubled),
        }
    }

    pub(crate) fn hear(&self, event: &Event) {
        match event {
            Event::Connected { .. } => count(&self.events.connected),
            Event::ConnectFailed { .. } => count(&self.events.failed),
            Event::Evicted { .. } => count(&self.events.evicted),
            _ => {}
        }
    }

    pub(crate) fn exceeded(&self, by: Duration) {
        self.overshoot.fetch_max(nanoseconds(by), Relaxed);
    }

    pub(crate) fn exceeded_deadline(&self, by: Duration) {
        self.deadline_overshoot.fetch_max(nanoseconds(by), Relaxed);
    }

    /// What holds in every snapshot of a pool's numbers.
    pub(crate) fn check(&self, stats: &Stats, most: usize) {
        if let Some(wrong) = imbalance(stats) {
            self.find(format!("the books do not balance, {wrong}"));
        }
        if stats.open + stats.connecting > most {
            self.find(format!("more than {most} at once: {stats}"));
        }
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
