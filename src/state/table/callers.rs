//! How a caller comes to a connection: at once, after a wait, or not at all.

use std::sync::Arc;
use std::thread::Thread;
use std::time::Instant;

use super::{Dead, Entry, Table};
use crate::report::outcome::PeerSignal;
use crate::state::queue::{Answer, Failure, Ticket};
use crate::state::slots::{Lease, Open};

impl<L, H: Clone, W: Clone> Table<L, H, W> {
    /// The most recently used idle connection and whether to probe it.
    ///
    /// Where there are waiters too, their patience has not ended yet, and only a caller that may
    /// `overtake` gets one.
    pub(crate) fn take(
        &mut self,
        overtake: bool,
        holder: Option<Thread>,
    ) -> Option<(Lease<L>, bool)> {
        if !overtake && !self.waiters.is_empty() {
            return None;
        }
        let newest = self.slots.newest()?;
        let lease = self.slots.lease(newest, self.now);
        if holder.is_some() {
            self.held_by(lease.place, holder);
        }
        let probe = self.wants_probe(&lease);
        Some((lease, probe))
    }

    /// A caller that found nothing idle: it connects, waits, or is refused.
    ///
    /// A caller whose connection proved dead comes back with its ticket and keeps its place. With
    /// `stay`, a failed try leaves the caller in the queue.
    pub(crate) fn enter(
        &mut self,
        ticket: Option<Ticket>,
        waker: &W,
        stay: bool,
        holder: Option<Thread>,
    ) -> Entry<L> {
        if self.ended {
            return Entry::Ended;
        }
        if let Some((lease, probe)) = self.take(stay, holder) {
            return Entry::Granted { lease, probe };
        }
        let claims = match ticket {
            Some(ticket) => self.waiters.ahead_of(ticket),
            None => self.slots.connecting().max(self.waiters.len()),
        };
        let refusal = self.refusal(claims);
        if let Some(failure) = refusal.clone().filter(|_| !stay) {
            return Entry::Refused(failure);
        }
        let ticket = match ticket {
            Some(ticket) => ticket.resumed(self.now),
            None => self.waiters.new_ticket(self.now),
        };
        let seat = self
            .waiters
            .join(ticket, waker.clone(), refusal.is_none(), stay);
        if self.is_at_limit() {
            let patience = self.convoy.patience(self.waiters.len() - 1, self.now);
            let until = patience.and_then(|patience| self.now.checked_add(patience));
            self.waiters.set_patient_until(seat, until);
        }
        self.begin(seat, refusal.is_none());
        match refusal {
            None => Entry::Trying(seat),
            Some(failure) => Entry::Failed(seat, failure),
        }
    }

    /// A connection that proved dead leaves, before its caller enters again with its ticket.
    ///
    /// What falls free is for that caller first, so this settles nothing: `tick` does, afterwards.
    /// Returns whether it shuts the gate: of a connection that died on its way from the connect to
    /// the caller, the other side hung up. One that lay idle may have died with all the others.
    pub(crate) fn bury(&mut self, dead: Dead<L>) -> bool {
        let Dead {
            place,
            held,
            why,
            mute,
        } = dead;
        let hung_up = mute && self.slots.get(place).is_some_and(Open::never_rested);
        let shuts = hung_up && self.take_word(place, PeerSignal::HungUp);
        self.remove(place, Some(held), why);
        shuts
    }

    /// The next try of a waiter; why it fails at once, if it does.
    pub(crate) fn retry(&mut self, seat: u32) -> Option<Failure> {
        if !self.waiters.is_waiting(seat) {
            return None; // the answer is there
        }
        let claims = self.waiters.ahead_of(self.waiters.ticket(seat));
        let refusal = self.refusal(claims);
        if refusal.is_none() {
            self.waiters.try_again(seat);
        }
        self.begin(seat, refusal.is_none());
        refusal
    }

    /// Why a try that comes behind `claims` others would fail at once.
    ///
    /// During an outage those who wait claim nothing: what stops the try is the failed connect.
    fn refusal(&self, claims: usize) -> Option<Failure> {
        let open = self.slots.open();
        let Some(error) = self.gate.shut() else {
            return (open + claims >= self.limit).then_some(Failure::Full);
        };
        if open >= self.limit {
            return Some(Failure::Full);
        }
        if self.may_try_anew() && self.gate.may_start(self.now) {
            return None;
        }
        Some(Failure::Connect(Arc::clone(error)))
    }

    /// A try through a shut gate starts its connect itself; all else is settled as usual.
    fn begin(&mut self, seat: u32, tries: bool) {
        if tries && self.gate.shut().is_some() {
            self.start(Some(seat));
        }
        self.settle();
    }

    /// What a waiter has been told; an answer that ends the wait ends its seat.
    ///
    /// The ticket keeps the place in the queue of a waiter whose connection proves dead.
    pub(crate) fn answer(
        &mut self,
        seat: u32,
        holder: Option<Thread>,
    ) -> Option<(Answer<L>, Ticket)> {
        let ticket = self.waiters.ticket(seat);
        let answer = self.waiters.take_answer(seat)?;
        if let Answer::Granted { lease, .. } = &answer {
            self.held_by(lease.place, holder);
        }
        Some((answer, ticket))
    }

    /// When this waiter must wake up by itself: to keep the pool trying during an outage, or to
    /// see whether a connection was left lying while it was patient.
    pub(crate) fn alarm(&self, seat: u32) -> Option<Instant> {
        let keeper = self.alarm.filter(|&(first, _)| first == seat);
        if let Some((_, at)) = keeper {
            return Some(at);
        }
        let until = self.waiters.patient_until(seat)?;
        // Twice the patience: by then most have been served and need not wake up for nothing.
        let since = self.waiters.ticket(seat).since();
        let at = until + until.saturating_duration_since(since);
        (at > self.settled).then_some(at)
    }

    /// A waiter's alarm went off, or what was buried left a slot.
    pub(crate) fn tick(&mut self) {
        self.settle();
    }

    /// A waiter gives up.
    pub(crate) fn leave(&mut self, seat: u32) {
        self.count_wait(self.waiters.ticket(seat));
        self.waiters.leave(seat);
        self.settle();
    }

    /// Why there is no connection at this moment, if there is more to say than "not yet".
    pub(crate) fn cause(&self) -> Option<Failure> {
        if self.slots.open() >= self.limit {
            return Some(Failure::Full);
        }
        let error = self.gate.shut()?;
        Some(Failure::Connect(Arc::clone(error)))
    }
}
