//! How a caller comes to a connection: at once, after a wait, or not at all.

use std::sync::Arc;
use std::time::Instant;

use super::{Answer, CloseWhen, Core, Dead, Failure, Seat, Ticket};
use crate::state::slots::{Lease, Open, Taker};

/// A call that found nothing idle.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Caller<W> {
    pub(crate) waker: W,
    /// Whether it goes on after a failed try.
    pub(crate) stays: bool,
    /// Who takes the lease.
    taker: Taker,
    /// Its place in the queue, which it keeps when its connection proves dead.
    pub(super) ticket: Option<Ticket>,
    /// Where it waits, while it does.
    pub(crate) seat: Option<Seat>,
}

/// How it stands with a caller.
#[derive(Debug)]
pub(crate) enum Turn<L> {
    /// It has a connection.
    Granted(Lease<L>),
    /// Its try failed. One that stays is still in the queue, and polls again at this time.
    Failed(Failure, Option<Instant>),
    /// Its try failed for a cause that no waiting cures, and no connection is open that could come
    /// back. One that stays is still in the queue, and is to leave it.
    Permanent(Failure),
    /// Nothing yet; it polls again when woken, and at this time.
    Pending(Option<Instant>),
    /// It is not let into the line, which is as long as it may be.
    QueueFull,
    /// The pool has ended.
    Ended,
}

impl<W> Caller<W> {
    pub(crate) fn new(waker: W, stays: bool, taker: Taker) -> Self {
        Self {
            waker,
            stays,
            taker,
            ticket: None,
            seat: None,
        }
    }

    fn waiting_seat(&self) -> Seat {
        self.seat.expect("bug: a caller that does not wait")
    }
}

impl<L, H: Clone, W: Clone> Core<L, H, W> {
    /// A caller that found nothing idle: it connects, waits, or is refused.
    pub(crate) fn enter(&mut self, caller: &mut Caller<W>) -> Turn<L> {
        if self.ended {
            return Turn::Ended;
        }
        if let Some(lease) = self.take(caller.stays, caller.taker.clone()) {
            return Turn::Granted(lease);
        }
        // Beside the open connections a new caller cannot have the places of connects that nobody
        // counts on, nor of those made for waiters or, where more of them wait, of the waiters. One
        // that comes back with its ticket stands before all these.
        let claimed = if caller.ticket.is_some() {
            0
        } else {
            let by_waiters = self.slots.connecting_current().max(self.waiters.len());
            self.slots.outdated() + by_waiters
        };
        let refusal = self.refusal(claimed);
        if let Some(failure) = refusal.clone().filter(|_| !caller.stays) {
            return self.failed(failure, None);
        }
        if refusal.is_some() && caller.ticket.is_none() && self.is_line_full() {
            self.counts.refusals += 1;
            return Turn::QueueFull;
        }
        let ticket = match caller.ticket {
            Some(ticket) => Ticket {
                since: self.now,
                ..ticket
            },
            None => self.waiters.new_ticket(self.now),
        };
        let until = self.barging_until_of_next();
        let (waker, trying) = (caller.waker.clone(), refusal.is_none());
        let seat = self
            .waiters
            .join(ticket, waker, trying, caller.stays, until);
        caller.seat = Some(seat);
        self.go_on(seat, refusal)
    }

    /// Whether as many callers stand in line as `max_waiting` allows.
    ///
    /// Those for whom the pool connects do not stand in line. While there are fewer waiters than it
    /// could connect for, another one would not either.
    fn is_line_full(&self) -> bool {
        let in_line = self.waiters.len().checked_sub(self.served_by_connects());
        let most = self.rules.max_waiting;
        most.zip(in_line)
            .is_some_and(|(most, in_line)| in_line >= most)
    }

    /// A caller's connection proved dead: it goes on at its old place in the queue.
    ///
    /// All in one transition, so that nobody who came later is served in between.
    pub(crate) fn come_back(&mut self, caller: &mut Caller<W>, dead: Dead<L>) -> Turn<L> {
        self.remove_dead(dead, CloseWhen::Now);
        let turn = self.enter(caller);
        self.dispatch();
        turn
    }

    /// What this waiter is told, or when it should poll again.
    pub(crate) fn poll(&mut self, caller: &mut Caller<W>) -> Turn<L> {
        let seat = caller.waiting_seat();
        if let Some(turn) = self.answer(caller) {
            return turn;
        }
        let poll_at = self.poll_at(seat);
        if poll_at.is_none_or(|at| self.now < at) {
            return Turn::Pending(poll_at);
        }
        self.dispatch();
        self.answer(caller)
            .unwrap_or_else(|| Turn::Pending(self.poll_at(seat)))
    }

    /// The next try of a waiter that has just been polled.
    ///
    /// It claims a place before all who came later: where there is none for all who try, the last
    /// comer's try ends.
    pub(crate) fn retry(&mut self, caller: &mut Caller<W>) -> Turn<L> {
        let seat = caller.waiting_seat();
        let refusal = self.refusal(0);
        if refusal.is_none() {
            self.waiters.try_again(seat);
        }
        self.go_on(seat, refusal)
    }

    /// A waiter gives up.
    pub(crate) fn leave(&mut self, caller: &mut Caller<W>) {
        let seat = caller.waiting_seat();
        caller.seat = None;
        self.count_wait(self.waiters.seat(seat).ticket);
        self.waiters.leave(seat);
        self.dispatch();
    }

    /// Why there is no connection at this moment, if there is more to say than "not yet".
    pub(crate) fn cause(&self) -> Option<Failure> {
        if self.slots.open() >= self.limit {
            return Some(Failure::Full);
        }
        let error = self.breaker.error()?;
        Some(Failure::Connect(Arc::clone(error)))
    }

    fn go_on(&mut self, seat: Seat, refusal: Option<Failure>) -> Turn<L> {
        if refusal.is_none() && self.breaker.error().is_some() {
            // A try through an open breaker starts its connect itself.
            self.start(Some(seat));
        }
        self.dispatch();
        let poll_at = self.poll_at(seat);
        match refusal {
            None => Turn::Pending(poll_at),
            Some(failure) => self.failed(failure, poll_at),
        }
    }

    /// A try failed: for good where no waiting cures the cause and no connection is open that could
    /// come back to the caller.
    fn failed(&self, failure: Failure, poll_at: Option<Instant>) -> Turn<L> {
        let is_permanent = matches!(&failure, Failure::Connect(error) if error.is_permanent());
        if is_permanent && self.slots.open() == 0 {
            return Turn::Permanent(failure);
        }
        Turn::Failed(failure, poll_at)
    }

    /// What a waiter has been told; an answer that ends the wait ends its seat.
    fn answer(&mut self, caller: &mut Caller<W>) -> Option<Turn<L>> {
        let seat = caller.waiting_seat();
        let waiter = self.waiters.seat(seat);
        let (ticket, is_over) = (waiter.ticket, !waiter.waits);
        let turn = match self.waiters.take_answer(seat)? {
            Answer::Granted(lease) => {
                let open = self.slots.get_mut(lease.key);
                if let Some(leased) = open.and_then(Open::leased_mut) {
                    leased.taker = caller.taker.clone();
                }
                Turn::Granted(lease)
            }
            Answer::Failed(failure) => {
                let poll_at = if is_over { None } else { self.poll_at(seat) };
                self.failed(failure, poll_at)
            }
            Answer::Ended => Turn::Ended,
        };
        if is_over {
            caller.ticket = Some(ticket);
            caller.seat = None;
        }
        Some(turn)
    }

    /// When this waiter must poll again without being woken. There is no timer thread, so waiters
    /// keep the times at which something is to be done.
    ///
    /// During an outage the first waiter keeps the time of the pool's next connect. And a waiter
    /// that others may overtake for a while must find what lies idle when that is over, since nobody
    /// may come who would give it to the waiter.
    pub(crate) fn poll_at(&self, seat: Seat) -> Option<Instant> {
        let alarm = self.alarm.filter(|&(first, _)| first == seat);
        if let Some((_, at)) = alarm {
            return Some(at);
        }
        let waiter = self.waiters.seat(seat);
        let until = waiter.barging_until?;
        // After twice the time: by then most have been served and need not wake up for nothing. A
        // dispatch after that time has served the waiter if anything was idle.
        let at = until + until.saturating_duration_since(waiter.ticket.since);
        (at > self.dispatched).then_some(at)
    }
}
