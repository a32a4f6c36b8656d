//! The pool's decisions, as a pure state machine: slots, the queue and the circuit breaker.
//!
//! Time enters through [`Core::advance`], before a transition; what must happen outside the lock
//! comes out through [`Core::take_effects`], after it. Nothing here locks, reads a clock, touches a
//! socket or runs code of the user's.
//!
//! Every transition that frees a place, or makes a connection idle, ends in `Core::dispatch`, which
//! brings idle connections and waiters together and starts the connects that are wanted.
//!
//! This file has what all transitions share, and the pool's own verbs. The files below it have who
//! is served next (`dispatch`), and the transitions of callers, of what comes back, and of sweeps.

mod callers;
mod dispatch;
mod effects;
mod events;
mod ready;
mod returns;
mod sweeps;
#[cfg(test)]
#[path = "../../tests/explore/state/core.rs"]
mod test_access;

use std::time::{Duration, Instant};

use crate::backoff::{Backoff, Random};
use crate::report::event::{Close, Freed, Outage};
use crate::report::outcome::Eviction;
use crate::report::stats::Stats;
use crate::state::barging::Convoy;
use crate::state::breaker::Breaker;
use crate::state::queue::{Answer, Failure, Queue, Seat, Ticket};
use crate::state::slots::{Closed, SlotKey, Slots};

pub(crate) use callers::{Caller, Turn};
pub(crate) use effects::{Effects, Reserved};
pub(crate) use events::ConnectionEvent;
pub(crate) use ready::Readiness;
pub(crate) use returns::{CloseWhen, Dead};
pub(crate) use sweeps::IdlePeriod;

/// The settings that the decisions depend on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    pub(crate) min_idle: usize,
    pub(crate) max_connecting: usize,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) max_lifetime: Option<Duration>,
    pub(crate) probe_after: Duration,
    pub(crate) leak_after: Option<Duration>,
    /// How many callers may wait for a connection to come back or a place to fall free.
    pub(crate) max_waiting: Option<usize>,
    /// After how many leases a connection is closed.
    pub(crate) max_uses: Option<u64>,
}

/// `L` is what a lease consists of, `H` the pool's handle on a connection, `W` wakes a waiter.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub(crate) struct Core<L, H, W> {
    /// What the clock showed when it was last read; it never goes back.
    now: Instant,
    /// What is to be done once the lock is free.
    effects: Effects<L, H, W>,
    slots: Slots<L, H>,
    waiters: Queue<L, W>,
    breaker: Breaker,
    convoy: Convoy,
    rules: Rules,
    limit: usize,
    backoff: Backoff,
    ended: bool,
    /// Whether connects are made for `min_idle`: from a sweep on until it is reached or one fails.
    refilling: bool,
    /// The first waiter, and when it must poll again to keep the pool trying during an outage.
    alarm: Option<(Seat, Instant)>,
    /// When idle connections and waiters were last brought together.
    dispatched: Instant,
    /// Leases whose holders have left them here, and their clients.
    abandoned: Vec<(SlotKey, L)>,
    /// Leases that were aborted and whose guards are still out.
    aborted: usize,
    /// Threads that wait in `drain`.
    drainers: usize,
    /// Whether there is a reaper to which dead connections may be left.
    has_reaper: bool,
    /// Whether a ping is under way.
    pinging: bool,
    /// Connections of which a thread is reporting, and what is to be reported next of those.
    reporting: Vec<u64>,
    unreported: Vec<ConnectionEvent>,
    /// Threads that wait until so many connections are open.
    ready_waiters: Vec<ready::ReadyWaiter<W>>,
    ready_waiters_so_far: u64,
    /// In a box, because its histograms are large and seldom written.
    counts: Box<Stats>,
    random: Random,
}

impl<L, H: Clone, W: Clone> Core<L, H, W> {
    pub(crate) fn new(limit: usize, rules: Rules, backoff: Backoff, now: Instant) -> Self {
        Self {
            now,
            effects: Effects::default(),
            slots: Slots::new(),
            waiters: Queue::new(),
            breaker: Breaker::default(),
            convoy: Convoy::default(),
            rules,
            limit,
            backoff,
            ended: false,
            refilling: false,
            alarm: None,
            dispatched: now,
            abandoned: Vec::new(),
            aborted: 0,
            drainers: 0,
            has_reaper: false,
            pinging: false,
            reporting: Vec::new(),
            unreported: Vec::new(),
            ready_waiters: Vec::new(),
            ready_waiters_so_far: 0,
            counts: Box::default(),
            random: Random::default(),
        }
    }

    /// Moves the clock forward, never back: a thread may be held up between reading the clock and
    /// the lock.
    pub(crate) fn advance(&mut self, now: Instant) {
        if self.now < now {
            self.now = now;
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// What remains to be done once the lock is free.
    pub(crate) fn take_effects(&mut self) -> Effects<L, H, W> {
        self.effects.errors.append(&mut self.breaker.retired);
        std::mem::take(&mut self.effects)
    }

    /// A connect that is to start, for a thread that makes it itself.
    pub(crate) fn take_connect(&mut self) -> Option<Reserved> {
        self.effects.connects.pop()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(crate) fn has_waiters(&self) -> bool {
        !self.waiters.is_empty()
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn backoff(&self) -> &Backoff {
        &self.backoff
    }

    pub(crate) fn set_backoff(&mut self, backoff: Backoff) {
        self.backoff = backoff;
    }

    pub(crate) fn set_has_reaper(&mut self) {
        self.has_reaper = true;
    }

    /// Whether leases should come back soon: callers wait whom no connect under way will serve, or
    /// more connections are open than the limit, which was lowered.
    pub(crate) fn wants_leases_back(&self) -> bool {
        self.waiters.len() > self.slots.connecting_current() || self.is_over_limit()
    }

    /// See [`Pool::free_with`](crate::Pool::free_with); the dead have been evicted before.
    pub(crate) fn free(&mut self, keep: usize, close: Close) -> Freed {
        self.close_left(usize::MAX);
        let mut freed = Freed {
            kept: 0,
            closed: 0,
            doomed: 0,
        };
        for index in 0..self.slots.len() {
            let open = self.slots.open_in(index);
            let Some((key, open)) = open.filter(|(_, open)| !open.is_idle()) else {
                continue;
            };
            if open.doom().is_none() && freed.kept < keep {
                freed.kept += 1;
            } else if self.let_go(key, Eviction::Freed, close) {
                freed.closed += 1;
            } else {
                freed.doomed += 1;
            }
        }
        let spared = self.slots.idle().min(keep - freed.kept);
        freed.closed += self.shed(self.slots.idle() - spared, Eviction::Freed);
        freed.kept += spared;
        if close == Close::Hard {
            self.give_up_connects(keep - freed.kept);
        }
        self.dispatch();
        freed
    }

    /// Ends the pool; true the first time.
    pub(crate) fn end(&mut self, close: Close) -> bool {
        let first = !std::mem::replace(&mut self.ended, true);
        self.has_reaper = false;
        self.close_left(usize::MAX);
        self.shed(self.slots.idle(), Eviction::Ended);
        for index in 0..self.slots.len() {
            if let Some((key, _)) = self.slots.open_in(index) {
                self.let_go(key, Eviction::Ended, close);
            }
        }
        if close == Close::Hard {
            self.give_up_connects(0);
        }
        while let Some(seat) = self.waiters.first() {
            self.answer_last(seat, Answer::Ended);
        }
        self.wake_ready_waiters();
        self.dispatch();
        first
    }

    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        let surplus = self.slots.in_use().saturating_sub(limit);
        self.shed(surplus.min(self.slots.idle()), Eviction::OverLimit);
        self.wake_ready_waiters();
        while self.is_over_limit() && self.close_abandoned(Eviction::OverLimit) {}
        self.dispatch();
    }

    /// The factory is another one: forgets the outage, and counts on no connect under way.
    pub(crate) fn factory_changed(&mut self) {
        self.breaker.reset(self.now);
        self.slots.outdate_connects();
        self.waiters.unassign_all();
        self.dispatch();
    }

    /// Joins those who wait until nothing is outstanding; false if that is so already.
    pub(crate) fn begin_draining(&mut self) -> bool {
        let waits = !self.is_drained();
        self.drainers += usize::from(waits);
        waits
    }

    pub(crate) fn end_draining(&mut self) {
        self.drainers -= 1;
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.slots.leased() + self.slots.connecting() + self.aborted == 0
    }

    pub(crate) fn stats(&self, allocations: u64) -> Stats {
        Stats {
            limit: self.limit,
            open: self.slots.open(),
            idle: self.slots.idle(),
            leased: self.slots.leased(),
            connecting: self.slots.connecting(),
            waiting: self.waiters.len(),
            allocations,
            ..Stats::clone(&self.counts)
        }
    }

    /// Since when connects fail, how many did, and why the last one did.
    pub(crate) fn outage(&self) -> Option<Outage> {
        self.breaker.outage()
    }

    /// A call gives up because its time is over; why there is no connection.
    pub(crate) fn time_out(&mut self) -> Option<Failure> {
        self.counts.timeouts += 1;
        self.cause()
    }

    pub(crate) fn slots(&self) -> &Slots<L, H> {
        &self.slots
    }

    fn min_idle(&self) -> usize {
        self.rules.min_idle.min(self.limit)
    }

    fn is_over_limit(&self) -> bool {
        self.slots.in_use() > self.limit
    }

    /// Whether the limit allows another connect. Places of connections that are closing count as
    /// free where [`make_place`](Self::make_place) can have them closed before the connect begins.
    fn has_place(&mut self) -> bool {
        let can_be_freed = self.slots.left() + self.effects.occupying().count();
        self.slots.occupied() < self.limit + can_be_freed
    }

    /// Gives up the connects under way, except for `keep` of those that were not given up before.
    ///
    /// One that has a socket already is cut: its socket is shut down, so that a handshake which hangs
    /// on it ends. One that has none yet is refused when it comes with one.
    fn give_up_connects(&mut self, mut keep: usize) {
        for index in 0..self.slots.len() {
            let Some(key) = self.slots.connect_in(index) else {
                continue;
            };
            if keep > 0 && !self.slots.is_outdated(key) {
                keep -= 1;
                continue;
            }
            self.waiters.unassign(key.id);
            self.effects.cut.extend(self.slots.give_up_connect(key));
        }
    }

    /// Makes a place for a connect where the limit leaves none: frees that of a connection which is
    /// closing.
    ///
    /// It is closed before the connect begins, because effects close before they connect.
    fn make_place(&mut self) {
        while self.slots.occupied() >= self.limit {
            if self.effects.occupying().next().is_none() {
                self.close_left(1);
            }
            let closed = self.effects.occupying().next();
            let closed = closed.expect("bug: no place to make");
            closed.occupies = false;
            self.slots.vacate(closed.key);
        }
    }

    /// These connections have been closed, so their places are free.
    pub(crate) fn vacate(&mut self, keys: &[SlotKey]) {
        for &key in keys {
            self.slots.vacate(key);
        }
        self.dispatch();
    }

    /// Closes up to `most` of the connections that were left in their slots to be closed; how many.
    pub(crate) fn close_left(&mut self, most: usize) -> usize {
        let count = most.min(self.slots.left());
        for _ in 0..count {
            self.effects.close.extend(self.slots.take_left());
        }
        count
    }

    /// Closes the `count` least recently used idle connections.
    fn shed(&mut self, count: usize, why: Eviction) -> usize {
        for _ in 0..count {
            let oldest = self.slots.oldest().expect("bug: fewer idle than counted");
            self.close(self.slots.key(oldest), why, None);
        }
        count
    }

    /// Lets go of a lease: false if its connection only closes when it comes back. With
    /// `Close::Hard` the socket is shut down under its holder.
    fn let_go(&mut self, key: SlotKey, why: Eviction, close: Close) -> bool {
        if let Some(client) = self.take_abandoned(key) {
            self.close(key, why, Some(client));
            return true;
        }
        if close == Close::Hard {
            let mut closed = self.depart(key, why, None);
            closed.is_aborted = true;
            self.effects.close.push(closed);
            self.aborted += 1;
            return true;
        }
        let open = self.slots.get_mut(key).expect("bug: no lease to let go of");
        if let Some(leased) = open.leased_mut().filter(|leased| leased.doom.is_none()) {
            leased.doom = Some(why);
            self.effects.recall.push(open.handle.clone());
        }
        false
    }

    fn close(&mut self, key: SlotKey, why: Eviction, returned: Option<L>) {
        let closed = self.depart(key, why, returned);
        self.effects.close.push(closed);
    }

    /// A connection stops being idle or leased, and is counted as released. It occupies its place
    /// until it has been closed.
    fn depart(&mut self, key: SlotKey, why: Eviction, returned: Option<L>) -> Closed<L, H> {
        let mut closed = self.slots.close(key, why, self.now, returned);
        self.counts.releases += 1;
        self.counts.evictions.count(why);
        if let Some(held) = closed.held {
            self.counts.lease_times.record(held);
        }
        // Else the thread that is reporting of it tells that too.
        closed.tell = !self.reporting.contains(&key.id);
        if !closed.tell {
            let events = closed.events().map(|event| (key.id, event));
            self.unreported.extend(events);
        }
        closed
    }

    fn count_wait(&mut self, ticket: Ticket) {
        let waited = self.now.saturating_duration_since(ticket.since);
        self.counts.waits += u64::from(!ticket.is_counted);
        self.counts.wait_total += waited;
        self.counts.wait_max = self.counts.wait_max.max(waited);
        self.counts.wait_times.record(waited);
    }

    fn note_drained(&mut self) {
        self.effects.drained |= self.drainers > 0 && self.is_drained();
    }
}
