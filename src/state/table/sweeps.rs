//! How idle connections leave: what sweeps ask of the table, and a connect without a descriptor.

use std::time::Duration;

use super::{Late, Overdue, Resting, Table};
use crate::report::outcome::Eviction;
use crate::state::slots::{Lease, Pinged, Place};

impl<L, H: Clone, W: Clone> Table<L, H, W> {
    /// Closes the least recently used idle connection, to give its descriptor away.
    pub(crate) fn evict_oldest(&mut self) -> bool {
        let Some(oldest) = self.slots.oldest() else {
            return false;
        };
        self.close(self.slots.place(oldest), Eviction::OverLimit, None);
        self.settle();
        true
    }

    /// Closes an idle connection that was found dead, unless it has been leased meanwhile.
    pub(crate) fn evict_idle(&mut self, resting: Resting, why: Eviction) -> bool {
        let Resting { place, leases } = resting;
        let rests = self
            .slots
            .get(place)
            .is_some_and(|open| open.is_idle() && open.leases == leases);
        if rests {
            self.close(place, why, None);
            self.settle();
        }
        rests
    }

    /// Closes up to `most` connections that were idle too long, but leaves `min_idle`.
    pub(crate) fn evict_stale(&mut self, most: usize) -> usize {
        let Some(timeout) = self.rules.idle_timeout else {
            return 0;
        };
        let spare = self.slots.idle().saturating_sub(self.min_idle());
        let stale: Vec<Place> = self
            .slots
            .by_age()
            .map(|index| self.slots.place(index))
            .take_while(|&place| {
                let open = self.slots.get(place).expect("bug: idle but not open");
                self.now.saturating_duration_since(open.since) >= timeout
            })
            .take(spare.min(most))
            .collect();
        for &place in &stale {
            self.close(place, Eviction::IdleTimeout, None);
        }
        self.settle();
        stale.len()
    }

    /// One batch of a sweep: closes what is too old, and hands out what is to be probed.
    ///
    /// Returns how many it closed. Leases that have been out too long go to `overdue`.
    pub(crate) fn inspect(
        &mut self,
        slots: std::ops::Range<u32>,
        idle: &mut Vec<(Resting, H)>,
        overdue: &mut Vec<Overdue>,
    ) -> usize {
        let mut closed = 0;
        for index in slots.start..slots.end.min(self.slots.len()) {
            let Some((place, open)) = self.slots.open_in(index) else {
                continue;
            };
            if !open.is_idle() {
                overdue.extend(self.overdue(place));
            } else if open.has_expired(self.now) {
                self.close(place, Eviction::MaxLifetime, None);
                closed += 1;
            } else {
                let leases = open.leases;
                idle.push((Resting { place, leases }, open.handle.clone()));
            }
        }
        self.settle();
        closed
    }

    fn overdue(&mut self, place: Place) -> Option<Overdue> {
        let leak_after = self.rules.leak_after?;
        let open = self.slots.get_mut(place)?;
        let held = self.now.saturating_duration_since(open.since);
        let holder = open.holder.take_if(|_| held >= leak_after)?;
        self.reporting.push(place.id);
        Some(Overdue {
            id: place.id,
            held,
            holder,
        })
    }

    /// These overdue leases have been reported; what happened to them meanwhile.
    pub(crate) fn reported(&mut self, ids: &[u64]) -> Vec<Late> {
        // Two sweeps may report leases of one connection at the same time: the last one tells.
        for id in ids {
            if let Some(at) = self.reporting.iter().position(|other| other == id) {
                self.reporting.swap_remove(at);
            }
        }
        let late = std::mem::take(&mut self.late);
        let (kept, told) = late
            .into_iter()
            .partition(|late| self.reporting.contains(&late.id));
        self.late = kept;
        told
    }

    /// The next idle connection, from this slot on, that was not tended for so long.
    ///
    /// A ping is the pool's own lease, and there is one at a time.
    pub(crate) fn next_ping(
        &mut self,
        from: &mut u32,
        every: Duration,
    ) -> Option<(Lease<L>, Pinged)> {
        if self.ended || !self.waiters.is_empty() {
            return None;
        }
        while *from < self.slots.len() {
            let index = *from;
            *from += 1;
            let Some((_, open)) = self.slots.open_in(index) else {
                continue;
            };
            if open.is_idle() && self.now.saturating_duration_since(open.tended) >= every {
                return Some(self.slots.lease_for_ping(index));
            }
        }
        None
    }

    /// Claims the right to ping; false if a ping is under way.
    pub(crate) fn begin_pinging(&mut self) -> bool {
        !std::mem::replace(&mut self.pinging, true)
    }

    pub(crate) fn end_pinging(&mut self) {
        self.pinging = false;
    }

    /// Begins to make connections until `min_idle` are idle.
    pub(crate) fn top_up(&mut self) {
        self.topping_up = true;
        self.settle();
    }
}
