//! What happens to each connection, reported in the order in which it happened.
//!
//! The thread that causes an event reports it, without the lock, since the event function is the
//! user's and may take its time. If something else happens to the same connection meanwhile, it is
//! kept here until that thread comes for it: reported by another thread, it might overtake.

use std::time::Duration;

use super::Core;
use crate::report::outcome::Eviction;
use crate::state::slots::{CallSite, Holder, SlotKey, Taker};

/// Something that happened to a connection and is to be reported.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct ConnectionEvent {
    pub(crate) id: u64,
    pub(crate) kind: EventKind,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) enum EventKind {
    Leased {
        waited: Duration,
        at: CallSite,
    },
    Overdue {
        held: Duration,
        holder: Holder,
        at: Option<CallSite>,
    },
    Returned {
        held: Duration,
    },
    Evicted {
        why: Eviction,
        age: Duration,
    },
}

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
        let at = taker.at?;
        let leased = self.slots.get_mut(key)?.leased_mut()?;
        leased.is_told = true;
        leased.taker = taker;
        self.begin_reporting(key.id, EventKind::Leased { waited, at })
    }

    /// A lease is about to come back, or to end otherwise. No event if it was aborted before.
    pub(crate) fn lease_ends(&mut self, key: SlotKey) -> Option<ConnectionEvent> {
        let open = self.slots.get_mut(key)?;
        let held = open.end_told_lease(self.now)?;
        open.leased_mut()?.taker.holder = None;
        self.counts.lease_times.record(held);
        self.begin_reporting(key.id, EventKind::Returned { held })
    }

    /// The event, to be reported by the caller, or none if another thread is reporting of this
    /// connection and will report this too. After an event the caller asks for the
    /// [next one](Self::next_event) until there is none.
    pub(super) fn begin_reporting(&mut self, id: u64, kind: EventKind) -> Option<ConnectionEvent> {
        let event = ConnectionEvent { id, kind };
        if self.reporting.contains(&id) {
            self.unreported.push(event);
            return None;
        }
        self.reporting.push(id);
        Some(event)
    }

    /// A connection has left; its lease, if it was told and ended with this, lasted for `held`.
    ///
    /// Returns whether the effects are to report that; else the thread that is reporting of this
    /// connection does.
    pub(super) fn departed(
        &mut self,
        id: u64,
        held: Option<Duration>,
        why: Eviction,
        age: Duration,
    ) -> bool {
        if let Some(held) = held {
            self.counts.lease_times.record(held);
        }
        if !self.reporting.contains(&id) {
            return true;
        }
        let returned = held.map(|held| EventKind::Returned { held });
        let kinds = returned
            .into_iter()
            .chain([EventKind::Evicted { why, age }]);
        let events = kinds.map(|kind| ConnectionEvent { id, kind });
        self.unreported.extend(events);
        false
    }

    /// What else has happened to a connection, of which this thread has just reported.
    pub(crate) fn next_event(&mut self, id: u64) -> Option<ConnectionEvent> {
        let next = self.unreported.iter().position(|event| event.id == id);
        if next.is_none() {
            self.reporting.retain(|&other| other != id);
        }
        next.map(|at| self.unreported.remove(at))
    }
}
