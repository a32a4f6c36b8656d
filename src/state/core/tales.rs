//! What is told of each connection, in the order in which it happened.
//!
//! Events are told without the lock, by whichever thread caused them. While one thread tells of a
//! connection, what happens to it meanwhile is left to that thread.

use std::time::Duration;

use super::Core;
use crate::report::outcome::Eviction;
use crate::state::slots::{CallSite, Holder, SlotKey, Taker};

/// Something that is to be told of a connection.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Tale {
    pub(crate) id: u64,
    pub(crate) what: What,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) enum What {
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
    /// A lease has reached its caller, and is to be told; no tale if it was aborted before.
    ///
    /// Only from now on it may be reported overdue.
    pub(crate) fn lease_begins(
        &mut self,
        key: SlotKey,
        waited: Duration,
        taker: Taker,
    ) -> Option<Tale> {
        let at = taker.at?;
        let leased = self.slots.get_mut(key)?.leased_mut()?;
        leased.is_told = true;
        leased.taker = taker;
        self.begin_telling(key.id, What::Leased { waited, at })
    }

    /// A lease is about to come back, or to end otherwise; no tale if it was aborted before.
    pub(crate) fn lease_ends(&mut self, key: SlotKey) -> Option<Tale> {
        let open = self.slots.get_mut(key)?;
        let held = open.end_told_lease(self.now)?;
        open.leased_mut()?.taker.holder = None;
        self.counts.lease_times.record(held);
        self.begin_telling(key.id, What::Returned { held })
    }

    /// This is to be told; it comes out again if nobody is telling of its connection. Who gets it
    /// goes on with [`next_tale`](Self::next_tale) until there is none.
    pub(super) fn begin_telling(&mut self, id: u64, what: What) -> Option<Tale> {
        let tale = Tale { id, what };
        if self.telling.contains(&id) {
            self.untold.push(tale);
            return None;
        }
        self.telling.push(id);
        Some(tale)
    }

    /// A connection has left, with how long its lease was that ended so; whether the effects are to
    /// tell that.
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
        if !self.telling.contains(&id) {
            return true;
        }
        let returned = held.map(|held| What::Returned { held });
        for what in returned.into_iter().chain([What::Evicted { why, age }]) {
            self.untold.push(Tale { id, what });
        }
        false
    }

    /// What else has happened to a connection of which something has been told.
    pub(crate) fn next_tale(&mut self, id: u64) -> Option<Tale> {
        let next = self.untold.iter().position(|tale| tale.id == id);
        if next.is_none() {
            self.telling.retain(|&other| other != id);
        }
        next.map(|at| self.untold.remove(at))
    }
}
