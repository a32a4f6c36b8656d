//! Connects under way: each has a slot, from its start until it succeeded or failed.

use std::time::Instant;

use super::open::Leased;
use super::{Content, Open, Slot, SlotKey, Slots, Usage};

/// A connect under way.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Connect<H> {
    pub(crate) since: Instant,
    /// The number of the factory that makes it.
    pub(super) factory: u64,
    /// What can be cut, once there is a socket.
    pub(super) handle: Option<H>,
}

/// The factory of a connect that was given up.
pub(super) const GIVEN_UP: u64 = 0;

impl<L, H> Slots<L, H> {
    pub(crate) fn connecting(&self) -> usize {
        self.connecting
    }

    /// How many connects are under way that somebody may count on: through the factory that is in
    /// use now, and not given up.
    pub(crate) fn connecting_current(&self) -> usize {
        self.connecting - self.outdated
    }

    /// How many connects are under way that nobody counts on any more.
    pub(crate) fn outdated(&self) -> usize {
        self.outdated
    }

    /// Takes a slot for a connection that is to be made.
    pub(crate) fn reserve(&mut self, now: Instant) -> SlotKey {
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.all.push(Slot::VACANT);
            self.len() - 1
        });
        let id = self.next_id;
        self.next_id += 1;
        let slot = &mut self.all[index as usize];
        debug_assert!(matches!(slot.content, Content::Vacant));
        *slot = Slot {
            id,
            content: Content::Connecting(Connect {
                since: now,
                factory: self.factory,
                handle: None,
            }),
        };
        self.connecting += 1;
        SlotKey { index, id }
    }

    /// The factory has been replaced: nobody counts on the connects under way any more.
    pub(crate) fn outdate_connects(&mut self) {
        self.factory += 1;
        self.outdated = self.connecting;
    }

    /// Whether this connect, which is under way, uses a factory that has been replaced, or was
    /// given up.
    pub(crate) fn is_outdated(&self, key: SlotKey) -> bool {
        let connect = self.connect(key);
        connect.is_some_and(|connect| connect.factory != self.factory)
    }

    /// This connect, which is under way, has a socket; false if it was given up.
    pub(crate) fn set_connect_handle(&mut self, key: SlotKey, socket: H) -> bool {
        let connect = self.connect_mut(key);
        let counted_on = connect.filter(|connect| connect.factory != GIVEN_UP);
        counted_on
            .map(|connect| connect.handle = Some(socket))
            .is_some()
    }

    /// The connect under way in this slot, if there is one.
    pub(crate) fn connect_in(&self, index: u32) -> Option<SlotKey> {
        let key = self.key(index);
        self.connect(key).map(|_| key)
    }

    /// Gives up a connect that is under way; what can be cut of it, unless it was given up before.
    pub(crate) fn give_up_connect(&mut self, key: SlotKey) -> Option<H>
    where
        H: Clone,
    {
        let was_outdated = self.is_outdated(key);
        let connect = self.connect_mut(key)?;
        let is_news = std::mem::replace(&mut connect.factory, GIVEN_UP) != GIVEN_UP;
        let handle = connect.handle.clone().filter(|_| is_news);
        self.outdated += usize::from(!was_outdated);
        handle
    }

    /// The connection was not made: its slot is vacant again. Its handle, if it came so far.
    pub(crate) fn abandon(&mut self, key: SlotKey) -> Option<H> {
        self.end_connect(key);
        match self.empty(key) {
            Content::Connecting(connect) => connect.handle,
            _ => None,
        }
    }

    fn end_connect(&mut self, key: SlotKey) {
        debug_assert!(self.connect(key).is_some());
        self.outdated -= usize::from(self.is_outdated(key));
        self.connecting -= 1;
    }

    /// The connection was made, and counts as leased until it is idle.
    pub(crate) fn fill(&mut self, key: SlotKey, handle: H, now: Instant) {
        self.end_connect(key);
        self.open += 1;
        let slot = &mut self.all[key.index as usize];
        slot.content = Content::Open(Open {
            handle,
            usage: Usage::Leased(Leased::default()),
            born: now,
            since: now,
            answered: now,
            expires: None,
            leases: 0,
            pings: 0,
        });
    }

    /// This connect, while it is under way.
    pub(crate) fn connect(&self, key: SlotKey) -> Option<&Connect<H>> {
        match &self.slot(key).content {
            Content::Connecting(connect) => Some(connect),
            _ => None,
        }
    }

    fn connect_mut(&mut self, key: SlotKey) -> Option<&mut Connect<H>> {
        match &mut self.all[key.index as usize].content {
            Content::Connecting(connect) => Some(connect),
            _ => None,
        }
    }
}
