//! Those who wait for a connection, first come, first served. Pure.
//!
//! Each waiter has a seat, and only it gives the seat up: by taking the answer that ends its wait,
//! or by leaving. Both happen under the pool's lock, as the hand-off does, so a connection is
//! either given to a waiter or not; there is no in between in which it could be lost.

#[cfg(test)]
#[path = "../../tests/explore/state/queue.rs"]
mod test_access;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::report::error::Error;
use crate::report::stats::{CallSites, Stats};
use crate::state::slots::Lease;

/// What ends a wait, or a try.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) enum Answer<L> {
    /// A connection.
    Granted(Lease<L>),
    /// The current try failed. A waiter that stays keeps its seat and its place.
    Failed(Failure),
    /// The pool has ended.
    Ended,
}

/// Why a try failed.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The limit left no room to connect.
    Full,
    /// The connect, or the last one during an outage, failed with this.
    Connect(Arc<Error>),
}

impl Failure {
    /// What a caller is told, of a pool in this state.
    pub(crate) fn to_error(&self, stats: impl FnOnce() -> Stats) -> Error {
        match self {
            Self::Full => Error::Full {
                stats: Box::new(Stats {
                    call_sites: CallSites::default(),
                    ..stats()
                }),
            },
            Self::Connect(error) => error.another(),
        }
    }
}

/// A place in the queue, kept across seats by a waiter whose connection proved dead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    pub(crate) number: u64,
    /// When the wait began, or went on after a dead connection.
    pub(crate) since: Instant,
    /// Whether this wait has been counted already.
    pub(crate) is_counted: bool,
}

/// Where somebody waits; it is used again once it has been given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat(pub(crate) u32);

/// The queue. `W` wakes a waiter, once the lock is free.
///
/// It is used under the pool's lock, so nothing here walks the line: who comes first, who comes
/// last among those who try, and who is next to have a connect made for it stand at the ends of
/// maps, whose keys are the numbers of the tickets.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Queue<L, W> {
    seats: Vec<Option<Waiter<L, W>>>,
    vacant: Vec<u32>,
    /// The seats that wait to be served.
    line: BTreeMap<u64, Seat>,
    /// Those of them that wait for a connect, as opposed to sleeping between two tries.
    trying: BTreeMap<u64, Seat>,
    /// Those of them for whom no connection is being made.
    unassigned: BTreeMap<u64, Seat>,
    /// The others, by the connection that is being made.
    assigned: BTreeMap<u64, Seat>,
    next_number: u64,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Waiter<L, W> {
    pub(crate) ticket: Ticket,
    pub(crate) waker: W,
    /// Whether it goes on after a failed try.
    pub(crate) stays: bool,
    /// Whether it is in the line: neither served nor told that its only try failed.
    pub(crate) waits: bool,
    /// Until when others may overtake this waiter; from then on it is strictly its turn.
    pub(crate) barging_until: Option<Instant>,
    /// The connection that is being made for this waiter.
    connect: Option<u64>,
    answer: Option<Answer<L>>,
}

impl<L, W: Clone> Queue<L, W> {
    pub(crate) const fn new() -> Self {
        Self {
            seats: Vec::new(),
            vacant: Vec::new(),
            line: BTreeMap::new(),
            trying: BTreeMap::new(),
            unassigned: BTreeMap::new(),
            assigned: BTreeMap::new(),
            next_number: 0,
        }
    }

    /// How many wait to be served.
    pub(crate) fn len(&self) -> usize {
        self.line.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// How many wait for a connect.
    pub(crate) fn trying(&self) -> usize {
        self.trying.len()
    }

    /// The one who came first.
    pub(crate) fn first(&self) -> Option<Seat> {
        self.line.values().next().copied()
    }

    pub(crate) fn new_ticket(&mut self, now: Instant) -> Ticket {
        self.next_number += 1;
        Ticket {
            number: self.next_number,
            since: now,
            is_counted: false,
        }
    }

    /// Joins the line at the ticket's place.
    pub(crate) fn join(
        &mut self,
        ticket: Ticket,
        waker: W,
        trying: bool,
        stays: bool,
        barging_until: Option<Instant>,
    ) -> Seat {
        let waiter = Waiter {
            ticket,
            waker,
            stays,
            waits: true,
            barging_until,
            connect: None,
            answer: None,
        };
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.seats.push(None);
            u32::try_from(self.seats.len() - 1).expect("bug: seats outgrew u32")
        });
        let seat = Seat(index);
        self.seats[index as usize] = Some(waiter);
        self.line.insert(ticket.number, seat);
        self.unassigned.insert(ticket.number, seat);
        if trying {
            self.trying.insert(ticket.number, seat);
        }
        seat
    }

    /// Ends the wait of this waiter, or only its current try; an answer that it had not taken comes
    /// out.
    pub(crate) fn tell(
        &mut self,
        seat: Seat,
        answer: Answer<L>,
        is_last: bool,
    ) -> Option<Answer<L>> {
        if is_last {
            self.leave_line(seat);
        } else {
            self.end_try(seat);
        }
        let waiter = self.seat_mut(seat);
        waiter.waits &= !is_last;
        waiter.ticket.is_counted |= is_last;
        waiter.answer.replace(answer)
    }

    /// Begins another try of this waiter, which has taken its answer to the one before.
    pub(crate) fn try_again(&mut self, seat: Seat) {
        let waiter = self.seat(seat);
        // What it was told would be dropped under the lock, and its error is the user's.
        debug_assert!(waiter.answer.is_none() && !self.is_trying(seat));
        self.trying.insert(waiter.ticket.number, seat);
    }

    /// Takes the answer, if there is one; an answer that ends the wait ends the seat too.
    pub(crate) fn take_answer(&mut self, seat: Seat) -> Option<Answer<L>> {
        let waiter = self.seat_mut(seat);
        let (answer, is_over) = (waiter.answer.take(), !waiter.waits);
        if is_over {
            self.give_up(seat);
        }
        answer
    }

    /// Leaves the queue, unserved.
    pub(crate) fn leave(&mut self, seat: Seat) {
        debug_assert!(self.seat(seat).waits);
        self.leave_line(seat);
        self.give_up(seat);
    }

    /// The connection with this id is being made for that waiter.
    pub(crate) fn assign(&mut self, seat: Seat, id: u64) {
        let waiter = self.seat_mut(seat);
        debug_assert!(waiter.connect.is_none());
        waiter.connect = Some(id);
        let number = waiter.ticket.number;
        self.unassigned.remove(&number);
        self.assigned.insert(id, seat);
    }

    /// The first waiter for whom no connection is being made.
    pub(crate) fn unassigned(&self) -> Option<Seat> {
        self.unassigned.values().next().copied()
    }

    /// Forgets all connections that are being made: nobody is to count on them any more.
    ///
    /// There are no more of them than connects under way.
    pub(crate) fn unassign_all(&mut self) {
        while let Some((_, seat)) = self.assigned.pop_first() {
            self.count_on_none(seat);
        }
    }

    /// Forgets that this connection is being made; who tries for it is returned.
    pub(crate) fn unassign(&mut self, id: u64) -> Option<Seat> {
        let seat = self.assigned.remove(&id)?;
        self.count_on_none(seat);
        self.is_trying(seat).then_some(seat)
    }

    fn count_on_none(&mut self, seat: Seat) {
        let waiter = self.seat_mut(seat);
        waiter.connect = None;
        let number = waiter.ticket.number;
        self.unassigned.insert(number, seat);
    }

    /// All who sleep between two tries, first come first: for news that ends their waits.
    pub(crate) fn sleeping(&self) -> Vec<Seat> {
        let seats = self.line.values().copied();
        seats.filter(|&seat| !self.is_trying(seat)).collect()
    }

    /// The last comer among those who wait for a connect.
    pub(crate) fn last_trying(&self) -> Option<Seat> {
        self.trying.values().next_back().copied()
    }

    fn leave_line(&mut self, seat: Seat) {
        self.end_try(seat);
        let waiter = self.seat_mut(seat);
        let (number, connect) = (waiter.ticket.number, waiter.connect.take());
        self.line.remove(&number);
        match connect {
            Some(id) => self.assigned.remove(&id),
            None => self.unassigned.remove(&number),
        };
    }

    fn end_try(&mut self, seat: Seat) {
        let number = self.seat(seat).ticket.number;
        self.trying.remove(&number);
    }

    fn is_trying(&self, seat: Seat) -> bool {
        self.trying.contains_key(&self.seat(seat).ticket.number)
    }

    fn give_up(&mut self, seat: Seat) {
        self.seats[seat.0 as usize] = None;
        self.vacant.push(seat.0);
    }

    pub(crate) fn seat(&self, seat: Seat) -> &Waiter<L, W> {
        self.seats[seat.0 as usize]
            .as_ref()
            .expect("bug: nobody sits there")
    }

    fn seat_mut(&mut self, seat: Seat) -> &mut Waiter<L, W> {
        self.seats[seat.0 as usize]
            .as_mut()
            .expect("bug: nobody sits there")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Line = Queue<(), &'static str>;

    fn join(queue: &mut Line, waker: &'static str, trying: bool) -> Seat {
        let ticket = queue.new_ticket(Instant::now());
        queue.join(ticket, waker, trying, true, None)
    }

    fn fail(queue: &mut Line, seat: Seat) {
        queue.tell(seat, Answer::Failed(Failure::Full), false);
    }

    #[test]
    fn a_try_that_failed_names_no_call_sites() {
        let stats = || Stats {
            call_sites: CallSites::new(1, &[std::panic::Location::caller()]),
            ..Stats::default()
        };
        assert_ne!(stats().call_sites.to_string(), "");
        let Error::Full { stats } = Failure::Full.to_error(stats) else {
            panic!("the pool is full");
        };
        assert_eq!(stats.call_sites.to_string(), "");
    }

    #[test]
    fn a_waiter_whose_connection_was_dead_comes_back_to_its_place() {
        let mut queue = Line::new();
        let first = join(&mut queue, "first", true);
        let second = join(&mut queue, "second", true);
        queue.tell(first, Answer::Ended, true);
        let ticket = queue.seat(first).ticket;
        queue.take_answer(first);
        let third = join(&mut queue, "third", true); // on the seat that fell vacant
        assert_eq!((queue.first(), third), (Some(second), first));
        let again = queue.join(ticket, "first again", true, true, None);
        assert!(queue.seat(again).ticket.is_counted);
        let line: Vec<Seat> = std::iter::from_fn(|| {
            let first = queue.first()?;
            queue.leave(first);
            Some(first)
        })
        .collect();
        assert_eq!(line, [again, second, third]);
    }

    #[test]
    fn the_last_comers_fail_first_and_sleepers_are_left_asleep() {
        let mut queue = Line::new();
        join(&mut queue, "first", true);
        join(&mut queue, "second", true);
        join(&mut queue, "sleeper", false);
        join(&mut queue, "last", true);
        let failed = [(); 2].map(|()| {
            let last = queue.last_trying().unwrap();
            fail(&mut queue, last);
            queue.seat(last).waker
        });
        assert_eq!(failed, ["last", "second"]);
        assert_eq!((queue.trying(), queue.len()), (1, 4));
    }

    #[test]
    fn a_failure_that_was_not_taken_gives_way_to_a_connection() {
        let mut queue = Line::new();
        let seat = join(&mut queue, "only", true);
        fail(&mut queue, seat);
        assert!(queue.seat(seat).waits);
        let old = queue.tell(seat, Answer::Ended, true);
        assert!(matches!(old, Some(Answer::Failed(Failure::Full))));
        assert!(matches!(queue.take_answer(seat), Some(Answer::Ended)));
        assert!(queue.is_empty() && queue.trying() == 0);
    }

    #[test]
    fn a_failure_is_told_once_and_keeps_the_seat() {
        let mut queue = Line::new();
        let seat = join(&mut queue, "only", true);
        fail(&mut queue, seat);
        assert!(matches!(queue.take_answer(seat), Some(Answer::Failed(_))));
        assert!(queue.take_answer(seat).is_none());
        queue.try_again(seat);
        assert_eq!((queue.first(), queue.trying()), (Some(seat), 1));
        queue.leave(seat);
        assert_eq!((queue.first(), queue.trying()), (None, 0));
    }

    #[test]
    fn a_failed_connect_is_the_business_of_the_waiter_that_tries_for_it() {
        let mut queue = Line::new();
        let trying = join(&mut queue, "trying", true);
        let asleep = join(&mut queue, "asleep", false);
        queue.assign(trying, 1);
        queue.assign(asleep, 2);
        assert_eq!(queue.unassigned(), None);
        assert_eq!(queue.unassign(1), Some(trying));
        assert_eq!(queue.unassigned(), Some(trying));
        assert_eq!(queue.unassign(2), None);
        assert_eq!(queue.unassign(3), None);
    }
}
