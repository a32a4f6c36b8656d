//! The calls of a pipeline: their places, the queue, and how those end that get no reply.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::report::error::Error;
use crate::state::lanes::{Call, Fate, GaveUp, Lanes, Pen, Seat, Stage, Ticket};

/// How much of a request's buffer is kept for the next one in its place.
const KEPT: usize = 16 * 1024;

impl<S: Seat, K, P: Pen> Lanes<S, K, P> {
    /// The pool has ended: whoever is queued, and whoever comes, hears so at once.
    pub(crate) fn end(&mut self, error: Arc<Error>) {
        self.tell_queued(&error);
        self.ended = Some(error);
    }

    /// All who are queued hear that there is no connection.
    pub(super) fn tell_queued(&mut self, error: &Arc<Error>) {
        let queued: Vec<_> = self.waiting().collect();
        for key in queued {
            self.tell(key, Fate::NoConnection(Arc::clone(error)));
        }
    }

    /// Ends a call whose caller sleeps.
    pub(super) fn tell(&mut self, key: usize, fate: Fate) {
        self.end_call(key);
        self.calls[key].leads = false;
        let seat = self.calls[key].seat.clone();
        self.effects.fates.push((seat, fate));
    }

    /// A call is sent once more.
    pub(crate) fn repeats(&mut self) {
        self.stats.repeated += 1;
    }

    /// A caller that does not lead gives up.
    pub(crate) fn give_up(&mut self, key: usize) -> GaveUp {
        if self.calls[key].leads || self.calls[key].stage == Stage::Over {
            return GaveUp::Settled;
        }
        self.abandon(key)
    }

    /// A call's time is up; its caller leads no more, or will look as one whose call is over.
    pub(crate) fn abandon(&mut self, key: usize) -> GaveUp {
        let stage = self.calls[key].stage;
        self.end_call(key);
        self.stats.timeouts += 1;
        let Stage::Sent(at, number) = stage else {
            return GaveUp::Unsent;
        };
        let lane = &mut self.lanes[at];
        let place = usize::try_from(number - lane.first).expect("bug: a call with a wrong number");
        lane.flights[place].key = None;
        lane.overdue = true;
        self.stats.abandoned += 1;
        GaveUp::Sent
    }

    /// A call that never began to wait or to be sent is counted.
    pub(crate) fn refused(&mut self) {
        self.stats.timeouts += 1;
    }

    pub(super) fn admit(&mut self, deadline: Option<Instant>) -> usize {
        self.unsent += 1;
        let fresh = |seat, request| Call {
            seat,
            ticket: 0,
            stage: Stage::Own,
            leads: false,
            request,
            deadline,
            entered: self.now,
        };
        for _ in 0..self.over.len().min(4) {
            let Some(key) = self.over.pop_front() else {
                break;
            };
            if self.calls[key].seat.is_free() {
                let old = &mut self.calls[key];
                let request = std::mem::take(&mut old.request);
                *old = fresh(old.seat.clone(), request);
                return key;
            }
            self.over.push_back(key);
        }
        self.calls.push(fresh(S::new(), Vec::new()));
        self.calls.len() - 1
    }

    pub(super) fn end_call(&mut self, key: usize) {
        debug_assert_ne!(self.calls[key].stage, Stage::Over);
        self.set_stage(key, Stage::Over);
        self.over.push_back(key);
    }

    pub(super) fn set_stage(&mut self, key: usize, stage: Stage) {
        let call = &mut self.calls[key];
        let old = std::mem::replace(&mut call.stage, stage);
        if old == Stage::Queued {
            call.request.clear();
            call.request.shrink_to(KEPT);
        }
        let is_unsent = |stage| matches!(stage, Stage::Queued | Stage::Own);
        if is_unsent(old) && !is_unsent(stage) {
            self.unsent -= 1;
        }
    }

    pub(super) fn is_queued(&self, key: usize) -> bool {
        self.calls[key].stage == Stage::Queued
    }

    pub(super) fn is_in_time(&self, key: usize) -> bool {
        self.calls[key].deadline.is_none_or(|at| self.now < at)
    }

    pub(super) fn put(&mut self, key: usize, request: &[u8], first: bool) {
        let is_large = self.is_large(request.len());
        self.tickets += 1;
        let ticket = (key, self.tickets);
        let call = &mut self.calls[key];
        (call.ticket, call.stage, call.leads) = (self.tickets, Stage::Queued, false);
        if !is_large {
            call.request.extend_from_slice(request);
        }
        let queue = if is_large {
            &mut self.large
        } else {
            &mut self.queue
        };
        // Who gives up leaves a ticket behind.
        if queue.len() > 2 * self.unsent + 64 {
            queue.retain(|&ticket| waits(&self.calls, self.now, ticket));
        }
        if first {
            queue.push_front(ticket);
        } else {
            queue.push_back(ticket);
        }
    }

    /// The calls in the queue whose time is not up.
    pub(super) fn waiting(&self) -> impl Iterator<Item = usize> + '_ {
        let tickets = self.queue.iter().chain(&self.large);
        let waiting = tickets.filter(|ticket| waits(&self.calls, self.now, **ticket));
        waiting.map(|(key, _)| *key)
    }

    /// The first small call that waits.
    pub(super) fn first_small(&mut self) -> Option<usize> {
        first(&mut self.queue, &self.calls, self.now)
    }

    /// The first large call that waits; its caller is to lead.
    pub(super) fn first_large(&mut self) -> Option<usize> {
        first(&mut self.large, &self.calls, self.now)
    }

    /// The first call that waits, a large one before all others.
    pub(super) fn first_waiting(&mut self) -> Option<usize> {
        self.first_large().or_else(|| self.first_small())
    }
}

fn waits<S>(calls: &[Call<S>], now: Instant, (key, ticket): Ticket) -> bool {
    let call = &calls[key];
    call.ticket == ticket && call.stage == Stage::Queued && call.deadline.is_none_or(|at| now < at)
}

fn first<S>(queue: &mut VecDeque<Ticket>, calls: &[Call<S>], now: Instant) -> Option<usize> {
    while let Some(&ticket) = queue.front() {
        if waits(calls, now, ticket) {
            return Some(ticket.0);
        }
        queue.pop_front();
    }
    None
}
