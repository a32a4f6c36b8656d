//! What happens to each connection, reported in the order in which it happened.
//!
//! The thread that causes an event reports it, without the lock, since the event function is the
//! user's and may take its time. If something else happens to the same connection meanwhile, it is
//! kept here until that thread comes for it: reported by another thread, it might overtake.

use std::time::Duration;

use super::Core;
use crate::report::event::Event;
use crate::state::slots::{SlotKey, Taker};

/// Something that happened to the connection of this number and is to be reported.
pub(crate) type ConnectionEvent = (u64, Event);

impl<L, H: Clone, W: Clone> Core<L, H, W> {
    /// A lease has reached its caller. No event if it was aborted before.
    ///
    /// Only from now on it may be reported overdue.
    pub(crate) fn lease_begins(
        &mut self,
        key: SlotKey,
        waited: Duration,
        taker: Taker,
    ) -> Option<ConnectionEvent> {
        let (id, at) = (key.id, taker.at?);
        let leased = self.slots.get_mut(key)?.leased_mut()?;
        leased.is_told = true;
        leased.taker = taker;
        self.begin_reporting(id, Event::Leased { id, waited, at })
    }

    /// A lease is about to come back, or to end otherwise. No event if it was aborted before.
    pub(crate) fn lease_ends(&mut self, key: SlotKey) -> Option<ConnectionEvent> {
        let id = key.id;
        let open = self.slots.get_mut(key)?;
        let held = open.end_told_lease(self.now)?;
        open.leased_mut()?.taker.holder = None;
        self.counts.lease_times.record(held);
        self.begin_reporting(id, Event::Returned { id, held })
    }

    /// The event, to be reported by the caller, or none if another thread is reporting of this
    /// connection and will report this too. After an event the caller asks for the
    /// [next one](Self::next_event) until there is none.
    pub(super) fn begin_reporting(&mut self, id: u64, event: Event) -> Option<ConnectionEvent> {
        if self.reporting.contains(&id) {
            self.unreported.push((id, event));
            return None;
        }
        self.reporting.push(id);
        Some((id, event))
    }

    /// What else has happened to a connection, of which this thread has just reported.
    pub(crate) fn next_event(&mut self, id: u64) -> Option<ConnectionEvent> {
        let next = self.unreported.iter().position(|&(of, _)| of == id);
        if next.is_none() {
            self.reporting.retain(|&other| other != id);
        }
        next.map(|at| self.unreported.remove(at))
    }
}
