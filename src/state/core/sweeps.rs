//! How idle connections leave: what sweeps ask of the core, and a connect without a descriptor.

use std::time::Duration;

use super::{ConnectionEvent, Core};
use crate::report::event::Event;
use crate::report::outcome::Eviction;
use crate::state::slots::{Holder, Lease, Open, SlotKey};

/// How many slots a search for the next ping goes through between two locks.
const PING_BATCH: u32 = 64;

/// An idle connection between two leases.
///
/// What is seen of its socket holds only until the next one: a reply that was on its way to a
/// caller is no unread byte, even if the lease is over by the time that the pool acts on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdlePeriod {
    pub(crate) key: SlotKey,
    /// How many came before it.
    pub(crate) leases: u64,
}

impl<L, H: Clone, W: Clone> Core<L, H, W> {
    /// Closes the least recently used idle connection, to give its descriptor away.
    pub(crate) fn evict_oldest(&mut self) -> bool {
        let Some(oldest) = self.slots.oldest() else {
            return false;
        };
        self.close(self.slots.key(oldest), Eviction::OverLimit, None);
        self.dispatch();
        true
    }

    /// Closes an idle connection that was found dead, unless it has been leased meanwhile.
    ///
    /// `silent`: the other side ended it without having sent a byte.
    pub(crate) fn evict_idle(&mut self, period: IdlePeriod, why: Eviction, silent: bool) -> bool {
        let IdlePeriod { key, leases } = period;
        let open = self.slots.get(key);
        let is_idle_still = open.is_some_and(|open| open.is_idle() && open.leases == leases);
        if is_idle_still {
            self.note_death(key, leases == 0 && silent);
            self.close(key, why, None);
            self.dispatch();
        }
        is_idle_still
    }

    /// Closes up to `most` connections that were idle too long, but leaves `min_idle`.
    pub(crate) fn evict_stale(&mut self, most: usize) -> usize {
        let Some(timeout) = self.rules.idle_timeout else {
            return 0;
        };
        let spare = self.slots.idle().saturating_sub(self.min_idle());
        let is_stale = |&index: &u32| {
            let (_, open) = self.slots.open_in(index).expect("bug: idle but not open");
            self.now.saturating_duration_since(open.since) >= timeout
        };
        let oldest = self.slots.by_age().take(spare.min(most));
        let stale = oldest.take_while(is_stale).count();
        self.shed(stale, Eviction::IdleTimeout);
        self.dispatch();
        stale
    }

    /// One batch of a sweep, over these slots; how many connections it closed.
    ///
    /// Idle connections that have a reason to leave are closed. The others come out in `idle`, to be
    /// probed without the lock. Leases whose connections are too old are recalled, and those that
    /// have been out for longer than `leak_after` come out in `overdue`, to be reported.
    pub(crate) fn inspect(
        &mut self,
        slots: std::ops::Range<u32>,
        idle: &mut Vec<(IdlePeriod, H)>,
        overdue: &mut Vec<ConnectionEvent>,
    ) -> usize {
        let mut closed = 0;
        for index in slots.start..slots.end.min(self.slots.len()) {
            let Some((key, open)) = self.slots.open_in(index) else {
                continue;
            };
            if !open.is_idle() {
                if open.has_expired(self.now) {
                    self.effects.recall.push(open.handle.clone());
                }
                overdue.extend(self.overdue(key));
            } else if let Some(why) = self.reason_to_close(open, None) {
                self.close(key, why, None);
                closed += 1;
            } else {
                let leases = open.leases;
                idle.push((IdlePeriod { key, leases }, open.handle.clone()));
            }
        }
        self.dispatch();
        closed
    }

    fn overdue(&mut self, key: SlotKey) -> Option<ConnectionEvent> {
        let leak_after = self.rules.leak_after?;
        let open = self.slots.get_mut(key)?;
        let held = self.now.saturating_duration_since(open.since);
        let taker = &mut open.leased_mut()?.taker;
        let holder = taker.holder.take_if(|_| held >= leak_after)?;
        let event = Event::Overdue {
            id: key.id,
            held,
            thread: holder.name().map(str::to_owned),
            at: taker.at,
        };
        self.begin_reporting(key.id, event)
    }

    /// The next idle connection, from this slot on, that has not answered for so long.
    ///
    /// A ping is the pool's own lease, and there is one at a time. `from` moves on, and is `None`
    /// once there is nothing more to ping.
    pub(crate) fn next_ping(
        &mut self,
        from: &mut Option<u32>,
        every: Duration,
    ) -> Option<Lease<L>> {
        let first = from.take()?;
        if self.ended || !self.waiters.is_empty() || self.slots.is_pinging() {
            return None;
        }
        let end = self.slots.len().min(first.saturating_add(PING_BATCH));
        let is_due = |open: &Open<L, H>| {
            open.is_idle() && self.now.saturating_duration_since(open.answered) >= every
        };
        let mut open = (first..end).filter_map(|index| self.slots.open_in(index));
        let Some((key, _)) = open.find(|(_, open)| is_due(open)) else {
            *from = Some(end).filter(|&end| end < self.slots.len());
            return None;
        };
        *from = Some(key.index + 1);
        let holder = self.rules.leak_after.map(|_| Holder::Ping);
        Some(self.slots.lease_for_ping(key.index, self.now, holder))
    }

    /// Claims the right to ping; false if a ping is under way.
    pub(crate) fn begin_pinging(&mut self) -> bool {
        !std::mem::replace(&mut self.pinging, true)
    }

    pub(crate) fn end_pinging(&mut self) {
        self.pinging = false;
    }

    /// Begins to make connections until `min_idle` are idle.
    pub(crate) fn refill(&mut self) {
        self.refilling = true;
        self.dispatch();
    }
}
