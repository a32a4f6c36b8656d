//! Connections that leave: each occupies its slot until it has been closed.

use std::time::{Duration, Instant};

use super::{Content, Slot, SlotKey, Slots, Usage};
use crate::report::event::Event;
use crate::report::outcome::Eviction;

/// A connection that leaves; to be closed once the lock is free.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Closed<L, H> {
    pub(crate) key: SlotKey,
    pub(crate) why: Eviction,
    pub(crate) age: Duration,
    /// How long its lease lasted, if that ends with it and was told when it began.
    pub(crate) held: Option<Duration>,
    /// Whether it is shut down under the holder of its lease.
    pub(crate) is_aborted: bool,
    /// What lay in the slot, or came back with the lease.
    pub(crate) client: Option<L>,
    pub(crate) handle: H,
    /// Whether its place is free only once the core hears that it has been closed.
    pub(crate) occupies: bool,
    /// Whether its eviction is to be told now; else the core keeps that for later.
    pub(crate) tell: bool,
}

impl<L, H> Closed<L, H> {
    /// What is to be told of it.
    pub(crate) fn events(&self) -> impl Iterator<Item = Event> {
        let (id, why, age) = (self.key.id, self.why, self.age);
        let returned = self.held.map(|held| Event::Returned { id, held });
        let evicted = Event::Evicted { id, why, age };
        returned.into_iter().chain([evicted])
    }
}

impl<L, H> Slots<L, H> {
    /// How many connections wait in their slots to be closed.
    pub(crate) fn left(&self) -> usize {
        self.left.len()
    }

    /// An open connection, idle or leased, leaves; it occupies its slot until [`vacate`](Self::vacate).
    pub(crate) fn close(
        &mut self,
        key: SlotKey,
        why: Eviction,
        now: Instant,
        returned: Option<L>,
    ) -> Closed<L, H> {
        let slot = &mut self.all[key.index as usize];
        let content = std::mem::replace(&mut slot.content, Content::Closing(None));
        let Content::Open(mut open) = content else {
            panic!("bug: closed a slot that is not open");
        };
        let held = open.end_told_lease(now);
        let client = match open.usage {
            Usage::Idle { client } => {
                self.leave_idle(key.index);
                Some(client)
            }
            Usage::Leased(_) => {
                if self.is_pinged(key.index) {
                    self.pinged = None;
                    self.leave_idle(key.index);
                }
                returned
            }
        };
        self.open -= 1;
        self.closing += 1;
        Closed {
            key,
            why,
            age: now.saturating_duration_since(open.born),
            held,
            is_aborted: false,
            client,
            handle: open.handle,
            occupies: true,
            tell: true,
        }
    }

    /// Leaves a connection in its slot, for whoever closes it.
    pub(crate) fn leave(&mut self, closed: Closed<L, H>) {
        let index = closed.key.index;
        self.all[index as usize].content = Content::Closing(Some(closed));
        self.left.push(index);
    }

    /// One of those that wait to be closed.
    pub(crate) fn take_left(&mut self) -> Option<Closed<L, H>> {
        let index = self.left.pop()?;
        match &mut self.all[index as usize].content {
            Content::Closing(closed) => closed.take(),
            _ => panic!("bug: left and not closing"),
        }
    }

    /// A connection that was closing has been closed.
    pub(crate) fn vacate(&mut self, key: SlotKey) {
        debug_assert!(matches!(self.slot(key).content, Content::Closing(None)));
        debug_assert_eq!(self.slot(key).id, key.id);
        self.closing -= 1;
        self.empty(key);
    }

    pub(super) fn empty(&mut self, key: SlotKey) -> Content<L, H> {
        let slot = std::mem::replace(&mut self.all[key.index as usize], Slot::VACANT);
        self.vacant.push(key.index);
        slot.content
    }
}
