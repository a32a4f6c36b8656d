//! Who leads a lane, from its start to its end.

use std::sync::Arc;
use std::time::Duration;

use crate::report::error::Error;
use crate::state::lanes::{Lanes, Lead, Look, Pen, Phase, Seat, Stage};

/// For so long no further lane is started after an attempt found no connection.
const SPACING: Duration = Duration::from_millis(100);

impl<S: Seat, K, P: Pen> Lanes<S, K, P> {
    /// The leader of a lane has its connection, and the pen if others can write to it.
    pub(crate) fn started(&mut self, at: usize, pen: Option<P>) {
        let lane = &mut self.lanes[at];
        lane.phase = Phase::Led;
        lane.pen = pen;
    }

    /// A lane on which nobody waits is to get another connection.
    pub(crate) fn restart(&mut self, at: usize) -> Option<P> {
        let lane = &mut self.lanes[at];
        let pen = lane.pen.take();
        lane.clear();
        lane.phase = Phase::Starting;
        pen
    }

    /// The leader of a new lane got no connection, and goes back into the queue if another lane
    /// can carry its call; if not, it keeps the lead.
    pub(crate) fn stand_back(
        &mut self,
        at: usize,
        kit: Option<K>,
        key: usize,
        request: &[u8],
    ) -> Result<(), Option<K>> {
        self.grow_at = self.now + SPACING;
        // Once the pool has ended, nobody would tell a call that is queued then.
        if self.ended.is_some() || !self.is_other_used(at) {
            return Err(kit);
        }
        self.put(key, request, true);
        self.vacate(at, kit);
        Ok(())
    }

    /// The pool gave no connection, and says so to all who are queued.
    pub(crate) fn no_connection(
        &mut self,
        at: usize,
        kit: Option<K>,
        key: usize,
        error: &Arc<Error>,
    ) {
        self.end_call(key);
        self.tell_queued(error);
        self.vacate(at, kit);
    }

    /// The leader of a lane has no connection, or has closed it; whoever is first leads it anew.
    pub(crate) fn vacate(&mut self, at: usize, kit: Option<K>) {
        let lane = &mut self.lanes[at];
        debug_assert!(!lane.writing && lane.pen.is_none());
        lane.clear();
        lane.kit = kit;
        if self.now < self.grow_at && self.is_other_used(at) {
            return;
        }
        if let Some(key) = self.first_waiting() {
            let seat = self.calls[key].seat.clone();
            let lead = self.appoint(key, at);
            debug_assert!(self.effects.lead.is_none());
            self.effects.lead = Some((seat, lead));
        }
    }

    /// The pen of a lane whose connection goes; it must go first.
    pub(crate) fn pen(&mut self, at: usize) -> Option<P> {
        self.lanes[at].pen.take()
    }

    /// Who leads next, now that the leader's own call is over.
    pub(super) fn successor(&mut self, at: usize) -> Look<S, K> {
        let lane = &self.lanes[at];
        let alive = lane.flights.iter().rev().find_map(|flight| flight.key);
        if let Some(key) = alive {
            // The newest: with the oldest there would be a hand-over for each reply.
            return self.hand_over(at, key, false);
        }
        if lane.writing {
            return Look::Wait;
        }
        let is_empty = lane.flights.is_empty();
        let next = if lane.wanted || lane.failing {
            None
        } else {
            self.first_waiting()
        };
        if let Some(key) = next {
            self.set_stage(key, Stage::Own);
            self.lanes[at].overdue |= !is_empty;
            return self.hand_over(at, key, !is_empty);
        }
        match &self.lanes[at] {
            _ if is_empty => Look::Release,
            lane if lane.wanted || lane.failing => Look::Discard,
            _ => Look::Drift,
        }
    }

    fn hand_over(&mut self, lane: usize, key: usize, stale: bool) -> Look<S, K> {
        self.calls[key].leads = true;
        let lead = Lead {
            lane,
            kit: None,
            others: true,
            stale,
        };
        Look::HandOver(self.calls[key].seat.clone(), lead)
    }

    /// Leaves a lane to itself, unless somebody came meanwhile; then its leader looks again.
    pub(crate) fn drift(&mut self, at: usize, kit: K) -> Result<(), K> {
        if self.first_waiting().is_some() || self.lanes[at].writing {
            return Err(kit);
        }
        let lane = &mut self.lanes[at];
        lane.phase = Phase::Drifting;
        lane.overdue = true;
        lane.reading = None;
        lane.kit = Some(kit);
        Ok(())
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
        let mut others = self.lanes.iter().enumerate().filter(|(i, _)| *i != at);
        others.any(|(_, lane)| matches!(lane.phase, Phase::Led | Phase::Starting))
    }

    /// Gives a lane without a leader to a call that has not been sent.
    pub(super) fn appoint(&mut self, key: usize, at: usize) -> Lead<K> {
        let others = self.is_other_used(at);
        let lane = &mut self.lanes[at];
        let stale = lane.phase == Phase::Drifting;
        lane.phase = if stale { Phase::Led } else { Phase::Starting };
        let kit = lane.kit.take();
        self.calls[key].leads = true;
        self.set_stage(key, Stage::Own);
        Lead {
            lane: at,
            kit,
            others,
            stale,
        }
    }
}
