//! Who waits until so many connections are open, and what is done for that.

use std::sync::Arc;
use std::time::Instant;

use super::Core;
use crate::report::error::Error;

/// A thread that waits until so many connections are open.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct ReadyWaiter<W> {
    number: u64,
    count: usize,
    waker: W,
    /// How many connects had failed when it came.
    failures: u64,
}

/// How it stands with a thread that waits for connections to be open.
#[derive(Debug)]
pub(crate) enum Readiness {
    /// So many are open.
    Ready,
    /// Not yet; it polls again when woken, and at this time.
    Waits(Option<Instant>),
    /// Never: this is the limit.
    AboveLimit(usize),
    /// Never: no waiting cures this.
    Permanent(Arc<Error>),
    /// The pool has ended.
    Ended,
}

impl<L, H: Clone, W: Clone> Core<L, H, W> {
    /// From now on connects are made until `count` are open; the number under which to ask.
    pub(crate) fn begin_ready(&mut self, count: usize, waker: W) -> u64 {
        self.ready_waiters_so_far += 1;
        let number = self.ready_waiters_so_far;
        self.ready_waiters.push(ReadyWaiter {
            number,
            count,
            waker,
            failures: self.counts.connect_failures,
        });
        number
    }

    /// Ends that, whether or not it came so far.
    pub(crate) fn end_ready(&mut self, number: u64) {
        self.ready_waiters.retain(|waiter| waiter.number != number);
    }

    pub(crate) fn poll_ready(&mut self, number: u64) -> Readiness {
        let waiter = self.ready_waiters.iter().find(|r| r.number == number);
        let waiter = waiter.expect("bug: nobody waits for connections to be open");
        let has_failed = self.counts.connect_failures > waiter.failures;
        if self.ended {
            return Readiness::Ended;
        }
        if waiter.count > self.limit {
            return Readiness::AboveLimit(self.limit);
        }
        if self.slots.open() >= waiter.count {
            return Readiness::Ready;
        }
        let error = self.breaker.error().filter(|error| error.is_permanent());
        if let Some(error) = error.filter(|_| has_failed) {
            return Readiness::Permanent(Arc::clone(error));
        }
        self.dispatch();
        // What is due already begins when a connect ends or a place falls free.
        let retry_at = self.breaker.retry_at().filter(|&at| at > self.now);
        Readiness::Waits(retry_at)
    }

    /// How many connections are wanted for those who wait for it.
    pub(super) fn wanted_open(&self) -> usize {
        let counts = self.ready_waiters.iter().map(|waiter| waiter.count);
        counts.max().unwrap_or(0).min(self.limit)
    }

    /// There is news for those who wait for connections to be open.
    pub(super) fn wake_ready_waiters(&mut self) {
        let wakers = self.ready_waiters.iter().map(|waiter| waiter.waker.clone());
        self.effects.wake.extend(wakers);
    }
}
