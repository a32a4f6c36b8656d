//! Who leads a lane, from its start to its end.

use std::sync::Arc;
use std::time::Duration;

use crate::report::error::Error;
use crate::state::lanes::{Failure, Lanes, Lead, News, Phase, Seat, Stage, Step};

/// For so long no further lane is started after an attempt found no connection.
const SPACING: Duration = Duration::from_millis(100);

impl<S: Seat> Lanes<S> {
    /// A lane on which nobody waits is to get another connection.
    pub(crate) fn restart(&mut self, at: usize) {
        self.lanes[at].clear();
        self.lanes[at].phase = Phase::Starting;
    }

    /// The leader of a new lane got no connection, and goes back into the queue if another lane
    /// can carry its call; if not, it keeps the lead.
    pub(crate) fn stand_back(&mut self, at: usize, key: usize, request: &[u8]) -> bool {
        self.grow_at = self.now + SPACING;
        // Once the pool has ended, nobody would tell a call that is queued then.
        let stands_back = self.ended.is_none() && self.is_other_used(at);
        if stands_back {
            self.put(key, request, true);
            self.vacate(at);
        }
        stands_back
    }

    /// The pool gave no connection, and says so to all who are queued.
    pub(crate) fn no_connection(&mut self, at: usize, key: usize, error: &Arc<Error>) {
        self.tell(key, Failure::NoConnection(Arc::clone(error)));
        self.tell_queued(error);
        self.vacate(at);
    }

    /// The leader of a lane has no connection, or has closed it, and leaves.
    pub(crate) fn vacate(&mut self, at: usize) {
        debug_assert!(!self.lanes[at].writing);
        self.lanes[at].clear();
        if self.now >= self.grow_at || !self.is_other_used(at) {
            self.appoint_first(at);
        }
    }

    /// The leader leaves a lane to itself.
    pub(crate) fn drift(&mut self, at: usize) {
        let lane = &mut self.lanes[at];
        lane.phase = Phase::Drifting;
        lane.overdue = true;
        self.appoint_first(at);
    }

    /// The lanes that nobody leads although replies are outstanding.
    pub(crate) fn drifting(&self) -> impl Iterator<Item = usize> + '_ {
        let lanes = self.lanes.iter().enumerate();
        lanes.filter_map(|(at, lane)| (lane.phase == Phase::Drifting).then_some(at))
    }

    /// The connection of such a lane is closed.
    pub(crate) fn closed(&mut self, at: usize) {
        if self.lanes[at].phase == Phase::Drifting {
            self.lanes[at].clear();
        }
    }

    /// Who leads next, now that the leader's own call is over.
    pub(super) fn successor(&mut self, at: usize, is_written: bool) -> Step<S> {
        let lane = &mut self.lanes[at];
        let alive = lane.flights.iter().rev().find_map(|flight| flight.key);
        if let Some(key) = alive {
            // The newest: with the oldest there would be a hand-over for each reply.
            return self.hand_over(at, key, false);
        }
        if lane.writing {
            lane.phase = Phase::Passing;
            return Step::Pass;
        }
        let is_empty = lane.flights.is_empty();
        let is_of_use = is_written && !lane.wanted && !lane.failing;
        match self.first_waiting() {
            Some(key) if is_of_use => {
                self.lanes[at].overdue |= !is_empty;
                self.hand_over(at, key, !is_empty)
            }
            _ if is_empty => Step::Release,
            None if is_of_use => Step::Drift,
            _ => Step::Discard,
        }
    }

    /// Gives a lane without a leader to whoever is first in the queue.
    pub(super) fn appoint_first(&mut self, at: usize) {
        if let Some(key) = self.first_waiting() {
            let seat = self.calls[key].seat.clone();
            let lead = self.appoint(key, at);
            self.news.push((seat, News::Lead(lead)));
        }
    }

    /// A lane for who comes: one that drifts, else another one.
    pub(super) fn lane_to_lead(&self) -> Option<usize> {
        let find = |phase| self.lanes.iter().position(|lane| lane.phase == phase);
        if let Some(lane) = find(Phase::Drifting) {
            return Some(lane);
        }
        let lane = find(Phase::Vacant)?;
        (self.now >= self.grow_at || !self.is_other_used(lane)).then_some(lane)
    }

    fn is_other_used(&self, at: usize) -> bool {
        let is_used = |phase| matches!(phase, Phase::Starting | Phase::Led | Phase::Passing);
        let mut lanes = self.lanes.iter().enumerate();
        lanes.any(|(other, lane)| other != at && is_used(lane.phase))
    }

    /// Gives a lane without a leader to a call that has not been sent.
    pub(super) fn appoint(&mut self, key: usize, at: usize) -> Lead {
        let lane = &mut self.lanes[at];
        let stale = lane.phase == Phase::Drifting;
        lane.phase = if stale { Phase::Led } else { Phase::Starting };
        self.lead(key, at, stale)
    }

    fn hand_over(&mut self, at: usize, key: usize, stale: bool) -> Step<S> {
        let lead = self.lead(key, at, stale);
        Step::HandOver(self.calls[key].seat.clone(), lead)
    }

    /// This call's caller is to lead, and sends its call first if it has not been sent.
    pub(super) fn lead(&mut self, key: usize, at: usize, stale: bool) -> Lead {
        self.calls[key].leads = true;
        self.watches_no_more(key);
        if self.is_queued(key) {
            self.set_stage(key, Stage::Own);
        }
        Lead {
            lane: at,
            own: true,
            others: self.is_other_used(at),
            stale,
        }
    }
}
