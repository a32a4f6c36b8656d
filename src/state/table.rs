//! The pool's decisions, as a pure state machine: slots, waiters and the outage gate together.
//!
//! Time enters through [`Table::advance`], before a transition, and whatever parks a connection or frees a slot
//! ends in [`Table::settle`], the one place in which idle connections meet waiters and connects are
//! started; [`Table::park`] makes sure that there is nothing to do so for. What must happen outside
//! the lock comes out as [`Effects`]. Nothing here locks, reads a clock, touches a socket or runs
//! foreign code.
//!
//! This file has what all transitions share, and the pool's own verbs; the rooms below it have the
//! transitions of callers, of what comes back, and of sweeps.

mod callers;
mod returns;
mod sweeps;

use std::sync::Arc;
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::backoff::Random;
use crate::report::error::Error;
use crate::report::event::{Close, Freed};
use crate::report::outcome::Eviction;
use crate::report::stats::Stats;
use crate::state::barging::Convoy;
use crate::state::breaker::Gate;
use crate::state::queue::{Answer, Failure, Ticket, Waiters};
use crate::state::slots::{Closed, Lease, Place, Slots};

/// What has been decided and remains to be done once the lock is free.
#[derive(Debug)]
pub(crate) struct Effects<L, H, W> {
    /// Waiters that have an answer, or an alarm to ask for.
    pub(crate) wake: Vec<W>,
    /// Connects to start.
    pub(crate) connects: Vec<Reserved>,
    /// Connections to close and to report.
    pub(crate) closed: Vec<Closed<L, H>>,
    /// What came back from a lease that had been cut; to be dropped.
    pub(crate) leftover: Option<L>,
    /// Errors that nobody needs any more; to be dropped, because they are the user's.
    pub(crate) spent: Vec<Arc<Error>>,
    /// No lease and no connect is outstanding any more, and somebody waits for that.
    pub(crate) drained: bool,
}

impl<L, H, W> Effects<L, H, W> {
    pub(crate) fn is_empty(&self) -> bool {
        self.wake.is_empty()
            && self.closed.is_empty()
            && self.connects.is_empty()
            && self.leftover.is_none()
            && self.spent.is_empty()
            && !self.drained
    }
}

impl<L, H, W> Default for Effects<L, H, W> {
    fn default() -> Self {
        Self {
            wake: Vec::new(),
            connects: Vec::new(),
            closed: Vec::new(),
            leftover: None,
            spent: Vec::new(),
            drained: false,
        }
    }
}

/// The settings that the decisions depend on.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) min_idle: usize,
    pub(crate) max_connecting: usize,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) max_lifetime: Option<Duration>,
    pub(crate) probe_after: Duration,
    pub(crate) leak_after: Option<Duration>,
}

/// A slot that has been taken for a connection to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reserved {
    pub(crate) place: Place,
    /// Whether a waiter needs it, as opposed to `min_idle`.
    pub(crate) needed: bool,
}

/// How a caller's attempt to get a connection begins.
#[derive(Debug)]
pub(crate) enum Entry<L> {
    /// It has one, perhaps to be probed first.
    Granted { lease: Lease<L>, probe: bool },
    /// It waits for a connect that is made for it, or for what comes first.
    Trying(u32),
    /// The try failed; the caller keeps this seat for the next one.
    Failed(u32, Failure),
    /// The try failed, and the caller did not want a seat.
    Refused(Failure),
    /// The pool has ended.
    Ended,
}

/// An idle connection between two leases.
///
/// What is seen of its socket holds only until the next one: a reply that was on its way to a
/// caller is no unread byte, even if the lease is over by the time that the pool acts on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resting {
    pub(crate) place: Place,
    leases: u64,
}

/// A connection that was found dead on its way to a caller.
#[derive(Debug)]
pub(crate) struct Dead<L> {
    pub(crate) place: Place,
    pub(crate) held: L,
    pub(crate) why: Eviction,
    /// Whether the other side ended it and never said a word.
    pub(crate) mute: bool,
}

/// A lease that has been out for too long.
#[derive(Debug)]
pub(crate) struct Overdue {
    pub(crate) id: u64,
    pub(crate) held: Duration,
    pub(crate) holder: Thread,
}

/// An eviction that remains to be told of.
#[derive(Debug)]
pub(crate) struct Late {
    pub(crate) id: u64,
    pub(crate) why: Eviction,
    pub(crate) age: Duration,
}

/// `L` is what a lease consists of, `H` the pool's handle on a connection, `W` wakes a waiter.
#[derive(Debug)]
pub(crate) struct Table<L, H, W> {
    slots: Slots<L, H>,
    waiters: Waiters<L, W>,
    gate: Gate,
    convoy: Convoy,
    rules: Rules,
    limit: usize,
    ended: bool,
    /// Whether connects are made for `min_idle`: from a sweep on until it is reached or one fails.
    topping_up: bool,
    /// The first waiter, and when it must wake up to keep the pool trying during an outage.
    alarm: Option<(u32, Instant)>,
    /// Leases that were cut and whose guards are still out.
    severed: usize,
    /// Threads that wait in `drain`.
    drainers: usize,
    /// Whether a ping is under way.
    pinging: bool,
    /// Connections being reported overdue, and evictions that wait for that.
    reporting: Vec<u64>,
    late: Vec<Late>,
    /// What the clock showed when anybody last looked; it never goes back.
    now: Instant,
    /// What the clock showed when idle connections and waiters were last brought together.
    settled: Instant,
    counts: Stats,
    random: Random,
    /// What this transition and those before it have left to be done.
    pub(crate) effects: Effects<L, H, W>,
}

impl<L, H: Clone, W: Clone> Table<L, H, W> {
    pub(crate) fn new(limit: usize, rules: Rules, now: Instant) -> Self {
        Self {
            slots: Slots::new(),
            waiters: Waiters::new(),
            gate: Gate::new(),
            convoy: Convoy::new(),
            rules,
            limit,
            ended: false,
            topping_up: false,
            alarm: None,
            severed: 0,
            drainers: 0,
            pinging: false,
            reporting: Vec::new(),
            late: Vec::new(),
            now,
            settled: now,
            counts: Stats::default(),
            random: Random::new(),
            effects: Effects::default(),
        }
    }

    /// Moves the clock forward, never back: a thread may be held up between its look at the clock
    /// and the lock.
    pub(crate) fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// What remains to be done once the lock is free, if anything does.
    pub(crate) fn take_effects(&mut self) -> Option<Effects<L, H, W>> {
        (!self.effects.is_empty()).then(|| std::mem::take(&mut self.effects))
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// See [`Pool::free_with`](crate::Pool::free_with); the dead have been evicted before.
    pub(crate) fn free(&mut self, keep: usize, close: Close) -> Freed {
        let mut freed = Freed::NONE;
        for index in 0..self.slots.len() {
            let Some((place, open)) = self.slots.open_in(index) else {
                continue;
            };
            if open.is_idle() {
                continue;
            }
            if open.doom.is_none() && freed.kept < keep {
                freed.kept += 1;
            } else if close == Close::Hard {
                self.sever(place, Eviction::Freed);
                freed.closed += 1;
            } else {
                self.doom(place, Eviction::Freed);
                freed.doomed += 1;
            }
        }
        let spared = self.slots.idle().min(keep - freed.kept);
        freed.closed += self.shed(self.slots.idle() - spared, Eviction::Freed);
        freed.kept += spared;
        self.settle();
        freed
    }

    /// Ends the pool; true the first time.
    pub(crate) fn end(&mut self, close: Close) -> bool {
        let first = !std::mem::replace(&mut self.ended, true);
        self.shed(self.slots.idle(), Eviction::Ended);
        for index in 0..self.slots.len() {
            let Some((place, _)) = self.slots.open_in(index) else {
                continue;
            };
            match close {
                Close::Soft => self.doom(place, Eviction::Ended),
                Close::Hard => self.sever(place, Eviction::Ended),
            }
        }
        while let Some(seat) = self.waiters.first() {
            self.count_wait(self.waiters.ticket(seat));
            self.serve(seat, Answer::Ended);
        }
        self.settle();
        first
    }

    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        let surplus = self.slots.occupied().saturating_sub(limit);
        self.shed(surplus.min(self.slots.idle()), Eviction::OverLimit);
        self.settle();
    }

    /// The factory is another one: forgets the outage, and counts on no connect under way.
    pub(crate) fn factory_changed(&mut self) {
        self.effects.spent.extend(self.gate.lift(self.now));
        self.slots.outdate_connects();
        self.waiters.unassign_all();
        self.settle();
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
        self.slots.leased() + self.slots.connecting() + self.severed == 0
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
            ..self.counts.clone()
        }
    }

    pub(crate) fn slots(&self) -> &Slots<L, H> {
        &self.slots
    }

    #[cfg(test)]
    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    #[cfg(test)]
    pub(crate) fn convoy(&mut self) -> &mut Convoy {
        &mut self.convoy
    }

    /// Brings connections and waiters together, and starts the connects that are wanted.
    ///
    /// Every transition ends here, so that no path frees a slot or parks a connection without
    /// serving a waiter; but for `take` and `park`, which are for when nobody is to be served, and
    /// `bury`, whose caller enters next.
    fn settle(&mut self) {
        self.settled = self.now;
        if self.waiters.is_empty() && !self.topping_up {
            self.alarm = None;
            return self.note_drained();
        }
        self.topping_up &= self.slots.idle() < self.min_idle();
        while let (Some(newest), Some(first)) = (self.slots.newest(), self.waiters.first()) {
            let patient_until = self.waiters.patient_until(first);
            if self.is_at_limit() && patient_until.is_some_and(|until| self.now < until) {
                break;
            }
            self.convoy.handed_off(self.now);
            self.grant(newest, first, true);
        }
        while self.is_connect_due() {
            self.start(self.waiters.unassigned());
        }
        self.fail_hopeless_tries();
        self.set_alarm();
        self.note_drained();
    }

    /// Gives an idle connection to a waiter.
    fn grant(&mut self, index: u32, seat: u32, doubtful: bool) {
        let lease = self.slots.lease(index, self.now);
        let probe = doubtful && self.wants_probe(&lease);
        self.count_wait(self.waiters.ticket(seat));
        self.serve(seat, Answer::Granted { lease, probe });
    }

    /// Ends the wait of this waiter, whatever it was to be told before.
    fn serve(&mut self, seat: u32, answer: Answer<L>) {
        let (waker, old) = self.waiters.serve(seat, answer);
        self.effects.wake.push(waker);
        self.spend(old);
    }

    /// An answer that nobody has taken may own an error, which is the user's to drop.
    fn spend(&mut self, old: Option<Answer<L>>) {
        if let Some(Answer::Failed(Failure::Connect(error))) = old {
            self.effects.spent.push(error);
        }
    }

    fn wants_probe(&self, lease: &Lease<L>) -> bool {
        let after = self.rules.probe_after;
        after.is_zero() || self.now.saturating_duration_since(lease.idle_since) >= after
    }

    /// Whether another connect is wanted, and may start.
    fn is_connect_due(&self) -> bool {
        if self.ended || self.slots.connecting_anew() >= self.wanted() {
            return false;
        }
        match self.gate.retry_at() {
            None => self.may_connect(),
            Some(retry_at) => self.may_try_anew() && self.now >= retry_at,
        }
    }

    fn may_connect(&self) -> bool {
        !self.is_at_limit() && self.slots.connecting() < self.rules.max_connecting
    }

    /// During an outage there is one connect at a time; one of a factory before does not count.
    fn may_try_anew(&self) -> bool {
        self.may_connect() && self.slots.connecting_anew() == 0
    }

    /// How many connects should be under way, if nothing forbids it.
    fn wanted(&self) -> usize {
        let spare = if self.topping_up {
            self.min_idle().saturating_sub(self.slots.idle())
        } else {
            0
        };
        self.waiters.len().saturating_add(spare)
    }

    fn min_idle(&self) -> usize {
        self.rules.min_idle.min(self.limit)
    }

    fn start(&mut self, owner: Option<u32>) {
        let place = self.slots.reserve(self.now);
        self.gate.started(self.now);
        if let Some(seat) = owner {
            self.waiters.assign(seat, place.id);
        }
        let needed = owner.is_some();
        self.effects.connects.push(Reserved { place, needed });
    }

    /// Ends the tries for which no connect is under way or can be started.
    fn fail_hopeless_tries(&mut self) {
        let anew = self.slots.connecting_anew();
        let (hopeful, failure) = match self.gate.shut() {
            Some(error) => (anew, Failure::Connect(Arc::clone(error))),
            None => (self.limit.saturating_sub(self.slots.open()), Failure::Full),
        };
        let hopeless = self.waiters.trying().saturating_sub(hopeful);
        for seat in self.waiters.last_trying(hopeless) {
            self.fail(seat, failure.clone());
        }
    }

    /// Ends the current try of this waiter, and its wait with it if it has only one.
    fn fail(&mut self, seat: u32, failure: Failure) {
        if self.waiters.stays(seat) {
            let (waker, old) = self.waiters.fail(seat, failure);
            self.effects.wake.push(waker);
            self.spend(old);
        } else {
            self.count_wait(self.waiters.ticket(seat));
            self.serve(seat, Answer::Failed(failure));
        }
    }

    /// During an outage the first waiter keeps the pool trying; tells it when.
    fn set_alarm(&mut self) {
        let retry_at = self.gate.retry_at().filter(|_| self.may_try_anew());
        let alarm = self.waiters.first().zip(retry_at);
        if self.alarm == alarm {
            return;
        }
        self.alarm = alarm;
        if let Some((first, _)) = alarm {
            self.effects.wake.push(self.waiters.waker(first));
        }
    }

    fn note_drained(&mut self) {
        self.effects.drained |= self.drainers > 0 && self.is_drained();
    }

    fn is_at_limit(&self) -> bool {
        self.slots.occupied() >= self.limit
    }

    fn is_over_limit(&self) -> bool {
        self.slots.occupied() > self.limit
    }

    /// Closes the `count` least recently used idle connections.
    fn shed(&mut self, count: usize, why: Eviction) -> usize {
        for _ in 0..count {
            let oldest = self.slots.oldest().expect("bug: fewer idle than counted");
            self.close(self.slots.place(oldest), why, None);
        }
        count
    }

    fn doom(&mut self, place: Place, why: Eviction) {
        if let Some(open) = self.slots.get_mut(place) {
            open.doom.get_or_insert(why);
        }
    }

    /// Closes a connection whose lease is out; its guard comes home to nothing.
    fn sever(&mut self, place: Place, why: Eviction) {
        self.close(place, why, None);
        if let Some(closed) = self.effects.closed.last_mut() {
            closed.cut = true;
        }
        self.severed += 1;
    }

    fn close(&mut self, place: Place, why: Eviction, returned: Option<L>) {
        let mut closed = self.slots.close(place, why, self.now, returned);
        self.counts.releases += 1;
        self.counts.evictions.count(why);
        if self.reporting.contains(&closed.id) {
            closed.tell = false;
            let (id, age) = (closed.id, closed.age);
            self.late.push(Late { id, why, age });
        }
        self.effects.closed.push(closed);
    }

    fn held_by(&mut self, place: Place, holder: Option<Thread>) {
        if let Some(open) = self.slots.get_mut(place) {
            open.holder = holder;
        }
    }

    fn count_wait(&mut self, ticket: Ticket) {
        let waited = self.now.saturating_duration_since(ticket.since());
        self.counts.waits += u64::from(!ticket.is_counted());
        self.counts.wait_total += waited;
        self.counts.wait_max = self.counts.wait_max.max(waited);
    }
}
