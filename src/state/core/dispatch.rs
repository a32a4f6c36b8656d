//! Who is served next, and when connects start: the one file that decides it.

use std::sync::Arc;
use std::time::Instant;

use super::{Answer, Core, Failure, Reserved, Seat};
use crate::report::outcome::Eviction;
use crate::state::slots::{Lease, Taker};

impl<L, H: Clone, W: Clone> Core<L, H, W> {
    /// The most recently used idle connection, for a caller that is not in the queue.
    ///
    /// Where an idle connection lies beside waiters, the first of them may be overtaken for a while
    /// (see `barging`), and then only by a caller that may `barge` and has just read the clock.
    #[inline(always)]
    pub(crate) fn take(&mut self, barge: bool, taker: Taker) -> Option<Lease<L>> {
        let may_take = self.waiters.is_empty() || (barge && self.may_overtake());
        if !may_take {
            return None;
        }
        let newest = self.slots.newest()?;
        Some(self.lease(newest, taker))
    }

    /// Whether others may take what is idle before the first waiter does.
    #[inline]
    fn may_overtake(&mut self) -> bool {
        let first = self.waiters.first();
        let until = first.and_then(|first| self.waiters.seat(first).barging_until);
        until.is_some_and(|until| self.now < until) && !self.has_place()
    }

    /// Whether a connection that comes back may become idle without a `dispatch`.
    pub(super) fn wants_nothing(&self) -> bool {
        self.waiters.is_empty() && !self.refilling && self.drainers == 0
    }

    /// Until when callers may overtake one who begins to wait: for a while, if there is a convoy to
    /// dissolve and no place to connect in.
    pub(super) fn barging_until_of_next(&mut self) -> Option<Instant> {
        if self.has_place() {
            return None;
        }
        let window = self.convoy.window(self.waiters.len(), self.now)?;
        self.now.checked_add(window)
    }

    /// Brings idle connections and waiters together, and starts the connects that are wanted.
    pub(super) fn dispatch(&mut self) {
        self.dispatched = self.now;
        if self.waiters.is_empty() && !self.refilling && self.ready_waiters.is_empty() {
            self.alarm = None;
            return self.note_drained();
        }
        self.refilling &= self.slots.idle() < self.min_idle();
        while let (Some(newest), Some(first)) = (self.slots.newest(), self.waiters.first()) {
            if self.may_overtake() {
                break;
            }
            self.convoy.handed_off(self.now);
            self.grant(newest, first, true);
        }
        loop {
            while self.is_connect_due() {
                self.start(self.waiters.unassigned());
            }
            // A lease that nobody waits on makes way for somebody who waits.
            let unserved = self.waiters.len() > self.slots.connecting_current();
            if !unserved || self.has_place() || !self.close_abandoned(Eviction::Unanswered) {
                break;
            }
        }
        self.fail_tries_without_a_connect();
        self.set_alarm();
        self.note_drained();
    }

    /// Gives an idle connection to a waiter. One that was made for it just now needs no probe.
    pub(super) fn grant(&mut self, index: u32, seat: Seat, may_be_dead: bool) {
        let mut lease = self.lease(index, Taker::default());
        lease.probe &= may_be_dead;
        self.answer_last(seat, Answer::Granted(lease));
    }

    #[inline(always)]
    fn lease(&mut self, index: u32, taker: Taker) -> Lease<L> {
        let after = self.rules.probe_after;
        let (mut lease, idle_since) = self.slots.lease(index, self.now, taker);
        // A sum costs less than the difference of two times.
        let is_stale = || {
            idle_since
                .checked_add(after)
                .is_some_and(|at| at <= self.now)
        };
        lease.probe = after.is_zero() || is_stale();
        lease
    }

    /// Ends the wait of this waiter, whatever it was to be told before.
    pub(super) fn answer_last(&mut self, seat: Seat, answer: Answer<L>) {
        self.count_wait(self.waiters.seat(seat).ticket);
        self.tell(seat, answer, true);
    }

    /// Ends the current try of this waiter, and its wait with it if it has only one.
    pub(super) fn fail(&mut self, seat: Seat, failure: Failure) {
        if self.waiters.seat(seat).stays {
            self.tell(seat, Answer::Failed(failure), false);
        } else {
            self.answer_last(seat, Answer::Failed(failure));
        }
    }

    fn wake(&mut self, seat: Seat) {
        let waker = self.waiters.seat(seat).waker.clone();
        self.effects.wake.push(waker);
    }

    fn tell(&mut self, seat: Seat, answer: Answer<L>, is_last: bool) {
        self.wake(seat);
        // An answer that nobody has taken may own an error, which is the user's to drop.
        if let Some(Answer::Failed(Failure::Connect(error))) =
            self.waiters.tell(seat, answer, is_last)
        {
            self.effects.errors.push(error);
        }
    }

    /// Why a try would fail at once, where others claim so many places that are not open yet.
    ///
    /// During an outage those claims do not count: what stops the try is the failed connect.
    pub(super) fn refusal(&mut self, claimed: usize) -> Option<Failure> {
        let open = self.slots.open();
        let Some(error) = self.breaker.error().map(Arc::clone) else {
            return (open + claimed >= self.limit).then_some(Failure::Full);
        };
        if open >= self.limit {
            return Some(Failure::Full);
        }
        if self.may_try_connect() && self.breaker.may_start(self.now) {
            return None;
        }
        Some(Failure::Connect(error))
    }

    /// Whether another connect is wanted, and may start.
    fn is_connect_due(&mut self) -> bool {
        if self.ended || self.slots.connecting_current() >= self.wanted() {
            return false;
        }
        match self.breaker.retry_at() {
            None => self.may_connect(),
            Some(retry_at) => self.now >= retry_at && self.may_try_connect(),
        }
    }

    /// A connect that nobody counts on any more occupies a place, but not one of `max_connecting`.
    fn may_connect(&mut self) -> bool {
        self.slots.connecting_current() < self.rules.max_connecting && self.has_place()
    }

    /// Half-open: there is one connect at a time.
    fn may_try_connect(&mut self) -> bool {
        self.slots.connecting_current() == 0 && self.may_connect()
    }

    /// How many connects should be under way, if nothing forbids it.
    fn wanted(&self) -> usize {
        let spare = if self.refilling {
            self.min_idle().saturating_sub(self.slots.idle())
        } else {
            0
        };
        let unopened = self.wanted_open().saturating_sub(self.slots.open());
        self.waiters.len().saturating_add(spare).max(unopened)
    }

    /// How many waiters can be served by connects: those under way, and those that start as soon as
    /// `max_connecting` lets them. During an outage none of the latter starts for sure.
    pub(super) fn served_by_connects(&self) -> usize {
        if self.breaker.error().is_some() {
            return self.slots.connecting_current();
        }
        let taken = self.slots.open() + self.slots.outdated();
        self.limit.saturating_sub(taken)
    }

    pub(super) fn start(&mut self, owner: Option<Seat>) {
        self.make_place();
        let key = self.slots.reserve(self.now);
        self.breaker.started(self.now);
        if let Some(seat) = owner {
            self.waiters.assign(seat, key.id);
        }
        let needed = owner.is_some();
        self.effects.connects.push(Reserved { key, needed });
    }

    /// Ends the tries for which no connect is under way or can be started; the last comers' first.
    ///
    /// Each of them began by itself, so this is no walk, even where an outage ends many at once.
    fn fail_tries_without_a_connect(&mut self) {
        let (served, failure) = match self.breaker.error() {
            Some(error) => (
                self.slots.connecting_current(),
                Failure::Connect(Arc::clone(error)),
            ),
            None => (self.limit.saturating_sub(self.slots.open()), Failure::Full),
        };
        while self.waiters.trying() > served {
            let last = self.waiters.last_trying();
            self.fail(last.expect("bug: nobody tries"), failure.clone());
        }
    }

    /// During an outage the first waiter keeps the pool trying; tells it when.
    fn set_alarm(&mut self) {
        let retry_at = self.breaker.retry_at();
        let retry_at = retry_at.filter(|_| self.may_try_connect());
        let alarm = self.waiters.first().zip(retry_at);
        if self.alarm == alarm {
            return;
        }
        self.alarm = alarm;
        if let Some((first, _)) = alarm {
            self.wake(first);
        }
    }
}
